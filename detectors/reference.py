"""What normal was: a rate for each cell, and how far counts scatter beyond Poisson.

Small cells borrow their rate from their dimensions.

Expecting of each row what its own cell lost in the reference keeps *who* is in a slice apart from
*how well* they are served: a floor where more people with a difficult accent begin to speak has
more expected errors, not more evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Indices = npt.NDArray[np.intp]

MAIN_EFFECT_PRIOR: Final = 5.0  # effective errors that hold a value's effect at 1
CELL_PRIOR: Final = 20.0  # effective errors that hold a cell at what its dimensions say
_ROUNDS: Final = 25
MARGIN: Final = 1.25  # two moments are matched, not the tail: measured dispersion is raised by this
EXCESS_MARGIN: Final = 2.0  # at most: what independent rows scatter needs no margin, only the rest
_FEW_UNITS: Final = 200  # below so many units the estimate is raised to its upper limit
_HIGHEST_RATE: Final = 0.9  # a higher one is not believed to scatter less than this one
_BORROW: Final = 20.0  # units that outweigh half of the borrowing from the pool


@dataclass(frozen=True, slots=True)
class CellRates:
    """Expected loss per unit of exposure, for any combination of values, seen or not.

    Attributes
    ----------
    base : float
        The model's own rate.
    effects : list of float64 arrays, one a dimension
        Multiplier of each value, by its code; codes beyond the array have 1.
    own : float64, shape (n_cells,)
        What is particular to each cell of the reference; later cells have 1.
    own_weight : float64, shape (n_cells,)
        Errors that `own` rests on, the prior's included.
    """

    base: float
    effects: list[Floats]
    own: Floats
    own_weight: Floats

    def predict(self, levels: Codes) -> Floats:
        """Rates of cells.

        Parameters
        ----------
        levels : int32, shape (n_cells, n_dimensions)
            Each cell's value codes; the cells of the fit come first, in the same order.

        Returns
        -------
        float64, shape (n_cells,)
        """
        rate = np.full(len(levels), self.base)
        for dimension, effect in enumerate(self.effects):
            codes = levels[:, dimension]
            known = codes < effect.size
            rate[known] *= effect[codes[known]]
        n = min(len(levels), self.own.size)
        rate[:n] *= self.own[:n]
        return rate

    def draw(self, rng: np.random.Generator, levels: Codes, dispersion: float) -> Floats:
        """Rates as they may be: each cell's own part drawn from what the fit leaves possible.

        Returns
        -------
        float64, shape (n_cells,)

        Notes
        -----
        A fit is safer for holding cells closely to their dimensions, by `CELL_PRIOR`. What cells
        may be like is as wide as slices are later held by, `MAIN_EFFECT_PRIOR`.
        """
        rates = self.predict(levels)
        n = min(len(levels), self.own.size)
        shape = 1.0 / self.doubt(n, dispersion)
        rates[:n] *= rng.gamma(shape) / shape
        return rates

    def doubt(self, n_cells: int, dispersion: float) -> Floats:
        """Relative variance of what the rates of cells may be, as `draw` has them.

        Returns
        -------
        float64, shape (n_cells,)
        """
        doubt = np.full(n_cells, 1.0 / MAIN_EFFECT_PRIOR)
        n = min(n_cells, self.own.size)
        told = np.maximum(self.own_weight[:n] / dispersion - CELL_PRIOR, 0.0)
        doubt[:n] = 1.0 / ((told + MAIN_EFFECT_PRIOR) * self.own[:n])
        return doubt


def fit_cell_rates(
    levels: Codes, observed: Floats, exposure: Floats, dispersion: float = 1.0
) -> CellRates:
    """Rates by the main effects of a log-linear model, then each cell's own with what it has.

    Parameters
    ----------
    levels : int32, shape (n_cells, n_dimensions)
    observed, exposure : float64, shape (n_cells,)
    dispersion : float
        Variance of counts over their mean: counts weigh that much less against the prior.

    Returns
    -------
    CellRates

    Notes
    -----
    Iterative proportional fitting with a Gamma prior on each effect; see Bishop, Fienberg,
    Holland, "Discrete Multivariate Analysis", ch. 3.

    Examples
    --------
    >>> levels = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    >>> rates = fit_cell_rates(levels, np.array([100., 200., 200., 400.]), np.full(4, 1000.))
    >>> rates.predict(levels).round(2)
    array([0.1, 0.2, 0.2, 0.4])
    """
    total = exposure.sum()
    base = float((observed.sum() + 0.5) / (total + 1.0)) if total > 0 else 0.0
    n_dimensions = levels.shape[1]
    sizes = [int(levels[:, d].max(initial=-1)) + 1 for d in range(n_dimensions)]
    effects = [np.ones(size) for size in sizes]
    prior = MAIN_EFFECT_PRIOR * dispersion
    by_value = [
        np.bincount(levels[:, d], observed, minlength=sizes[d]) for d in range(n_dimensions)
    ]
    for _ in range(_ROUNDS):
        for d in range(n_dimensions):
            due = exposure * base
            for other in range(n_dimensions):
                if other != d:
                    due = due * effects[other][levels[:, other]]
            expected = np.bincount(levels[:, d], due, minlength=sizes[d])
            effects[d] = (prior + by_value[d]) / (prior + expected)
        due = exposure * base
        for d in range(n_dimensions):
            due = due * effects[d][levels[:, d]]
        if due.sum() > 0 and observed.sum() > 0:
            base *= float(observed.sum() / due.sum())
    own_prior = CELL_PRIOR * dispersion
    due = exposure * CellRates(base, effects, np.ones(0), np.ones(0)).predict(levels)
    return CellRates(base, effects, (own_prior + observed) / (own_prior + due), own_prior + due)


@dataclass(frozen=True, slots=True)
class Units:
    """Reference counts by independent unit (a session, a speaker; else an hour) and slice.

    Attributes
    ----------
    slices, units : intp, shape (n,)
        Which slice and which unit a count belongs to; a pair comes once.
    observed, expected : float64, shape (n,)
    period : intp, shape (n_units,)
        The hour that each unit began in.
    unit_observed, unit_expected : float64, shape (n_units,)
        Counts of the whole unit, whatever slices it touches.
    """

    slices: Indices
    units: Indices
    observed: Floats
    expected: Floats
    period: Indices
    unit_observed: Floats
    unit_expected: Floats


def dispersion_own(units: Units, n_slices: int) -> tuple[Floats, Floats]:
    """Scatter of each slice's counts around what was expected, for A.

    Returns
    -------
    dispersion, n_units : float64, shape (n_slices,)
        `sum (x_u - m_u)^2 / sum m_u` over the slice's units, before margin and pooling; NaN
        where nothing was expected.
    """
    residual = units.observed - units.expected
    squares = np.bincount(units.slices, residual**2, minlength=n_slices)
    expected = np.bincount(units.slices, units.expected, minlength=n_slices)
    n_units = np.bincount(units.slices, minlength=n_slices).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, squares / expected, np.nan), n_units


def dispersion_share(units: Units, n_slices: int) -> Floats:
    """Scatter of each slice's *share* of all counts, for R: shocks that hit everybody cancel.

    Returns
    -------
    float64, shape (n_slices,)
        `sum e_u^2 / sum_t X_t f_t (1 - f_t)` with `e_u = (x_us - r_t m_us) - f_t (x_u - r_t m_u)`,
        f_t the slice's expected share of period t and r_t the period's ratio of observed to
        expected; NaN where the slice has no share. It is `sum (x_u - f_u X_u)^2 / ...` where units
        are periods.
    """
    n_periods = int(units.period.max(initial=-1)) + 1
    total = np.bincount(units.period, units.unit_observed, minlength=n_periods)
    due = np.bincount(units.period, units.unit_expected, minlength=n_periods)
    ratio = np.divide(total, due, out=np.ones(n_periods), where=due > 0)

    whole = units.unit_observed - ratio[units.period] * units.unit_expected  # shape (n_units,)
    whole_squares = np.bincount(units.period, whole**2, minlength=n_periods)

    period = units.period[units.units]  # of each (slice, unit) count
    key = units.slices * n_periods + period
    keys, inverse = np.unique(key, return_inverse=True)
    share_due = np.bincount(inverse, units.expected)
    key_slice, key_period = keys // n_periods, keys % n_periods
    share = np.divide(
        share_due, due[key_period], out=np.zeros(keys.size), where=due[key_period] > 0
    )
    f = share[inverse]
    own = units.observed - ratio[period] * units.expected
    inside = np.bincount(units.slices, (own - f * whole[units.units]) ** 2, minlength=n_slices)
    touched = np.bincount(inverse, whole[units.units] ** 2)
    outside = np.bincount(
        key_slice, share**2 * np.maximum(whole_squares[key_period] - touched, 0), minlength=n_slices
    )
    variance = np.bincount(key_slice, total[key_period] * share * (1 - share), minlength=n_slices)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > 0, (inside + outside) / variance, np.nan)


def raise_for_few_units(n_units: float) -> float:
    """By how much an estimate from `n_units` is raised: its upper 90 % limit over its value.

    Examples
    --------
    >>> round(raise_for_few_units(5), 2), raise_for_few_units(1000)
    (3.1, 1.0)
    """
    if n_units >= _FEW_UNITS:
        return 1.0
    degrees = max(n_units, 1.0)
    return float(degrees / (2 * gammaincinv(degrees / 2, 0.1)))


def least_dispersion(rate: Floats) -> tuple[Floats, Floats]:
    """By how much losses in [0, 1] may scatter less than Poisson counts, where they are frequent.

    Parameters
    ----------
    rate : float64, shape (n_slices,)
        Mean loss of a slice's rows in the reference; row 0 is the whole model.

    Returns
    -------
    own, share : float64, shape (n_slices,)
        What counts of independent rows are to be divided by: 1 - p, and for shares 1 - p / 2 with
        the lesser rate of slice and model.

    Notes
    -----
    Counts over 1 - p make of the Poisson e-value all but the Bernoulli one, with a mean of at most
    1: for an error of chance p that is `(1 - p) + p θ^(1/(1-p)) <= exp((θ - 1) p / (1 - p))`. Both
    sides are 1 at θ = 1, and the logarithm of the right grows faster, for
    `θ^(p/(1-p)) <= (1 - p) + p θ^(1/(1-p))` is the inequality of the weighted arithmetic and
    geometric means. A loss in [0, 1] is no worse than an error of its mean, by convexity. Of the
    growth that the exact likelihood ratio has, 96 % is kept at 0.2 -> 0.3 and 90 % at 0.5 -> 0.65.

    What multiplies everybody's losses multiplies p with them, and what is due no longer tells how
    far shares scatter: 1 - p / 2 holds for common movements down to 0.7 times what was.

    Examples
    --------
    >>> own, share = least_dispersion(np.array([0.3, 0.5, 0.2]))
    >>> own, share
    (array([0.7, 0.5, 0.8]), array([0.85, 0.85, 0.9 ]))
    """
    inside = np.clip(rate, 0.0, _HIGHEST_RATE)
    return 1.0 - inside, 1.0 - np.minimum(inside, inside[0]) / 2


def shrink_dispersion(
    dispersion: Floats,
    n_units: Floats,
    total_units: float,
    with_margin: bool = True,
    least: Floats | float = 1.0,
    compound: float = 1.0,
) -> Floats:
    """Each slice's dispersion, up to half its own and the rest the pool's, with margin.

    Parameters
    ----------
    dispersion, n_units : float64, shape (n_slices,)
        Row 0 is the whole model and takes no part in the pool.
    total_units : float
        Independent units of the reference; few of them raise the pool.
    with_margin : bool
        Whether the mixture is raised by `margin_on`.
    least : float64, shape (n_slices,)
        What independent rows that weigh alike have.
    compound : float
        By how much further independent rows scatter for weighing unevenly. Slices are pooled by how
        far they exceed both.

    Returns
    -------
    float64, shape (n_slices,)
        What counts are to be divided by; `least` times `compound` at least.
    """
    dispersion = dispersion / (least * compound)
    own = dispersion[1:]
    weight = np.where(np.isnan(own), 0.0, n_units[1:])
    known = weight.sum()
    pool = float(np.nansum(own * weight) / known) if known > 0 else 1.0
    pool *= raise_for_few_units(total_units)
    trust = 0.5 * n_units / (n_units + _BORROW)
    mixed = np.where(np.isnan(dispersion), pool, trust * dispersion + (1 - trust) * pool)
    exceeding = compound * np.maximum(1.0, mixed)
    return least * (margin_on(exceeding) if with_margin else exceeding)


def margin_on(dispersion: Floats) -> Floats:
    """Dispersion raised for what two moments don't tell: the tail of clumped counts.

    Parameters
    ----------
    dispersion : float64, shape (n,)
        How many times further than independent rows counts scatter.

    Returns
    -------
    float64, shape (n,)

    Notes
    -----
    The e-value of independent losses in [0, 1] has a mean of at most 1 as it is: there nothing is
    to be guarded. What exceeds 1 is doubled, or the whole raised by a quarter where that is less:
    of Beta-binomial sessions of 2 to 400 rows that keeps the mean at 1, but for errors as rare as
    1 % that scatter more than twice as far.

    Examples
    --------
    >>> margin_on(np.array([1.0, 1.2, 2.0, 4.0]))
    array([1. , 1.4, 2.5, 5. ])
    """
    return np.minimum(MARGIN * dispersion, 1.0 + EXCESS_MARGIN * (dispersion - 1.0))


def without_margin(raised: Floats) -> Floats:
    """What `margin_on` raised to this.

    Examples
    --------
    >>> without_margin(margin_on(np.array([1.0, 1.2, 2.0, 4.0])))
    array([1. , 1.2, 2. , 4. ])
    """
    return np.maximum(raised / MARGIN, 1.0 + (raised - 1.0) / EXCESS_MARGIN)
