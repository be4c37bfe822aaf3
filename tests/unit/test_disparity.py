"""Who is getting worse than the rest: found, and not mistaken for what moves everybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.testing import assert_allclose

from detectors import Budget, Disparity, ErrorRate, Outcomes
from detectors.disparity import ratio_of, rest_of
from detectors.error_rate import PRIOR
from tests.streams import WEEK_HOURS, Alarm, alarms, at_most, ticks, with_root

Floats = npt.NDArray[np.float64]


def fleet_of(due: Floats, reference: Floats | None = None) -> Disparity:
    """A fleet over disjoint slices and their root; `reference` is what they lost in a week."""
    ones = np.ones(1 + due.size)
    fleet = Disparity()
    if reference is None:
        fleet.grow(ones, ones)
    else:
        fleet.grow(ones, ones, with_root(reference), with_root(due * WEEK_HOURS))
    return fleet


def spend(n_slices: int, alerts_a_week: float = 1.0) -> Floats:
    """An hour's hazard: all of the budget for the slices, none for the root."""
    budget = Budget(alerts_a_week)
    hazard = budget.hazard("slices", np.ones(n_slices, np.intp), 3600.0, ("slices",))
    return np.append(0.0, hazard)


def watch(fleet: Disparity, stream: Sequence[Outcomes], hazard: Floats) -> list[Alarm]:
    return alarms(lambda tick: fleet.update(tick, hazard), stream)


# --- silence


def test_false_alarms_keep_to_the_budget_while_traffic_comes_and_goes() -> None:
    # 200 slices x 40 weeks, 1 a week allowed; baselines from the prior, a week's reference, and
    # every hour another mixture of who is there.
    rng = np.random.default_rng(20)
    n_slices, weeks = 200, 40
    due = rng.uniform(0.2, 5.0, n_slices)
    ratio = rng.gamma(PRIOR, 1 / PRIOR, n_slices)
    fleet = fleet_of(due, rng.poisson(due * ratio * WEEK_HOURS).astype(np.float64))
    expected = due * rng.lognormal(0.0, 0.7, (weeks * WEEK_HOURS, n_slices))
    stream = rng.poisson(expected * ratio).astype(np.float64)
    found = watch(fleet, ticks(stream, expected), spend(n_slices))
    assert len(found) <= at_most(1.0 * weeks)


def test_a_bad_month_for_everybody_is_no_disparity() -> None:
    # The control is the same slices against their own past alone: they alarm by the hundred.
    rng = np.random.default_rng(21)
    n_slices, hours = 60, 4 * WEEK_HOURS
    due = rng.uniform(1.0, 10.0, n_slices)
    reference = rng.poisson(due * WEEK_HOURS).astype(np.float64)
    daily = 1.5 + 0.5 * np.sin(np.arange(hours) * 2 * np.pi / 24)
    stream = ticks(rng.poisson(due * daily[:, None]).astype(np.float64), due)
    hazard = spend(n_slices)
    assert len(watch(fleet_of(due, reference), stream, hazard)) <= at_most(4.0)

    alone = ErrorRate()
    alone.grow(np.ones(1 + n_slices), with_root(reference), with_root(due * WEEK_HOURS))
    found = alarms(lambda tick: alone.update(tick, hazard), stream)
    assert len({slice_ for _, slice_ in found}) == n_slices


def test_a_good_time_that_ends_for_everybody_is_no_disparity() -> None:
    # Half the losses for 2,000 ticks of ten errors in all, then as many as ever. In so small a tick
    # nobody can say how everybody fares, and over 2,000 it must not be learnt as the slices' own.
    rng = np.random.default_rng(22)
    n_slices, hazard = 100, np.append(0.0, np.full(100, 1e-4))
    due = np.full(n_slices, 0.1)
    rate = np.repeat([0.5, 1.0], [2000, 600])[:, None] * due
    stream = rng.poisson(rate).astype(np.float64)
    found = watch(fleet_of(due, due * WEEK_HOURS), ticks(stream, due), hazard)
    assert len(found) <= at_most(2600 * float(hazard.sum()))


def test_a_first_tick_larger_than_all_that_is_known_is_no_evidence_of_a_share() -> None:
    # 1,000 slices never seen before, 2,000 errors each in a tick: the share's evidence, which in
    # an incident of everybody decides alone, keeps its own promise.
    rng = np.random.default_rng(23)
    n_slices, n_ticks, hazard = 1000, 20, 1e-3
    due, ratio = np.full(n_slices, 2000.0), rng.gamma(PRIOR, 1 / PRIOR, n_slices)
    fleet = fleet_of(due)
    ever = np.zeros(1 + n_slices, np.bool_)
    for tick in ticks(rng.poisson(due * ratio, (n_ticks, n_slices)).astype(np.float64), due):
        fleet.update(tick, np.full(1 + n_slices, hazard))
        ever |= fleet.meter >= 1.0
    assert ever.sum() <= at_most(n_slices * n_ticks * hazard)


# --- left behind


def others_improve(n_ticks: int = 500) -> tuple[Floats, list[Outcomes]]:
    """Everybody but slice 1 improves to a half: its share doubles, its own losses do not."""
    due = np.full(10, 5.0)
    rate = due * np.where(np.arange(10) == 0, 1.0, 0.5)
    draw = np.random.default_rng(24).poisson(rate, (n_ticks, 10)).astype(np.float64)
    return due, ticks(draw, due)


def test_slices_that_are_left_behind_are_not_called_degraded() -> None:
    due, stream = others_improve()
    fleet = fleet_of(due, due * WEEK_HOURS)
    assert not watch(fleet, stream, spend(10))
    assert fleet.meter[1] >= 1.0
    assert fleet.own.meter[1] < 1.0


def test_where_everyone_else_improved_the_slice_that_did_not_is_told_as_left_behind() -> None:
    due, stream = others_improve()
    fleet = fleet_of(due, due * WEEK_HOURS)
    first = next(d for tick in stream if len(d := fleet.update(tick, spend(10), True)))
    assert first.slices.tolist() == [1]
    assert first.left_behind.all()
    assert fleet.meter[1] < 1.0  # it begins again, as after any alarm


def test_one_that_was_left_behind_and_then_gets_worse_is_told_again_and_once() -> None:
    due, stream = others_improve(100)
    fleet, hazard = fleet_of(due, due * WEEK_HOURS), spend(10, 0.01)
    first = next(d for tick in stream if len(d := fleet.update(tick, hazard, True)))
    fleet.hold(first.slices, left_behind=True)
    assert not any(len(fleet.update(tick, hazard, True)) for tick in stream)
    worse = [Outcomes(x.observed + 5.0 * (np.arange(11) < 2), x.expected) for x in stream]
    again = next(d for tick in worse if len(d := fleet.update(tick, hazard, True)))
    assert again.slices.tolist() == [1]
    assert not again.left_behind.any()
    fleet.hold(again.slices)
    assert not any(len(fleet.update(tick, hazard, True)) for tick in worse)
    fleet.release(again.slices)
    assert not fleet.open.any()
    assert not fleet.left_behind.any()


def test_both_kinds_of_alarm_come_out_of_one_hazard_while_slices_move_as_the_rest_does() -> None:
    # 100 slices, 20 weeks at 10 a week; everybody is at 0.7 times what they were for every other
    # day, so that whoever crosses by chance is called left behind on these days.
    rng = np.random.default_rng(29)
    n_slices, weeks, budget = 100, 20, 10.0
    due = rng.uniform(0.2, 5.0, n_slices)
    fleet = fleet_of(due, rng.poisson(due * WEEK_HOURS).astype(np.float64))
    better = np.arange(weeks * WEEK_HOURS) // 24 % 2 == 1
    rate = np.where(better, 0.7, 1.0)[:, None] * due
    stream = ticks(rng.poisson(rate).astype(np.float64), due)
    hazard = spend(n_slices, budget)
    found = [
        fleet.update(tick, hazard, bool(improved))
        for tick, improved in zip(stream, better, strict=True)
    ]
    n_behind = sum(int(d.left_behind.sum()) for d in found)
    assert 0 < n_behind <= sum(map(len, found)) <= at_most(budget * weeks)


# --- alarm


def test_a_slice_at_twice_its_due_is_found_about_when_its_size_says() -> None:
    # Errors due until found: (ln(K / h) + 1.5) / (2 ln 2 - 1), for a ratio of 2 (see README).
    rng = np.random.default_rng(25)
    n_slices, repeats = 20, 60
    due, hazard = np.full(n_slices, 2.0), spend(n_slices)
    rate = due * np.where(np.arange(n_slices) == 6, 2.0, 1.0)
    delays, false_alarms = [], 0
    for _ in range(repeats):
        fleet = fleet_of(due, rng.poisson(due * WEEK_HOURS).astype(np.float64))
        stream = ticks(rng.poisson(rate, (100, n_slices)).astype(np.float64), due)
        found = watch(fleet, stream, hazard)
        delays.append(next((tick + 1 for tick, slice_ in found if slice_ == 7), 1000))
        false_alarms += sum(slice_ != 7 for _, slice_ in found)
    errors_due = (np.log(5 / hazard[7]) + 1.5) / (2 * np.log(2) - 1)
    assert 0.6 * errors_due < np.median(delays) * 2.0 < 1.4 * errors_due
    assert np.quantile(delays, 0.9) * 2.0 < 2.5 * errors_due
    assert false_alarms <= at_most(repeats * 100 / WEEK_HOURS)


def test_who_is_hit_most_is_found_in_an_incident_of_everybody() -> None:
    # All at 1.3 times, slice 3 at 2.6: the first and only one named.
    rng = np.random.default_rng(26)
    due = np.full(30, 4.0)
    rate = due * np.where(np.arange(30) == 2, 2.6, 1.3)
    fleet = fleet_of(due, rng.poisson(due * WEEK_HOURS).astype(np.float64))
    stream = ticks(rng.poisson(rate, (200, 30)).astype(np.float64), due)
    found = watch(fleet, stream, spend(30))
    assert {slice_ for _, slice_ in found} == {3}


def test_both_kinds_of_evidence_are_told() -> None:
    due = np.full(5, 50.0)
    fleet = fleet_of(due, due * WEEK_HOURS)
    (tick,) = ticks(np.array([[50.0, 150.0, 50.0, 50.0, 50.0]]), due)
    detections = fleet.update(tick, spend(5))
    assert detections.slices.tolist() == [2]
    assert detections.rest is not None
    assert detections.own_reference[0] >= 1.0
    assert detections.rest[0] >= 1.0
    assert fleet.meter[2] == fleet.own.meter[2] == 0.0


# --- edges


def test_a_slice_with_an_open_incident_is_neither_tested_nor_learnt_from() -> None:
    due = np.full(5, 50.0)
    fleet = fleet_of(due, due * WEEK_HOURS)
    fleet.open[2] = True
    before = fleet.save()
    (tick,) = ticks(np.array([[50.0, 150.0, 50.0, 50.0, 50.0]]), due)
    for _ in range(5):
        assert not len(fleet.update(tick, spend(5)))
    for name, array in fleet.save().items():
        assert_allclose(array[2], before[name][2], err_msg=name)


def test_the_whole_model_has_no_rest_and_so_no_disparity() -> None:
    rng = np.random.default_rng(27)
    fleet = Disparity()
    fleet.grow(np.ones(2), np.ones(2))  # the second slice holds every row, too
    for _ in range(50):
        x = np.full(2, float(rng.poisson(100)))
        assert not len(fleet.update(Outcomes(3 * x, np.full(2, 100.0)), np.full(2, 1e-2)))
    assert fleet.own.meter.min() >= 1.0
    assert_allclose(fleet.meter, 0.0)


def test_a_rest_too_small_to_compare_with_says_nothing() -> None:
    fleet = Disparity()
    fleet.grow(np.ones(2), np.ones(2))
    for _ in range(50):
        fleet.update(
            Outcomes(np.array([300.0, 300.0]), np.array([100.0 + 1e-12, 100.0])), np.ones(2)
        )
    assert np.isfinite(fleet.meter).all()
    assert_allclose(fleet.shape / fleet.rate, 1.0)


def test_a_slice_beside_a_small_rest_learns_what_that_rest_can_tell() -> None:
    # 90 errors beside 10: their ratio is known as of 90 x 10 / 100 = 9 errors, not of 90.
    fleet = Disparity()
    fleet.grow(np.ones(2), np.ones(2))
    fleet.update(Outcomes(np.array([100.0, 90.0]), np.array([100.0, 90.0])), np.full(2, 1e-6))
    assert_allclose(fleet.shape[1] - PRIOR, 9.0)
    assert_allclose(fleet.rate[1] - PRIOR, 9.0)


def test_what_a_slice_learns_is_its_own_whatever_everybody_does() -> None:
    # Slices of half to twice their due, under a common factor that goes from 0.5 to 2.
    rng = np.random.default_rng(28)
    ratio = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
    due = np.full(5, 3.0)
    common = np.repeat([0.5, 1.0, 2.0], 1500)[:, None]
    fleet = fleet_of(due, due * ratio * WEEK_HOURS)
    watch(fleet, ticks(rng.poisson(common * ratio * due).astype(np.float64), due), np.zeros(6))
    rest = (ratio.sum() - ratio) / 4
    assert_allclose((fleet.shape / fleet.rate)[1:], ratio / rest, rtol=0.06)


def test_rest_is_what_is_left_and_never_negative() -> None:
    outcomes = Outcomes(np.array([10.0, 4.0, 10.0 + 1e-12]), np.array([9.0, 3.0, 9.5]))
    rest = rest_of(outcomes)
    assert rest.observed.tolist() == [0.0, 6.0, 0.0]
    assert rest.expected.tolist() == [0.0, 6.0, 0.0]


def test_how_the_rest_fared_is_held_to_one_where_little_is_known_and_bounded() -> None:
    few, many = ratio_of(Outcomes(np.array([3.0, 3e6]), np.array([1.0, 1e6])))
    assert few < 1.2
    assert_allclose(many, 3.0, rtol=1e-3)
    extremes = ratio_of(Outcomes(np.array([0.0, 1e9]), np.array([1e9, 0.0])))
    assert extremes.tolist() == [0.25, 4.0]
