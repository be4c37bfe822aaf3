"""Shares: of how many rows an indicator holds, what is known of it, and evidence that it moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.confidence import EVIDENCE_MAX
from detectors.contract import Floats, Indices, ShapeError, State

Bools = npt.NDArray[np.bool_]

ODDS: Final = (1.3, 1.8, 3.0)  # by which the odds of an indicator are taken to be multiplied
N_ALTERNATIVES: Final = 2 * len(ODDS)  # each share may rise or fall
PRIOR: Final = 10.0  # effective rows that hold a slice's shares at the model's
REST_PRIOR: Final = 20.0  # rows by which the movement of the rest, in one tick, is held to none
WAIT: Final = 0.2  # of what is known: rows wait in blocks of as many before they are learnt
HITS, ROWS = 0, 1  # the first kinds of what is counted
_BLOCK: Final = 8_192  # counts whose evidence is computed at once: they stay in the cache
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


NO_CUTS: Final[Indices] = np.empty((0, 3), np.intp)  # of no indicator of what is outside of two


class Learnt:
    """What shares are known from: all rows but the latest, which are learnt late.

    Attributes
    ----------
    seen : float64, shape (n_kinds, n_slices, n_indicators)
        Hits, rows, and whatever else is counted with them.
    waiting : float64, shape (2, n_kinds, n_slices, n_indicators)
        What of it is not learnt yet: the block that is filling, and the one before it.

    Notes
    -----
    What moved last week would be half of what is normal next week, and a slow movement would be
    learnt before it is found. So rows wait in blocks of `WAIT` of what is known, and a block is
    learnt when the next one is full, if its signal is not under suspicion then: an alarm in
    between drops both. A slice of which nothing is known learns row by row.

    The error of what is known is shared by all `b` rows that it is not corrected by, while their
    scatter allows for one tick's part of it. Known from N, it lets evidence at odds θ have a mean
    of `exp(s b (s p (1 - p) b / 2 N - tolerance))`, s being `(θ - 1) / (1 + (θ - 1) p)`, by the
    moments of a normal error: at most 1, for rows that have not moved, up to b / N of
    `2 tolerance / (s p (1 - p))`. Of shares of one half and a tolerance of 0.02 that is 0.61 at
    odds of 1.3, 0.28 at 1.8 and 0.16 at 3, and b / N is at most 2 `WAIT`: over full blocks the
    bolder bets claim more than they may, which what is measured has to show, and does.
    """

    def __init__(self, n_kinds: int, n_indicators: int) -> None:
        self.seen: Floats = np.empty((n_kinds, 0, n_indicators))
        self.waiting: Floats = np.empty((2, n_kinds, 0, n_indicators))

    def grow(self, counts: tuple[Floats, ...]) -> None:
        """Know these of more slices, each of shape (n_new, n_indicators)."""
        new = np.stack(counts)
        self.seen = np.concatenate([self.seen, new], axis=1)
        more = np.zeros((2, *new.shape))
        self.waiting = np.concatenate([self.waiting, more], axis=2)

    def known(self, part: slice) -> Floats:
        """What was learnt of these slices, shape (n_kinds, n_part, n_indicators)."""
        known: Floats = self.seen[:, part] - self.waiting[0, :, part] - self.waiting[1, :, part]
        return known

    def add(self, part: slice, counts: tuple[Floats, ...], learns: Bools) -> None:
        """Take in one tick of these slices, where `learns`, shape (n_part, n_indicators)."""
        seen, filling, full = self.seen[:, part], self.waiting[0, :, part], self.waiting[1, :, part]
        for kind, count in enumerate(counts):
            new = np.where(learns, count, 0.0)
            seen[kind] += new
            filling[kind] += new
        known = seen[ROWS] - filling[ROWS] - full[ROWS]
        due = learns & (filling[ROWS] > 0) & (filling[ROWS] >= WAIT * known)
        np.copyto(full, filling, where=due)
        np.copyto(filling, 0.0, where=due)

    def drop(self, slices: int | slice, indicators: Bools) -> None:
        """What waits of these is not going to be learnt."""
        self.seen[:, slices, indicators] -= self.waiting[:, :, slices, indicators].sum(axis=0)
        self.waiting[:, :, slices, indicators] = 0.0

    def renew(self, slices: Indices) -> None:
        """Nothing is known of these slices."""
        self.seen[:, slices] = self.waiting[:, :, slices] = 0.0

    def save(self, *names: str) -> State:
        """The state as arrays, what was seen under the names of its kinds."""
        state = {name: self.seen[kind].copy() for kind, name in enumerate(names)}
        return {**state, "waiting": np.moveaxis(self.waiting, 2, 0).copy()}

    def restore(self, state: State, *names: str) -> None:
        """Take up the state that `save` gave."""
        self.seen = np.stack([state[name] for name in names])
        self.waiting = np.ascontiguousarray(np.moveaxis(state["waiting"], 0, 2)).copy()


def known_share(
    hits: Floats, rows: Floats, whole: Floats, dispersion: Floats
) -> tuple[Floats, Floats]:
    """What the shares of slices are taken to be, and from how many rows that is known.

    Parameters
    ----------
    hits, rows : float64, shape (n_slices, n_indicators)
        What was learnt from.
    whole : float64, shape (1, n_indicators)
        The share of the whole model, which is the prior.
    dispersion : float64, shape (n_slices, n_indicators)
        The prior stands for `PRIOR` effective rows.
    """
    held = PRIOR * dispersion
    known = held + rows
    return (held * whole + hits) / known, known


def share_of_all(known: Floats) -> Floats:
    """The whole model's share, of what is known of row 0; half a row of each kind is added."""
    whole: Floats = (known[HITS, :1] + 0.5) / (known[ROWS, :1] + 1.0)
    return whole


def moved(share: Floats, log_odds: Floats | float) -> Floats:
    """The share with its log odds moved by so much.

    Examples
    --------
    >>> moved(np.array([0.5, 0.2]), np.log(2.0)).round(2)
    array([0.67, 0.33])
    """
    odds = share * np.exp(log_odds)
    result: Floats = odds / (odds + (1.0 - share))
    return result


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

    def tied(self, outside: Indices) -> Due:
        """With what lies outside of two cuts expected as the cuts are.

        Parameters
        ----------
        outside : intp, shape (n_outside, 3)
            Each indicator of rows that are not above a first cut or are above a last, and the
            indicators of being above these. What moves the cuts for everyone moves the rows
            outside of them up in one slice and down in another, so no share of theirs tells it.
        """
        if not outside.size:
            return self
        which, first, last = outside.T
        lower, upper = self.lower.copy(), self.upper.copy()
        # each cut is moved by itself, so that they may cross by a little
        lower[..., which] = np.clip(1.0 - self.upper[..., first] + self.lower[..., last], 0.0, 1.0)
        upper[..., which] = np.clip(1.0 - self.lower[..., first] + self.upper[..., last], 0.0, 1.0)
        spread = np.array(np.broadcast_to(self.spread, lower.shape))
        spread[..., which] = np.max(spread[..., outside], axis=-1)  # known no better than the cuts
        return Due(lower, upper, spread)


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


def gather(
    evidence: Floats, shares: Shares, due: Due, dispersion: Floats, tolerance: float, spend: Floats
) -> None:
    """Take the evidence, shape (alternatives, n_slices, n_indicators), one tick on, in place."""
    scale = dispersion * due.spread
    n, x = shares.rows / scale, shares.hits / scale
    spend = np.where(n > 0, spend, 0.0)
    rise = np.minimum(due.upper + tolerance, 1.0)
    fall = np.minimum(1.0 - due.lower + tolerance, 1.0)
    log_e, at_null = np.empty_like(n), np.empty_like(n)
    for side, (hits, null) in enumerate(((x, rise), (n - x, fall))):
        spend_here = np.where(null < 1.0, spend, 0.0)  # what cannot move is evidence of nothing
        for k, odds in enumerate(ODDS):
            np.multiply(null, odds - 1.0, out=at_null)
            np.log1p(at_null, out=at_null)
            at_null *= n
            np.multiply(hits, np.log(odds), out=log_e)
            log_e -= at_null
            np.minimum(log_e, _LOG_E_MAX, out=log_e)
            e = np.exp(log_e, out=log_e)
            against = evidence[side * len(ODDS) + k]
            against += spend_here
            against *= e
            np.minimum(against, EVIDENCE_MAX, out=against)


def by_signal(evidence: Floats, signals: Indices) -> Floats:
    """Sums over alternatives and over each signal's indicators, shape (n_slices, n_signals)."""
    if not signals.size:
        return np.zeros((evidence.shape[1], 0))
    starts = np.flatnonzero(np.diff(signals, prepend=-1))
    sums: Floats = np.add.reduceat(evidence.sum(axis=0), starts, axis=1)
    return sums
