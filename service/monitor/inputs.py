"""Inputs: where each feature's values fall, per cell, in the reference and since.

Numbers are counted between the reference's quantiles, texts by their most frequent values, and
what is missing by itself. It needs no label. What it says is a description, not yet an alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from service.ingest.events import EventBatch, Floats, Ints, Value
from service.monitor.findings import Finding
from service.monitor.learn import Signal
from service.monitor.observer import Look

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Indices = npt.NDArray[np.intp]

MIN_ROWS: Final = 30  # in the reference and since, for a feature to be said to have moved


@dataclass(frozen=True, slots=True)
class Histogram:
    """Where one feature's values fall, as counts of each bin; the last bin is for missing ones."""

    signal: Signal
    before: Ints  # of the slice in the reference
    after: Ints  # of the slice since
    rest_before: Ints
    rest_after: Ints

    @property
    def distance(self) -> float:
        """Total variation between before and after: the share of rows that lie elsewhere now."""
        return _distance(self.before, self.after)

    @property
    def rest_distance(self) -> float:
        """The same of everyone else."""
        return _distance(self.rest_before, self.rest_after)

    @property
    def largest_move(self) -> dict[str, Any] | None:
        """The share that changed most, as `Inputs.shifts` has it."""
        return _largest_moves(self.signal, self.before[None], self.after[None]).told(0)


class Inputs:
    """Counts of every signal's bins: int64, shape (n_cells, n_bins of all signals)."""

    name = "inputs"

    def __init__(self, signals: tuple[Signal, ...]) -> None:
        self.signals = signals
        self.offsets = np.concatenate(([0], np.cumsum([s.n_bins for s in signals]))).astype(np.intp)
        self.reference: Ints = np.zeros((0, int(self.offsets[-1])), np.int64)
        self.since: Ints = np.zeros((0, int(self.offsets[-1])), np.int64)
        self._lookups = [
            {value: code for code, value in enumerate(signal.values)} for signal in signals
        ]
        self._cuts = [np.array(signal.cuts) for signal in signals]

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count the predictions at `rows` of the batch; `cells` has one for each of them."""
        counts = self.reference if in_reference else self.since
        n_cells = int(cells.max(initial=-1)) + 1
        if len(counts) < n_cells:
            counts = np.concatenate(
                [
                    counts,
                    np.zeros((n_cells - len(counts) + len(counts) // 2, counts.shape[1]), np.int64),
                ]
            )
            if in_reference:
                self.reference = counts
            else:
                self.since = counts
        if not self.signals or not rows.size:
            return
        flat = counts.reshape(-1)
        row_starts = cells * counts.shape[1]
        whole = rows.size == len(batch)
        bins = np.empty((len(self.signals), rows.size), np.intp)
        for s, signal in enumerate(self.signals):
            column = batch.features.get(signal.name)
            found = self._bins(s, signal, column, len(batch))
            bins[s] = row_starts + self.offsets[s] + (found if whole else found[rows])
        np.add.at(flat, bins.reshape(-1), 1)

    def _bins(self, s: int, signal: Signal, column: Value | None, n: int) -> Indices:
        missing = signal.n_bins - 1
        if column is None:
            return np.full(n, missing, np.intp)
        if signal.kind == "numeric":
            if column.number is None:
                return np.full(n, missing, np.intp)
            # NaN sorts behind every cut; a value on a cut counts as above it
            bins = np.searchsorted(self._cuts[s], column.number, side="right")
            bins[np.isnan(column.number)] = missing
            return bins
        if column.text is None:
            return np.full(n, missing, np.intp)
        lookup, other = self._lookups[s], len(signal.values)
        codes = np.array([*(lookup.get(v, other) for v in column.text.values), missing], np.intp)
        return codes[column.text.codes]

    def shifts(self, membership: csr_array, slices: Indices) -> list[dict[str, Any] | None]:
        """The feature of each slice whose values moved most, in words and figures.

        The largest change of a share above a cut, or of a value's share, with at least 30 rows on
        both sides; None without any. A description: it carries no promise on false alarms.
        """
        if not self.signals:
            return [None] * len(slices)
        before, after = (_of_slices(c, membership, slices) for c in (self.reference, self.since))
        moves = [
            _largest_moves(signal, before[:, part], after[:, part])
            for signal, part in self._parts()
        ]
        foremost = np.argmax([move.size for move in moves], axis=0)
        return [moves[s].told(row) for row, s in enumerate(foremost.tolist())]

    def histograms(self, membership: csr_array, slice_: int) -> list[Histogram]:
        """Each feature of a slice and of everyone else, in the reference and since."""
        one = np.array([slice_])
        before, after = (_of_slices(c, membership, one)[0] for c in (self.reference, self.since))
        rest_before, rest_after = self.reference.sum(axis=0), self.since.sum(axis=0)
        counts = (before, after, rest_before - before, rest_after - after)
        return [
            Histogram(signal, *(count[part] for count in counts)) for signal, part in self._parts()
        ]

    def _parts(self) -> Iterator[tuple[Signal, slice]]:
        """Each signal and where its bins stand."""
        for s, signal in enumerate(self.signals):
            yield signal, slice(self.offsets[s], self.offsets[s + 1])

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """Nothing: they are described to who asks."""
        return []

    def in_use(self) -> list[int]:
        """None: they are counted by cell."""
        return []

    def renew(self, places: Indices) -> None:
        """Nothing to do: they are counted by cell."""

    def save(self) -> dict[str, Any]:
        """The counts."""
        return {"reference": _trim(self.reference), "since": _trim(self.since)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the counts that `save` gave."""
        self.reference = np.array(state["reference"])
        self.since = np.array(state["since"])


def _of_slices(counts: Ints, membership: csr_array, slices: Indices) -> Ints:
    """The counts of each slice's cells, summed, shape (n_slices, n_bins)."""
    members = membership[slices, :]
    n_cells = min(len(counts), members.shape[1])
    return np.asarray(members[:, :n_cells] @ counts[:n_cells]).astype(np.int64)


def _distance(before: Ints, after: Ints) -> float:
    if not (before.sum() and after.sum()):
        return 0.0
    return float(np.abs(after / after.sum() - before / before.sum()).sum() / 2)


def _trim(counts: Ints) -> Ints:
    """Without the empty rows at the end, which are spare room."""
    used = np.flatnonzero(counts.any(axis=1))
    return counts[: int(used[-1]) + 1].copy() if used.size else counts[:0].copy()


@dataclass(frozen=True, slots=True)
class _Moves:
    """The largest move of one signal in each slice, as columns."""

    signal: Signal
    share: Indices  # which of the signal's shares
    before: Floats
    after: Floats
    size: Floats  # of the move; -1 where there are too few rows

    def told(self, row: int) -> dict[str, Any] | None:
        """The move of one slice in words and figures."""
        if self.size[row] < 0:
            return None
        return {
            "feature": self.signal.name,
            "share": _share_names(self.signal)[int(self.share[row])],
            "from": float(self.before[row]),
            "to": float(self.after[row]),
        }


def _share_names(signal: Signal) -> list[str]:
    if signal.kind == "numeric":
        return [*(f"above {cut:.4g}" for cut in signal.cuts), "missing"]
    return [*(f"is {value}" for value in signal.values), "is another value", "missing"]


def _largest_moves(signal: Signal, before: Ints, after: Ints) -> _Moves:
    """Of the counts of many slices, shape (n_slices, n_bins)."""
    enough = np.minimum(before.sum(axis=1), after.sum(axis=1)) >= MIN_ROWS
    old, new = _shares(signal, before), _shares(signal, after)
    most = np.argmax(np.abs(new - old), axis=1)
    row = np.arange(most.size)
    was, now = old[row, most], new[row, most]
    return _Moves(signal, most, was, now, np.where(enough, np.abs(now - was), -1.0))


def _shares(signal: Signal, counts: Ints) -> Floats:
    """What the largest move is sought among: shares above each cut or of each value, and missing.

    Above a cut are the bins from its right on; what is missing stands apart.
    """
    shares: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if signal.kind == "numeric":
        above = np.cumsum(shares[:, -2::-1], axis=1)[:, ::-1]
        shares = np.concatenate([above[:, 1:], shares[:, -1:]], axis=1)
    return shares
