"""Attribution: since when, how strongly, and which slice's story it is.

A detector says *that* a slice crossed. The hours and cells behind it say since when (the window
whose likelihood ratio is greatest) and whether another slice explains it: leave out the culprit's
cells, and see if anything is left of the other's excess.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from service.ingest.events import Floats, Ints
from service.monitor.history import HOUR, History

Indices = npt.NDArray[np.intp]

REPLAY_HOURS: Final = 14 * 24
ONSET_NATS: Final = 3.0  # windows within this of the best are in the onset's interval
MAX_RATIO: Final = 1e3
SHRINK: Final = (
    10.0  # effective losses, about what a detection takes, by which a ratio is held to 1
)


@dataclass(frozen=True, slots=True)
class Strength:
    """How strongly the best window speaks, and which it is."""

    nats: float  # log likelihood ratio over the dispersion; 0 where nothing rose
    onset: int  # microseconds, the start of the window's first hour
    onset_interval: tuple[int, int]
    ratio: float  # observed over due in the window
    shrunk_ratio: float  # the same, held towards 1: the window that speaks most also flatters most

    @classmethod
    def nothing(cls, hour: int) -> Strength:
        """The strength of no excess at all, as of this hour's start."""
        return cls(0.0, hour, (hour, hour + HOUR), 1.0, 1.0)


class Replay:
    """The hours up to now, cell by cell, ready to be asked about slices."""

    def __init__(
        self,
        history: History,
        membership: csr_array,
        rates: Floats,
        since: int,
        ratio: Floats,
        scale: float,
        until: int | None = None,
    ) -> None:
        self.membership = membership
        self.since = since
        self.ratio = ratio  # what each slice's own past says of it, times its cells' rates
        hours, observed, expected = history.hourly(rates, since, until)
        self.hours: Ints = hours
        self.observed = observed * scale  # (n_cells, n_hours)
        self.expected = expected * scale

    def without(self, slice_: int, onset: int) -> Replay:
        """The same as if a slice had had no rows from its onset on."""
        left, kept = copy(self), 1.0 - self._theirs(slice_, onset)
        left.observed, left.expected = _times(self.observed, kept), _times(self.expected, kept)
        return left

    def as_due(self, slice_: int, strength: Strength) -> Replay:
        """The same as if what a slice lost from its onset on had been due of it."""
        allowed = copy(self)
        more = 1.0 + (strength.ratio - 1.0) * self._theirs(slice_, strength.onset)
        allowed.expected = _times(self.expected, more)
        return allowed

    def _theirs(self, slice_: int, onset: int) -> Floats:
        """Which entries are of a slice's cells and not before its onset: 1, else 0."""
        inside = self.membership[[slice_], :].toarray().ravel()
        cell = np.repeat(np.arange(inside.size), np.diff(self.expected.indptr))
        theirs: Floats = inside[cell] * (self.hours * HOUR >= onset)[self.expected.indices]
        return theirs

    def nats(self, slices: Indices, dispersion: Floats) -> Floats:
        """How strongly the best window of each slice speaks against the rest: (n_slices,)."""
        if not self.hours.size or not slices.size:
            return np.zeros(slices.size)
        best: Floats = _share(*self._windows(slices))[1].max(axis=1) / dispersion
        return best

    def of_slice(self, slice_: int, dispersion: float) -> Strength:
        """The slice against the rest."""
        observed, *others = (sums[0] for sums in self._windows(np.array([slice_])))
        return self._best(observed, *_share(observed, *others), dispersion)

    def between(
        self, slice_: int, since: int, until: int | None
    ) -> tuple[float, float, float, float]:
        """Loss of a slice and what was due, then the rest's, in the event hours [since, until).

        What was due is by the cells' rates, without what the slice's own past says of it.
        """
        inside = self.hours >= since
        if until is not None:
            inside &= self.hours < until
        members = self.membership[[slice_], :]
        both = (self.observed, self.expected)
        lost, due = (float((members @ each).toarray()[0, inside].sum()) for each in both)
        total, total_due = (float(each.sum(axis=0)[inside].sum()) for each in both)
        return lost, due, total - lost, total_due - due

    def of_slice_alone(self, slice_: int, dispersion: float) -> Strength:
        """The slice against its own past, whatever the rest did."""
        observed, due, _, _ = (sums[0] for sums in self._windows(np.array([slice_])))
        return self._best(observed, *_own(observed, due), dispersion)

    def of_everyone(self, dispersion: float) -> Strength:
        """The whole model against its own past, as its cells' rates have it."""
        observed, due = (
            _from_the_end(np.asarray(each.sum(axis=0), np.float64))
            for each in (self.observed, self.expected)
        )
        return self._best(observed, *_own(observed, due), dispersion)

    def _windows(self, slices: Indices) -> tuple[Floats, Floats, Floats, Floats]:
        """Lost and due of slices and of the rest from each hour up to now: (n_slices, n_hours)."""
        members = self.membership[slices, :]
        lost, due = ((members @ each).toarray() for each in (self.observed, self.expected))
        rest_lost, rest_due = self.observed.sum(axis=0) - lost, self.expected.sum(axis=0) - due
        due *= self.ratio[slices, None]
        return (
            _from_the_end(lost),
            _from_the_end(due),
            _from_the_end(rest_lost),
            _from_the_end(rest_due),
        )

    def _best(self, observed: Floats, ratio: Floats, nats: Floats, dispersion: float) -> Strength:
        """The window up to now with the greatest likelihood ratio of an excess."""
        if not self.hours.size:
            return Strength.nothing(self.since)
        nats = nats / dispersion
        best = int(np.argmax(nats))
        if nats[best] <= 0:
            return Strength.nothing(int(self.hours[-1]) * HOUR)
        near = np.flatnonzero(nats >= nats[best] - ONSET_NATS)
        lost = observed[best] / dispersion
        return Strength(
            float(nats[best]),
            int(self.hours[best]) * HOUR,
            (int(self.hours[near[0]]) * HOUR, (int(self.hours[near[-1]]) + 1) * HOUR),
            float(min(ratio[best], MAX_RATIO)),
            float((lost + SHRINK) / (lost / ratio[best] + SHRINK)),
        )


def _own(x: Floats, e: Floats) -> tuple[Floats, Floats]:
    """What was lost over what was due, and how strongly an excess speaks: its log likelihood."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = x / e
        nats = x * np.log(ratio) - (x - e)
    return ratio, _of_excess(nats, ratio)


def _share(x: Floats, e: Floats, y: Floats, r: Floats) -> tuple[Floats, Floats]:
    """The same of a slice's share of all losses, the rest having lost `y` where `r` was due."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = e / (e + r)
        ratio = (x / e) / (y / r)
        nats = _xlogy(x, x / ((x + y) * share)) + _xlogy(y, y / ((x + y) * (1 - share)))
    return ratio, _of_excess(nats, ratio)


def _of_excess(nats: Floats, ratio: Floats) -> Floats:
    return np.where(np.isfinite(nats) & (ratio > 1), nats, 0.0)


def _times(by_hour: csr_array, factor: Floats) -> csr_array:
    """Each entry times its own factor."""
    return csr_array((by_hour.data * factor, by_hour.indices, by_hour.indptr), by_hour.shape)


def _from_the_end(by_hour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over the window from each hour up to now; hours are the last axis."""
    sums: npt.NDArray[np.float64] = np.cumsum(by_hour[..., ::-1], axis=-1)[..., ::-1]
    return sums


def _xlogy(x: Floats, y: Floats) -> Floats:
    return np.where(x > 0, x * np.log(np.where(x > 0, y, 1.0)), 0.0)
