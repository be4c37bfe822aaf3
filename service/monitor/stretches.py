"""Stretches: what was counted, in stretches of time that are the longer the older they are.

A few of each length; when there are more, the two oldest of them become one of the next. So a
movement that is noticed within hours is dated to the hour, one that took a week to notice to the
day, and memory grows with the logarithm of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from service.ingest.events import Codes, Floats, Ints
from service.monitor.history import HOUR, RETENTION_HOURS

PER_LEVEL: Final = 8  # stretches of each length


@dataclass(frozen=True, slots=True)
class Stretch:
    """Counts per cell and bin of one span of time."""

    start: int  # microseconds
    end: int
    level: int  # it was made of 2 ** level
    cells: Codes  # which cell, bin and how often, shape (n,) each
    bins: Codes
    counts: Codes

    def of_bins(self, first: int, stop: int, n_cells: int) -> Floats:
        """Counts of these bins, shape (n_cells, stop - first)."""
        counts = np.zeros((n_cells, stop - first))
        kept = (self.bins >= first) & (self.bins < stop)
        counts[self.cells[kept], self.bins[kept] - first] = self.counts[kept]
        return counts

    def join(self, later: Stretch) -> Stretch:
        """This one and the next as one."""
        both = (self, later)
        span = max(int(part.bins.max(initial=0)) for part in both) + 1
        keys = [part.cells.astype(np.int64) * span + part.bins for part in both]
        entries, place = np.unique(np.concatenate(keys), return_inverse=True)
        counts = np.bincount(place, np.concatenate([part.counts for part in both]))
        columns = (entries // span, entries % span, counts[: entries.size])
        whole = (column.astype(np.int32) for column in columns)
        return Stretch(self.start, later.end, self.level + 1, *whole)


class Stretches:
    """The stretches of one model, the oldest first."""

    def __init__(self) -> None:
        self.parts: list[Stretch] = []

    def add(self, start: int, end: int, counts: Ints) -> None:
        """Keep one more, shape (n_cells, n_bins); what is past the retention is dropped."""
        cells, bins = np.nonzero(counts)
        columns = (cells, bins, counts[cells, bins])
        self.parts.append(Stretch(start, end, 0, *(c.astype(np.int32) for c in columns)))
        self._merge()
        oldest = end - RETENTION_HOURS * HOUR
        self.parts = [part for part in self.parts if part.end > oldest]

    def _merge(self) -> None:
        level = 0
        while sum(part.level == level for part in self.parts) > PER_LEVEL:
            first = next(i for i, part in enumerate(self.parts) if part.level == level)
            joined = self.parts[first].join(self.parts[first + 1])
            self.parts[first : first + 2] = [joined]
            level += 1

    def since(self, at: int, n_cells: int, n_bins: int) -> Ints:
        """Counts of the stretches that end after `at`, shape (n_cells, n_bins)."""
        summed = np.zeros((n_cells, n_bins), np.int64)
        for part in self.parts:
            if part.end > at:
                summed[part.cells, part.bins] += part.counts
        return summed

    def save(self) -> list[Any]:
        """The state."""
        return [[getattr(part, name) for name in Stretch.__slots__] for part in self.parts]

    def restore(self, state: list[Any]) -> None:
        """Take up the state that `save` gave."""
        self.parts = [Stretch(*columns) for columns in state]
