"""Tally: how many rows of each cell fell into each bin, counted many rows at a time."""

from __future__ import annotations

from typing import Final

import numpy as np

from service.ingest.events import Codes, Ints
from service.monitor.signals import Indices

MOST_WAITING: Final = 65_536  # entries, half a megabyte: a pass over all counts costs about as much


class Tally:
    """Counts per cell and bin, int64, shape (n_cells, n_bins); a row has one bin of each signal."""

    def __init__(self, starts: Indices) -> None:
        self.starts = starts[:-1, None]  # of each signal's bins
        self.n_bins = int(starts[-1])
        self._counts: Ints = np.zeros((0, self.n_bins), np.int64)
        self._waiting: list[Ints] = []  # places among the counts
        self._n_waiting = 0

    def add(self, cells: Indices, bins: Codes) -> None:
        """Count rows of these cells; `bins` has shape (n_signals, n_rows)."""
        places = (bins + self.starts + cells * self.n_bins).reshape(-1)
        self._waiting.append(places)
        self._n_waiting += places.size
        if self._n_waiting >= MOST_WAITING:
            self._count()

    @property
    def counts(self) -> Ints:
        """All of them; there may be empty rows at the end, which are spare room."""
        if self._waiting:
            self._count()
        return self._counts

    @property
    def used(self) -> Ints:
        """A copy without spare room."""
        counts = self.counts
        some = np.flatnonzero(counts.any(axis=1))
        return counts[: int(some[-1]) + 1].copy() if some.size else counts[:0].copy()

    def clear(self) -> None:
        """Begin again, with the room there is."""
        self._waiting, self._n_waiting = [], 0
        self._counts[:] = 0

    def restore(self, counts: Ints) -> None:
        """Take up what `used` gave."""
        self._waiting, self._n_waiting = [], 0
        self._counts = np.array(counts)

    def _count(self) -> None:
        places = np.concatenate(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._counts = grown(self._counts, int(places.max(initial=-1)) // self.n_bins + 1)
        counts = self._counts.reshape(-1)
        if places.size * 8 > counts.size:
            counts += np.bincount(places, minlength=counts.size)
        else:
            np.add.at(counts, places, 1)


def grown(counts: Ints, n_cells: int) -> Ints:
    """With room for so many cells, and half as many more."""
    if len(counts) >= n_cells:
        return counts
    more = n_cells - len(counts) + len(counts) // 2
    return np.concatenate([counts, np.zeros((more, counts.shape[1]), np.int64)])
