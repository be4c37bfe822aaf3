"""Scatter: what counts are divided by, what is usual in a day, and what is learnt when."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import ndtr
from scipy.stats import betabinom

from detectors import (
    Dispersion,
    OwnInputs,
    Shares,
    dispersion_of_shares,
    rows_a_unit,
    season_of_shares,
    two_components,
)
from detectors.contract import Floats
from detectors.input_shift import TOLERANCE
from detectors.reference import MARGIN, raise_for_few_units
from detectors.scatter import DAYS_TO_KNOW
from detectors.shares import ODDS, WAIT, Due, Learnt, gather

N_SLICES, N_HOURS = 60, 400
SIZES = np.geomspace(5, 2_000, N_SLICES)  # rows an hour


def measured(rho: float, session: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """A share of 0.3 that moves from hour to hour by a Beta of that correlation, in sessions."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(SIZES[:, None] / session, (N_SLICES, N_HOURS)) * session
    share = rng.beta(0.3 * (1 - rho) / rho, 0.7 * (1 - rho) / rho, n.shape)
    hits = session * rng.binomial(n // session, share)
    whole = [np.concatenate([of.sum(axis=0)[None], of]).astype(np.float64) for of in (hits, n)]
    slices = np.repeat(np.arange(N_SLICES + 1), N_HOURS)
    units = np.tile(np.arange(N_HOURS), N_SLICES + 1)
    shares = Shares(*(of.reshape(-1, 1) for of in whole))
    own, _, n_units = dispersion_of_shares(slices, units, np.arange(N_HOURS), shares, N_SLICES + 1)
    return own, rows_a_unit(slices, shares.rows[:, 0], N_SLICES + 1), n_units


@pytest.mark.parametrize("session", [1, 5])
def test_what_an_hour_shares_is_told_from_what_a_session_shares_by_slices_sizes(
    session: int,
) -> None:
    # Of n rows in sessions of m, in an hour whose share correlates by rho: m + rho (n - m).
    rho = 0.01
    within, between = two_components(*measured(rho, session, seed=3), N_HOURS)
    assert_allclose(np.median(within[1:]), 1 + MARGIN * (session - 1), rtol=0.1)
    assert_allclose(np.median(between[1:]), MARGIN * rho, rtol=0.1)
    largest, smallest = within[1:] + between[1:] * SIZES[[-1]], within[1:] + between[1:] * SIZES[0]
    assert np.median(largest) > 5 * np.median(smallest)


def test_a_slice_that_scatters_further_than_its_size_tells_is_believed_by_half() -> None:
    rows, many = np.array([3e3, 1e3, 1e3, 1e3]), np.full(4, 1e9)
    steady = np.array([11.0, 11.0, 11.0, 11.0])
    swings = np.array([11.0, 11.0, 11.0, 44.0])
    for of, excess in ((steady, 0.0), (swings, 0.5 * (44 / 22 - 1))):
        within, between = two_components(of, rows, many, 1e9)
        line = of[1:].mean()  # all of a size: the line is as high as their mean
        assert_allclose(within[3] + between[3] * 1e3, 1 + MARGIN * ((1 + excess) * line - 1))
        assert_allclose(within[1] + between[1] * 1e3, 1 + MARGIN * (line - 1))


def test_few_hours_raise_what_hours_share_and_hardly_what_rows_do() -> None:
    n_hours = 24
    rows = np.append(1e5, SIZES)
    of = 1 + 0.02 * rows
    within, between = two_components(of, rows, np.full(rows.size, float(n_hours)), n_hours)
    assert_allclose(within, 1.0)
    assert_allclose(between[1:], MARGIN * 0.02 * raise_for_few_units(n_hours))


@pytest.mark.parametrize("of", [np.full(3, np.nan), np.zeros(3), np.array([np.nan, 0.2, 1.0])])
def test_a_reference_that_tells_nothing_gives_divisors_of_at_least_one(of: Floats) -> None:
    for n_units in (np.zeros(3), np.ones(3)):
        for rows in (np.zeros(3), np.ones(3)):
            within, between = two_components(of, rows, n_units, float(n_units[0]))
            assert np.isfinite([within, between]).all()
            assert (within >= 1.0).all()
            assert (between >= 0.0).all()


def most_nats(session: int, correlation: float, margin: float) -> float:
    """Of one session the largest mean of the evidence, in log, over shares and odds: exact.

    Sessions are beta-binomial and half of the tolerance is used up: the share is so much higher.
    """
    x, divisor = np.arange(session + 1), 1 + margin * (session - 1) * correlation
    most = -np.inf
    for p in (0.02, 0.05, 0.1, 0.3, 0.5, 0.9):
        concentration = (1 - correlation) / correlation
        likely = betabinom.pmf(x, session, p * concentration, (1 - p) * concentration)
        for odds in ODDS:
            null = min(p + TOLERANCE / 2, 1.0)
            mean = np.log(likely @ odds ** (x / divisor))
            most = max(most, float(mean - session / divisor * np.log1p((odds - 1) * null)))
    return most


@pytest.mark.parametrize("session", [8, 50])
@pytest.mark.parametrize("correlation", [0.02, 0.05, 0.1, 0.3])
def test_the_margin_on_what_exceeds_independent_rows_keeps_the_mean_at_one(
    session: int, correlation: float
) -> None:
    assert most_nats(session, correlation, MARGIN) <= 0.0  # so of any number of sessions


def test_without_the_margin_the_mean_would_exceed_one() -> None:
    assert most_nats(50, 0.05, 1.0) > 0.0


def test_what_a_day_does_is_learnt_of_hours_seen_on_three_days_and_of_no_others() -> None:
    hours = np.arange(24 * DAYS_TO_KNOW - 1)  # the last hour of the day was seen a day less
    rows = np.full((hours.size, 2), 1e5)
    share = np.where(hours % 24 < 12, 0.2, 0.4)[:, None] * np.array([1.0, 0.5])
    season, raised = season_of_shares(hours, Shares(share * rows, rows))
    assert raised == (DAYS_TO_KNOW + 1) / (DAYS_TO_KNOW - 1)
    assert not season[23].any()
    odds = np.exp(season[20] - season[3])
    assert_allclose(odds, [(0.4 / 0.6) / (0.2 / 0.8), (0.2 / 0.8) / (0.1 / 0.9)], rtol=0.01)

    nothing, not_raised = season_of_shares(hours[:40], Shares(share[:40] * rows[:40], rows[:40]))
    assert not nothing.any()
    assert not_raised == 1.0


def test_where_no_hour_is_like_another_hardly_anything_is_taken_for_a_season() -> None:
    rng = np.random.default_rng(1)
    hours, rows = np.arange(24 * 7), np.full((24 * 7, 1), 1_000.0)
    share = rng.beta(30, 70, rows.shape)  # a standard deviation of 0.045, anew each hour
    season, _ = season_of_shares(hours, Shares(rng.binomial(1_000, share).astype(np.float64), rows))
    by_chance = 0.045 / (0.3 * 0.7) / np.sqrt(7)  # of a mean of seven days, in log odds
    assert season.std() < by_chance


def test_a_tick_that_is_told_how_long_it_took_is_divided_as_the_hours_it_has() -> None:
    """Two ticks of half an hour each weigh what the whole hour does: known shares, no hazard."""
    dispersion = Dispersion(np.ones((2, 1)), np.full((2, 1), 0.02))
    reference = Shares(np.full((2, 1), 3e8), np.full((2, 1), 1e9))
    half = Shares(np.full((2, 1), 70.0), np.full((2, 1), 200.0))
    whole = Shares(2 * half.hits, 2 * half.rows)
    nats = []
    for ticks, units in (([half, half], 0.5), ([whole], 1.0)):
        fleet = OwnInputs(np.zeros(1, np.intp))
        fleet.grow(dispersion, reference)
        fleet.evidence[:] = 1e-9
        for tick in ticks:
            fleet.update(tick, np.zeros(2), units)
        nats.append(np.log(fleet.evidence))
    assert_allclose(nats[0], nats[1], rtol=1e-5)
    assert np.abs(nats[1] - np.log(1e-9)).max() > 0.5


def test_the_latest_rows_are_learnt_a_block_late_and_an_alarm_drops_them() -> None:
    learnt, learns = Learnt(2, 1), np.ones((1, 1), np.bool_)
    learnt.grow((np.full((1, 1), 300.0), np.full((1, 1), 1_000.0)))
    tick, all_of_it = (np.full((1, 1), 90.0), np.full((1, 1), 100.0)), slice(0, 1)
    known = []
    for _ in range(8):
        learnt.add(all_of_it, tick, learns)
        known.append(float(learnt.known(all_of_it)[1, 0, 0]))
    # blocks of 200 are full with the 2nd, 4th and 6th tick; each is learnt when the next one is,
    # and of the 1,400 known then a block is 280
    assert WAIT == 0.2
    assert known == [1_000, 1_000, 1_000, 1_200, 1_200, 1_200, 1_400, 1_400]
    learnt.drop(0, np.ones(1, np.bool_))
    assert learnt.known(all_of_it)[1, 0, 0] == learnt.seen[1, 0, 0] == known[-1]


def test_of_nothing_known_each_row_is_learnt_with_the_next() -> None:
    learnt, learns = Learnt(2, 1), np.ones((1, 1), np.bool_)
    learnt.grow((np.zeros((1, 1)), np.zeros((1, 1))))
    tick = (np.ones((1, 1)), np.full((1, 1), 2.0))
    for _ in range(2):
        learnt.add(slice(0, 1), tick, learns)
    assert learnt.known(slice(0, 1))[:, 0, 0].tolist() == [1.0, 2.0]


def test_rows_outside_of_two_cuts_are_expected_as_the_cuts_are_wherever_everyone_moves_them() -> (
    None
):
    """Three slices a deviation apart; everyone's mean moves from hour to hour by 0.2 of it."""
    rng = np.random.default_rng(2)
    n_hours, n = 300, 2_000
    mean = np.array([-1.0, 0.0, 1.0])[:, None] + rng.normal(0.0, 0.2, n_hours)
    above = [rng.binomial(n, ndtr(mean - cut)) for cut in (-1.5, 1.5)]
    # a row of a normal variable is above both cuts or the first alone: below is what is left
    first, last = np.maximum(*above), np.minimum(*above)
    hits = np.stack([first, last, n - first + last], axis=-1).astype(np.float64)
    hits = np.concatenate([hits.sum(axis=0)[None], hits]).reshape(-1, 3)
    rows = np.repeat(np.array([3.0 * n, n, n, n]), n_hours)[:, None] * np.ones(3)
    slices, units = np.repeat(np.arange(4), n_hours), np.tile(np.arange(n_hours), 4)
    outside = np.array([[2, 0, 1]])
    found = [
        dispersion_of_shares(slices, units, np.arange(n_hours), Shares(hits, rows), 4, None, *of)
        for of in ((), (outside,))
    ]
    (own, rest, _), (own_tied, rest_tied, _) = found
    assert_allclose(own_tied, own)  # without anyone else it is the same
    aside = np.array([1, 3])  # outside of the cuts more come to one of them, and fewer to the other
    assert (rest[aside] > 10.0).all()
    assert (rest_tied[aside] < 1.5).all()

    due = Due(
        np.array([[0.8, 0.1, 0.0]]), np.array([[0.9, 0.15, 0.0]]), np.array([[1.0, 3.0, 2.0]])
    )
    tied = due.tied(outside)
    assert_allclose([tied.lower[0, 2], tied.upper[0, 2]], [1 - 0.9 + 0.1, 1 - 0.8 + 0.15])
    assert tied.spread.tolist() == [[1.0, 3.0, 3.0]]


def test_cuts_that_cross_expect_all_rows_outside_and_no_more() -> None:
    """A season moves each cut by itself; nearly all of a slice may lie outside of them."""
    shares = np.array([[0.50, 0.52, 0.9]])
    crossed = Due(shares, shares, np.ones((1, 3)))
    tied = crossed.tied(np.array([[2, 0, 1]]))
    assert tied.lower[0, 2] == tied.upper[0, 2] == 1.0
    evidence, rows = np.zeros((6, 1, 3)), np.full((1, 3), 100.0)
    ones = np.ones((1, 3))
    gather(evidence, Shares(0.5 * rows, rows), tied, ones, TOLERANCE, 1e-6 * ones)
    assert np.isfinite(evidence).all()
