"""E-values by exact sums over all that can happen, the e-detector, and intervals."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.special import betaln, roots_genlaguerre
from scipy.stats import betabinom, binom, chi2, gamma, nbinom, poisson

from detectors.confidence import (
    OVERDISPERSED_FROM,
    RATIOS,
    RATIOS_OVERDISPERSED,
    WEIGHTS,
    accumulate,
    combined_interval,
    gathered,
    log_e_own_reference,
    log_e_share,
    losses_to_detect,
    rate_interval,
    ratios_for,
)
from tests.streams import at_most, clusters

Floats = npt.NDArray[np.float64]

KNOWN = 1e9  # the shape of a baseline about which nothing is left to learn


def own(x: Floats, expected: float, shape: float, ratios: Floats = RATIOS) -> Floats:
    """e against a slice's own past for each count; shape (n_counts, K)."""
    column = np.full(x.size, shape)
    log_e = log_e_own_reference(x, np.full(x.size, expected), column, column, _each(ratios, x))
    return np.exp(log_e)


def share(x: Floats, y: Floats, expected: float, rest: float, shape: float) -> Floats:
    """e against the rest for each pair of counts; shape (n_pairs, K)."""
    column = np.full(x.size, shape)
    e, er = np.full(x.size, expected), np.full(x.size, rest)
    return np.exp(log_e_share(x, e, y, er, column, column, _each(RATIOS, x)))


def _each(ratios: Floats, x: Floats) -> Floats:
    return np.tile(ratios, (x.size, 1))


def pairs(n: int, m: int) -> tuple[Floats, Floats]:
    """All pairs of counts up to n and m."""
    x, y = np.meshgrid(np.arange(n + 1.0), np.arange(m + 1.0), indexing="ij")
    return x.ravel(), y.ravel()


# --- against the own reference


@pytest.mark.parametrize("shape", [30.0, 100.0, 1000.0])
@pytest.mark.parametrize("expected", [0.05, 1.0, 10.0, 30.0])
def test_own_reference_has_mean_one_for_poisson_losses_over_the_prior(
    shape: float, expected: float
) -> None:
    # A Poisson count whose rate is Gamma(shape, shape) x expected is negative binomial. The sum
    # goes to where the alternative of 5, under which e x probability is a distribution, is over.
    x = np.arange(5 * expected + 60 * np.sqrt(5 * expected + 1) + 50)
    probability = nbinom.pmf(x, shape, shape / (shape + expected))
    assert_allclose(probability @ own(x, expected, shape), 1.0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 20, 400])
def test_own_reference_has_mean_at_most_one_for_zero_one_losses_over_the_prior(rows: int) -> None:
    # Bernoulli losses of rate 0.05 x a Gamma(30, 30) ratio, integrated by Gauss-Laguerre.
    base, shape = 0.05, 30.0
    ratio, weight = roots_genlaguerre(80, shape - 1)
    rate = np.minimum(base * ratio / shape, 1.0)
    x = np.arange(rows + 1.0)
    probability = weight / weight.sum() @ binom.pmf(x, rows, rate[:, None])
    mean = probability @ own(x, base * rows, shape)
    assert (mean <= 1 + 1e-9).all()
    assert mean[0] > 0.95  # and hardly wasteful where alternatives are near


def test_own_reference_holds_in_a_simulation_of_clumped_ratings() -> None:
    # Losses in [0, 1] that are neither 0/1 nor Poisson, each a quarter step. The mean of 200,000
    # e-values passes 1 + 3.1 standard errors with chance 0.001 at most, were it 1.
    rng = np.random.default_rng(3)
    ratio = rng.gamma(100.0, 0.01, 200_000)
    rows, rate = 20, 0.1
    x = rng.binomial(4 * rows, np.minimum(rate * ratio, 1.0)) / 4
    e = own(x, rate * rows, 100.0)[:, :3]
    assert (e.mean(axis=0) <= 1 + 3.1 * e.std(axis=0) / np.sqrt(len(e))).all()


@pytest.mark.parametrize("correlation", [0.15, 0.3])
@pytest.mark.parametrize("base", [0.05, 0.1])
@pytest.mark.parametrize("sessions", [5, 50])
def test_clustered_errors_keep_to_one_with_their_dispersion_and_margin_and_not_without(
    sessions: int, base: float, correlation: float
) -> None:
    # Errors of sessions of 8 rows are beta-binomial; their sum is an exact convolution.
    size, concentration = 8, (1 - correlation) / correlation
    one = betabinom.pmf(np.arange(size + 1), size, base * concentration, (1 - base) * concentration)
    probability = np.ones(1)
    for _ in range(sessions):
        probability = np.convolve(probability, one)
    x, expected = np.arange(probability.size, dtype=np.float64), sessions * size * base
    dispersion = (1 - base) * (1 + (size - 1) * correlation)

    def mean(divided_by: float) -> Floats:
        ratios = ratios_for(np.array([divided_by]))[0]
        e: Floats = probability @ own(x / divided_by, expected / divided_by, KNOWN, ratios)
        return e

    assert (mean(1.25 * dispersion) <= 1.0).all()
    assert mean(dispersion)[-1] > 1.05  # two moments are not the tail: hence the margin
    assert mean(1.0)[2] > 3.0  # and without the dispersion nothing holds


def test_alternatives_share_the_hazard_and_spend_no_more_than_it() -> None:
    hazard = np.array([0.1, 1e-6])
    certain = np.zeros((2, RATIOS.size))  # e-values of 1 leave what was spent
    spent = accumulate(np.zeros((2, RATIOS.size)), certain, hazard, WEIGHTS)
    assert_allclose(gathered(spent), hazard)
    assert_allclose(spent[0], 0.1 * WEIGHTS)


def test_ratios_are_smaller_where_counts_come_in_clumps() -> None:
    ratios = ratios_for(np.array([1.0, OVERDISPERSED_FROM, 1.6, 9.0]))
    assert_allclose(ratios, [RATIOS, RATIOS, RATIOS_OVERDISPERSED, RATIOS_OVERDISPERSED])


# --- against the rest


@pytest.mark.parametrize("rows_rest", [10, 190])
@pytest.mark.parametrize("common", [0.5, 1.0, 1.5, 2.0])
def test_share_has_mean_at_most_one_whatever_moves_everybody(rows_rest: int, common: float) -> None:
    worst = 0.0
    for rows, base, base_rest in itertools.product((1, 10, 50), (0.02, 0.08, 0.3), (0.02, 0.05)):
        x, y = pairs(rows, rows_rest)
        probability = binom.pmf(x, rows, common * base) * binom.pmf(
            y, rows_rest, common * base_rest
        )
        mean = probability @ share(x, y, rows * base, rows_rest * base_rest, KNOWN)
        worst = max(worst, float(mean.max()))
    assert 0.99 < worst <= 1 + 1e-6


@pytest.mark.parametrize("shape", [30.0, 100.0, 1000.0])
@pytest.mark.parametrize(
    ("expected", "rest"), [(1.0, 10.0), (10.0, 10.0), (20.0, 200.0), (200.0, 50.0)]
)
def test_share_has_mean_at_most_one_over_the_prior(
    shape: float, expected: float, rest: float
) -> None:
    for common in (0.5, 1.0, 2.0):
        due, due_rest = common * expected, common * rest
        x, y = pairs(int(due * 3 + 60), int(due_rest + 9 * np.sqrt(due_rest) + 20))
        probability = nbinom.pmf(x, shape, shape / (shape + due)) * poisson.pmf(y, due_rest)
        assert probability.sum() > 0.9999
        mean = probability @ share(x, y, expected, rest, shape)
        assert (mean <= 1.0001).all()


@pytest.mark.parametrize(("shape", "losses"), [(30.0, 300.0), (30.0, 30_000.0), (1e4, 10.0)])
def test_share_of_a_known_total_is_a_ratio_of_two_distributions(
    shape: float, losses: float
) -> None:
    """So that its mean is 1 over the prior exactly, be the batch many times what was learnt from.

    Quadrature over the prior fails here: a batch that tells more than the prior sees its nodes.
    """
    x = np.arange(losses + 1)
    expected, rest = losses / 10, losses * 9 / 10
    inside, outside = shape / 0.9, shape / 0.1  # the Beta share's parameters at 1 in 10
    null = betabinom.pmf(x, int(losses), inside, outside)
    e = share(x, losses - x, expected, rest, shape)
    assert_allclose(null @ e, 1.0, atol=1e-6)


@pytest.mark.parametrize("shape", [30.0, 200.0])
def test_share_is_the_ratio_of_beta_integrals(shape: float) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 200, 50), rng.uniform(0, 2000, 50)
    e, rest = rng.uniform(0.1, 100, 50), rng.uniform(10, 1000, 50)
    column = np.full(50, shape)

    def integral(due: Floats) -> Floats:
        inside, outside = shape * (due + rest) / rest, shape * (due + rest) / due
        log: Floats = betaln(inside + x, outside + y) - betaln(inside, outside)
        return log

    log_e = log_e_share(x, e, y, rest, column, column, np.full((50, 1), 2.0))
    assert_allclose(log_e[:, 0], integral(2 * e) - integral(e), atol=1e-8)


def test_a_share_that_is_as_due_is_evidence_against_each_alternative() -> None:
    column = np.array([10.0, 1000.0])
    log_e = log_e_share(
        column, column, 9 * column, 9 * column, column * 10, column * 10, _each(RATIOS, column)
    )
    assert (log_e < 0).all()


def test_no_losses_are_no_evidence_of_a_share() -> None:
    zero, one = np.zeros(3), np.ones(3)
    tiny = np.array([1e-9, 1.0, 1e9])
    log_e = log_e_share(zero, tiny, zero, one, 30 * one, 30 * one, _each(RATIOS, one))
    assert_allclose(log_e, 0.0, atol=1e-6)


def test_log_e_is_finite_at_the_ends() -> None:
    x, e = (grid.ravel() for grid in np.meshgrid([0.0, 1.0, 1e7], [1e-7, 1.0, 1e7]))
    shape = np.full(x.size, 30.0)
    every = _each(RATIOS, x)
    assert np.isfinite(log_e_own_reference(x, e, shape, shape, every)).all()
    for rest in (1e-12, 1.0, 1e9):
        y = np.full(x.size, rest)
        assert np.isfinite(log_e_share(x, e, y, y, shape, shape, every)).all()


# --- the e-detector


def test_accumulation_equals_the_sum_over_all_starts() -> None:
    rng = np.random.default_rng(5)
    n_ticks, n_slices, k = 60, 7, 3
    log_e = rng.normal(-0.1, 0.5, (n_ticks, n_slices, k))
    hazard = rng.uniform(0, 1e-3, (n_ticks, n_slices))  # predictable, and another every time
    evidence = np.zeros((n_slices, k))
    for t in range(n_ticks):
        evidence = accumulate(evidence, log_e[t], hazard[t])
        starts = [
            hazard[s][:, None] / k * np.exp(log_e[s : t + 1].sum(axis=0)) for s in range(t + 1)
        ]
        assert_allclose(evidence, np.sum(starts, axis=0), rtol=1e-12)


def test_alarms_keep_to_the_hazard_spent_and_come_near_it() -> None:
    # 4,000 streams of exact e-values, 500 ticks, 2 false alarms in 1,000 ticks allowed.
    rng = np.random.default_rng(6)
    n_streams, n_ticks, due, hazard = 4000, 500, 2.0, 2e-3
    ratios = _each(RATIOS, np.empty(n_streams))
    evidence = np.zeros((n_streams, RATIOS.size))
    alarms = 0
    for _ in range(n_ticks):
        x = rng.poisson(due, n_streams)[:, None]
        log_e = x * np.log(ratios) - due * (ratios - 1)
        evidence = accumulate(evidence, log_e, np.full(n_streams, hazard))
        crossed = evidence.sum(axis=1) >= 1
        evidence[crossed] = 0.0
        alarms += int(crossed.sum())
    budget = n_streams * n_ticks * hazard
    assert budget / 3 < alarms <= at_most(budget)


def test_evidence_and_alarms_less_the_hazard_never_rise_on_average() -> None:
    # Z = evidence + alarms - hazard is a supermartingale: at ten times its mean over 20,000
    # streams is at most 0 + 3.1 standard errors, each with chance 0.999.
    rng = np.random.default_rng(7)
    n_streams, due, hazard = 20_000, 1.0, 1e-2
    ratios = _each(RATIOS[:2], np.empty(n_streams))
    evidence, z = np.zeros((n_streams, 2)), np.zeros(n_streams)
    for tick in range(1, 101):
        x = rng.poisson(due, n_streams)[:, None]
        log_e = x * np.log(ratios) - due * (ratios - 1)
        evidence = accumulate(evidence, log_e, np.full(n_streams, hazard))
        crossed = evidence.sum(axis=1) >= 1
        evidence[crossed] = 0.0
        z += crossed - hazard
        if tick % 10 == 0:
            now = z + evidence.sum(axis=1)
            assert now.mean() <= 3.1 * now.std() / np.sqrt(n_streams)


def test_evidence_has_a_ceiling_that_no_batch_can_break() -> None:
    evidence = np.ones((1, 2))
    for _ in range(5):
        evidence = accumulate(evidence, np.full((1, 2), 300.0), np.ones(1))
    assert np.isfinite(evidence).all()
    fallen = accumulate(evidence, np.full((1, 2), -700.0), np.ones(1))
    assert fallen.max() < 1e-200


# --- intervals


def test_a_rate_interval_is_where_the_mixture_has_not_gathered_enough() -> None:
    # The mixture's likelihood by quadrature over a Gamma(1/2) of mean 0.1, in nats.
    x, e = 7.0, 50.0
    lower, upper = rate_interval(np.array([x]), np.array([e]), np.ones(1), level=0.9)
    prior = gamma(0.5, scale=0.1 / 0.5)
    mixed, _ = quad(
        lambda rate: rate**x * np.exp(-rate * e) * prior.pdf(rate), 0, 1, points=[x / e], limit=500
    )
    for limit in (lower[0], upper[0]):
        assert_allclose(mixed / (limit**x * np.exp(-limit * e)), 10.0, rtol=1e-6)
    assert lower[0] < x / e < upper[0]


@pytest.mark.parametrize("chance", [0.02, 0.1, 0.5])
def test_a_rate_interval_holds_at_all_looks_at_once_and_one_of_a_single_look_does_not(
    chance: float,
) -> None:
    # 2,000 streams of 3,000 rows, looked at 60 times: at most a tenth may ever stray.
    rng = np.random.default_rng(50)
    n, looks, rows = 2_000, 60, 50
    errors = np.cumsum(rng.binomial(rows, chance, (looks, n)), axis=0).astype(np.float64)
    seen = np.arange(1, looks + 1) * float(rows)
    strayed, single = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for x, e in zip(errors, seen, strict=True):
        lower, upper = rate_interval(x, np.full(n, e), np.ones(n), level=0.9)
        strayed |= (chance < lower) | (chance > upper)
        # Garwood's limits, exact for Poisson counts at one look
        single |= chance * e > chi2.ppf(0.95, 2 * x + 2) / 2
        single |= chance * e < chi2.ppf(0.05, 2 * x) / 2
    allowed = binom.ppf(0.99, n, 0.1)
    assert strayed.sum() <= allowed
    if chance < 0.2:  # beyond, Bernoulli errors scatter less than Garwood's counts
        assert single.sum() > allowed


def test_a_gap_holds_at_all_looks_at_once() -> None:
    # A slice in the rest of 4 times its rows, sessions of 4 rows that err together.
    rng = np.random.default_rng(51)
    n, looks, sessions, size = 1_000, 50, 10, 4
    rates = np.array([0.12, 0.06])
    dispersion = 1 + (size - 1) * 0.2
    x = [
        np.cumsum(clusters(rng, (looks, n, k), size, p, 0.2).sum(axis=2), axis=0)
        for k, p in zip((sessions, 4 * sessions), rates, strict=True)
    ]
    strayed = np.zeros(n, np.bool_)
    for look in range(looks):
        rows = [(look + 1.0) * k * size for k in (sessions, 4 * sessions)]
        parts = [
            rate_interval(x[k][look], np.full(n, rows[k]), np.full(n, dispersion), level=0.9)
            for k in (0, 1)
        ]
        seen = np.stack([x[k][look] / rows[k] for k in (0, 1)])
        low, high = combined_interval(
            np.array([1.0, -1.0]), seen, *(np.stack(pair) for pair in zip(*parts, strict=True))
        )
        gap = rates[0] - rates[1]
        strayed |= (gap < low) | (gap > high)
    assert strayed.sum() <= binom.ppf(0.99, n, 0.1)


def test_what_a_detection_takes_grows_with_dispersion_and_as_a_tenth_of_the_budget_little() -> None:
    one = losses_to_detect(2.0, np.array([1e-6, 1e-7]), np.ones(2))
    # (ln(5 / h) + 1.5) / (2 ln 2 - 1)
    assert_allclose(one, (np.log(5 / np.array([1e-6, 1e-7])) + 1.5) / (2 * np.log(2) - 1))
    assert_allclose(losses_to_detect(2.0, np.array([1e-6]), np.full(1, 3.0)), 3 * one[0])
    assert np.isinf(losses_to_detect(2.0, np.zeros(1), np.ones(1)))


def test_dispersion_widens_the_interval_as_fewer_counts_would() -> None:
    plain = rate_interval(np.array([10.0]), np.array([50.0]), np.ones(1))
    clumped = rate_interval(np.array([40.0]), np.array([200.0]), np.array([4.0]))
    assert_allclose(plain, clumped)


def test_interval_of_no_losses_begins_at_zero_and_of_no_exposure_is_unknown() -> None:
    lower, upper = rate_interval(np.zeros(2), np.array([50.0, 0.0]), np.ones(2))
    assert lower[0] == 0.0
    assert 0 < upper[0] < 1
    assert np.isnan([lower[1], upper[1]]).all()
