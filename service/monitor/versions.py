"""Versions: the model versions that predictions name, told apart by small numbers.

A version's number is its place by first appearance, from 1. Rows without one, of one past
`MAX_VERSIONS`, or of one that is no longer among the last `KEPT_VERSIONS` have number 0; what was
summed of a version before stays its own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import PREDICTION, EventBatch, Ints

Numbers = npt.NDArray[np.int16]

NONE: Final = 0  # the number of rows without a version
KEPT_VERSIONS: Final = 8  # the last to appear; rows of earlier ones are no longer told apart
MAX_VERSIONS: Final = 1_000  # that are told apart in a model's life


class Versions:
    """The versions of one model, in order of first appearance."""

    def __init__(self) -> None:
        self.names: list[str] = [""]  # by number
        self.newest = NONE  # among the rows that have been counted
        self.newest_hour = 0  # of the last of its rows, since 1970
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int | None:
        """A version's number; None where no row has had it, or it came past `MAX_VERSIONS`."""
        return self._numbers.get(name)

    def assign(self, batch: EventBatch) -> Numbers:
        """The number of each row's version, the same however rows are cut into batches."""
        latest = len(self.names) - 1
        codes = np.where(batch.kind & PREDICTION, batch.version.codes, -1)
        used, first = np.unique(codes, return_index=True)
        lookup = np.zeros(len(batch.version.values) + 1, np.int16)
        for code in used[np.argsort(first, kind="stable")].tolist():
            if code >= 0:
                lookup[code] = self._number(batch.version.values[code])
        numbers = lookup[codes]
        kept = numbers > np.maximum.accumulate(np.maximum(numbers, latest)) - KEPT_VERSIONS
        return np.where(kept, numbers, np.int16(NONE))

    def count(self, numbers: Numbers, hours: Ints) -> None:
        """Note that rows of these versions have been counted."""
        newest = int(numbers.max(initial=NONE))
        if newest < self.newest or newest == NONE:
            return
        last = int(hours[numbers == newest].max())
        self.newest_hour = last if newest > self.newest else max(self.newest_hour, last)
        self.newest = newest

    def _number(self, name: str) -> int:
        number = self._numbers.get(name, NONE)
        if number == NONE and len(self.names) <= MAX_VERSIONS:
            number = self._numbers[name] = len(self.names)
            self.names.append(name)
        return number

    def save(self) -> list[Any]:
        """The state."""
        return [self.names[1:], self.newest, self.newest_hour]

    @classmethod
    def restore(cls, state: list[Any]) -> Versions:
        """The versions that `save` gave."""
        versions = cls()
        names, versions.newest, versions.newest_hour = state
        for name in names:
            versions._number(name)
        return versions
