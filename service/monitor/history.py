"""History: sums per event hour, cell and model version; every published figure is read from it.

Hours are those of the predictions, not of their labels: a rate "since 09:00" is of what happened
since then. Rows wait as they came and are summed when they have doubled, in their order, and hours
past the retention are dropped then, so memory depends on the number of cells and not on how long it
ran, and no cut of the rows leaves a trace in the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from detectors.summary import CAPPED, JUDGED, LABELS, N_COLUMNS, ROWS, label_columns
from service.ingest.events import Bools, Floats, Ints

Versions = npt.NDArray[np.int16]

HOUR: Final = 3_600_000_000  # microseconds
RETENTION_HOURS: Final = 24 * 35
_MERGE_AT: Final = 16_384  # rows that wait before the first merge
_FIRST_ROOM: Final = 64  # rows that there is room for at first


@dataclass(frozen=True, slots=True)
class Hours:
    """What a history holds, one entry an event hour, cell and version; nothing writes to it now."""

    hours: Ints  # since 1970
    cells: Ints
    sums: Floats  # shape (n_entries, N_COLUMNS)


class History:
    """Sums per (event hour, cell, version); version 0 is none, or one too many to tell apart."""

    def __init__(self, retention_hours: int = RETENTION_HOURS) -> None:
        self.retention_hours = retention_hours
        self._hours: Ints = np.empty(0, np.int64)
        self._cells: Ints = np.empty(0, np.int64)
        self._versions: Versions = np.empty(0, np.int16)
        self._sums: Floats = np.empty((0, N_COLUMNS))
        self._n_waiting = 0
        self._waiting_hours: Ints = np.empty(0, np.int64)
        self._waiting_cells: Ints = np.empty(0, np.int64)
        self._waiting_versions: Versions = np.empty(0, np.int16)
        self._waiting_sums: Floats = np.empty((0, N_COLUMNS))

    def add_rows(
        self, hours: Ints, cells: npt.NDArray[np.intp], versions: Versions | None = None
    ) -> None:
        """Count predictions."""
        self._wait(hours, cells, versions)[:, ROWS] = 1.0

    def add_labels(
        self,
        hours: Ints,
        cells: npt.NDArray[np.intp],
        weight: Floats,
        loss: Floats,
        capped: Floats,
        exposure: Floats,
        evidence_weight: Floats | None = None,
        versions: Versions | None = None,
    ) -> None:
        """Sum labelled predictions, as `Summary.of_labels` does."""
        sums = self._wait(hours, cells, versions)
        for column, values in label_columns(weight, loss, capped, exposure, evidence_weight):
            sums[:, column] = values

    def _wait(self, hours: Ints, cells: npt.NDArray[np.intp], versions: Versions | None) -> Floats:
        """Room at the end for rows of these hours and cells: their columns, all 0."""
        if self._n_waiting > max(_MERGE_AT, self._hours.size):
            self._merge()
        start, stop = self._n_waiting, self._n_waiting + hours.size
        if stop > self._waiting_hours.size:
            self._make_room(stop)
        self._n_waiting = stop
        self._waiting_hours[start:stop], self._waiting_cells[start:stop] = hours, cells
        self._waiting_versions[start:stop] = 0 if versions is None else versions
        sums = self._waiting_sums[start:stop]
        sums[:] = 0.0
        return sums

    def _make_room(self, n_rows: int) -> None:
        room = max(_FIRST_ROOM, 2 * self._waiting_hours.size, n_rows)
        for name in ("_waiting_hours", "_waiting_cells", "_waiting_versions", "_waiting_sums"):
            before = getattr(self, name)
            after = np.empty((room, *before.shape[1:]), before.dtype)
            after[: self._n_waiting] = before[: self._n_waiting]
            setattr(self, name, after)

    def _merge(self) -> None:
        n = self._n_waiting
        if not n:
            return
        hours = np.concatenate([self._hours, self._waiting_hours[:n]])
        cells = np.concatenate([self._cells, self._waiting_cells[:n]])
        versions = np.concatenate([self._versions, self._waiting_versions[:n]])
        sums = np.concatenate([self._sums, self._waiting_sums[:n]])
        keep = hours > int(hours.max()) - self.retention_hours
        if not keep.all():
            hours, cells, sums = hours[keep], cells[keep], sums[keep]
            versions = versions[keep]
        first, span, n_versions = int(hours.min()), int(cells.max()) + 1, int(versions.max()) + 1
        places = ((hours - first) * span + cells) * n_versions + versions
        keys, inverse = np.unique(places, return_inverse=True)
        merged = np.empty((keys.size, N_COLUMNS))
        for column in range(N_COLUMNS):  # a left fold: what was summed comes before what waited
            merged[:, column] = np.bincount(inverse, sums[:, column], minlength=keys.size)
        places, self._versions = keys // n_versions, (keys % n_versions).astype(np.int16)
        self._hours, self._cells, self._sums = places // span + first, places % span, merged
        self._n_waiting = 0

    def hours(self) -> Hours:
        """All that is retained, without a copy: a merge makes new arrays and leaves these be."""
        self._merge()
        return Hours(self._hours, self._cells, self._sums)

    def cells_between(
        self,
        n_cells: int,
        since: int | None = None,
        until: int | None = None,
        version: int | None = None,
        hours: Ints | None = None,
    ) -> Floats:
        """Sums per cell of the hours in [since, until), shape (n_cells, N_COLUMNS).

        `since` and `until` are microseconds; an hour counts if it begins in the window, and is one
        of `hours` where those are given.
        """
        self._merge()
        keep = self._between(since, until, version)
        if hours is not None:
            keep &= np.isin(self._hours, hours)
        sums = np.empty((n_cells, N_COLUMNS))
        for column in range(N_COLUMNS):
            sums[:, column] = np.bincount(
                self._cells[keep], self._sums[keep, column], minlength=n_cells
            )
        return sums

    def _between(self, since: int | None, until: int | None, version: int | None) -> Bools:
        keep = np.ones(self._hours.size, np.bool_)
        if since is not None:
            keep &= self._hours * HOUR > since - HOUR
        if until is not None:
            keep &= self._hours * HOUR < until
        if version is not None:
            keep &= self._versions == version
        return keep

    def labels_by_hour(
        self, version: int, since: int | None = None, until: int | None = None
    ) -> tuple[Ints, Floats]:
        """The hours in which a version was labelled, and how often; shape (n_hours,) both."""
        self._merge()
        keep = self._between(since, until, version) & (self._sums[:, LABELS] > 0)
        hours, place = np.unique(self._hours[keep], return_inverse=True)
        labels = np.bincount(place, self._sums[keep, LABELS], minlength=hours.size)
        return hours, labels.astype(np.float64)

    def totals(self, since: int | None = None) -> tuple[Ints, Floats]:
        """The hours from `since` on that had rows, and their sums over all cells.

        Shapes (n_hours,) and (n_hours, N_COLUMNS).
        """
        self._merge()
        keep = slice(None) if since is None else self._hours * HOUR > since - HOUR
        hours, place = np.unique(self._hours[keep], return_inverse=True)
        sums = np.empty((hours.size, N_COLUMNS))
        for column in range(N_COLUMNS):
            sums[:, column] = np.bincount(place, self._sums[keep, column], minlength=hours.size)
        return hours, sums

    def hourly(
        self, expected_rate: Floats, since: int, until: int | None = None
    ) -> tuple[Ints, csr_array, csr_array]:
        """Capped loss and what was due, per cell and event hour.

        Gives the hours (of the epoch) from `since` on, and before `until`, in which anything was
        labelled, and two sparse arrays of shape (n_cells, n_hours): most cells have no label in
        most hours.
        """
        self._merge()
        keep = (self._hours * HOUR > since - HOUR) & (self._sums[:, JUDGED] > 0)
        if until is not None:
            keep &= self._hours * HOUR < until
        hours, column = np.unique(self._hours[keep], return_inverse=True)
        shape = (expected_rate.size, hours.size)
        cells = self._cells[keep]
        observed = csr_array((self._sums[keep, CAPPED], (cells, column)), shape=shape)
        due = self._sums[keep, JUDGED] * expected_rate[cells]
        expected = csr_array((due, (cells, column)), shape=shape)
        return hours, observed, expected

    def save(self) -> dict[str, Any]:
        """The state. When chunks were merged leaves no trace: sums are left folds in row order."""
        self._merge()
        return {
            "retention_hours": self.retention_hours,
            "hours": self._hours,
            "cells": self._cells,
            "versions": self._versions,
            "sums": self._sums,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> History:
        """The history that `save` gave."""
        history = cls(state["retention_hours"])
        history._hours, history._cells = state["hours"], state["cells"]
        history._sums = state["sums"]
        history._versions = state.get("versions", np.zeros(history._hours.size, np.int16))
        return history
