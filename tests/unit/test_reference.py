"""What normal was: rates of cells that borrow, and how far counts scatter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose
from scipy.stats import betabinom, binom, chi2

from detectors import CellRates, Units, dispersion_own, dispersion_share, fit_cell_rates
from detectors.confidence import RATIOS, log_e_own_reference, log_e_share, ratios_for
from detectors.reference import (
    MARGIN,
    least_dispersion,
    margin_on,
    raise_for_few_units,
    shrink_dispersion,
    without_margin,
)
from tests.streams import clusters

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]

FLOORS = np.array([1.0, 0.8, 1.2, 2.0, 0.5, 1.0])
ACCENTS = np.array([1.0, 0.6, 1.5, 3.0])


def grid(n_floors: int = FLOORS.size, n_accents: int = ACCENTS.size) -> Codes:
    """Every floor with every accent."""
    floors, accents = np.meshgrid(np.arange(n_floors), np.arange(n_accents), indexing="ij")
    return np.column_stack([floors.ravel(), accents.ravel()]).astype(np.int32)


def truth(levels: Codes, base: float = 0.05) -> Floats:
    rate: Floats = base * FLOORS[levels[:, 0]] * ACCENTS[levels[:, 1]]
    return rate


# --- rates


def test_main_effects_are_recovered() -> None:
    levels = grid()
    exposure = np.random.default_rng(0).uniform(1e5, 1e6, len(levels))
    rates = fit_cell_rates(levels, truth(levels) * exposure, exposure)
    assert_allclose(rates.predict(levels), truth(levels), rtol=5e-3)  # 5: what the prior holds back


def test_an_unseen_cell_is_expected_what_its_dimensions_say() -> None:
    levels = grid()
    exposure = np.full(len(levels), 1e5)
    unseen = 3 * ACCENTS.size + 3  # the worst floor with the worst accent
    exposure[unseen] = 0.0
    rates = fit_cell_rates(levels, truth(levels) * exposure, exposure)
    assert_allclose(rates.predict(levels)[unseen], truth(levels)[unseen], rtol=2e-2)


def test_a_cell_that_comes_after_the_reference_is_expected_what_its_dimensions_say() -> None:
    levels = grid()
    exposure = np.full(len(levels), 1e5)
    rates = fit_cell_rates(levels, truth(levels) * exposure, exposure)
    new_floor = FLOORS.size
    later = np.array([[3, 3], [new_floor, 3], [new_floor, ACCENTS.size]], np.int32)
    predicted = rates.predict(np.concatenate([levels, later]))[-3:]
    assert_allclose(predicted[0], truth(levels)[3 * ACCENTS.size + 3], rtol=5e-3)
    assert_allclose(predicted[1] / predicted[2], rates.effects[1][3], rtol=1e-12)
    assert predicted[2] == rates.base


def test_what_is_particular_to_a_large_cell_is_its_own_and_to_a_small_one_is_not() -> None:
    levels = grid()
    large, small = 5, 6
    rate = truth(levels)
    exposure = np.full(len(levels), 1e5)
    exposure[small] = 10.0
    rate[[large, small]] *= 4
    rates = fit_cell_rates(levels, rate * exposure, exposure)
    predicted = rates.predict(levels)
    assert_allclose(predicted[large], rate[large], rtol=2e-2)
    assert predicted[small] < 2 * truth(levels)[small]


def test_clumped_counts_weigh_less_against_the_prior() -> None:
    levels = grid()
    exposure = np.full(len(levels), 2000.0)
    observed = truth(levels) * exposure
    observed[5] *= 3
    plain = fit_cell_rates(levels, observed, exposure).own[5]
    clumped = fit_cell_rates(levels, observed, exposure, dispersion=10.0).own[5]
    assert 1 < clumped < plain


def test_expected_losses_of_the_reference_add_up_to_its_losses() -> None:
    rng = np.random.default_rng(1)
    levels = grid()
    exposure = rng.uniform(50, 5000, len(levels))
    observed = rng.poisson(truth(levels) * exposure).astype(np.float64)
    due = fit_cell_rates(levels, observed, exposure).predict(levels) * exposure
    assert_allclose(due.sum(), observed.sum(), rtol=0.02)


@pytest.mark.parametrize(
    ("observed", "exposure"),
    [(0.0, 1000.0), (0.0, 0.0), (1e-9, 1e-9), (5.0, 5.0)],
    ids=["no losses", "no exposure", "hardly any", "nothing but losses"],
)
def test_rates_are_finite_whatever_the_reference(observed: float, exposure: float) -> None:
    levels = grid()
    n = len(levels)
    rates = fit_cell_rates(levels, np.full(n, observed), np.full(n, exposure))
    predicted = rates.predict(levels)
    assert np.isfinite(predicted).all()
    assert (predicted >= 0).all()
    if exposure >= 1:
        assert (predicted > 0).all()  # a slice without a loss yet can still be tested


@pytest.mark.parametrize("n_dimensions", [0, 2])
def test_a_reference_without_cells_expects_nothing(n_dimensions: int) -> None:
    levels = np.zeros((0, n_dimensions), np.int32)
    rates = fit_cell_rates(levels, np.zeros(0), np.zeros(0))
    assert rates.base == 0.0
    assert rates.predict(np.zeros((3, n_dimensions), np.int32)).tolist() == [0.0] * 3


def test_a_model_without_dimensions_has_one_rate() -> None:
    rates = fit_cell_rates(np.zeros((1, 0), np.int32), np.array([50.0]), np.array([1000.0]))
    assert_allclose(rates.predict(np.zeros((1, 0), np.int32)), [0.05], rtol=0.02)


def test_predicting_does_not_change_the_rates() -> None:
    rates = CellRates(0.1, [np.array([1.0, 2.0])], np.ones(2), np.ones(2))
    levels = np.array([[0], [1], [1]], np.int32)
    assert_allclose(rates.predict(levels), rates.predict(levels))


# --- scatter


def units(observed: Floats, expected: Floats, period: npt.NDArray[np.intp]) -> Units:
    """Of dense counts, shape (n_units, n_slices) of disjoint slices; a root is put before them."""
    with_root = [np.column_stack([x.sum(axis=1), x]) for x in (observed, expected)]
    unit, slice_ = np.nonzero(with_root[1] > 0)
    return Units(
        slices=slice_,
        units=unit,
        observed=with_root[0][unit, slice_],
        expected=with_root[1][unit, slice_],
        period=period,
        unit_observed=observed.sum(axis=1),
        unit_expected=expected.sum(axis=1),
    )


def one_slice_each(counts: Floats, due: Floats, n_slices: int, n_periods: int) -> Units:
    """Sessions that belong to one slice each, dealt out in turn."""
    n = counts.size
    observed, expected = np.zeros((n, n_slices)), np.zeros((n, n_slices))
    home = np.arange(n) % n_slices
    observed[np.arange(n), home] = counts
    expected[np.arange(n), home] = due
    return units(observed, expected, np.arange(n) * n_periods // n)


@pytest.mark.parametrize("correlation", [0.05, 0.15, 0.4])
def test_both_dispersions_find_the_one_that_clusters_were_drawn_with(correlation: float) -> None:
    # 40,000 sessions: the standard error of each slice's estimate is below 3 %, the band 3 of them.
    rng = np.random.default_rng(2)
    size, base, n_slices = 8, 0.1, 4
    counts = clusters(rng, (40_000,), size, base, correlation)
    drawn = (1 - base) * (1 + (size - 1) * correlation)
    reference = one_slice_each(counts, np.full(counts.size, size * base), n_slices, n_periods=100)
    own, n_units = dispersion_own(reference, 1 + n_slices)
    share = dispersion_share(reference, 1 + n_slices)
    assert_allclose(own, drawn, rtol=0.09)
    assert_allclose(share[1:], drawn, rtol=0.09)
    assert n_units.tolist() == [40_000, *[10_000] * n_slices]


def test_poisson_counts_have_a_dispersion_of_one() -> None:
    rng = np.random.default_rng(3)
    due = rng.uniform(0.5, 5.0, 20_000)
    reference = one_slice_each(rng.poisson(due).astype(np.float64), due, 4, n_periods=100)
    assert_allclose(dispersion_own(reference, 5)[0], 1.0, rtol=0.06)
    assert_allclose(dispersion_share(reference, 5)[1:], 1.0, rtol=0.06)


def test_a_common_shock_scatters_counts_and_cancels_in_shares() -> None:
    # Days with a rate of their own, of variance 1/10: a slice's 20 a day scatter 1 + 20 / 10 times.
    rng = np.random.default_rng(4)
    due = np.full((5000, 4), 20.0)
    observed = rng.poisson(due * rng.gamma(10.0, 0.1, (5000, 1))).astype(np.float64)
    days = units(observed, due, np.arange(5000))
    assert_allclose(dispersion_own(days, 5)[0][1:], 3.0, rtol=0.15)
    assert_allclose(dispersion_share(days, 5)[1:], 1.0, rtol=0.06)


def test_dispersion_of_shares_is_its_formula_summed_unit_by_unit() -> None:
    rng = np.random.default_rng(5)
    n_units, n_slices, n_periods = 60, 3, 4
    expected = rng.uniform(0, 2, (n_units, n_slices)) * (rng.random((n_units, n_slices)) < 0.5)
    expected[:, 0] += 0.1
    observed = rng.poisson(expected).astype(np.float64)
    period = rng.integers(0, n_periods, n_units)

    x, m = observed.sum(axis=1), expected.sum(axis=1)
    by_hand = []
    for s in range(n_slices):
        squares = variance = 0.0
        for t in range(n_periods):
            inside = period == t
            ratio = x[inside].sum() / m[inside].sum()
            f = expected[inside, s].sum() / m[inside].sum()
            error = (observed[inside, s] - ratio * expected[inside, s]) - f * (
                x[inside] - ratio * m[inside]
            )
            squares += float((error**2).sum())
            variance += x[inside].sum() * f * (1 - f)
        by_hand.append(squares / variance)
    share = dispersion_share(units(observed, expected, period), 1 + n_slices)
    assert_allclose(share[1:], by_hand)
    assert np.isnan(share[0])  # the whole model has all of itself


def test_units_that_are_periods_give_the_share_its_plain_formula() -> None:
    rng = np.random.default_rng(6)
    expected = rng.uniform(1, 9, (30, 2))
    observed = rng.poisson(expected).astype(np.float64)
    share = dispersion_share(units(observed, expected, np.arange(30)), 3)
    x, f = observed.sum(axis=1), expected[:, 0] / expected.sum(axis=1)
    plain = ((observed[:, 0] - f * x) ** 2).sum() / (x * f * (1 - f)).sum()
    assert_allclose(share[1:], plain)  # and the other slice's is the same


NONE = np.zeros(0, np.intp)


@pytest.mark.parametrize(
    "reference",
    [
        Units(NONE, NONE, np.zeros(0), np.zeros(0), NONE, np.zeros(0), np.zeros(0)),
        units(np.zeros((5, 2)), np.ones((5, 2)), np.zeros(5, np.intp)),
        units(np.ones((1, 2)), np.ones((1, 2)), np.zeros(1, np.intp)),
        units(np.ones((4, 2)), np.column_stack([np.ones(4), np.zeros(4)]), np.arange(4)),
    ],
    ids=["no units", "no losses", "one unit", "an empty slice"],
)
def test_degenerate_references_give_finite_divisors_of_at_least_one(reference: Units) -> None:
    own, n_units = dispersion_own(reference, 3)
    share = dispersion_share(reference, 3)
    total = float(reference.unit_observed.size)
    for dispersion in (own, share):
        divisors = shrink_dispersion(dispersion, n_units, total)
        assert np.isfinite(divisors).all()
        assert (divisors >= 1.0).all()


# --- margin and borrowing


CLUMPS = [  # rows of a session, by how much they scatter further, and the rate
    (rows, excess, p)
    for rows in (2, 8, 50, 400)
    for excess in (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 1.9)
    for p in (0.01, 0.05, 0.2)
    if excess <= 0.9 * (rows - 1)  # of all rows alike it is rows - 1
    and (p >= 0.05 or excess <= 1.0)  # beyond, a quarter does not keep it either
]


@pytest.mark.parametrize(("rows", "excess", "p"), CLUMPS)
def test_the_margin_keeps_the_mean_of_clumped_errors_at_one(
    rows: int, excess: float, p: float
) -> None:
    """Exact, of one Beta-binomial session; sessions are independent, so of any number of them."""
    measured = 1.0 + excess
    assert _mean_of_session(rows, measured, p, float(margin_on(np.array([measured]))[0])) <= 1.0


def test_without_a_margin_clumped_errors_exceed_one_and_independent_ones_do_not() -> None:
    assert _mean_of_session(50, 1.2, 0.05, 1.2) > 1.0
    assert _mean_of_session(50, 1.0, 0.05, 1.0) <= 1.0


def _mean_of_session(rows: int, measured: float, p: float, divisor: float) -> float:
    """The greatest mean of e over the alternatives, both dispersions over independent rows'."""
    x, correlation = np.arange(rows + 1.0), (measured - 1.0) / (rows - 1)
    if correlation:
        concentration = (1 - correlation) / correlation
        likely = betabinom.pmf(x, rows, p * concentration, (1 - p) * concentration)
    else:
        likely = binom.pmf(x, rows, p)
    scale = divisor * (1 - p)
    ratios = ratios_for(np.array([scale]))[0][:, None]
    log_e = x / scale * np.log(ratios) - (ratios - 1) * rows * p / scale
    return float((np.exp(log_e) @ likely).max())


def test_a_margin_taken_off_again_leaves_what_was_measured() -> None:
    measured = np.linspace(1.0, 9.0, 50)
    assert_allclose(without_margin(margin_on(measured)), measured)
    assert (margin_on(measured) >= measured).all()


def test_a_slice_with_many_units_is_half_its_own_and_one_with_none_is_the_pools() -> None:
    many = 1e9
    dispersion = np.array([9.0, 2.0, 6.0, np.nan])
    n_units = np.array([2 * many, many, many, 0.0])
    pool = 4.0  # of the slices, by their units; the whole model takes no part in it
    mixed = np.array([(9 + pool) / 2, (2 + pool) / 2, (6 + pool) / 2, pool])
    divisors = shrink_dispersion(dispersion, n_units, many, with_margin=False)
    assert_allclose(divisors, mixed)
    assert_allclose(shrink_dispersion(dispersion, n_units, many), MARGIN * mixed)


def test_a_divisor_is_never_below_one() -> None:
    divisors = shrink_dispersion(np.full(4, 0.2), np.full(4, 1e3), 4e3)
    assert divisors.tolist() == [1.0] * 4


KNOWN = 1e8 * np.ones(1)


@pytest.mark.parametrize("p", [0.2, 0.3, 0.5, 0.7])
def test_frequent_errors_over_their_least_dispersion_keep_the_e_value_at_one(p: float) -> None:
    # Exact: every number of errors among n rows. Over less than 1 - p the promise breaks.
    n = 40
    x = np.arange(n + 1.0)

    def mean_e(dispersion: float, chance: float, ratios: Floats = RATIOS) -> Floats:
        column = np.ones((n + 1, 1))
        log_e = log_e_own_reference(
            x / dispersion,
            np.full(n + 1, n * p / dispersion),
            KNOWN * column[:, 0],
            KNOWN * column[:, 0],
            ratios * column,
        )
        mean: Floats = binom.pmf(x, n, chance) @ np.exp(log_e)
        return mean

    own, _ = least_dispersion(np.array([p]))
    for chance in (p, 0.9 * p, 0.5 * p):
        assert (mean_e(float(own[0]), chance) <= 1.0 + 1e-5).all()
    assert mean_e(0.8 * float(own[0]), p, np.array([1.1])) > 1.0


@pytest.mark.parametrize("of_slice", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("of_rest", [0.1, 0.3, 0.6])
def test_shares_of_frequent_errors_keep_the_e_value_at_one_whatever_moves_everybody(
    of_slice: float, of_rest: float
) -> None:
    # Exact, over every number of errors of a slice and its rest, 15 and 45 rows.
    n, m = 15, 45
    whole = (n * of_slice + m * of_rest) / (n + m)
    _, share = least_dispersion(np.array([whole, of_slice]))
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1.0), np.arange(m + 1.0)))
    ones = np.ones(x.size)
    log_e = log_e_share(
        x / share[1],
        n * of_slice / share[1] * ones,
        y / share[1],
        m * of_rest / share[1] * ones,
        KNOWN * ones,
        KNOWN * ones,
        RATIOS * np.ones((x.size, 1)),
    )
    for common in (0.7, 1.0, 1.4):
        likely = binom.pmf(x, n, common * of_slice) * binom.pmf(y, m, common * of_rest)
        assert (likely @ np.exp(log_e) <= 1.0 + 1e-4).all()


def test_rare_errors_have_no_less_to_gain_and_slices_are_pooled_by_what_they_exceed() -> None:
    own, share = least_dispersion(np.array([0.01, 0.01]))
    assert_allclose([*own, *share], [0.99, 0.99, 0.995, 0.995])
    many = np.full(3, 1e9)
    least = np.array([0.7, 0.5, 0.8])
    assert_allclose(shrink_dispersion(2 * least, many, 3e9, least=least), MARGIN * 2 * least)
    assert_allclose(shrink_dispersion(0.1 * least, many, 3e9, least=least), least)


@pytest.mark.parametrize("n_units", [3, 10, 50])
def test_few_units_are_raised_to_a_limit_that_covers_nine_in_ten(n_units: int) -> None:
    # The estimate from n normal units is chi-squared over n, whatever the truth.
    rng = np.random.default_rng(8)
    estimates = rng.chisquare(n_units, 100_000) / n_units
    covered = float((estimates * raise_for_few_units(n_units) >= 1.0).mean())
    assert_allclose(covered, 0.9, atol=0.01)
    assert_allclose(raise_for_few_units(n_units), n_units / chi2.ppf(0.1, n_units))


def test_no_unit_at_all_counts_as_one() -> None:
    assert raise_for_few_units(0.0) == raise_for_few_units(1.0) < 100
