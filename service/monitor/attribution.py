"""Attribution: since when, how strongly, and which slice's story it is.

A detector says *that* a slice crossed. The hours and cells behind it say since when (the window
whose likelihood ratio is greatest) and whether another slice explains it: leave out the culprit's
cells, and see if anything is left of the other's excess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from service.ingest.events import Floats, Ints
from service.monitor.history import HOUR, History

REPLAY_HOURS: Final = 14 * 24
ONSET_NATS: Final = 3.0  # windows within this of the best are in the onset's interval
MAX_RATIO: Final = 1e3
SHRINK: Final = (
    10.0  # effective losses, about what a detection takes, by which a ratio is held to 1
)
TIE_NATS: Final = 1.0  # of two slices this close the more specific one is named


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
    ) -> None:
        self.membership = membership
        self.since = since
        self.ratio = ratio  # what each slice's own past says of it, times its cells' rates
        hours, observed, expected = history.hourly(rates, since)
        self.hours: Ints = hours
        self.observed = observed * scale  # (n_cells, n_hours)
        self.expected = expected * scale
        self.total_observed: Floats = np.asarray(self.observed.sum(axis=0), np.float64)
        self.total_expected: Floats = np.asarray(self.expected.sum(axis=0), np.float64)

    def _sums(self, cells: Floats) -> tuple[Floats, Floats]:
        return np.asarray(self.observed.T @ cells), np.asarray(self.expected.T @ cells)

    def _cells(self, slice_: int) -> Floats:
        row: Floats = self.membership[[slice_], :].toarray().ravel()
        return row

    def of_slice(
        self, slice_: int, dispersion: float, culprits: tuple[tuple[int, Strength], ...] = ()
    ) -> Strength:
        """The slice against the rest, both without the culprits' cells since each one's onset."""
        inside = self._cells(slice_)
        observed, expected = self._sums(inside)
        total_observed, total_expected = self.total_observed, self.total_expected
        left = np.ones(inside.size)
        for culprit, strength in culprits:
            theirs = left * self._cells(culprit)
            left -= theirs
            since = self.hours * HOUR >= strength.onset
            lost, due = self._sums(inside * theirs)
            observed, expected = observed - since * lost, expected - since * due
            lost, due = self._sums(theirs)
            total_observed = total_observed - since * lost
            total_expected = total_expected - since * due
        own = self.ratio[slice_] * expected
        return self._best(
            observed, own, total_observed - observed, total_expected - expected, dispersion
        )

    def between(
        self, slice_: int, since: int, until: int | None
    ) -> tuple[float, float, float, float]:
        """Loss of a slice and what was due, then the rest's, in the event hours [since, until).

        What was due is by the cells' rates, without what the slice's own past says of it.
        """
        inside = self.hours >= since
        if until is not None:
            inside &= self.hours < until
        lost, due = (float(sums[inside].sum()) for sums in self._sums(self._cells(slice_)))
        in_all = (self.total_observed, self.total_expected)
        total, total_due = (float(sums[inside].sum()) for sums in in_all)
        return lost, due, total - lost, total_due - due

    def of_slice_alone(self, slice_: int, dispersion: float) -> Strength:
        """The slice against its own past, whatever the rest did."""
        observed, expected = self._sums(self._cells(slice_))
        return self._best(observed, self.ratio[slice_] * expected, None, None, dispersion)

    def of_everyone(
        self, dispersion: float, culprits: tuple[tuple[int, Strength], ...] = ()
    ) -> Strength:
        """The whole model against its own past, once the culprits' cells are due what they lost."""
        expected = self.total_expected.copy()
        for culprit, strength in culprits:
            extra = (strength.ratio - 1) * (self.hours * HOUR >= strength.onset)
            expected = expected + extra * self._sums(self._cells(culprit))[1]
        return self._best(self.total_observed, expected, None, None, dispersion)

    def _best(
        self,
        observed: Floats,
        due: Floats,
        rest: Floats | None,
        rest_due: Floats | None,
        dispersion: float,
    ) -> Strength:
        """The window up to now with the greatest likelihood ratio of an excess."""
        if not self.hours.size:
            return Strength.nothing(self.since)
        x, e = _from_the_end(observed), _from_the_end(due)
        with np.errstate(divide="ignore", invalid="ignore"):
            if rest is None or rest_due is None:
                ratio = x / e
                nats = x * np.log(ratio) - (x - e)
            else:
                y, r = _from_the_end(rest), _from_the_end(rest_due)
                share = e / (e + r)
                ratio = (x / e) / (y / r)
                nats = _xlogy(x, x / ((x + y) * share)) + _xlogy(y, y / ((x + y) * (1 - share)))
        nats = np.where(np.isfinite(nats) & (ratio > 1), nats, 0.0) / dispersion
        best = int(np.argmax(nats))
        if nats[best] <= 0:
            return Strength.nothing(int(self.hours[-1]) * HOUR)
        near = np.flatnonzero(nats >= nats[best] - ONSET_NATS)
        return Strength(
            float(nats[best]),
            int(self.hours[best]) * HOUR,
            (int(self.hours[near[0]]) * HOUR, (int(self.hours[near[-1]]) + 1) * HOUR),
            float(min(ratio[best], MAX_RATIO)),
            float((x[best] / dispersion + SHRINK) / (x[best] / ratio[best] / dispersion + SHRINK)),
        )


def _from_the_end(by_hour: npt.NDArray[np.float64]) -> Floats:
    """Sums over the window from each hour up to now."""
    sums: Floats = np.cumsum(by_hour[::-1])[::-1]
    return sums


def _xlogy(x: Floats, y: Floats) -> Floats:
    return np.where(x > 0, x * np.log(np.where(x > 0, y, 1.0)), 0.0)
