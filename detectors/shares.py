"""Shares: of how many rows an indicator holds, as evidence takes them; and how far they scatter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.confidence import EVIDENCE_MAX
from detectors.contract import Floats, Indices, ShapeError

Bools = npt.NDArray[np.bool_]

ODDS: Final = (1.3, 1.8, 3.0)  # by which the odds of an indicator are taken to be multiplied
N_ALTERNATIVES: Final = 2 * len(ODDS)  # each share may rise or fall
PRIOR: Final = 10.0  # effective rows that hold a slice's shares at the model's
REST_PRIOR: Final = 20.0  # rows by which the movement of the rest, in one tick, is held to none
_BLOCK: Final = 16_384  # counts whose evidence is computed at once: they stay in the cache
_LOG_E_MAX: Final = 300.0


@dataclass(frozen=True, slots=True)
class Shares:
    """One tick's inputs; row 0 is the whole model.

    Attributes
    ----------
    hits : float64, shape (n_slices, n_indicators)
        Rows of which the indicator holds.
    rows : float64, shape (n_slices, n_indicators)
        Rows of which it is asked: what is missing has no value that could be above a cut.
    """

    hits: Floats
    rows: Floats


def known_share(
    hits: Floats, rows: Floats, part: slice, dispersion: Floats
) -> tuple[Floats, Floats]:
    """What the shares of these slices are taken to be, and from how many rows that is known.

    Parameters
    ----------
    hits, rows : float64, shape (n_slices, n_indicators)
        What was learnt from; row 0 is the whole model, whose shares are the prior.
    part : slice
        Of the slices.
    dispersion : float64, shape (n_part, n_indicators)
        The prior stands for `PRIOR` effective rows.
    """
    whole = (hits[:1] + 0.5) / (rows[:1] + 1.0)
    held = PRIOR * dispersion
    known = held + rows[part]
    return (held * whole + hits[part]) / known, known


@dataclass(frozen=True, slots=True)
class Due:
    """What a slice's shares are expected to be, given how everyone else's moved.

    Attributes
    ----------
    lower, upper : float64, shape (n, n_indicators)
        Between them a share moved as the others' did.
    spread : float64, shape (n, n_indicators)
        How many times further than where all that is known exactly counts scatter around them.
    """

    lower: Floats
    upper: Floats
    spread: Floats

    @classmethod
    def of_slice(cls, share: Floats, known: Floats, rows: Floats) -> Due:
        """Without anyone else: what it was, known from `known` rows."""
        return cls(share, share, 1.0 + rows / known)

    @classmethod
    def beside(
        cls,
        share: Floats,
        known: Floats,
        rows: Floats,
        usual: Floats,
        usual_known: Floats,
        rest: Shares,
    ) -> Due:
        """Beside the rest, whose shares were `usual`, known from so many rows, and are now these.

        Moved alike is what has its odds multiplied as the others' are (a quantity that moves by
        the same amount for all), and also what has as great a part of its rows replaced (something
        that is added to everyone's inputs); where the two differ, what lies between is no movement
        of its own. The others' factor is known from finitely many rows, and adds to the scatter by
        the delta method on log odds.
        """
        held = rest.rows + REST_PRIOR
        now = (rest.hits + REST_PRIOR * usual) / held
        odds = share * now * (1.0 - usual)
        by_odds = odds / (odds + (1.0 - share) * usual * (1.0 - now))
        replaced = np.where(
            now > usual, 1.0 - (1.0 - share) * (1.0 - now) / (1.0 - usual), share * now / usual
        )
        own = rows * share * (1.0 - share)
        most = np.maximum(now, usual)  # of a share that is rare, a tick may have no hit at all
        others = own / (usual_known * usual * (1.0 - usual)) + own / (held * most * (1.0 - most))
        return cls(
            np.minimum(by_odds, replaced),
            np.maximum(by_odds, replaced),
            1.0 + rows / known + others,
        )


def spent(hazard: Floats, quiet: Bools, signals: Indices) -> Floats:
    """A slice's hazard over its signals, their indicators, and what each is tested against.

    Returns
    -------
    float64, shape (n_slices, n_indicators)
        Nothing for what is quiet; the others of the slice don't get it.
    """
    counts = np.bincount(signals)
    parts = 1.0 / (counts.size * counts[signals] * N_ALTERNATIVES)
    spend: Floats = np.where(quiet[:, signals], 0.0, hazard[:, None] * parts)
    return spend


def raise_for_shape(shares: Shares, n_slices: int, n_indicators: int) -> None:
    """Raise `ShapeError` unless these shares are of so many slices and indicators."""
    if shares.hits.shape != (n_slices, n_indicators) or shares.rows.shape != shares.hits.shape:
        raise ShapeError(
            f"shares of shape {shares.hits.shape} given, {(n_slices, n_indicators)} watched"
        )


def rest_of_shares(shares: Shares) -> Shares:
    """Everybody outside each slice."""
    return Shares(
        np.maximum(shares.hits[:1] - shares.hits, 0.0),
        np.maximum(shares.rows[:1] - shares.rows, 0.0),
    )


def in_parts(rows: Floats) -> Iterator[slice]:
    """A few slices at a time: what is in between stays in the cache."""
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    return (slice(i, i + step) for i in range(0, len(rows), step))


def gathered(
    evidence: Floats, shares: Shares, due: Due, dispersion: Floats, tolerance: float, spend: Floats
) -> Floats:
    """The evidence, shape (alternatives, n_slices, n_indicators), one tick later."""
    scale = dispersion * due.spread
    n, x = shares.rows / scale, shares.hits / scale
    spend = np.where(n > 0, spend, 0.0)
    rise = np.minimum(due.upper + tolerance, 1.0)
    fall = np.minimum(1.0 - due.lower + tolerance, 1.0)
    grown = np.empty_like(evidence)
    for side, (hits, null) in enumerate(((x, rise), (n - x, fall))):
        for k, odds in enumerate(ODDS):
            log_e = hits * np.log(odds) - n * np.log1p((odds - 1.0) * null)
            at = side * len(ODDS) + k
            e = np.exp(np.minimum(log_e, _LOG_E_MAX))
            np.minimum((evidence[at] + spend) * e, EVIDENCE_MAX, out=grown[at])
    return grown


def by_signal(evidence: Floats, signals: Indices) -> Floats:
    """Sums over alternatives and over each signal's indicators, shape (n_slices, n_signals)."""
    if not signals.size:
        return np.zeros((evidence.shape[1], 0))
    starts = np.flatnonzero(np.diff(signals, prepend=-1))
    sums: Floats = np.add.reduceat(evidence.sum(axis=0), starts, axis=1)
    return sums


def dispersion_of_shares(
    slices: Indices, units: Indices, period: Indices, shares: Shares, n_slices: int
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
    residual = shares.hits - shares.rows * share[slices]

    of_all = np.flatnonzero(slices == 0)
    n_periods = int(period.max(initial=-1)) + 1
    rows = _sums(shares.rows[of_all], period[units[of_all]], n_periods)
    strayed = _sums(residual[of_all], period[units[of_all]], n_periods)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where((rows > 0) & (variance[0] > 0), strayed / (rows * variance[0]), 0.0)
        of_period = moved[period[units]] * variance[slices]
        around = residual - shares.rows * of_period
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


def _sums(values: Floats, by: Indices, n: int) -> Floats:
    """Sums of the rows of `values` by group, shape (n, n_columns)."""
    columns = [np.bincount(by, column, minlength=n) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0))
