"""LabelDelay: how long after their predictions labels come, counted in buckets."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from service.ingest.events import Floats, Ints

SECOND: Final = 1_000_000  # microseconds
HOUR_SECONDS: Final = 3_600
DAY_SECONDS: Final = 24 * HOUR_SECONDS

# Upper bounds, in seconds; what comes later is in a last bucket of its own.
BOUNDS: Final[tuple[int, ...]] = (
    60,
    600,
    *(HOUR_SECONDS * hours for hours in (1, 2, 4, 8, 16)),
    *(DAY_SECONDS * days for days in (1, 2, 4, 7, 14, 30)),
)
_AT_BOUNDS: Final = np.array((0, *BOUNDS), np.float64)


class LabelDelay:
    """One model's labels by delay. Whole numbers, so the labels' order leaves no trace."""

    def __init__(self) -> None:
        self.counts: Ints = np.zeros(len(BOUNDS) + 1, np.int64)
        self.total_seconds = 0

    def add(self, delays: Ints) -> None:
        """Count labels that came so many microseconds after their predictions."""
        seconds = np.maximum(delays, 0) // SECOND
        buckets = np.searchsorted(np.array(BOUNDS), seconds)
        self.counts += np.bincount(buckets, minlength=self.counts.size)
        self.total_seconds += int(seconds.sum())

    def share_within(self, seconds: Floats) -> Floats:
        """Which share of labels had come after so long, each; straight lines between bounds."""
        n_labels = max(int(self.counts.sum()), 1)
        reached = np.concatenate(([0.0], np.cumsum(self.counts[:-1]) / n_labels))
        share: Floats = np.interp(seconds, _AT_BOUNDS, reached)
        return share

    def save(self) -> dict[str, Any]:
        """The counts."""
        return {"counts": self.counts.copy(), "total_seconds": self.total_seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the counts that `save` gave."""
        self.counts = state["counts"].copy()
        self.total_seconds = state["total_seconds"]
