"""The calibrated mode: hazards raised until null weeks raise what was promised."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
import pytest
from scipy.stats import binomtest, poisson

from detectors import Budget, Calibration, Disparity, Outcomes
from detectors.calibration import FACTORS, peaks_of
from detectors.multiplicity import WEEK_SECONDS
from service.ingest.events import Floats
from service.monitor.config import MonitorConfig
from service.monitor.null_weeks import (
    Scatter,
    Sessions,
    calibrate,
    can_be_drawn_from,
    learn_watch,
)
from service.monitor.slices import Slices
from service.monitor.watch import SPENT_ON_SLICES, WATCHING, Labelled, Watch

HOURS: Final = 168
N_VALUES: Final = 40


def catalogue() -> Slices:
    """Slices of one dimension, a cell a value."""
    slices = Slices(["ward"], order=1)
    for value in range(N_VALUES):
        slices._values[0].code(f"w{value}", 1)
    codes = np.arange(N_VALUES + 2, dtype=np.int32)[2:]
    slices.cells_of(np.stack([codes, np.zeros_like(codes)], axis=1))  # of no stratum
    return slices


def rates(rng: np.random.Generator) -> Floats:
    """Error rates of the values, .05 on average."""
    drawn: Floats = rng.beta(5.0, 95.0, N_VALUES)
    return drawn


def labelled(
    rng: np.random.Generator, error_rates: Floats, hours: int = HOURS, session: int = 1
) -> Labelled:
    """Null rows, some 400 an hour, values by Zipf; sessions of `session` rows, correlated by .2."""
    share = 1 / np.arange(1.0, N_VALUES + 1)
    hour, value = np.nonzero(
        n := rng.poisson(400 / session * share / share.sum(), (hours, N_VALUES))
    )
    hour, value = (np.repeat(place, n[n > 0]) for place in (hour, value))
    chance = error_rates[value]
    if session > 1:
        chance = rng.beta(chance * 4, (1 - chance) * 4)
    name = np.arange(1, hour.size + 1) if session > 1 else np.zeros(hour.size, np.int64)
    hour, value, name = (np.repeat(column, session) for column in (hour, value, name))
    chance = np.repeat(chance, session)
    loss = (rng.random(hour.size) < chance).astype(np.float64)
    ones = np.ones(hour.size)
    return Labelled(
        cell=(value + 1).astype(np.intp),
        hour=hour.astype(np.int64),
        cluster=name.astype(np.uint64),
        weight=ones,
        loss=loss,
        capped=loss,
        exposure=ones,
        evidence_weight=ones,
        version=np.zeros(ones.size, np.int16),
        mask=np.zeros(ones.size, np.uint64),
        bin=np.zeros(ones.size, np.uint8),
    )


def test_a_fleet_alarms_in_a_week_where_factor_times_peak_reaches_one() -> None:
    rng = np.random.default_rng(1)
    due = np.append(300.0, np.full(30, 10.0))
    weeks = rng.poisson(due[1:], (40, 28, 30)).astype(float)
    weeks = np.concatenate([weeks.sum(axis=2, keepdims=True), weeks], axis=2)
    hazard = np.append(0.0, np.full(30, 1e-4))
    factor = 20.0

    def fresh() -> Disparity:
        fleet = Disparity()
        fleet.grow(np.ones(31), np.ones(31), 400 * due, 400 * due)
        return fleet

    predicted, alarmed = 0, 0
    for week in weeks:
        own, rest = peaks_of(fresh(), week, np.tile(due, (28, 1)), hazard)
        predicted += int((factor * np.minimum(own, rest)[1:] >= 1).sum())
        fleet, crossed = fresh(), set()
        for tick in week:
            crossed |= set(fleet.update(Outcomes(tick, due), factor * hazard).slices.tolist())
        alarmed += len(crossed)
    assert predicted > 10
    # not the same to one: a suspicious slice stops learning, and reaches suspicion sooner
    assert alarmed == pytest.approx(predicted, rel=0.3)


def test_rare_levels_are_extrapolated_and_never_past_their_bounds() -> None:
    peaks = 1 / np.arange(1.0, 101.0)
    calibration = Calibration(own=peaks, rest=peaks, weeks=20.0)
    # 1 a week in 20 weeks: the 20th peak, 1/20
    assert calibration.factors(1.0) == pytest.approx((20.0, 20.0))
    # a tenth of that: the 2nd peak is too few to read, so it is the 10th, 1/10, a fifth as rare
    assert calibration.factors(0.1) == pytest.approx((20.0, 20.0))
    assert Calibration(peaks * 1e9, peaks, 20.0).factors(1.0) == (FACTORS[0], 20.0)
    assert Calibration(np.zeros(0), np.zeros(0), 20.0).factors(1.0) == (FACTORS[1],) * 2


def test_what_moves_one_kind_of_evidence_lowers_the_factor_of_that_kind_alone() -> None:
    peaks = 1 / np.arange(1.0, 101.0)
    own, rest = Calibration(own=8 * peaks, rest=peaks, weeks=20.0).factors(1.0)
    assert (own, rest) == pytest.approx((20.0 / 8, 20.0))


@pytest.mark.parametrize(("session", "hours"), [(1, HOURS), (8, HOURS), (1, 13), (8, 6)])
@pytest.mark.parametrize("alerts_a_week", [1.0, 10.0])
def test_null_weeks_raise_at_most_what_was_promised_and_a_third_at_least(
    session: int, hours: int, alerts_a_week: float
) -> None:
    slices, false_alerts, n_weeks = catalogue(), 0, 0
    config = MonitorConfig.model_validate({"false_alerts": {"at_most": alerts_a_week}})
    for seed in range(6 if alerts_a_week < 10 else 3):
        rng = np.random.default_rng([seed, session])
        error_rates = rates(rng)
        watch = learn_watch(labelled(rng, error_rates, hours, session), slices, config)
        assert watch.mode == "calibrated"
        start = watch.save()
        for _ in range(2):
            again = Watch.restore(start, 0.0, watch.budget)
            for _ in range(2):
                week = labelled(rng, error_rates, session=session)
                false_alerts += _alarms(again, week, slices)
                n_weeks += 1
    # each bound is refuted only by what it would give in less than one of a hundred runs
    assert poisson.sf(false_alerts - 1, alerts_a_week * n_weeks) > 0.01
    assert poisson.cdf(false_alerts, alerts_a_week / 3 * n_weeks) > 0.01


def _alarms(watch: Watch, week: Labelled, slices: Slices) -> int:
    """How many slices cross in a week of hourly ticks."""
    bounds = np.searchsorted(week.hour, np.arange(HOURS + 1))
    n_alarms = 0
    for start, stop in pairwise(bounds):
        summary = week.take(np.arange(start, stop)).summary(slices.n_cells)
        outcomes = watch.outcomes(summary, slices)
        n_alarms += len(watch.detect(outcomes, slices, 3600.0)[0])
    return n_alarms


def test_the_same_reference_gives_the_same_calibration() -> None:
    rng = np.random.default_rng(5)
    slices, reference = catalogue(), labelled(rng, rates(rng), hours=48)
    first, second = calibrate(reference, slices), calibrate(reference, slices)
    assert first is not None and second is not None
    calibration = first.calibration
    assert calibration.factors(1.0) == second.calibration.factors(1.0)
    restored = Calibration.restore(calibration.save())
    assert restored.factors(3.0) == calibration.factors(3.0)


def test_a_reference_of_few_hours_is_left_to_the_proven_hazards_unless_it_is_in_sessions() -> None:
    rng = np.random.default_rng(6)
    slices, few_hours = catalogue(), labelled(rng, rates(rng), hours=8)
    assert calibrate(few_hours, slices) is None
    assert learn_watch(few_hours, slices, MonitorConfig()).mode == "proven"
    in_sessions = labelled(rng, rates(rng), hours=8, session=4)
    assert calibrate(in_sessions, slices) is not None
    one_without = np.append(in_sessions.cluster[:-1], np.uint64(0))
    assert calibrate(replace(in_sessions, cluster=one_without), slices) is None


@pytest.mark.parametrize("hours", [11, 12, 13])
def test_rows_can_be_drawn_from_just_where_they_calibrate(hours: int) -> None:
    """So nothing is fitted in vain, tick for tick, while sessions outlast the hours they are in."""
    rng = np.random.default_rng(17)
    slices, rows = catalogue(), labelled(rng, rates(rng), hours=hours)
    by_hour = [rows.take(np.flatnonzero(rows.hour == hour)) for hour in range(hours)]
    assert can_be_drawn_from(by_hour) == (calibrate(rows, slices) is not None) == (hours >= 12)
    long = replace(rows, cluster=(1 + rows.hour // 6).astype(np.uint64))
    long.cluster[0] = 0
    assert not can_be_drawn_from([long])
    assert calibrate(long, slices) is None


def test_proven_hazards_stay_what_they_are_told_to_be() -> None:
    rng = np.random.default_rng(7)
    slices, reference = catalogue(), labelled(rng, rates(rng), hours=48)
    config = MonitorConfig.model_validate({"false_alerts": {"mode": "proven"}})
    watch = learn_watch(reference, slices, config)
    assert watch.mode == "proven"
    proven = Watch.fit(reference, slices, 0.0, Budget(1.0))
    np.testing.assert_array_equal(watch.disparity.dispersion, proven.disparity.dispersion)


def test_drawn_losses_scatter_as_the_references_do_and_favour_no_cell() -> None:
    rng = np.random.default_rng(8)
    error_rates = np.full(N_VALUES, 0.1)
    reference = labelled(rng, error_rates, session=8)
    unlucky = reference.cell == 7
    reference = replace(reference, capped=np.where(unlucky, 0.0, reference.capped))
    sessions = Sessions.of(reference, 1.0)
    truth = np.full(N_VALUES + 1, 0.1)
    scatter = Scatter.of(sessions, truth)
    drawn = [scatter.draw(rng, sessions, truth) for _ in range(20)]
    due = sessions.exposure * truth[sessions.cell]
    # cell 7 lost nothing in the reference; in the weeks drawn it loses what is due of it
    in_cell = sessions.cell == 7
    mean = np.mean([losses[in_cell].sum() for losses in drawn])
    assert mean == pytest.approx(due[in_cell].sum(), rel=0.1)
    # 8 rows of variance p(1-p)(1 + 7 x .2) over a mean of p: (1 - .1) x 2.4
    spread = np.mean([((losses - due) ** 2).sum() / due.sum() for losses in drawn])
    assert spread == pytest.approx(0.9 * 2.4, rel=0.1)


@pytest.mark.parametrize("watching", [WATCHING, ("inputs", *WATCHING)])
def test_slices_spend_what_the_others_proven_hazards_leave(watching: tuple[str, ...]) -> None:
    """Whatever else watches; but whoever takes part of the slices' share keeps what is theirs."""
    rng = np.random.default_rng(9)
    slices, reference = catalogue(), labelled(rng, rates(rng))
    watch = learn_watch(reference, slices, MonitorConfig())
    assert watch.calibration is not None
    watch.for_others = 0.25
    own, rest = watch.hazards(slices, 600.0, watching)
    spent = (own[1:].sum() * WEEK_SECONDS / 600, rest[1:].sum() * WEEK_SECONDS / 600)
    left = 0.75 * SPENT_ON_SLICES
    by_own, by_rest = watch.calibration.factors(left)
    assert spent == pytest.approx((left * by_own, left * by_rest))
    everyone = Budget(1.0).hazard("everyone", np.zeros(1, np.intp), 600.0, watching)
    assert own[0] == rest[0] == everyone[0]


def test_the_first_week_brings_as_many_alarms_as_later_ones() -> None:
    """Evidence begins as after any week; begun at nothing, it takes slices weeks to gather."""
    slices, ten = catalogue(), MonitorConfig.model_validate({"false_alerts": {"at_most": 10}})
    n_alarms = np.zeros((2, 2), np.intp)
    for seed in range(12):
        rng = np.random.default_rng([14, seed])
        error_rates = rates(rng)
        settled = learn_watch(labelled(rng, error_rates), slices, ten)
        for fleet in (settled.disparity, settled.disparity.own):
            assert 0 < fleet.meter[1:].min() < fleet.meter[1:].max() < 0.5
        begun_at_nothing = Watch.restore(settled.save(), 0.0, settled.budget)
        begun_at_nothing.disparity.evidence[:] = begun_at_nothing.disparity.own.evidence[:] = 0.0
        for week in range(2):
            rows = labelled(rng, error_rates)
            for k, watch in enumerate((settled, begun_at_nothing)):
                n_alarms[k, week] += _alarms(watch, rows, slices)
    (first, second), (without, _) = n_alarms.tolist()
    assert binomtest(first, first + second).pvalue > 0.01
    assert without < 0.85 * first


def test_a_large_slice_scatters_in_drawn_weeks_as_its_own_hours_do() -> None:
    """Few others are of its size, and one of a tenth of it scatters ten times as far for it."""
    rng = np.random.default_rng(11)
    reference = labelled(rng, np.full(N_VALUES, 0.05))
    sessions, truth = Sessions.of(reference, 1.0), np.full(N_VALUES + 1, 0.05)
    scatter = Scatter.of(sessions, truth)
    largest = sessions.cell == 1
    due = (sessions.exposure * 0.05)[largest]
    squares = [((scatter.draw(rng, sessions, truth)[largest] - due) ** 2).sum() for _ in range(20)]
    # of errors with a chance of 0.05 it is 0.95, give or take sqrt(2 / 168) of this reference
    assert np.mean(squares) / due.sum() == pytest.approx(0.95, abs=4 * np.sqrt(2 / HOURS))


def test_clumps_scatter_further_while_everyone_is_worse_off_and_lone_rows_do_not() -> None:
    rng = np.random.default_rng(12)
    slices = catalogue()
    watch = Watch.fit(labelled(rng, rates(rng), hours=48), slices, 0.0, Budget(1.0))
    watch.disparity.own.dispersion[1:4] = 1.0, 3.0, 0.8
    watch.disparity.dispersion[1:4] = 1.0, 1.0, 0.8
    due = np.full(len(slices), 10.0)
    assert watch._clumped(Outcomes(due, due)).spread is None
    watch.recovery.midpoint[0] = np.sqrt(1.5)
    clumped = watch._clumped(Outcomes(due, due)).spread
    assert clumped is not None
    # of a scatter of 3, 1 is of rows and 2 of clumps: 1 + 1.5 x 2 of 3
    assert clumped[1:4] == pytest.approx([1.0, 4 / 3, 1.0])
    twice = watch._clumped(Outcomes(due, due, np.full(len(slices), 2.0))).spread
    assert twice is not None
    assert twice[1:4] == pytest.approx([2.0, 8 / 3, 2.0])


def test_where_labels_are_few_null_weeks_wait_for_as_many_as_the_service_does() -> None:
    """A row that is alone in its tick has no rest to be held against, and so no such evidence."""
    rng = np.random.default_rng(13)
    reference = labelled(rng, rates(rng), hours=500)
    few = reference.take(np.sort(rng.choice(len(reference), 500, replace=False)))
    weeks = calibrate(few, catalogue())
    assert weeks is not None
    calibration = weeks.calibration
    assert calibration.rest[:10].min() > 0
    assert max(calibration.factors(1.0)) < FACTORS[1]


def test_hours_of_the_day_follow_each_other_where_each_came_more_than_once() -> None:
    rng = np.random.default_rng(15)
    sessions = Sessions.of(labelled(rng, rates(rng), hours=60), 1.0)
    week = sessions.draw(rng, HOURS)
    np.testing.assert_array_equal(week.clock, np.arange(HOURS) % 24)
    once = Sessions.of(labelled(rng, rates(rng), hours=30), 1.0)
    assert (np.diff(once.draw(rng, HOURS).clock) % 24 != 1).any()


def test_a_days_swing_is_drawn_as_one_and_what_days_differ_by_is_not_taken_for_it() -> None:
    """As chance by the hour it would add up for days, and be guarded against as nothing is."""
    rng = np.random.default_rng(16)
    error_rates, truth = np.full(N_VALUES, 0.1), np.full(N_VALUES + 1, 0.1)
    calm = Scatter.of(Sessions.of(labelled(rng, error_rates, hours=96), 1.0), truth)
    assert calm.session < 0.005
    np.testing.assert_array_equal(calm.rhythm, 1.0)
    reference = labelled(rng, error_rates, hours=96)
    swing = 1 + 0.4 * np.sin(2 * np.pi * np.arange(24) / 24)
    lost = (rng.random(len(reference)) < 0.1 * swing[reference.hour % 24]).astype(np.float64)
    swinging = Scatter.of(Sessions.of(replace(reference, capped=lost), 1.0), truth)
    assert swinging.session < 0.01
    np.testing.assert_allclose(swinging.rhythm, swing, atol=4 * np.sqrt(0.09 / 1600) / 0.1)
    # the same hours in another order each day: they differ as much, and by no hour of the day
    shuffled = np.concatenate([24 * day + rng.permutation(24) for day in range(4)])
    other = Scatter.of(
        Sessions.of(replace(reference, capped=lost, hour=shuffled[reference.hour]), 1.0), truth
    )
    np.testing.assert_array_equal(other.rhythm, 1.0)
    assert other.session == pytest.approx(swing.var(), rel=0.3)
