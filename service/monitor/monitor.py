"""Monitor: one model's walk from rows to findings.

`absorb` takes a batch: rows get their cell, labels their prediction, sums grow. `tick` ends a
stretch of the labels' own time: the fleets see its sums, and what crossed is named. Ticks fall
after a certain row, wherever requests were cut, so the same rows give the same findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors import Budget, Detections
from service.ingest.events import LABEL, PREDICTION, Bools, EventBatch, Floats
from service.monitor.config import Matured, MonitorConfig, ReferenceRows, seconds
from service.monitor.findings import Finding
from service.monitor.history import HOUR, History
from service.monitor.inputs import Inputs
from service.monitor.join import Join, Matched
from service.monitor.learn import Schema
from service.monitor.losses import RATIO_LOSSES, SCALED_LOSSES, score
from service.monitor.naming import Namer
from service.monitor.null_weeks import learn_watch
from service.monitor.outside import Outside
from service.monitor.slices import ABSENT, Slices
from service.monitor.stream_clock import StreamClock
from service.monitor.watch import Labelled, Watch

SECOND: Final = 1_000_000  # microseconds
MIN_REFERENCE_LABELS: Final = 50
MAX_REFERENCE_LABELS: Final = 200_000
MAX_WEIGHT: Final = 50.0  # of a label chosen with probability 0.02 or less
# Fewer labels wait for the next tick. What a slice's share f of k labels tells grows as f(1 - f);
# seen k at a time, one part in k of it is lost, and seen one by one all of it.
MIN_TICK_LABELS: Final = 10
CAP_QUANTILE: Final = 0.995  # of the reference's losses: one garbled transcript is not an epidemic


@dataclass(frozen=True, slots=True)
class Counted:
    """What a batch's rows were: a duplicate, late (not joined), refused, or new."""

    duplicate: Bools
    late: Bools
    refused: Bools  # predictions from before the horizon: whether they came before is forgotten

    @classmethod
    def concatenate(cls, parts: list[Counted]) -> Counted:
        """One after another."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__))


class Monitor:
    """One model, once it is known what of it is to be watched."""

    def __init__(self, config: MonitorConfig, schema: Schema, tick_seconds: int) -> None:
        self.config = config
        self.schema = schema
        self.slices = Slices(list(schema.dimensions), config.order)
        self.join = Join(schema.loss, seconds(config.label_horizon) * SECOND)
        self.inputs = Inputs(schema.signals)
        self.history = History()
        self.clock = StreamClock(tick_seconds * SECOND)  # of the labels
        self.row_clock = StreamClock(tick_seconds * SECOND)  # of the predictions
        self.watch: Watch | None = None
        self.outside = Outside(config)
        self.reference: list[Labelled] = []  # labelled rows until the reference is complete
        self.reference_until = 0  # the predictions' stream time when it was
        self.forgotten_at = 0  # stream time at which the join last forgot what is past the horizon
        self.closed_until = (
            0  # event hours before this are counted; 0 where labels count on arrival
        )
        self.cap = np.inf  # of a row's loss, as the detectors take it
        self.n_predictions = 0
        self.n_labels = 0
        self.n_unscored = 0  # labels that do not fit their prediction
        self._since_tick: list[Labelled] = []  # since the last that detected
        self._n_ticks = 0  # since then

    def absorb(self, batch: EventBatch, received_at: int) -> tuple[Counted, list[Finding]]:
        """Fold in a batch of this model's rows; give what each was, and what was found."""
        findings: list[Finding] = []
        counted = []
        for part, tick_at in self._until_ticks(batch, received_at):
            refused = self._forgotten(part, received_at)
            kept = part.take(np.flatnonzero(~refused)) if refused.any() else part
            cells = self.slices.assign(kept)
            rows = self.join.match(kept, cells)
            self._sum(kept, cells, rows, self._score(rows))
            counted.append(_spread(rows, refused))
            if self.row_clock.now > self.forgotten_at:
                self.forgotten_at = self.row_clock.now
                self.join.forget(self.forgotten_at)
            if tick_at:
                findings += self.tick(tick_at)
        return Counted.concatenate(counted), findings

    def tick(self, at: int) -> list[Finding]:
        """End a stretch of the labels' time: detect, and name what was detected."""
        self._n_ticks += 1
        rows, unripe = self._ripe()
        if self.watch is not None and len(rows) < MIN_TICK_LABELS:
            return []
        self._since_tick = [unripe] if len(unripe) else []
        n_ticks, self._n_ticks = self._n_ticks, 0
        if self.watch is None:
            self._learn_reference(rows)
            return []
        summary = rows.summary(self.slices.n_cells)
        self.watch.grow(self.slices)
        outcomes = self.watch.outcomes(summary, self.slices)
        uneven = worldwide = Detections.none()
        if self.config.is_within_budget:
            uneven, worldwide = self.watch.detect(
                outcomes, self.slices.orders(), n_ticks * self.clock.tick / SECOND
            )
        outside = self.outside.update(rows, self.slices, self.history)
        recovered = self.watch.recovered(outcomes)
        if not (len(uneven) or len(worldwide) or outside or len(recovered)):
            return []
        return Namer(self, self.watch, at).name(uneven, worldwide, outside, recovered)

    def _until_ticks(
        self, batch: EventBatch, received_at: int
    ) -> Iterator[tuple[EventBatch, int | None]]:
        """The batch cut after the rows at which a tick falls due, with the tick's time."""
        label_rows = np.flatnonzero(batch.kind & LABEL)
        due = self.clock.advance(batch.time[label_rows], received_at)
        start = 0
        for n_labels, tick_at in due:
            stop = int(label_rows[n_labels - 1]) + 1
            yield batch.take(np.arange(start, stop)), tick_at
            start = stop
        if start == 0:
            yield batch, None
        elif start < len(batch):
            yield batch.take(np.arange(start, len(batch))), None

    def _forgotten(self, part: EventBatch, received_at: int) -> Bools:
        """Predictions so old when they came that whether they came before is no longer known."""
        predictions = np.flatnonzero(part.kind & PREDICTION)
        times = part.time[predictions]
        now = self.row_clock.readings(times, received_at)
        forgotten = np.zeros(len(part), np.bool_)
        forgotten[predictions] = times < now - self.join.horizon
        return forgotten

    def _score(self, rows: Matched) -> Labelled:
        """Losses of the labels that met their prediction."""
        loss, exposure = score(self.schema.loss, rows.outputs, rows.labels)
        fits = np.flatnonzero(~np.isnan(loss))
        weight = np.ones(fits.size)
        if rows.labels.inclusion_probability is not None:
            chance = rows.labels.inclusion_probability[fits]
            weight = np.minimum(1.0 / np.where(np.isnan(chance), 1.0, chance), MAX_WEIGHT)
        published = loss[fits]
        if self.config.loss_scale is not None:
            published = np.minimum(published, self.config.loss_scale * exposure[fits])
        return Labelled(
            cell=self._labelled_cells(rows)[fits],
            hour=rows.time[fits] // HOUR,
            cluster=rows.cluster[fits],
            weight=weight,
            loss=published,
            capped=self._capped(published),
            exposure=exposure[fits],
        )

    def _capped(self, loss: Floats) -> Floats:
        """Losses as the detectors take them: at most the cap, in its units if they have none."""
        unit = self.cap if self.schema.loss in SCALED_LOSSES and np.isfinite(self.cap) else 1.0
        capped: Floats = np.minimum(loss, self.cap) / unit
        return capped

    def _labelled_cells(self, rows: Matched) -> npt.NDArray[np.intp]:
        """The predictions' cells, with what their labels add."""
        levels = self.slices.levels[rows.label_cell]
        levels[rows.label_cell == 0] = ABSENT  # past the cap on cells: what it said is not known
        if not levels.any():
            return rows.cell
        both = np.where(levels > 0, levels, self.slices.levels[rows.cell])
        return self.slices.cells_of(both)

    def _sum(
        self, part: EventBatch, cells: npt.NDArray[np.intp], rows: Matched, labelled: Labelled
    ) -> None:
        new = rows.predictions
        self.history.add_rows(part.time[new] // HOUR, cells[new])
        self.inputs.add(part, new, cells[new], self.slices.n_cells, self.watch is None)
        self.n_predictions += new.size
        self.history.add_labels(
            labelled.hour,
            labelled.cell,
            labelled.weight,
            labelled.loss,
            labelled.capped,
            labelled.exposure,
        )
        self.n_labels += len(labelled)
        self.n_unscored += len(rows.labels) - len(labelled)
        on_time = labelled.hour >= self.closed_until
        if on_time.any():
            self._since_tick.append(labelled.take(np.flatnonzero(on_time)))

    def _ripe(self) -> tuple[Labelled, Labelled]:
        """The rows that may be counted now, all or those of hours whose labels are in; the others.

        Where delay depends on the outcome, early labels are not like late ones; an hour is then
        counted once, at its maturity, and what comes later is published and not judged.
        """
        rows = Labelled.concatenate(self._since_tick)
        if not isinstance(self.config.labels, Matured):
            return rows, Labelled.concatenate([])
        self.closed_until = max(
            self.closed_until,
            (self.row_clock.now - seconds(self.config.labels.matured) * SECOND) // HOUR,
        )
        ripe = rows.hour < self.closed_until
        return rows.take(np.flatnonzero(ripe)), rows.take(np.flatnonzero(~ripe))

    def _learn_reference(self, rows: Labelled) -> None:
        """Keep rows for the reference, and learn from them once there are enough."""
        if len(rows):
            self.reference.append(rows)
        n_labels = sum(len(part) for part in self.reference)
        if n_labels < MIN_REFERENCE_LABELS or not self._reference_is_over(n_labels):
            return
        reference = Labelled.concatenate(self.reference)
        stated = self.config.reference
        if not isinstance(stated, ReferenceRows):
            since, until = (int(at.timestamp()) * SECOND for at in (stated.from_, stated.until))
            inside = (reference.hour >= since // HOUR) & (reference.hour * HOUR < until)
            if inside.sum() >= MIN_REFERENCE_LABELS:
                reference = reference.take(np.flatnonzero(inside))
        self.start_watch(reference)

    def _reference_is_over(self, n_labels: int) -> bool:
        stated = self.config.reference
        if n_labels >= MAX_REFERENCE_LABELS:
            return True
        if isinstance(stated, ReferenceRows):
            return self.n_predictions >= stated.rows
        return self.clock.now >= int(stated.until.timestamp()) * SECOND

    def start_watch(self, reference: Labelled) -> None:
        """Take these labelled rows as what normal was, and watch from now on."""
        self.cap = max(float(np.quantile(reference.loss, CAP_QUANTILE)), 1e-12)
        if self.schema.loss not in SCALED_LOSSES:
            self.cap = max(self.cap, 1.0)
        if self.config.loss_scale is not None and self.schema.loss not in RATIO_LOSSES:
            self.cap = self.config.loss_scale
        reference = replace(reference, capped=self._capped(reference.loss))
        before = self.watch
        self.watch = learn_watch(reference, self.slices, self.config)
        if before is not None:
            self.watch.take_over(before)
        self.outside.begin(reference, self.slices)
        self._since_tick = [
            replace(rows, capped=self._capped(rows.loss)) for rows in self._since_tick
        ]
        self.reference = []
        self.reference_until = self.row_clock.now

    def reconfigure(self, config: MonitorConfig) -> None:
        """Take up what may change while watching: tolerance, budget, horizon, shown rows."""
        self.config = config
        self.outside.restate(config)
        self.join.horizon = seconds(config.label_horizon) * SECOND
        if self.watch is not None:
            self.watch.restate(config.tolerance, Budget(config.alerts_a_week))

    def upload_reference(self, batch: EventBatch) -> int:
        """Take a set of labelled predictions as the reference; give how many could be scored."""
        cells = self.slices.assign(batch)
        rows = Join(self.schema.loss, self.join.horizon).match(batch, cells)
        labelled = self._score(rows)
        self.inputs.add(batch, rows.predictions, cells[rows.predictions], self.slices.n_cells, True)
        if len(labelled) >= MIN_REFERENCE_LABELS:
            self.start_watch(labelled)
        return len(labelled)

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "config": self.config.model_dump_json(by_alias=True),
            "schema": self.schema.save(),
            "tick_seconds": self.clock.tick // SECOND,
            "slices": self.slices.save(),
            "join": self.join.save(),
            "inputs": self.inputs.save(),
            "history": self.history.save(),
            "clock": self.clock.save(),
            "row_clock": self.row_clock.save(),
            "watch": None if self.watch is None else self.watch.save(),
            "outside": self.outside.save(),
            "reference": [_columns(part) for part in self.reference],
            "since_tick": [_columns(part) for part in self._since_tick],
            "numbers": [
                self.reference_until,
                self.closed_until,
                self.forgotten_at,
                self.cap,
                self.n_predictions,
                self.n_labels,
                self.n_unscored,
                self._n_ticks,
            ],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Monitor:
        """The monitor that `save` gave."""
        config = MonitorConfig.model_validate_json(state["config"])
        monitor = cls(config, Schema.restore(state["schema"]), state["tick_seconds"])
        monitor.slices = Slices.restore(state["slices"])
        monitor.join = Join.restore(state["join"])
        monitor.inputs.restore(state["inputs"])
        monitor.history = History.restore(state["history"])
        monitor.clock = StreamClock.restore(state["clock"])
        monitor.row_clock = StreamClock.restore(state["row_clock"])
        if state["watch"] is not None:
            budget = Budget(config.alerts_a_week)
            monitor.watch = Watch.restore(state["watch"], config.tolerance, budget)
        if "outside" in state:  # snapshots of before there were any have none
            monitor.outside.restore(state["outside"])
        monitor.reference = [Labelled(*columns) for columns in state["reference"]]
        monitor._since_tick = [Labelled(*columns) for columns in state["since_tick"]]
        (
            monitor.reference_until,
            monitor.closed_until,
            monitor.forgotten_at,
            monitor.cap,
            monitor.n_predictions,
            monitor.n_labels,
            monitor.n_unscored,
            monitor._n_ticks,
        ) = state["numbers"]
        return monitor


def _spread(rows: Matched, refused: Bools) -> Counted:
    """What was counted of the rows that were kept, over all rows."""
    duplicate, late = np.zeros(refused.size, np.bool_), np.zeros(refused.size, np.bool_)
    duplicate[~refused], late[~refused] = rows.duplicate, rows.late
    return Counted(duplicate, late, refused)


def _columns(rows: Labelled) -> list[Any]:
    return [getattr(rows, name) for name in Labelled.__slots__]
