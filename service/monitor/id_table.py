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

Indices = npt.NDArray[np.intp]

_MAX_LOAD: Final = 0.5
_MIN_BUCKETS: Final = 128
_BUCKET: Final = 8  # slots that are looked at together: a line of the processor's cache


class IdTable:
    """Row numbers by id hash. Rows are given by the caller, from 0, at most 2**32 - 1.

    Buckets fill from their first slot on; where one is full, its keys go on to another. A batch
    takes as many rounds as its unluckiest key, and at this load few keys find a full bucket.
    """

    def __init__(self, n_expected: int = 0) -> None:
        self._n = 0
        self._make(_MIN_BUCKETS, n_expected)

    def __len__(self) -> int:
        return self._n

    def _make(self, n_buckets: int, n_expected: int) -> None:
        """Empty buckets, twice as many as these until they have room for so many keys."""
        while n_buckets * _BUCKET * _MAX_LOAD < n_expected:
            n_buckets *= 2
        self._keys: Hashes = np.zeros((n_buckets, _BUCKET), np.uint64)
        self._rows: npt.NDArray[np.uint32] = np.zeros(n_buckets * _BUCKET, np.uint32)
        self._n_in: npt.NDArray[np.int8] = np.zeros(n_buckets, np.int8)  # keys of each bucket

    def find(self, hashes: Hashes) -> Ints:
        """The row of each hash, -1 where it is not in the table."""
        wanted = np.maximum(hashes, np.uint64(1))  # 0 marks a free slot
        found = np.full(wanted.size, -1, np.int64)
        if not self._n:
            return found
        active, bucket = np.arange(wanted.size), self._bucket(wanted)
        while active.size:
            is_here = self._keys.take(bucket, axis=0) == wanted[:, None]
            slot = bucket * _BUCKET + is_here.argmax(axis=1)
            hit = self._keys.reshape(-1).take(slot) == wanted
            found[active[hit]] = self._rows.take(slot[hit])
            on = ~hit & (self._n_in.take(bucket) == _BUCKET)
            active, wanted = active[on], wanted[on]
            bucket = self._next(bucket[on], wanted)
        return found

    def add(self, hashes: Hashes, rows: npt.NDArray[Any]) -> None:
        """Add distinct hashes that are not in the table yet."""
        self._n += hashes.size
        if self._n > self._keys.size * _MAX_LOAD:
            self._enlarge()
        self._place(np.maximum(hashes, np.uint64(1)), rows.astype(np.uint32))

    def _place(self, keys: Hashes, rows: npt.NDArray[np.uint32]) -> None:
        slots, bucket = self._keys.reshape(-1), self._bucket(keys)
        while keys.size:
            n_in = self._n_in.take(bucket)
            is_full = n_in == _BUCKET
            slot = bucket * _BUCKET + n_in
            free = np.flatnonzero(~is_full)
            slots[slot[free]] = keys[free]  # of several that want one slot the last gets it
            placed = free[slots.take(slot[free]) == keys[free]]
            self._rows[slot[placed]] = rows[placed]
            self._n_in[bucket[placed]] += 1
            left = np.ones(keys.size, np.bool_)
            left[placed] = False
            bucket = np.where(is_full, self._next(bucket, keys), bucket)[left]
            keys, rows = keys[left], rows[left]

    def _bucket(self, keys: Hashes) -> Indices:
        """Where each key is looked for first."""
        return (keys & np.uint64(len(self._keys) - 1)).astype(np.intp)

    def _next(self, bucket: Indices, keys: Hashes) -> Indices:
        """Where each key is looked for behind a full bucket: by its own odd step, so that no runs
        of them build up."""
        step = (keys >> np.uint64(32)).astype(np.intp) | 1
        return (bucket + step) & (len(self._keys) - 1)

    def _enlarge(self) -> None:
        used = self._keys != 0
        keys, rows = self._keys[used], self._rows[used.reshape(-1)]
        self._make(len(self._keys), self._n)
        self._place(keys, rows)

    def hashes(self) -> Hashes:
        """The hashes in the order of their rows, of a table that has all rows from 0 on."""
        used = self._keys.reshape(-1) != 0
        hashes = np.empty(self._n, np.uint64)
        hashes[self._rows[used]] = self._keys.reshape(-1)[used]
        return hashes
