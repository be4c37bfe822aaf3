"""E-values and intervals, pure functions of counts.

An e-value is a non-negative statistic whose mean is at most 1 while nothing is wrong; it may be
multiplied over time and looked at whenever one likes. All functions here work on arrays, a row a
slice, and none keeps state.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

RATIOS: Final = np.array([1.3, 1.5, 2.1, 3.6, 6.0])
RATIOS_OVERDISPERSED: Final = np.array([1.25, 1.5, 1.8, 2.3, 3.0])  # where counts come in clumps
# The hazard's part of each: most where it is found late, and little where another one finds it.
WEIGHTS: Final = np.array([1.0, 5.0, 3.0, 3.0, 1.0]) / 13.0
OVERDISPERSED_FROM: Final = 1.5

_BLOCK: Final = 2048  # slices whose evidence is computed at once
_LOG_E_MIN: Final = -700.0  # exp() of less is 0, of more than 300 may overflow once summed
_LOG_E_MAX: Final = 300.0


def ratios_for(dispersion: Floats) -> Floats:
    """The alternatives that each slice is tested against.

    Parameters
    ----------
    dispersion : float64, shape (n_slices,)
        Variance of a slice's counts over their mean.

    Returns
    -------
    float64, shape (n_slices, 5)
        How many times worse than due. Counts that come in clumps get smaller ratios: dispersion
        matches two moments only, and large ratios bet on the tail beyond them.

    Examples
    --------
    >>> ratios_for(np.array([1.0, 3.0]))[:, -1]
    array([6., 3.])
    """
    clumped = dispersion[:, None] > OVERDISPERSED_FROM
    ratios: Floats = np.where(clumped, RATIOS_OVERDISPERSED, RATIOS).astype(np.float64)
    return ratios


def blocks(slices: Indices) -> list[Indices]:
    """The same slices, some at a time, so that what is computed of them stays in the cache.

    Examples
    --------
    >>> [block.size for block in blocks(np.arange(5_000))]
    [2048, 2048, 904]
    """
    return [slices[at : at + _BLOCK] for at in range(0, slices.size, _BLOCK)]


def log_e_own_reference(
    observed: Floats, expected: Floats, shape: Floats, rate: Floats, ratios: Floats
) -> Floats:
    """Evidence that a slice's losses are `ratios` times its own past's.

    Parameters
    ----------
    observed, expected : float64, shape (n_slices,)
        Loss in this batch, and what the reference expects of it; both over the dispersion.
    shape, rate : float64, shape (n_slices,)
        Gamma posterior of the slice's ratio of observed to expected so far.
    ratios : float64, shape (n_slices, K)

    Returns
    -------
    float64, shape (n_slices, K)
        log e. Its mean over the posterior is 0 on the scale of e: E[e] = 1 for Poisson losses.

    Notes
    -----
    The ratio of two Gamma-Poisson (negative binomial) predictive likelihoods; the baseline is
    integrated over and never plugged in. Predictive e-values: Ramdas et al., "Game-theoretic
    statistics and safe anytime-valid inference", Statistical Science 38(4), 2023.

    Examples
    --------
    >>> one = np.ones(1)
    >>> log_e_own_reference(20 * one, 10 * one, 100 * one, 100 * one, np.array([[2.0]])).round(2)
    array([[3.42]])
    """
    against = ratios.T  # an alternative a row, as in `log_e_share`
    grown = np.log1p((against - 1.0) * (expected / (rate + expected)))
    grown *= shape + observed
    log_e = np.log(against)
    log_e *= observed
    log_e -= grown
    return _clipped(log_e)


def log_e_share(
    observed: Floats,
    expected: Floats,
    observed_rest: Floats,
    expected_rest: Floats,
    shape: Floats,
    rate: Floats,
    ratios: Floats,
) -> Floats:
    """Evidence that a slice's share of all losses has grown `ratios`-fold.

    Whatever multiplies everybody's losses alike (a bad day, an hour of the day) cancels: given
    how much was lost in all, only who lost it counts.

    Parameters
    ----------
    observed, expected : float64, shape (n_slices,)
        The slice's loss in this batch, and what the reference expects; over the dispersion.
    observed_rest, expected_rest : float64, shape (n_slices,)
        The same of all rows outside the slice.
    shape, rate : float64, shape (n_slices,)
        Gamma posterior of the slice's ratio of observed to expected, relative to the rest's.
    ratios : float64, shape (n_slices, K)

    Returns
    -------
    float64, shape (n_slices, K)
        log e; for a known ratio E[e] <= 1 for any losses in [0, 1], any common multiplier.

    Notes
    -----
    With f0, fk the slice's expected share without and with the ratio, e is
    (fk/f0)^x ((1-fk)/(1-f0))^y. For outcomes in [0, 1], E[a^x] <= exp(mean (a - 1)), and the
    product telescopes to exp(0). It is the conditional sibling of the k-sample e-variables of
    Turner, Ly and Grünwald (JSPI 2024). An unknown ratio makes the share itself unknown: it is
    integrated over a Beta whose log odds have the posterior's centre and spread, 1 / shape, in
    numerator and denominator apart. Both are normalised given the total, so E[e] = 1 under it.

    Examples
    --------
    >>> one = np.ones(1)
    >>> known = 1e9 * one
    >>> log_e_share(20 * one, 10 * one, 90 * one, 90 * one, known, known,
    ...             np.array([[2.0]])).round(2)
    array([[3.38]])
    """
    # an alternative a row, the first that nothing changed: numpy is slow at rows of five
    odds = np.empty((1 + ratios.shape[1], len(ratios)))
    odds[0] = expected * shape / (rate * expected_rest)
    np.multiply(odds[0], ratios.T, out=odds[1:])
    log_mean = _log_mean_share(observed, observed_rest, odds, shape)
    return _clipped(log_mean[1:] - log_mean[0])


def _clipped(log_e: Floats) -> Floats:
    np.clip(log_e, _LOG_E_MIN, _LOG_E_MAX, out=log_e)
    return log_e.T


def _log_mean_share(x: Floats, y: Floats, odds: Floats, shape: Floats) -> Floats:
    """Log of the mean of f^x (1-f)^y over a Beta share f centred at odds / (1 + odds).

    The Beta's parameters are a = shape (1 + odds) and b = a / odds, so x ln a + y ln b -
    (x + y) ln (a + b) is x ln odds - (x + y) ln (1 + odds).
    """
    both, whole = x + y, 1.0 + odds
    inside = shape * whole
    outside = inside / odds
    log_mean = np.log(odds)
    log_mean *= x
    log_mean -= both * np.log(whole)
    log_mean += _log_risen(inside, x)
    log_mean += _log_risen(outside, y)
    inside += outside
    log_mean -= _log_risen(inside, both)
    return log_mean


def _log_risen(a: Floats, x: Floats) -> Floats:
    """ln Γ(a + x) - ln Γ(a) - x (ln a - 1), to 1e-9 where a is 5 or more.

    A difference of log gammas would lose what counts, where a is large and x small. The x that is
    left out here comes in as much as it goes out where the rises of a Beta are taken together.
    """
    grown = a + x
    risen = np.log1p(x / a)
    risen *= grown - 0.5
    risen += _beyond_stirling(grown)
    risen -= _beyond_stirling(a)
    return risen


def _beyond_stirling(a: Floats) -> Floats:
    """What ln Γ(a) is beyond (a - 1/2) ln a - a + ln(2 pi) / 2, to 1e-9 where a is 5 or more.

    Binet's function, by Stieltjes' continued fraction 1/12 / (a + 1/30 / (a + 53/210 / (a + ...,
    whose third numerator is lowered to 0.248 to make good what is left off behind it.
    """
    square = a * a
    beyond = square + 0.248
    square += 1 / 30 + 0.248
    square *= a
    beyond /= square
    beyond *= 1 / 12
    return beyond


def accumulate(
    evidence: Floats, log_e: Floats, hazard: Floats, weights: Floats | None = None
) -> Floats:
    """One step of the Shiryaev-Roberts e-detector with a hazard budget.

    Parameters
    ----------
    evidence : float64, shape (n_slices, K)
        What was gathered before, a column an alternative.
    log_e : float64, shape (n_slices, K)
    hazard : float64, shape (n_slices,)
        False alarms that may be spent on each slice in this batch.
    weights : float64, shape (K,), optional
        The part of the hazard that each alternative has; they sum to 1. By default equal parts.

    Returns
    -------
    float64, shape (n_slices, K)
        `(evidence + hazard * weights) * e`. An alarm is due where a row sums to 1 or more; if its
        row is then set to 0, the expected number of false alarms is at most the sum of the hazards,
        whatever the dependence between slices and whenever one looks.

    Notes
    -----
    Shin, Ramdas, Rinaldo, "E-detectors", NEJSDS 2024, Def. 2.2, with the threshold 1/h moved into
    the increments so that budgets may change from batch to batch. Z = evidence + alarms - hazard
    spent is a supermartingale that starts at 0.

    Examples
    --------
    >>> accumulate(np.zeros((1, 2)), np.log([[2.0, 3.0]]), np.array([0.2]))
    array([[0.2, 0.3]])
    >>> accumulate(np.zeros((1, 2)), np.log([[2.0, 3.0]]), np.array([0.2]), np.array([0.9, 0.1]))
    array([[0.36, 0.06]])
    """
    parts = 1.0 / evidence.shape[1] if weights is None else weights[:, None]
    grown = np.exp(log_e.T)
    grown *= evidence.T + hazard * parts
    np.minimum(grown, EVIDENCE_MAX, out=grown)
    return grown.T


def gathered(evidence: Floats) -> Floats:
    """Evidence against each slice, shape (n_slices,); that of its alternatives comes to it.

    Examples
    --------
    >>> gathered(np.array([[0.25, 0.5], [0.0, 1.0]]))
    array([0.75, 1.  ])
    """
    total: Floats = sum(evidence.T, np.zeros(len(evidence)))  # numpy is slow at rows of five
    return total


EVIDENCE_MAX: Final = 1e6  # lowering evidence is safe; without a ceiling it could overflow


TYPICAL_RATE: Final = 0.1  # where nothing better is known; a tenth of it costs a nat
_MIXED: Final = 0.5  # shape of the Gamma over which rates are mixed: Jeffreys', made proper
_NEWTON_STEPS: Final = 30


def rate_interval(
    observed: Floats,
    exposure: Floats,
    dispersion: Floats,
    level: float = 0.95,
    typical: float = TYPICAL_RATE,
) -> tuple[Floats, Floats]:
    """Interval of a rate, observed over exposure, that holds at all times at once.

    Parameters
    ----------
    observed, exposure, dispersion : float64, shape (n_slices,)
    level : float
        The chance that the rate is inside *whenever* one looks, as rows go on coming.
    typical : float
        About what rates are, stated beforehand: it decides where the interval is tightest, and a
        factor of ten costs about a nat. Coverage does not depend on it.

    Returns
    -------
    lower, upper : float64, shape (n_slices,)
        NaN without exposure.

    Notes
    -----
    A confidence sequence: rates against which the mixture over a Gamma of Poisson likelihoods has
    not gathered 1 / (1 - level), by Ville's inequality. For losses in [0, 1] the Poisson e-value
    has mean at most 1 against lower rates and higher ones, so nothing of their distribution is
    presumed but the dispersion, which is taken as 1 at least. Robbins, "Statistical methods related
    to the law of the iterated logarithm", Annals of Mathematical Statistics 41(5), 1970. It is
    about 1.5 times as wide as an interval for one look.

    Examples
    --------
    >>> lower, upper = rate_interval(np.array([10.0]), np.array([100.0]), np.ones(1))
    >>> lower.round(3), upper.round(3)
    (array([0.032]), array([0.23]))
    """
    scale = np.maximum(dispersion, 1.0)
    x = observed / scale
    with np.errstate(invalid="ignore", divide="ignore"):
        e = np.where(exposure > 0, exposure / scale, np.nan)
    rate = _MIXED / typical
    # log of the mixture's likelihood, less what Poisson's has that does not depend on the rate
    mixture = _MIXED * np.log(rate) - (_MIXED + x) * np.log(rate + e)
    mixture += gammaln(_MIXED + x) - gammaln(_MIXED)
    enough = -np.log(1 - level) - mixture  # rates are out where e rate - x ln rate is more
    return _roots(x, e, enough)


def _roots(x: Floats, e: Floats, enough: Floats) -> tuple[Floats, Floats]:
    """Where `e rate - x ln rate` comes to `enough`, below x / e and above it."""
    some = x > 0
    counts = np.where(some, x, 1.0)
    # with u = e rate / x it is u - ln u = c, c >= 1
    c = np.maximum(enough / counts + np.log(counts / e), 1.0)
    with np.errstate(invalid="ignore"):
        below, above = np.exp(-c), c + np.sqrt(2 * (c - 1)) + np.log(c)
        for _ in range(_NEWTON_STEPS):
            log_below = np.log(below)  # Newton on ln u, which keeps it above 0
            below = np.exp(log_below - (below - log_below - c) / (below - 1 - 1e-12))
            above = above - (above - np.log(above) - c) / (1 - 1 / above + 1e-12)
    lower: Floats = np.where(some, below * counts / e, 0.0 * e)
    upper: Floats = np.where(some, above * counts / e, enough / e)
    return lower, upper


def combined_interval(
    signs: Floats, rates: Floats, lower: Floats, upper: Floats
) -> tuple[Floats, Floats]:
    """Interval of a sum of rates that are known independently of each other.

    Parameters
    ----------
    signs : float64, shape (n_rates,)
        1 for what is added, -1 for what is taken away.
    rates, lower, upper : float64, shape (n_rates, ...)

    Returns
    -------
    lower, upper : float64, shape (...)
        The sum with its parts' radii added in squares: where each part holds at all times, the sum
        does so but for parts of alike size that stray together, and then by little (Zou and Donner,
        "Construction of confidence limits about effect measures", Statistics in Medicine 2008).

    Examples
    --------
    >>> low, high = combined_interval(np.array([1., -1.]), np.array([0.3, 0.1]),
    ...                               np.array([0.26, 0.08]), np.array([0.36, 0.13]))
    >>> low.round(3), high.round(3)
    (np.float64(0.15), np.float64(0.263))
    """
    sign = signs.reshape(-1, *(1,) * (rates.ndim - 1))
    below = np.where(sign > 0, rates - lower, upper - rates)
    above = np.where(sign > 0, upper - rates, rates - lower)
    middle = (sign * rates).sum(axis=0)
    low: Floats = middle - np.sqrt((below**2).sum(axis=0))
    high: Floats = middle + np.sqrt((above**2).sum(axis=0))
    return low, high


def losses_to_detect(ratio: float, hazard: Floats, dispersion: Floats) -> Floats:
    """How much must have been due of a slice until a rise by `ratio` is found, typically.

    Parameters
    ----------
    ratio : float
        How many times worse than due, over 1.
    hazard, dispersion : float64, shape (n_slices,)
        What a slice may spend on a tick, and what its counts are divided by.

    Returns
    -------
    float64, shape (n_slices,)
        Expected losses; infinite where nothing may be spent.

    Examples
    --------
    >>> losses_to_detect(2.0, np.array([1e-6]), np.ones(1)).round(0)
    array([44.])
    """
    with np.errstate(divide="ignore"):
        nats = np.log(RATIOS.size / hazard) + 1.5
    due: Floats = dispersion * nats / (ratio * np.log(ratio) - ratio + 1)
    return due
