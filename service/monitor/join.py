"""Join: late labels meet their predictions, each once, within the horizon.

Predictions wait in columns, found by id hash; a label that comes before its prediction waits too.
Only what the loss needs of a prediction is kept (a number, a hash, or for WER the text), so ten
million pending predictions take some 40 bytes each. What is older than the horizon is forgotten by
whole tables, and rows older than that are refused, so forgetting never counts a row twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import (
    LABEL,
    NO_ROWS,
    PREDICTION,
    Bools,
    EventBatch,
    Hashes,
    Ints,
    hash_ids,
)
from service.ingest.frame import from_frame, to_frame
from service.monitor.config import LossName
from service.monitor.id_table import IdTable
from service.monitor.losses import NO_KEYS, NO_NUMBERS, Outputs, outputs_of

Indices = npt.NDArray[np.intp]

MAX_PENDING: Final = 20_000_000  # predictions of one model; the oldest are forgotten, counted
MAX_WAITING_LABELS: Final = 1_000_000
_TABLE_ROWS: Final = 1 << 19  # predictions a table holds; tables are forgotten whole


@dataclass(frozen=True, slots=True)
class Matched:
    """What came of a batch's rows."""

    predictions: Indices  # rows of the batch that are new predictions
    labels: EventBatch  # labels that met their prediction now
    at_row: Indices  # row of the batch at which each of them did: the later of the two
    time: Ints  # of the label's prediction, as are the next three
    cell: Indices
    cluster: Hashes  # 0 where the prediction names none
    outputs: Outputs
    label_cell: Indices  # cell of what the label itself says, to be added to the prediction's
    duplicate: Bools  # shape (n_rows,): nothing in the row was new
    late: Bools  # shape (n_rows,): a label past the horizon met its prediction; not joined


class Join:
    """The predictions and labels of one model that still wait for each other."""

    def __init__(self, loss: LossName, horizon: int) -> None:
        self.loss: LossName = loss
        self.horizon = horizon  # microseconds
        self.n_forgotten = 0  # predictions dropped by the cap, before their time
        self._pending = Pending()
        self._waiting = WaitingLabels()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def n_waiting_labels(self) -> int:
        """Labels whose prediction has not come."""
        return len(self._waiting)

    def has(self, hashes: Hashes) -> Bools:
        """Which of these are of a prediction that has come."""
        return self._pending.find(hashes) >= 0

    def match(self, batch: EventBatch, cells: Indices) -> Matched:
        """Keep new predictions, join labels, tell duplicates; `cells` has a cell for each row."""
        hashes = hash_ids(batch.ids)
        predicts = (batch.kind & PREDICTION) != 0
        known = self._pending.find(hashes)
        new = _first_of_each(hashes, predicts & (known < 0))
        if new.size:
            known[new] = self._pending.add(batch, new, hashes[new], cells[new], self.loss)
            beside = np.flatnonzero(known < 0)  # labels, and repeats, of what this batch brought
            known[beside] = self._pending.find(hashes[beside])
        now_labelled = self._join_labels(batch, cells, hashes, known, new)
        labels, at_row, rows, label_cell, counted, late = now_labelled
        is_new = np.zeros(len(batch), np.bool_)
        is_new[new] = True
        self.n_forgotten += self._pending.shrink(MAX_PENDING)
        return Matched(
            predictions=new,
            labels=labels,
            at_row=at_row,
            time=self._pending.time(rows),
            cell=self._pending.cell(rows),
            cluster=self._pending.cluster(rows),
            outputs=self._pending.outputs(rows),
            label_cell=label_cell,
            duplicate=~(is_new | counted),
            late=late,
        )

    def _join_labels(
        self, batch: EventBatch, cells: Indices, hashes: Hashes, known: Ints, new: Indices
    ) -> tuple[EventBatch, Indices, Ints, Indices, Bools, Bools]:
        """Labels of the batch that find a prediction, and waiting ones that a new one frees."""
        n = len(batch)
        counted = np.zeros(n, np.bool_)
        late = np.zeros(n, np.bool_)
        freed, freed_cells, position = self._waiting.free(hashes[new])
        freed_rows = known[new[position]]
        self._pending.mark_labelled(freed_rows)
        in_time = freed.time <= self._pending.time(freed_rows) + self.horizon
        late[new[position[~in_time]]] = True  # told with the prediction, which is the later of two
        if not in_time.all():
            kept = np.flatnonzero(in_time)
            freed, freed_cells = freed.take(kept), freed_cells[kept]
            freed_rows, position = freed_rows[kept], position[kept]

        labelled = (batch.kind & LABEL) != 0
        meets = labelled & (known >= 0)
        meets[meets] = ~self._pending.is_labelled(known[meets])
        here = _first_of_each(hashes, meets)
        too_late = batch.time[here] > self._pending.time(known[here]) + self.horizon
        late[here[too_late]] = counted[here] = True
        self._pending.mark_labelled(known[here])  # the first label is the one, late or not
        joined = here[~too_late]
        counted[self._waiting.add(batch, hashes, cells, np.flatnonzero(labelled & (known < 0)))] = (
            True
        )

        rows = np.concatenate([known[joined], freed_rows])
        at_row = np.concatenate(
            [np.maximum(joined, self._row_of(hashes, joined, new)), new[position]]
        )
        labels = batch.labels_only().take(joined)
        if position.size:
            labels = EventBatch.concatenate([labels, freed])
        label_cells = np.concatenate([cells[joined], freed_cells])
        if (np.diff(at_row) < 0).any():
            order = np.argsort(at_row, kind="stable")
            labels, at_row, rows = labels.take(order), at_row[order], rows[order]
            label_cells = label_cells[order]
        return labels, at_row, rows, label_cells, counted, late

    @staticmethod
    def _row_of(hashes: Hashes, joined: Indices, new: Indices) -> Indices:
        """The batch row of each joined label's prediction, where this batch brought it; else 0."""
        if not new.size:
            return np.zeros(joined.size, np.intp)
        order = np.argsort(hashes[new], kind="stable")
        place = np.searchsorted(hashes[new], hashes[joined], sorter=order)
        candidate = new[order[np.minimum(place, new.size - 1)]]
        return np.where(hashes[candidate] == hashes[joined], candidate, 0)

    def forget(self, now: int) -> None:
        """Forget what is older than the horizon, as seen from stream time `now`."""
        self._pending.forget(now - self.horizon)
        self._waiting.forget(now - self.horizon)

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "loss": self.loss,
            "horizon": self.horizon,
            "n_forgotten": self.n_forgotten,
            "pending": self._pending.save(),
            "waiting": self._waiting.save(),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Join:
        """The join that `save` gave."""
        join = cls(state["loss"], state["horizon"])
        join.n_forgotten = state["n_forgotten"]
        join._pending = Pending.restore(state["pending"])
        join._waiting = WaitingLabels.restore(state["waiting"])
        return join


def _first_of_each(hashes: Hashes, wanted: Bools) -> Indices:
    """Rows among `wanted` that are the first with their hash, in row order."""
    rows = np.flatnonzero(wanted)
    _, first = np.unique(hashes[rows], return_index=True)
    return rows[np.sort(first)]


_COLUMNS: Final = ("hash", "time", "cell", "cluster", "labelled", "number", "key", "end")
_DTYPES: Final[dict[str, Any]] = {
    "hash": np.uint64,
    "time": np.int64,
    "cell": np.int32,
    "cluster": np.uint64,
    "labelled": np.bool_,
    "number": np.float64,
    "key": np.uint64,
    "end": np.int64,
}


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
        self._uses = {"number": False, "key": False, "end": False}
        self._text = bytearray()
        self._text_start = 0  # offset in the stream of texts of the first kept byte
        self._tables: list[tuple[int, IdTable]] = []  # (serial of its row 0, rows from there)

    def __len__(self) -> int:
        return self._n

    def find(self, hashes: Hashes) -> Ints:
        """Serial number of each hash, -1 where there is none."""
        found = np.full(hashes.size, -1, np.int64)
        for first, table in reversed(self._tables):
            if found.size and (missing := np.flatnonzero(found < 0)).size:
                rows = table.find(hashes[missing])
                found[missing] = np.where(rows >= 0, rows + first, -1)
        return found

    def add(
        self, batch: EventBatch, rows: Indices, hashes: Hashes, cells: Indices, loss: LossName
    ) -> Ints:
        """Keep `rows` of the batch, with these hashes and cells, and give their serial numbers."""
        n = rows.size
        serial = np.arange(self._first + self._n, self._first + self._n + n)
        if not self._tables or len(self._tables[-1][1]) + n > _TABLE_ROWS:
            self._tables.append((int(serial[0]), IdTable()))
        first, table = self._tables[-1]
        table.add(hashes, serial - first)
        outputs = outputs_of(loss, batch)
        if n < len(batch):
            outputs = outputs.take(rows)
        self._append("hash", hashes)
        self._append("time", batch.time[rows])
        self._append("cell", cells)
        self._append("cluster", _cluster_hashes(batch)[rows])
        self._append("labelled", np.zeros(n, np.bool_))
        if outputs.number.size:
            self._append("number", outputs.number)
        if outputs.key.size:
            self._append("key", outputs.key)
        if outputs.text:
            encoded = [text.encode() for text in outputs.text]
            start = self._text_start + len(self._text)
            self._append("end", start + np.cumsum([len(text) for text in encoded]))
            self._text += b"".join(encoded)
        self._n += n
        return serial

    def _append(self, name: str, values: npt.NDArray[Any]) -> None:
        column = self._columns[name]
        if name in self._uses:
            self._uses[name] = True
        if column.size < self._n + values.size:
            grown = np.zeros(max(1024, 2 * column.size, self._n + values.size), column.dtype)
            grown[: self._n] = column[: self._n]
            column = self._columns[name] = grown
        column[self._n : self._n + values.size] = values

    def _at(self, name: str, serials: Ints) -> npt.NDArray[Any]:
        return self._columns[name][serials - self._first]

    def time(self, serials: Ints) -> Ints:
        """When these predictions were made."""
        return self._at("time", serials)

    def cell(self, serials: Ints) -> Indices:
        """The cells that these predictions are in."""
        return self._at("cell", serials).astype(np.intp)

    def cluster(self, serials: Ints) -> Hashes:
        """Hashes of what these predictions say they belong to."""
        return self._at("cluster", serials)

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
            self._columns["number"][rows] if self._uses["number"] else NO_NUMBERS,
            self._columns["key"][rows] if self._uses["key"] else NO_KEYS,
            [self._text_of(int(row)) for row in rows] if self._uses["end"] else [],
        )

    def _text_of(self, row: int) -> str:
        ends = self._columns["end"]
        start = int(ends[row - 1]) if row else self._text_start
        return self._text[start - self._text_start : int(ends[row]) - self._text_start].decode()

    def forget(self, before: int) -> None:
        """Drop the oldest tables while all their predictions were made before this instant."""
        while len(self._tables) > 1:
            stop = self._tables[1][0] - self._first
            if int(self._columns["time"][:stop].max(initial=0)) >= before:
                return
            self._drop_oldest()

    def shrink(self, n_most: int) -> int:
        """Drop the oldest tables while there are more rows than this; give how many went."""
        before = self._n
        while self._n > n_most and len(self._tables) > 1:
            self._drop_oldest()
        return before - self._n

    def _drop_oldest(self) -> None:
        del self._tables[0]
        stop = self._tables[0][0] - self._first
        if self._uses["end"]:
            text_stop = int(self._columns["end"][stop - 1])
            del self._text[: text_stop - self._text_start]
            self._text_start = text_stop
        for name, column in self._columns.items():
            if self._uses.get(name, True):
                self._columns[name] = column[stop : self._n].copy()
        self._first += stop
        self._n -= stop

    def save(self) -> dict[str, Any]:
        """The state, without spare room; tables are made again from hashes."""
        return {
            "first": self._first,
            "table_starts": [first for first, _ in self._tables],
            "columns": {
                name: column[: self._n].copy()
                for name, column in self._columns.items()
                if self._uses.get(name, True)
            },
            "text": bytes(self._text),
            "text_start": self._text_start,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Pending:
        """The rows that `save` gave."""
        pending = cls()
        pending._first = state["first"]
        for name, column in state["columns"].items():
            pending._columns[name] = column.copy()
            if name in pending._uses:
                pending._uses[name] = True
        pending._n = state["columns"]["hash"].size
        pending._text = bytearray(state["text"])
        pending._text_start = state["text_start"]
        starts = [*state["table_starts"], pending._first + pending._n]
        for first, stop in pairwise(starts):
            table = IdTable(stop - first)
            hashes = pending._columns["hash"][first - pending._first : stop - pending._first]
            table.add(hashes, np.arange(stop - first))
            pending._tables.append((first, table))
        return pending


def _cluster_hashes(batch: EventBatch) -> Hashes:
    if batch.cluster is None:
        return np.zeros(len(batch), np.uint64)
    lookup = np.append(np.maximum(hash_ids(batch.cluster.values), 1), np.uint64(0))
    clusters: Hashes = lookup[batch.cluster.codes]
    return clusters


class WaitingLabels:
    """Labels whose prediction has not come yet, few as a rule."""

    def __init__(self) -> None:
        self._batch = NO_ROWS
        self._hashes: Hashes = np.empty(0, np.uint64)
        self._cells: Indices = np.empty(0, np.intp)
        self._gone: Bools = np.empty(0, np.bool_)
        self._table = IdTable()
        self._parts: list[tuple[EventBatch, Hashes, Indices]] = []  # newer than _batch
        self._n = 0

    def __len__(self) -> int:
        return self._n - int(self._gone.sum())

    def add(self, batch: EventBatch, hashes: Hashes, cells: Indices, rows: Indices) -> Indices:
        """Keep these label rows; give those that were kept: not a second label of the same id."""
        if not rows.size:
            return rows
        rows = rows[self._live(hashes[rows]) < 0]
        rows = rows[np.sort(np.unique(hashes[rows], return_index=True)[1])]
        rows = rows[: max(MAX_WAITING_LABELS - len(self), 0)]
        if not rows.size:
            return rows
        gone_again = self._table.find(hashes[rows]) >= 0  # waited before, was freed or forgotten
        if gone_again.any():
            self._compact()
        self._parts.append((batch.labels_only().take(rows), hashes[rows], cells[rows]))
        self._table.add(hashes[rows], np.arange(self._n, self._n + rows.size))
        self._n += rows.size
        self._gone = np.concatenate([self._gone, np.zeros(rows.size, np.bool_)])
        return rows

    def _live(self, hashes: Hashes) -> Ints:
        found = self._table.find(hashes)
        there = found >= 0
        found[there] = np.where(self._gone[found[there]], -1, found[there])
        return found

    def free(self, hashes: Hashes) -> tuple[EventBatch, Indices, Indices]:
        """Labels that waited for these ids, their cells, and which of `hashes` each is for."""
        found = self._live(hashes)
        position = np.flatnonzero(found >= 0)
        if not position.size:
            return NO_ROWS, np.empty(0, np.intp), position
        self._settle()
        rows = found[position]
        self._gone[rows] = True
        freed, cells = self._batch.take(rows), self._cells[rows]
        if self._gone.sum() * 2 > self._n:
            self._compact()
        return freed, cells, position

    def _settle(self) -> None:
        """Merge the parts into one batch, rows in the order they came."""
        if self._parts:
            self._batch = EventBatch.concatenate([self._batch, *(p[0] for p in self._parts)])
            self._hashes = np.concatenate([self._hashes, *(part[1] for part in self._parts)])
            self._cells = np.concatenate([self._cells, *(part[2] for part in self._parts)])
            self._parts = []

    def _compact(self) -> None:
        self._settle()
        self._keep(np.flatnonzero(~self._gone))

    def _keep(self, rows: Indices) -> None:
        self._batch = self._batch.take(rows)
        self._hashes, self._cells = self._hashes[rows], self._cells[rows]
        self._gone, self._n = np.zeros(rows.size, np.bool_), int(rows.size)
        self._table = IdTable(self._n)
        self._table.add(self._hashes, np.arange(self._n))

    def forget(self, before: int) -> None:
        """Drop labels given before this instant."""
        self._settle()
        if (self._batch.time < before).any():
            self._keep(np.flatnonzero(~self._gone & (self._batch.time >= before)))

    def save(self) -> dict[str, Any]:
        """The state, without what has gone."""
        self._compact()
        return {"frame": to_frame(self._batch.canonical()), "cells": self._cells}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> WaitingLabels:
        """The labels that `save` gave."""
        waiting = cls()
        waiting._batch, _ = from_frame(state["frame"])
        waiting._hashes = hash_ids(waiting._batch.ids)
        waiting._cells = state["cells"].copy()
        waiting._keep(np.arange(len(waiting._batch)))
        return waiting
