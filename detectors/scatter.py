"""How far shares scatter beyond those of independent rows, and what they do in a day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.contract import Floats, Indices, State
from detectors.reference import MARGIN, raise_for_few_units
from detectors.shares import NO_CUTS, Shares, moved

Bools = npt.NDArray[np.bool_]

HOURS_A_DAY: Final = 24
DAYS_TO_KNOW: Final = 3  # of each hour: before, what it does to everyone counts as scatter alone
SEASON_PRIOR: Final = 20.0  # effective rows that hold an hour's share at the day's
_BORROW: Final = 20.0  # units that outweigh half of the borrowing from the pool
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Dispersion:
    """What counts are to be divided by, for so many rows a unit (an hour).

    Attributes
    ----------
    within : float64, shape (n_slices, n_signals)
        What rows of the same unit scatter, whoever else is in it; 1 of independent rows.
    between : float64, shape (n_slices, n_signals)
        What each row of a unit adds, for they share what moves the unit's share.

    Notes
    -----
    Where a unit's share has a variance of ρ p (1 - p) around p, a count of n independent rows has
    n p (1 - p) (1 + ρ (n - 1)), n p (1 - p) times `within + between n`: few rows of a unit hardly
    show what moves it, and many show nothing else. See Williams, "Extra-binomial variation in
    logistic linear models", Applied Statistics 1982. A tick of n rows that took part of a unit
    shares its movement with the other parts, so `at` is asked for rows a unit, not for rows.

    Examples
    --------
    >>> Dispersion(np.ones((1, 1)), np.full((1, 1), 0.01)).at(np.array([[10.0], [1000.0]]))
    array([[ 1.1],
           [11. ]])
    """

    within: Floats
    between: Floats

    @classmethod
    def none(cls, n_signals: int) -> Dispersion:
        """Of no slices."""
        return cls(np.empty((0, n_signals)), np.empty((0, n_signals)))

    @classmethod
    def restore(cls, state: State, name: str) -> Dispersion:
        """What `save` gave under this name."""
        return cls(state[f"{name}.within"].copy(), state[f"{name}.between"].copy())

    def __len__(self) -> int:
        return len(self.within)

    def at(self, rows: Floats) -> Floats:
        """For so many rows a unit, shape as of this."""
        return self.within + self.between * rows

    def take(self, slices: Indices | slice, signals: Indices | None = None) -> Dispersion:
        """That of these slices, and of the signals in this order."""
        some = Dispersion(self.within[slices], self.between[slices])
        if signals is None:
            return some
        return Dispersion(*(np.take(of, signals, axis=1) for of in (some.within, some.between)))

    def repeated(self, n: int) -> Dispersion:
        """That of the first slice so many times."""
        return Dispersion(*(np.repeat(of[:1], n, axis=0) for of in (self.within, self.between)))

    def join(self, more: Dispersion) -> Dispersion:
        """That of these slices and of more."""
        return Dispersion(
            np.concatenate([self.within, more.within]), np.concatenate([self.between, more.between])
        )

    def renew(self, slices: Indices, other: Dispersion) -> None:
        """Put another in the places of these slices; it has one row."""
        self.within[slices], self.between[slices] = other.within, other.between

    def save(self, name: str) -> State:
        """The state as arrays, under this name."""
        return {f"{name}.within": self.within.copy(), f"{name}.between": self.between.copy()}


def dispersion_of_shares(
    slices: Indices,
    units: Indices,
    period: Indices,
    shares: Shares,
    n_slices: int,
    season: Floats | None = None,
    outside: Indices = NO_CUTS,
) -> tuple[Floats, Floats, Floats]:
    """How far one signal's counts scatter beyond those of independent rows, in the reference.

    Parameters
    ----------
    slices, units : intp, shape (n,)
        Which slice and which independent unit (a session, an hour) a row of `shares` belongs to;
        a pair comes once. Slice 0 is the whole model and has every unit.
    period : intp, shape (n_units,)
        The hour that each unit began in.
    shares : Shares
        hits, rows: float64, shape (n, n_indicators), of one signal.
    n_slices : int
    season : float64, shape (n_units, n_indicators), optional
        What is usual when the unit began, in log odds above the average.
    outside : intp, shape (n_outside, 3)
        As of `Due.tied`: what is outside of two cuts is expected as they are.

    Returns
    -------
    own, rest, n_units : float64, shape (n_slices,)
        Around the slice's own share, `sum (x_u - m n_u)^2 / sum n_u m (1 - m)`, and around the same
        moved by as much, in log odds, as the whole model's was in that hour, in which each unit has
        part. NaN where nothing scatters.

    Examples
    --------
    >>> hits = np.array([[4.0], [0.0], [4.0], [0.0]])  # sessions of 4 that are all one thing
    >>> own, rest, n_units = dispersion_of_shares(
    ...     np.zeros(4, int), np.arange(4), np.zeros(4, int), Shares(hits, np.full((4, 1), 4.0)), 1)
    >>> own, rest.round(2), n_units
    (array([4.]), array([5.33]), array([4.]))
    """
    total = Shares(_sums(shares.hits, slices, n_slices), _sums(shares.rows, slices, n_slices))
    share = np.divide(total.hits, total.rows, out=np.zeros_like(total.hits), where=total.rows > 0)
    variance = share * (1.0 - share)
    usual = share[slices] if season is None else moved(share[slices], season[units])
    residual = shares.hits - shares.rows * usual

    of_all = np.flatnonzero(slices == 0)
    n_periods = int(period.max(initial=-1)) + 1
    rows = _sums(shares.rows[of_all], period[units[of_all]], n_periods)
    strayed = _sums(residual[of_all], period[units[of_all]], n_periods)
    with np.errstate(invalid="ignore", divide="ignore"):
        moves = np.where((rows > 0) & (variance[0] > 0), strayed / (rows * variance[0]), 0.0)
        around = residual - shares.rows * moves[period[units]] * variance[slices]
        which, first, last = outside.T
        for of in (residual, around):
            of[:, which] = of[:, last] - of[:, first]
        left = 1.0 - np.where(rows > 0, 1.0 / rows, 0.0)[period[units]] * shares.rows
        own, rest = (
            _sums(squares, slices, n_slices).sum(axis=1)
            / _sums(due * variance[slices], slices, n_slices).sum(axis=1)
            for squares, due in (
                (residual**2, shares.rows),
                (around**2, shares.rows * np.maximum(left, 0.0)),
            )
        )
    n_units = np.bincount(slices, minlength=n_slices).astype(np.float64)
    return own, np.where(np.isfinite(rest), rest, np.nan), n_units


def rows_a_unit(slices: Indices, rows: Floats, n_slices: int) -> Floats:
    """How many rows a slice's units have, as a row of them sees it: `sum n_u^2 / sum n_u`.

    Parameters
    ----------
    slices : intp, shape (n,)
    rows : float64, shape (n,)

    Returns
    -------
    float64, shape (n_slices,)

    Examples
    --------
    >>> rows_a_unit(np.array([0, 0, 1]), np.array([10.0, 30.0, 5.0]), 3)
    array([25.,  5.,  0.])
    """
    squares, sums = (np.bincount(slices, of, minlength=n_slices) for of in (rows * rows, rows))
    return np.divide(squares, sums, out=np.zeros(n_slices), where=sums > 0)


def two_components(
    measured: Floats,
    rows: Floats,
    n_units: Floats,
    total_units: float,
    by_rows: bool = True,
    raised: float = 1.0,
) -> tuple[Floats, Floats]:
    """One signal's dispersion as a line over rows a unit, from what slices of all sizes have.

    Parameters
    ----------
    measured : float64, shape (n_slices,)
        Each slice's dispersion in the reference; NaN of one that nothing is known of. Row 0 is the
        whole model: its own is measured of all rows, and it takes no part in the pool.
    rows, n_units : float64, shape (n_slices,)
        Rows a unit, and units, of each.
    total_units : float
        Units of the reference; few of them raise what is between units.
    by_rows : bool
        False where units are clusters, which have their own size: all of it is within.
    raised : float
        By how much further units scatter around a season than those it was learnt from: what moves
        the whole model, and so was fitted by it, is raised by this.

    Returns
    -------
    within, between : float64, shape (n_slices,)
        `within` is 1 at least.

    Notes
    -----
    A slice's dispersion is `within + between n`, by least squares over slices, weighted by units
    over the square of what is fitted, for an estimate from u units has a variance of 2 / u times
    its square. Slices that are all of a size tell no line; so few units more say that of single
    rows it is 1. What is within is as many units' as slices have, less for slices that have the
    same rows; what moves units may move all slices, so it is as many units' as there are, and both
    are raised accordingly. A slice that scatters further than the line is believed by half, once
    its units are many; one that scatters less is not. The margin is on what exceeds independent
    rows: of those the evidence is exact, and there is no tail to be unsure of.

    Examples
    --------
    >>> rows = np.array([4000.0, 10.0, 100.0, 1000.0, 0.0])
    >>> measured = np.append(1.0 + 0.01 * rows[:4], np.nan)
    >>> within, between = two_components(measured, rows, np.full(5, 1e6), 1e6)
    >>> within, between
    (array([1., 1., 1., 1., 1.]), array([0.0125, 0.0125, 0.0125, 0.0125, 0.0125]))
    """
    known = np.isfinite(measured) & (n_units > 0) & (rows > 0)
    known[0] = False
    within, between = _line(measured[known], rows[known], n_units[known], by_rows)
    fitted = within + between * rows
    trust = 0.5 * n_units / (n_units + _BORROW)
    own = np.where(np.isfinite(measured), np.maximum(trust * (measured / fitted - 1.0), 0.0), 0.0)
    own[0] = 0.0
    raise_between = raise_for_few_units(total_units)
    raise_within = raise_between
    if by_rows:
        of_all = rows[0] * n_units[0]
        memberships = max(float(rows[1:] @ n_units[1:]) / of_all, 1.0) if of_all > 0 else 1.0
        raise_within = raise_for_few_units(max(n_units[1:].sum() / memberships, total_units))
    of_within = 1.0 + MARGIN * np.maximum((1.0 + own) * within * raise_within - 1.0, 0.0)
    of_between = MARGIN * (1.0 + own) * between * raise_between
    if np.isfinite(measured[0]) and rows[0] > 0:
        whole = 1.0 + MARGIN * max(float(measured[0]) * raise_between - 1.0, 0.0)
        if by_rows:
            of_between[0] = max(whole - of_within[0], 0.0) / rows[0]
            of_between += (raised - 1.0) * of_between[0]
        else:
            of_within[0] = max(of_within[0], whole)
    return of_within, of_between


def _line(measured: Floats, rows: Floats, n_units: Floats, by_rows: bool) -> tuple[float, float]:
    """Where the line begins, at 1 or above, and how it rises; not at all where not `by_rows`."""
    if not measured.size:
        return 1.0, 0.0
    if not by_rows:
        return max(float(np.average(measured, weights=n_units)), 1.0), 0.0
    # independent rows, one a unit: what is told from where slices are all of a size
    measured, rows, n_units = (
        np.append(of, one) for of, one in ((measured, 1.0), (rows, 0.0), (n_units, _BORROW))
    )
    within, between, fitted = 1.0, 0.0, np.ones(measured.size)
    for _ in range(_ROUNDS):
        weight = n_units / fitted**2
        mean, middle = (float(np.average(of, weights=weight)) for of in (measured, rows))
        apart = weight * (rows - middle)
        spread = float(apart @ (rows - middle))
        slope = max(float(apart @ (measured - mean)) / spread, 0.0) if spread > 0 else 0.0
        within = max(mean - slope * middle, 1.0)
        over = float((weight * rows) @ (measured - within))
        between = max(over / float((weight * rows) @ rows), 0.0)
        fitted = within + between * rows
    return within, between


def season_of_shares(hours: Indices, shares: Shares) -> tuple[Floats, float]:
    """What each hour of the day does to everyone's shares.

    Parameters
    ----------
    hours : intp, shape (n,)
        Of the epoch; each comes once.
    shares : Shares
        hits, rows: float64, shape (n, n_indicators), of the whole model in that hour.

    Returns
    -------
    season : float64, shape (24, n_indicators)
        Log odds of an hour of the day above those of all rows; 0 of an hour that was not seen on
        `DAYS_TO_KNOW` days.
    raised : float
        By how much more a new day scatters around it than the days did that it was learnt from.

    Notes
    -----
    A mean of d days is known to a d-th of a day's variance, which a new day's is added to, and
    which the d days' own is less by: they scatter (d + 1) / (d - 1) times further than it seems.

    Examples
    --------
    >>> hours = np.arange(72)
    >>> rows = np.full((72, 1), 1e6)
    >>> hits = np.where(hours % 24 < 12, 0.2, 0.4)[:, None] * rows
    >>> season, raised = season_of_shares(hours, Shares(hits, rows))
    >>> season[[3, 15], 0].round(2), raised
    (array([-0.54,  0.44]), 2.0)
    """
    of_day = hours % HOURS_A_DAY
    days = np.bincount(of_day, minlength=HOURS_A_DAY)
    hits, rows = (_sums(of, of_day, HOURS_A_DAY) for of in (shares.hits, shares.rows))
    whole = (hits.sum(axis=0) + 0.5) / (rows.sum(axis=0) + 1.0)
    raw = np.zeros_like(hits)
    known = days >= DAYS_TO_KNOW
    if not known.any():
        return raw, 1.0
    n_days = float(days[known].min())
    share = (hits + whole) / (rows + 1.0)
    strayed = shares.hits - shares.rows * share[of_day]
    due = (shares.rows * (whole * (1.0 - whole))).sum(axis=0)
    squares = (strayed**2)[known[of_day]].sum(axis=0) * n_days / (n_days - 1.0)
    scatter = np.maximum(np.divide(squares, due, out=np.ones_like(due), where=due > 0), 1.0)
    held = SEASON_PRIOR * scatter
    share = (hits + held * whole) / (rows + held)
    season = np.log(share / (1.0 - share)) - np.log(whole / (1.0 - whole))
    return np.where(known[:, None], season, 0.0), (n_days + 1.0) / (n_days - 1.0)


def _sums(values: Floats, by: Indices, n: int) -> Floats:
    """Sums of the rows of `values` by group, shape (n, n_columns)."""
    columns = [np.bincount(by, column, minlength=n) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0))
