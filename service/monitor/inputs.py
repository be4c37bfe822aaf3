"""Inputs: where each signal's values fall, per cell, in the reference and since; what moved.

It needs no label, so it is the first to know. Rows are counted as they come; the fleets look once
a stretch: when an hour is over, or sooner where rows are many. `shifts` and `histograms` describe
to whoever asks, and promise nothing on false alarms; findings come out of the budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from detectors import Budget, season_of_shares
from service.ingest.events import Codes, EventBatch, Floats, Ints
from service.monitor.config import ReferenceRows as StatedRows
from service.monitor.findings import Finding
from service.monitor.history import HOUR, RETENTION_HOURS
from service.monitor.indicators import Indicators
from service.monitor.input_naming import InputNamer
from service.monitor.input_watch import InputWatch, ReferenceRows
from service.monitor.observer import LOOK_SECONDS, SECOND, Look
from service.monitor.pending import cluster_hashes
from service.monitor.signals import Reader, Signal
from service.monitor.signature import Sounds
from service.monitor.slices import Slices
from service.monitor.stretches import Stretches
from service.monitor.tally import Tally, grown

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Indices = npt.NDArray[np.intp]

MIN_ROWS: Final = 30  # in the reference and since, for a feature to be said to have moved
MIN_REFERENCE_ROWS: Final = 50
ROWS_A_SLICE: Final = 15  # of a stretch: a slice takes some microseconds, a row is in some slices
FEWEST_ROWS: Final = 100  # of a stretch, however long it took


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
    """Counts of every signal's bins, int64, shape (n_cells, n_bins), and the fleets over them."""

    name = "inputs"

    def __init__(self, signals: tuple[Signal, ...]) -> None:
        self.signals = signals
        self.indicators = Indicators(signals)
        self.offsets = self.indicators.bins
        self.since: Ints = np.zeros((0, self.indicators.n_bins), np.int64)
        self.stretches = Stretches()  # the same as since, by time, for who asks since when
        self.sounds = Sounds()
        self.watch: InputWatch | None = None  # once the reference is over
        self.n_unwatched = 0  # slices, for which there is no room
        self._reader = Reader(signals)
        self._reference, self._now = Tally(self.offsets), Tally(self.offsets)  # and this stretch
        self._reference_rows = ReferenceRows.none(len(signals))
        self._hours: dict[int, Ints] = {}  # of the reference, since 1970: everyone's counts
        self._began_at = 0  # the present stretch, microseconds
        self._seconds = 0.0  # that it stands for
        self._n_rows = 0  # that it has

    @property
    def reference(self) -> Ints:
        """Counts of the reference, shape (n_cells, n_bins)."""
        return self._reference.counts

    @property
    def is_learning(self) -> bool:
        """Whether the rows of the reference are still coming."""
        return self.watch is None

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count the predictions at `rows` of the batch; `cells` has one for each of them."""
        if not self.signals or not rows.size:
            return
        bins = self._reader.bins(batch, rows)
        self.sounds.add(batch, rows, cells, in_reference)
        if in_reference:
            self._reference.add(cells, bins)
            self._keep(batch, rows, cells, bins)
            self._note_hours(batch.time[rows] // HOUR, bins)
        else:
            self._now.add(cells, bins)
            self._n_rows += rows.size

    def _keep(self, batch: EventBatch, rows: Indices, cells: Indices, bins: Codes) -> None:
        """Keep rows of the reference one by one: they tell how far counts scatter."""
        times, clusters = batch.time[rows], cluster_hashes(batch)[rows]
        more = ReferenceRows.of(cells, clusters, times, bins)
        self._reference_rows = self._reference_rows.join(more)

    def _note_hours(self, hours: Ints, bins: Codes) -> None:
        """Count each hour of the reference by itself: they tell what is usual in a day."""
        n_bins = self.indicators.n_bins
        flat = bins + self.offsets[:-1, None]
        for hour in np.unique(hours).tolist():
            counts = np.bincount(flat[:, hours == hour].ravel(), minlength=n_bins)
            self._hours[hour] = self._hours.get(hour, 0) + counts
        if len(self._hours) > RETENTION_HOURS:
            latest = sorted(self._hours)[-RETENTION_HOURS:]
            self._hours = {hour: self._hours[hour] for hour in latest}

    def forget_reference(self) -> None:
        """Another reference is about to be told."""
        self._reference = Tally(self.offsets)
        self._reference_rows = ReferenceRows.none(len(self.signals))
        self._hours = {}
        self.sounds.forget()

    def begin(self, slices: Slices) -> None:
        """Watch from now on: what has been counted as the reference is what is normal."""
        counts = _of_slices(self.reference, slices.membership(), np.arange(len(slices)))
        hours = np.array(sorted(self._hours), np.intp)
        of_hours = np.array([self._hours[hour] for hour in hours.tolist()])
        season = season_of_shares(hours, self.indicators.shares(of_hours))
        self.watch = InputWatch.fit(self.indicators, counts, self._reference_rows, slices, season)
        self._reference_rows, self._hours = ReferenceRows.none(len(self.signals)), {}

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """What moved in the stretch that ends now, once it has rows enough."""
        if not self.signals:
            return []
        if self.watch is None:
            return self._learn(monitor, look)
        self._seconds += look.seconds
        if not self._is_due(look, len(monitor.slices)):
            return []
        self.n_unwatched = self.watch.grow(monitor.slices)
        membership = monitor.slices.membership()[: len(self.watch)]
        shares = self.indicators.shares(_of_cells(self._now.counts, membership))
        usual = self.watch.usual(self._began_at, look.at)
        self._close_stretch(look)
        findings: list[Finding] = []
        if monitor.config.is_within_budget:
            budget, orders = Budget(monitor.config.alerts_a_week), monitor.slices.orders()
            seconds, self._seconds = self._seconds, 0.0
            found = self.watch.detect(
                shares, orders[: len(self.watch)], seconds, budget, monitor.watching, usual
            )
            namer = InputNamer(monitor, self, self.watch, look.at)
            findings = namer.name(*found, self.watch.recovered(shares, seconds, usual), shares)
        return findings

    def _learn(self, monitor: Monitor, look: Look) -> list[Finding]:
        """Begin to watch where the reference is over, whether labels came or not."""
        stated, n = monitor.config.reference, int(self.reference.sum()) // len(self.signals)
        self._began_at = look.at
        if isinstance(stated, StatedRows):
            over = n >= stated.rows
        else:
            since, until = (int(at.timestamp()) * SECOND for at in (stated.from_, stated.until))
            if look.at <= since:
                self.forget_reference()
            over = look.at >= until and n >= MIN_REFERENCE_ROWS
        if over:
            self.begin(monitor.slices)
        return []

    def _is_due(self, look: Look, n_slices: int) -> bool:
        """Rows enough to pay for a look at every slice, or an hour with some."""
        if self._n_rows >= ROWS_A_SLICE * n_slices:
            return True
        return look.at - self._began_at >= LOOK_SECONDS * SECOND and self._n_rows >= FEWEST_ROWS

    def _close_stretch(self, look: Look) -> None:
        counts = self._now.used
        self.stretches.add(self._began_at, look.at, counts)
        self.since = grown(self.since, len(counts))
        self.since[: len(counts)] += counts
        self._now.clear()
        self._began_at, self._n_rows = look.at, 0

    def so_far(self) -> Ints:
        """Counts since the reference, the present stretch included."""
        longer, shorter = self.since, self._now.counts
        if len(longer) < len(shorter):
            longer, shorter = shorter, longer
        summed = longer.copy()
        summed[: len(shorter)] += shorter
        return summed

    def since_then(self, at: int) -> Ints:
        """Counts since an instant, to the stretch in which it lies."""
        now = self._now.counts
        n_cells = max(len(self.since), len(now))
        counts = self.stretches.since(at, n_cells, self.indicators.n_bins)
        counts[: len(now)] += now
        return counts

    def shifts(self, membership: csr_array, slices: Indices) -> list[dict[str, Any] | None]:
        """The feature of each slice whose values moved most, in words and figures.

        The largest change of a share above a cut, or of a value's share, with at least 30 rows on
        both sides; None without any. A description: it carries no promise on false alarms.
        """
        if not self.signals:
            return [None] * len(slices)
        before, after = (_of_slices(c, membership, slices) for c in (self.reference, self.so_far()))
        moves = [
            _largest_moves(signal, before[:, part], after[:, part])
            for signal, part in self._parts()
        ]
        foremost = np.argmax([move.size for move in moves], axis=0)
        return [moves[s].told(row) for row, s in enumerate(foremost.tolist())]

    def histograms(
        self, membership: csr_array, slice_: int, since: int | None = None
    ) -> list[Histogram]:
        """Each feature of a slice and of everyone else, in the reference and since (an instant)."""
        one = np.array([slice_])
        now = self.so_far() if since is None else self.since_then(since)
        before, after = (_of_slices(c, membership, one)[0] for c in (self.reference, now))
        rest_before, rest_after = self.reference.sum(axis=0), now.sum(axis=0)
        counts = (before, after, rest_before - before, rest_after - after)
        return [
            Histogram(signal, *(count[part] for count in counts)) for signal, part in self._parts()
        ]

    def _parts(self) -> Iterator[tuple[Signal, slice]]:
        """Each signal and where its bins stand."""
        for s, signal in enumerate(self.signals):
            yield signal, slice(self.offsets[s], self.offsets[s + 1])

    def in_use(self) -> list[int]:
        """Slices with an alert, and those that everyone's inputs are watched without."""
        return [] if self.watch is None else [*self.watch.incidents, *self.watch.parts]

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: nothing is known of their inputs yet."""
        if self.watch is not None:
            self.watch.renew(places)

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "reference": self._reference.used,
            "since": _trim(self.since),
            "now": self._now.used,
            "stretches": self.stretches.save(),
            "sounds": self.sounds.save(),
            "watch": None if self.watch is None else self.watch.save(),
            "rows": self._reference_rows.save(),
            "hours": [[hour, self._hours[hour]] for hour in sorted(self._hours)],
            "numbers": [self._began_at, self._seconds, self._n_rows, self.n_unwatched],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self._reference.restore(state["reference"])
        self.since = np.array(state["since"])
        self._now.restore(state["now"])
        self.stretches.restore(state["stretches"])
        self.sounds.restore(state["sounds"])
        if state["watch"] is not None:
            self.watch = InputWatch.restore(self.indicators, state["watch"])
        self._reference_rows = ReferenceRows(*state["rows"])
        self._hours = {hour: np.array(counts) for hour, counts in state["hours"]}
        self._began_at, self._seconds, self._n_rows, self.n_unwatched = state["numbers"]


def _of_cells(counts: Ints, membership: csr_array) -> Ints:
    """Sums of every slice; only cells that have any are looked at."""
    cells = np.flatnonzero(counts.any(axis=1))
    return np.asarray(membership[:, cells] @ counts[cells]).astype(np.int64)


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
    new = ["is a new value"] if signal.known is not None else []
    return [*(f"is {value}" for value in signal.values), "is another value", *new, "missing"]


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
