"""A slice against its own past, the model at large, and the way back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose

from detectors import Budget, ErrorRate, Everyone, Outcomes, Recovery, Units, dispersion_own
from detectors.confidence import RATIOS
from detectors.error_rate import PRIOR, QUARANTINE
from detectors.reference import shrink_dispersion
from tests.streams import WEEK_HOURS, alarms, at_most, clusters

Floats = npt.NDArray[np.float64]


def bare(observed: Floats, expected: Floats) -> list[Outcomes]:
    """A tick a row, slices only: no root is needed to compare a slice with its own past."""
    due = np.broadcast_to(expected, observed.shape)
    return [Outcomes(x, e) for x, e in zip(observed, due, strict=True)]


# --- ErrorRate


def test_false_alarms_keep_to_the_budget_over_baselines_and_years() -> None:
    # 200 slices x 40 weeks, each week of 1 allowed; baselines from the prior, a week's reference.
    rng = np.random.default_rng(10)
    n_slices, weeks, allowed = 200, 40, 1.0
    due = rng.uniform(0.2, 5.0, n_slices)
    ratio = rng.gamma(PRIOR, 1 / PRIOR, n_slices)
    fleet = ErrorRate()
    reference = rng.poisson(due * ratio * WEEK_HOURS).astype(np.float64)
    fleet.grow(np.ones(n_slices), reference, due * WEEK_HOURS)
    hazard = Budget(allowed).hazard("slices", np.ones(n_slices, np.intp), 3600.0, ("slices",))
    stream = rng.poisson(due * ratio, (weeks * WEEK_HOURS, n_slices)).astype(np.float64)
    found = alarms(lambda tick: fleet.update(tick, hazard), bare(stream, due))
    assert len(found) <= at_most(allowed * weeks)


@pytest.mark.parametrize("promised", [1e5, 3e3])
def test_a_reference_of_ten_errors_keeps_the_promise(promised: float) -> None:
    # 600 streams at 0.05, each learnt from 200 rows of its own and then watched for 25,000 at one
    # false alarm in 100,000 promised: 150. Held to that reference by 30 errors, and not by 5,
    # there were 226. At one in 3,000, 5,000 are allowed; where a slice stopped learning at a tenth
    # of an alarm, every unlucky stretch was left out of its baseline, and there were 11,000.
    rng = np.random.default_rng(19)
    n, rows, n_ticks, rows_a_tick, rate = 600, 200, 500, 50, 0.05
    seen = rng.binomial(rows, rate, n).astype(np.float64)
    fitted = (seen + 0.5) / (rows + 1)  # as `fit_cell_rates` has it, where there is one cell
    fleet = ErrorRate()
    fleet.grow(np.ones(n), seen, rows * fitted)
    stream = rng.binomial(rows_a_tick, rate, (n_ticks, n)).astype(np.float64)
    hazard = np.full(n, rows_a_tick / promised)
    found = alarms(lambda tick: fleet.update(tick, hazard), bare(stream, rows_a_tick * fitted))
    assert len(found) <= at_most(n * n_ticks * rows_a_tick / promised)


def test_a_slice_never_seen_before_is_learnt_without_false_alarms() -> None:
    # No reference at all, and ticks that tell more than the prior does: 500 slices, 50 allowed.
    rng = np.random.default_rng(11)
    n_slices, n_ticks, hazard = 500, 50, np.full(500, 2e-3)
    fleet = ErrorRate()
    fleet.grow(np.ones(n_slices))
    due, ratio = np.full(n_slices, 200.0), rng.gamma(PRIOR, 1 / PRIOR, n_slices)
    stream = rng.poisson(due * ratio, (n_ticks, n_slices)).astype(np.float64)
    found = alarms(lambda tick: fleet.update(tick, hazard), bare(stream, due))
    assert len(found) <= at_most(float(hazard.sum() * n_ticks))


def test_clustered_errors_keep_to_the_budget_with_their_dispersion_fed_in_and_not_without() -> None:
    # Sessions of 8 rows, 5 a slice and hour; what was measured in one week is fed in.
    rng = np.random.default_rng(12)
    n_slices, weeks, size, sessions, base = 50, 40, 8, 5, 0.1
    allowed = 1.0
    due = np.full(n_slices, sessions * size * base)

    week = clusters(rng, (WEEK_HOURS, n_slices, sessions), size, base, 0.15)
    measured = _measured_dispersion(week, size * base)
    hazard = Budget(allowed).hazard("slices", np.ones(n_slices, np.intp), 3600.0, ("slices",))
    stream = clusters(rng, (weeks * WEEK_HOURS, n_slices, sessions), size, base, 0.15).sum(axis=2)

    def false_alarms(dispersion: Floats) -> int:
        fleet = ErrorRate()
        fleet.grow(dispersion, week.sum(axis=(0, 2)), due * WEEK_HOURS)
        return len(alarms(lambda tick: fleet.update(tick, hazard), bare(stream, due)))

    assert false_alarms(measured) <= at_most(allowed * weeks)
    assert false_alarms(np.ones(n_slices)) > 10 * at_most(allowed * weeks)


def _measured_dispersion(week: Floats, due: float) -> Floats:
    """What the reference's sessions, shape (n_hours, n_slices, n_sessions), are divided by."""
    n_hours, n_slices, sessions = week.shape
    n_units = week.size
    slices = np.broadcast_to(np.arange(1, n_slices + 1)[:, None], week.shape).ravel()
    units = np.arange(n_units)
    both = np.concatenate([np.zeros(n_units, np.intp), slices])
    x, m = week.ravel(), np.full(n_units, due)
    hour = np.repeat(np.arange(n_hours), n_slices * sessions)
    reference = Units(both, np.tile(units, 2), np.tile(x, 2), np.tile(m, 2), hour, x, m)
    own, counts = dispersion_own(reference, 1 + n_slices)
    return shrink_dispersion(own, counts, float(n_units))[1:]


def test_tolerance_is_not_held_against_a_slice() -> None:
    rng = np.random.default_rng(13)
    stream = rng.poisson(50.0 * 1.3, (400, 40)).astype(np.float64)
    due, hazard = np.full(40, 50.0), np.full(40, 1e-3)
    strict, lenient = ErrorRate(), ErrorRate(tolerance=1.35)
    for fleet in (strict, lenient):
        fleet.grow(np.ones(40), np.full(40, 5e4), np.full(40, 5e4))
    assert len(alarms(lambda tick: strict.update(tick, hazard), bare(stream, due))) > 40
    found = alarms(lambda tick: lenient.update(tick, hazard), bare(stream, due))
    assert len(found) <= at_most(40 * 400 * 1e-3)


def test_a_tick_whose_rows_stand_for_more_others_each_is_divided_by_that_too() -> None:
    # Three times the spread at twice the dispersion is six times the dispersion, for this tick.
    plain, spread = ErrorRate(), ErrorRate()
    for fleet, dispersion in ((plain, 6.0), (spread, 2.0)):
        fleet.grow(np.full(2, dispersion))
        known = {name: np.full(2, 1e8) for name in ("shape", "rate")}
        fleet.restore(fleet.save() | known)
    tick = np.array([150.0, 90.0]), np.full(2, 100.0)
    plain.update(Outcomes(*tick), np.full(2, 1e-3))
    spread.update(Outcomes(*tick, np.full(2, 3.0)), np.full(2, 1e-3))
    assert_allclose(plain.evidence, spread.evidence, rtol=1e-5)


def test_a_suspicious_slice_is_not_learnt_from() -> None:
    fleet = ErrorRate()
    fleet.grow(np.ones(2), np.full(2, 1000.0), np.full(2, 1000.0))
    before = fleet.save()
    fleet.update(Outcomes(np.array([81.0, 40.0]), np.full(2, 50.0)), np.full(2, 1e-3))
    assert QUARANTINE <= fleet.meter[0] < 1.0
    assert fleet.shape[0] == before["shape"][0]
    assert fleet.shape[1] == before["shape"][1] + 40
    assert fleet.rate[1] == before["rate"][1] + 50


def test_an_alarm_begins_again_from_nothing() -> None:
    fleet = ErrorRate()
    fleet.grow(np.ones(1), np.full(1, 1000.0), np.full(1, 1000.0))
    terrible = Outcomes(np.array([500.0]), np.array([50.0]))
    detections = fleet.update(terrible, np.full(1, 1e-3))
    assert detections.slices.tolist() == [0]
    assert detections.own_reference[0] >= 1.0
    assert fleet.meter[0] == 0.0


def test_a_slow_ramp_is_not_learnt_away() -> None:
    # 1 to 2 times over 280 ticks of 5 errors: found before it is 1.6 times, as frozen it would be.
    rng = np.random.default_rng(14)
    n, n_ticks = 200, 280
    fleet = ErrorRate()
    fleet.grow(np.ones(n), np.full(n, 1000.0), np.full(n, 1000.0))
    ratio = np.linspace(1.0, 2.0, n_ticks)[:, None]
    stream = rng.poisson(5.0 * ratio, (n_ticks, n)).astype(np.float64)
    first: dict[int, float] = {}
    found = alarms(lambda tick: fleet.update(tick, np.full(n, 5e-5)), bare(stream, np.full(n, 5.0)))
    for tick, slice_ in found:
        first.setdefault(slice_, float(ratio[tick, 0]))
    assert len(first) == n
    assert np.median(list(first.values())) < 1.6


def test_slices_that_come_later_do_not_disturb_those_that_are_watched() -> None:
    fleet = ErrorRate()
    fleet.grow(np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([10.0, 20.0]))
    fleet.update(Outcomes(np.array([12.0, 3.0]), np.array([6.0, 6.0])), np.full(2, 1e-3))
    before = fleet.save()
    fleet.grow(np.array([3.0]))
    for name, array in before.items():
        assert_allclose(fleet.save()[name][:2], array)
    assert fleet.shape[2] == fleet.rate[2] == PRIOR  # errors' worth of trust in what its cells say
    assert fleet.ratios.shape == (3, RATIOS.size)


# --- Everyone


def everyone(n_parts: int) -> Everyone:
    fleet = Everyone()
    reference = complements(np.full(n_parts, 1000.0))
    fleet.grow(np.ones(1 + n_parts), reference, reference)
    return fleet


def complements(parts: Floats) -> Floats:
    """The whole, then the whole without each part."""
    total = parts.sum(axis=-1, keepdims=True)
    return np.concatenate([total, total - parts], axis=-1)


def test_what_hits_everyone_is_found_and_what_one_slice_explains_is_not() -> None:
    rng = np.random.default_rng(15)
    n_parts, n_ticks = 8, 300
    hazard, due = np.full(1 + n_parts, 1e-4), np.full(n_parts, 10.0)
    one_slice = np.where(np.arange(n_parts) == 3, 4.0, 1.0)

    def found(ratio: Floats | float) -> int:
        fleet = everyone(n_parts)
        stream = rng.poisson(due * ratio, (n_ticks, n_parts)).astype(np.float64)
        answers = bare(complements(stream), complements(due))
        return len(alarms(lambda tick: fleet.update(tick, hazard), answers))

    assert found(1.0) == 0
    assert found(one_slice) == 0  # though the whole is 37 % worse
    assert found(1.37) >= 1


def test_an_open_incident_of_everyone_is_neither_tested_nor_learnt_from() -> None:
    fleet = everyone(4)
    fleet.open = True
    before = fleet.save()
    worse = Outcomes(complements(np.full(4, 90.0)), complements(np.full(4, 10.0)))
    assert not len(fleet.update(worse, np.full(5, 1e-2)))
    assert all(np.array_equal(array, before[name]) for name, array in fleet.save().items())


def test_nobody_watched_is_nobody_alarmed() -> None:
    nothing = Outcomes(np.empty(0), np.empty(0))
    assert not len(Everyone().update(nothing, np.empty(0)))
    assert not len(ErrorRate().update(nothing, np.empty(0)))
    assert not len(Recovery().update(nothing, np.empty(0)))


# --- Recovery


def recovering(n: int, ratio: float) -> Recovery:
    recovery = Recovery()
    recovery.grow(n)
    recovery.open(np.arange(n), np.full(n, ratio))
    return recovery


def test_a_slice_that_stays_half_way_is_hardly_ever_closed() -> None:
    # At the geometric mean closing is a false alarm, as near to right as one can be. At 2 times,
    # detecting takes 15 / (2 ln 2 - 1) = 39 errors and patience is 20 times that: 777 errors a
    # close. 400 slices over 388 errors each may come to 200.
    rng = np.random.default_rng(16)
    n, due, n_ticks = 400, 4.0, 97
    recovery = recovering(n, 2.0)
    stream = rng.poisson(due * np.sqrt(2.0), (n_ticks, n)).astype(np.float64)
    closed = alarms(lambda tick: recovery.update(tick, np.ones(n)), bare(stream, np.full(n, due)))
    budget = n * due * n_ticks / (20 * 15 / (2 * np.log(2) - 1))
    assert_allclose(budget, 200, rtol=0.01)
    assert len(closed) <= at_most(budget)


def test_a_slice_that_stays_degraded_is_not_closed_at_all() -> None:
    rng = np.random.default_rng(17)
    n, due = 400, 4.0
    recovery = recovering(n, 2.0)
    stream = rng.poisson(due * 2.0, (400, n)).astype(np.float64)
    assert not alarms(lambda tick: recovery.update(tick, np.ones(n)), bare(stream, np.full(n, due)))


def test_a_slice_that_is_back_is_closed_once_and_soon() -> None:
    # An error due brings g = sqrt 2 - 1 - ln sqrt 2 = 0.068 nats against staying, each also starts
    # a 777th anew: their sum, exp(g E) / (777 g), comes to 1 at E = ln(777 g) / g = 58 errors.
    rng = np.random.default_rng(18)
    n, due = 300, 2.0
    recovery = recovering(n, 2.0)
    stream = rng.poisson(due, (300, n)).astype(np.float64)
    closed = alarms(lambda tick: recovery.update(tick, np.ones(n)), bare(stream, np.full(n, due)))
    assert sorted(slice_ for _, slice_ in closed) == list(range(n))
    median = float(np.median([tick for tick, _ in closed])) * due
    assert 40 < median < 80


def test_only_open_incidents_recover() -> None:
    recovery = recovering(3, 2.0)
    recovery.close(np.array([1]))
    for _ in range(100):
        detections = recovery.update(Outcomes(np.zeros(3), np.full(3, 20.0)), np.ones(3))
        assert 1 not in detections.slices
    assert (recovery.midpoint == 0).all()
