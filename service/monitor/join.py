"""Join: late labels meet their predictions, each once, within the horizon.

Predictions wait in columns, found by id hash; a label that comes before its prediction waits too.
What is older than the horizon is forgotten, and rows older than that are refused, so forgetting
never counts a row twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from service.limits import PENDING, WAITING_LABELS
from service.monitor.config import LossName
from service.monitor.id_table import IdTable
from service.monitor.losses import Outputs
from service.monitor.pending import Pending
from service.monitor.scores import Bins

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Matched:
    """What came of a batch's rows."""

    predictions: Indices  # rows of the batch that are new predictions
    labels: EventBatch  # labels that met their prediction now
    at_row: Indices  # row of the batch at which each of them did: the later of the two
    time: Ints  # of the label's prediction, as are the next three
    cell: Indices
    cluster: Hashes  # 0 where the prediction names none
    version: npt.NDArray[np.int16]  # the prediction's, by `monitor.versions`; 0: none
    mask: npt.NDArray[np.uint64]  # the discovered slices that it is in, a bit each
    bin: Bins  # of its confidence; 0: it has none
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

    @property
    def overflowed(self) -> dict[str, int]:
        """What was forgotten to make room, by cap."""
        return {
            PENDING.name: self.n_forgotten,
            WAITING_LABELS.name: self._waiting.n_forgotten,
        }

    def has(self, hashes: Hashes) -> Bools:
        """Which of these are of a prediction that has come."""
        return self._pending.find(hashes) >= 0

    def match(
        self,
        batch: EventBatch,
        cells: Indices,
        versions: npt.NDArray[np.int16] | None = None,
        masks: npt.NDArray[np.uint64] | None = None,
        bins: Bins | None = None,
    ) -> Matched:
        """Keep new predictions, join labels, tell duplicates; `cells` has a cell for each row."""
        if versions is None:
            versions = np.zeros(len(batch), np.int16)
        if masks is None:
            masks = np.zeros(len(batch), np.uint64)
        if bins is None:
            bins = np.zeros(len(batch), np.uint8)
        hashes = hash_ids(batch.ids)
        predicts = (batch.kind & PREDICTION) != 0
        known = self._pending.find(hashes)
        new = _first_of_each(hashes, predicts & (known < 0))
        if new.size:
            known[new] = self._pending.add(
                batch,
                new,
                hashes[new],
                cells[new],
                versions[new],
                masks[new],
                bins[new],
                self.loss,
                self.horizon,
            )
            beside = np.flatnonzero(known < 0)  # labels, and repeats, of what this batch brought
            known[beside] = self._pending.find(hashes[beside])
        now_labelled = self._join_labels(batch, cells, hashes, known, new)
        labels, at_row, rows, label_cell, counted, late = now_labelled
        is_new = np.zeros(len(batch), np.bool_)
        is_new[new] = True
        self.n_forgotten += self._pending.shrink(PENDING.limit)
        return Matched(
            predictions=new,
            labels=labels,
            at_row=at_row,
            time=self._pending.time(rows),
            cell=self._pending.cell(rows),
            cluster=self._pending.cluster(rows),
            version=self._pending.version(rows),
            mask=self._pending.mask(rows),
            bin=self._pending.bin(rows),
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
        self.n_forgotten = 0  # to make room, since this process started

    def __len__(self) -> int:
        return self._n - int(self._gone.sum())

    def add(self, batch: EventBatch, hashes: Hashes, cells: Indices, rows: Indices) -> Indices:
        """Keep these label rows; give those that were kept: not a second label of the same id."""
        if not rows.size:
            return rows
        rows = rows[self._live(hashes[rows]) < 0]
        rows = rows[np.sort(np.unique(hashes[rows], return_index=True)[1])]
        if not rows.size:
            return rows
        if len(self) + rows.size > WAITING_LABELS.limit:
            self._forget_oldest(len(self) + rows.size - WAITING_LABELS.limit)
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

    def _forget_oldest(self, n_over: int) -> None:
        """Make room for so many more, and some besides: it takes a pass over all that wait."""
        self._compact()
        n = min(max(n_over, self._n // 8), self._n)
        self._keep(np.arange(n, self._n))
        self.n_forgotten += n

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
