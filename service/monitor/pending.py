"""Pending: predictions as columns, found by id hash, for as long as their labels may come.

Of a prediction there are two slots in a table (hash and row), its time, its cell, and what the loss
needs: some 50 bytes where that is a class, and the text for WER. Tables are generations, each of a
quarter of the horizon, and the oldest is given back whole: a steady stream takes a steady room, a
quarter over what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import Bools, EventBatch, Hashes, Ints, hash_ids
from service.monitor.config import LossName
from service.monitor.id_table import IdTable
from service.monitor.losses import NO_KEYS, NO_NUMBERS, Outputs, outputs_of
from service.monitor.scores import Bins

Indices = npt.NDArray[np.intp]

GENERATIONS: Final = 4  # that a horizon is cut into
GENERATION_ROWS: Final = (1 << 14, 1 << 19)  # at least, at most: a search asks each table

_DTYPES: Final[dict[str, Any]] = {
    "time": np.int64,
    "cell": np.int32,
    "labelled": np.bool_,
    "cluster": np.uint64,
    "version": np.int16,
    "mask": np.uint64,
    "bin": np.uint8,
    "number": np.float64,
    "key": np.uint64,
    "end": np.int64,
}
_OF_EACH: Final = frozenset({"time", "cell", "labelled"})  # the others are there where needed


@dataclass(slots=True)
class Generation:
    """Predictions that came one after another, found in one table and forgotten together."""

    first: int  # serial number of its first
    table: IdTable  # rows from there
    newest_at: int  # microseconds: the latest of their times


class Pending:
    """Predictions as columns that grow at the end and are dropped from the front.

    Rows have serial numbers that never change; a column that no row needs stays empty.
    """

    def __init__(self) -> None:
        self._first = 0  # serial number of the oldest row
        self._n = 0
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.empty(0, dtype) for name, dtype in _DTYPES.items()
        }
        self._used = set(_OF_EACH)  # the columns that rows have
        self._text = bytearray()
        self._text_start = 0  # offset in the stream of texts of the first kept byte
        self._generations: list[Generation] = []  # oldest first

    def __len__(self) -> int:
        return self._n

    def find(self, hashes: Hashes) -> Ints:
        """Serial number of each hash, -1 where there is none."""
        found = np.full(hashes.size, -1, np.int64)
        for generation in reversed(self._generations):
            if found.size and (missing := np.flatnonzero(found < 0)).size:
                rows = generation.table.find(hashes[missing])
                found[missing] = np.where(rows >= 0, rows + generation.first, -1)
        return found

    def add(
        self,
        batch: EventBatch,
        rows: Indices,
        hashes: Hashes,
        cells: Indices,
        versions: npt.NDArray[np.int16],
        masks: npt.NDArray[np.uint64],
        bins: Bins,
        loss: LossName,
        horizon: int,
    ) -> Ints:
        """Keep `rows` of the batch, as what they were found to be; give their serials."""
        n, times = rows.size, batch.time[rows]
        serial = np.arange(self._first + self._n, self._first + self._n + n)
        generation = self._with_room(n, horizon // GENERATIONS)
        generation.table.add(hashes, serial - generation.first)
        generation.newest_at = max(generation.newest_at, int(times.max(initial=0)))
        self._append("time", times)
        self._append("cell", cells)
        self._append("labelled", np.zeros(n, np.bool_))
        if batch.cluster is not None or "cluster" in self._used:
            self._append("cluster", cluster_hashes(batch)[rows])
        if versions.any() or "version" in self._used:
            self._append("version", versions)
        if masks.any() or "mask" in self._used:
            self._append("mask", masks)
        if "bin" in self._used or bins.any():
            self._append("bin", bins)
        outputs = outputs_of(loss, batch)
        self._append_outputs(outputs.take(rows) if n < len(batch) else outputs)
        self._n += n
        return serial

    def _with_room(self, n: int, span: int) -> Generation:
        """The newest generation, or another behind it where it is full."""
        if not self._generations or self._is_full(self._generations[-1], n, span):
            self._generations.append(Generation(self._first + self._n, IdTable(), 0))
        return self._generations[-1]

    def _is_full(self, generation: Generation, n: int, span: int) -> bool:
        """It spans as much time, or has no room for so many more."""
        fewest, most = GENERATION_ROWS
        if len(generation.table) + n <= fewest:
            return False
        if len(self._generations) > 1:
            began_at = self._generations[-2].newest_at
        else:
            began_at = int(self._columns["time"][0])
        return generation.newest_at - began_at >= span or len(generation.table) + n > most

    def _append_outputs(self, outputs: Outputs) -> None:
        if outputs.number.size:
            self._append("number", outputs.number)
        if outputs.key.size:
            self._append("key", outputs.key)
        if outputs.text:
            encoded = [text.encode() for text in outputs.text]
            start = self._text_start + len(self._text)
            self._append("end", start + np.cumsum([len(text) for text in encoded]))
            self._text += b"".join(encoded)

    def _append(self, name: str, values: npt.NDArray[Any]) -> None:
        self._used.add(name)
        column, n = self._columns[name], self._n + values.size
        if column.size < n:
            grown = np.zeros(max(1024, n + n // 4), column.dtype)  # 0 for rows that came without
            n_before = min(self._n, column.size)
            grown[:n_before] = column[:n_before]
            column = self._columns[name] = grown
        column[self._n : n] = values

    def _at(self, name: str, serials: Ints) -> npt.NDArray[Any]:
        return self._columns[name][serials - self._first]

    def time(self, serials: Ints) -> Ints:
        """When these predictions were made."""
        return self._at("time", serials)

    def cell(self, serials: Ints) -> Indices:
        """The cells that these predictions are in."""
        return self._at("cell", serials).astype(np.intp)

    def cluster(self, serials: Ints) -> Hashes:
        """Hashes of what these predictions say they belong to, 0 where they don't."""
        if "cluster" not in self._used:
            return np.zeros(serials.size, np.uint64)
        return self._at("cluster", serials)

    def version(self, serials: Ints) -> npt.NDArray[np.int16]:
        """The versions that made these predictions, 0 where they don't say."""
        if "version" not in self._used:
            return np.zeros(serials.size, np.int16)
        return self._at("version", serials)

    def mask(self, serials: Ints) -> npt.NDArray[np.uint64]:
        """The discovered slices that these predictions are in, a bit each."""
        if "mask" not in self._used:
            return np.zeros(serials.size, np.uint64)
        return self._at("mask", serials)

    def bin(self, serials: Ints) -> Bins:
        """The bins of these predictions' confidence, 0 where they have none."""
        if "bin" not in self._used:
            return np.zeros(serials.size, np.uint8)
        return self._at("bin", serials)

    def is_labelled(self, serials: Ints) -> Bools:
        """Which of these have had their label."""
        return self._at("labelled", serials)

    def mark_labelled(self, serials: Ints) -> None:
        """These have had their label: another is a duplicate."""
        self._columns["labelled"][serials - self._first] = True

    def outputs(self, serials: Ints) -> Outputs:
        """What was kept of these predictions' outputs."""
        rows = serials - self._first
        return Outputs(
            self._columns["number"][rows] if "number" in self._used else NO_NUMBERS,
            self._columns["key"][rows] if "key" in self._used else NO_KEYS,
            [self._text_of(int(row)) for row in rows] if "end" in self._used else [],
        )

    def _text_of(self, row: int) -> str:
        ends = self._columns["end"]
        start = int(ends[row - 1]) if row else self._text_start
        return self._text[start - self._text_start : int(ends[row]) - self._text_start].decode()

    def forget(self, before: int) -> None:
        """Drop the oldest generations while all their predictions were made before this instant."""
        while len(self._generations) > 1 and self._generations[0].newest_at < before:
            self._drop_oldest()

    def shrink(self, n_most: int) -> int:
        """Drop the oldest generations while there are more rows than this; how many rows went."""
        before = self._n
        while self._n > n_most and len(self._generations) > 1:
            self._drop_oldest()
        return before - self._n

    def _drop_oldest(self) -> None:
        del self._generations[0]
        stop = self._generations[0].first - self._first
        if "end" in self._used:
            text_stop = int(self._columns["end"][stop - 1])
            del self._text[: text_stop - self._text_start]
            self._text_start = text_stop
        for name in self._used:
            self._columns[name] = self._columns[name][stop : self._n].copy()
        self._first += stop
        self._n -= stop

    def save(self) -> dict[str, Any]:
        """The state, without spare room; tables are made again from hashes."""
        hashes = [generation.table.hashes() for generation in self._generations]
        return {
            "first": self._first,
            "table_starts": [generation.first for generation in self._generations],
            "columns": {
                "hash": np.concatenate([np.empty(0, np.uint64), *hashes]),
                **{n: self._columns[n][: self._n].copy() for n in _DTYPES if n in self._used},
            },
            "text": bytes(self._text),
            "text_start": self._text_start,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Pending:
        """The rows that `save` gave."""
        pending = cls()
        pending._first = state["first"]
        columns = dict(state["columns"])
        hashes = columns.pop("hash")
        pending._n = hashes.size
        for name, column in columns.items():
            pending._columns[name] = column.copy()
            pending._used.add(name)
        pending._text = bytearray(state["text"])
        pending._text_start = state["text_start"]
        starts = [*state["table_starts"], pending._first + pending._n]
        for first, stop in pairwise(starts):
            rows = slice(first - pending._first, stop - pending._first)
            table = IdTable(stop - first)
            table.add(hashes[rows], np.arange(stop - first))
            newest_at = int(columns["time"][rows].max(initial=0))
            pending._generations.append(Generation(first, table, newest_at))
        return pending


def cluster_hashes(batch: EventBatch) -> Hashes:
    """A hash of each row's cluster, 0 where it has none."""
    if batch.cluster is None:
        return np.zeros(len(batch), np.uint64)
    lookup = np.append(np.maximum(hash_ids(batch.cluster.values), 1), np.uint64(0))
    clusters: Hashes = lookup[batch.cluster.codes]
    return clusters
