"""IdTable: 64-bit id hashes to row numbers, a vectorised open-addressing table.

A Python dict of a million ids costs 100 MB and a Python step a row; this costs 12 bytes a slot and
a few numpy calls a batch. Two ids that share a 64-bit hash count as one: among ten million ids the
chance that any two do is 3 in a million.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import Hashes, Ints

_MAX_LOAD: Final = 0.5
_MIN_SLOTS: Final = 1024


class IdTable:
    """Row numbers by id hash. Rows are given by the caller, from 0, at most 2**32 - 1."""

    def __init__(self, n_expected: int = 0) -> None:
        slots = _MIN_SLOTS
        while slots * _MAX_LOAD < n_expected:
            slots *= 2
        self._keys: Hashes = np.zeros(slots, np.uint64)  # 0 marks a free slot
        self._rows: npt.NDArray[np.uint32] = np.zeros(slots, np.uint32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def find(self, hashes: Hashes) -> Ints:
        """The row of each hash, -1 where it is not in the table."""
        wanted = np.maximum(hashes, np.uint64(1))
        found = np.full(wanted.size, -1, np.int64)
        if not self._n:
            return found
        mask = np.uint64(self._keys.size - 1)
        active = np.arange(wanted.size)
        slot, step = wanted & mask, _step(wanted)
        while active.size:
            key = self._keys[slot]
            hit = key == wanted
            found[active[hit]] = self._rows[slot[hit]]
            on = ~hit & (key != 0)
            active, wanted, step = active[on], wanted[on], step[on]
            slot = (slot[on] + step) & mask
        return found

    def add(self, hashes: Hashes, rows: npt.NDArray[Any]) -> None:
        """Add distinct hashes that are not in the table yet."""
        self._n += hashes.size
        if self._n > self._keys.size * _MAX_LOAD:
            self._enlarge()
        self._place(np.maximum(hashes, np.uint64(1)), rows.astype(np.uint32))

    def _place(self, keys: Hashes, rows: npt.NDArray[np.uint32]) -> None:
        mask = np.uint64(self._keys.size - 1)
        slot, step = keys & mask, _step(keys)
        while keys.size:
            free = self._keys[slot] == 0
            self._keys[slot[free]] = keys[free]  # of several that want one slot the last gets it
            placed = free & (self._keys[slot] == keys)
            self._rows[slot[placed]] = rows[placed]
            on = ~placed
            keys, rows, step = keys[on], rows[on], step[on]
            slot = (slot[on] + step) & mask

    def _enlarge(self) -> None:
        used = self._keys != 0
        keys, rows = self._keys[used], self._rows[used]
        slots = self._keys.size
        while self._n > slots * _MAX_LOAD:
            slots *= 2
        self._keys = np.zeros(slots, np.uint64)
        self._rows = np.zeros(slots, np.uint32)
        self._place(keys, rows)

    def hashes(self) -> Hashes:
        """The hashes in the order of their rows, of a table that has all rows from 0 on."""
        used = self._keys != 0
        hashes = np.empty(self._n, np.uint64)
        hashes[self._rows[used]] = self._keys[used]
        return hashes


def _step(keys: Hashes) -> Hashes:
    """How far each key goes on from a taken slot: its own odd step, so that no runs build up.

    A batch takes as many rounds as its unluckiest key, and runs are what makes keys unlucky.
    """
    return (keys >> np.uint64(32)) | np.uint64(1)
