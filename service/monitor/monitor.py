"""Monitor: one model's walk from rows to findings.

`absorb` takes a batch: rows get their cell, labels their prediction, sums grow. `tick` ends a
stretch of the labels' own time: the fleets see its sums, and what crossed is named. Ticks fall
after a certain row, wherever requests were cut, so the same rows give the same findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors import Budget, Detections, Outcomes
from detectors.summary import LABELS, ROWS
from service.ingest.events import (
    ANNOTATOR,
    LABEL,
    PREDICTION,
    Bools,
    Categories,
    Codes,
    EventBatch,
    Floats,
)
from service.monitor.admission import ABSENT
from service.monitor.composition import Composition
from service.monitor.config import Matured, MonitorConfig, ReferenceRows, seconds
from service.monitor.discovered import Condition, Discovered, Masks
from service.monitor.estimate import Estimate
from service.monitor.findings import Finding
from service.monitor.history import HOUR, History
from service.monitor.incidents import Incidents
from service.monitor.input_watch import INPUTS
from service.monitor.inputs import Inputs
from service.monitor.join import Indices, Join, Matched
from service.monitor.label_delay import LabelDelay
from service.monitor.label_process import LabelProcess
from service.monitor.learn import Schema
from service.monitor.losses import RATIO_LOSSES, SCALED_LOSSES, score
from service.monitor.naming import Namer
from service.monitor.null_weeks import (
    FEWEST_BLOCKS,
    can_be_drawn_from,
    learn_watch,
    n_hours,
)
from service.monitor.observer import Look, Looks, Observer
from service.monitor.outside import Outside
from service.monitor.quality import Quality
from service.monitor.rollout import RolloutWatch
from service.monitor.scores import Bins
from service.monitor.silence import LIVE, Silence
from service.monitor.slices import Slices
from service.monitor.stream_clock import StreamClock
from service.monitor.versions import Numbers, Versions
from service.monitor.watch import MIN_TICK_LABELS, WATCHING, Labelled, Watch

SECOND: Final = 1_000_000  # microseconds
SETTLE_EVERY: Final = 24 * HOUR
RETIRED_AFTER: Final = 14 * 24 * HOUR  # without a row
MIN_REFERENCE_LABELS: Final = 50
MAX_REFERENCE_LABELS: Final = 200_000
MAX_WEIGHT: Final = 50.0  # of a label chosen with probability 0.02 or less
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

    def spread(self, rows: npt.NDArray[np.intp], duplicate: Bools) -> Counted:
        """The same of a larger batch: what these rows were, and which of the others came before."""
        none = np.zeros(duplicate.size, np.bool_)
        whole = Counted(duplicate.copy(), none, none.copy())
        for name in self.__slots__:
            getattr(whole, name)[rows] = getattr(self, name)
        return whole


@dataclass(frozen=True, slots=True)
class Tick:
    """A look at the evidence, which falls due behind a certain row."""

    after: int  # how many rows of the batch come before it
    at: int  # its time, of the labels' clock
    rows_at: int  # how far the predictions had come by then
    look: Look | None = None  # at the predictions, and not at the labels


class Monitor:
    """One model, once it is known what of it is to be watched."""

    def __init__(self, config: MonitorConfig, schema: Schema, tick_seconds: int) -> None:
        self.config = config
        self.schema = schema
        self.slices = Slices(list(schema.dimensions), config.order, bands=dict(schema.bands))
        self.join = Join(schema.loss, seconds(config.label_horizon) * SECOND)
        self.inputs = Inputs(schema.signals)
        self.quality = Quality(config)
        self.silence = Silence()
        self.label_process = LabelProcess(self.silence)
        self.composition = Composition()
        # in this order: what is damaged has not moved, and how labels come is judged by the rows
        # that silence has counted
        self.observers: tuple[Observer, ...] = (
            self.quality,
            self.inputs,
            self.silence,
            self.label_process,
            self.composition,
        )
        self.looks = Looks(tick_seconds)
        self.history = History()
        self.versions = Versions()
        self.discovered = Discovered()
        self.rollout = RolloutWatch()
        self.estimate = Estimate(schema.scores)
        self.delays = LabelDelay()
        self.clock = StreamClock(tick_seconds * SECOND)  # of the labels
        self.row_clock = StreamClock(tick_seconds * SECOND)  # of the predictions
        self.watch: Watch | None = None
        self.incidents = Incidents()
        self.outside = Outside(config)
        # Labelled rows until the reference is complete; where hazards are to be calibrated, and it
        # is too short for that, until it is not.
        self.reference: list[Labelled] = []
        self.reference_until = 0  # the predictions' stream time when it was
        self.settled_at = 0  # the predictions' time at which slices were last settled
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
        """Fold in a batch of this model's rows; give what each was, and what was found.

        Rows are given their cell and joined a stretch at a time, and counted tick by tick.
        """
        refused, ticks = self._clocked(batch, received_at)
        kept = batch.take(np.flatnonzero(~refused)) if refused.any() else batch
        levels, versions = self.slices.levels_of(kept), self.versions.assign(kept)
        masks = self.discovered.masks(kept)
        bins = self.estimate.bins_of(self.schema.loss, kept)
        findings: list[Finding] = []
        duplicate, late = np.zeros(len(batch), np.bool_), np.zeros(len(batch), np.bool_)
        rows = np.flatnonzero(~refused)
        for start, stop, due in self._stretches(levels, ticks):
            part = kept if stop - start == len(kept) else kept.take(np.arange(start, stop))
            cells = self.slices.place(levels[start:stop])
            inside = None if masks is None else masks[start:stop]
            of_part = None if bins is None else bins[start:stop]
            matched = self.join.match(part, cells, versions[start:stop], inside, of_part)
            self._estimate(part, cells, of_part, matched.predictions)
            self.delays.add(matched.labels.time - matched.time)
            duplicate[rows[start:stop]] = matched.duplicate
            late[rows[start:stop]] = matched.late
            findings += self._count(part, cells, versions[start:stop], inside, matched, due)
        if self.row_clock.now > self.forgotten_at:
            self.forgotten_at = self.row_clock.now
            self.join.forget(self.forgotten_at)
        return Counted(duplicate, late, refused), findings

    def _estimate(self, part: EventBatch, cells: Indices, bins: Bins | None, new: Indices) -> None:
        """Count new predictions by their confidence; nothing that ticks find depends on it."""
        if bins is not None:
            self.estimate.count(part.time[new], cells[new], bins[new])

    def tick(self, tick: Tick) -> list[Finding]:
        """End a stretch of the labels' time: detect, and name what was detected."""
        self._n_ticks += 1
        rows, unripe = self._ripe(tick)
        if self.watch is not None and len(rows) < MIN_TICK_LABELS:
            return []
        self._since_tick = unripe
        n_ticks, self._n_ticks = self._n_ticks, 0
        if self.watch is None:
            self._learn_reference(rows, tick)
            return []
        self._settle(tick.rows_at)
        self.watch.grow(self.slices)
        self.watch.for_others = self.rollout.share + self.discovered.share
        seconds = n_ticks * self.clock.tick / SECOND
        outcomes = self.watch.judged(rows, self.slices, seconds)
        uneven = worldwide = Detections.none()
        if self.config.is_within_budget:
            uneven, worldwide = self.watch.detect(outcomes, self.slices, seconds, self.watching)
        outside = self.outside.update(rows, self.slices, self.history)
        reconsidered = self.incidents.reconsider(self, self.watch, tick.at)
        recovered = self._recovered(self.watch, rows, outcomes)
        self.watch.learn_season(rows, self.slices)
        self.estimate.tick(rows, self.slices, tick.at)
        beside: list[Finding] = []
        if self.config.is_within_budget:
            beside = self.rollout.tick(self, self.watch, rows, tick.at, seconds)
            beside += self.discovered.tick(self, self.watch, rows, tick.at, seconds)
        named: list[Finding] = []
        if len(uneven) or len(worldwide) or outside or recovered:
            namer = Namer(self, self.watch, tick.at)
            named = namer.name(uneven, worldwide, outside, recovered)
        if self.reference:
            self._prolong_reference(self.watch, rows)
        return reconsidered + named + beside

    def _recovered(self, watch: Watch, rows: Labelled, outcomes: Outcomes) -> list[int]:
        """Slices that are back, by rows of hours behind those that their alarm rests on."""
        own = self.incidents.resting_on(rows.hour)
        slices = [slice_ for group in own.values() for slice_ in group]
        found = watch.recovered(outcomes, np.array(slices, np.intp)).slices.tolist()
        for until, group in own.items():
            later = rows.take(np.flatnonzero(rows.hour >= until))
            if len(later):
                others = np.setdiff1d(np.arange(len(watch.recovery)), group)
                part = watch.outcomes(watch.summary(later, self.slices), self.slices)
                found += watch.recovered(part, others).slices.tolist()
        return sorted(found)

    def pass_time(self, now: int) -> list[Finding]:
        """What the wall clock alone tells of a model whose rows came as they were made."""
        return self.silence.of_everyone(self, now) if self.silence.is_live else []

    def _settle(self, at: int) -> None:
        """Once a day of the predictions' time, see who is gone, and who came and has no place."""
        if self.watch is None or at < self.settled_at + SETTLE_EVERY:
            return
        self.settled_at = at
        rows = self._traffic(at - RETIRED_AFTER)
        in_use = [
            *self.watch.in_use().tolist(),
            *self.outside.in_use(len(self.slices)).tolist(),
            *self.incidents.open,
            *self.incidents.over,
            *self.rollout.in_use(),
        ]
        for observer in self.observers:
            in_use += observer.in_use()
        renewed = self.slices.settle(rows, np.unique(np.array(in_use, np.intp)))
        self.watch.renew(renewed)
        self.rollout.renew(renewed)
        self.estimate.renew(renewed)
        for observer in self.observers:
            observer.renew(renewed)

    def _traffic(self, since: int | None) -> Floats:
        """Rows of each cell; a label counts too, for it may be all that says who somebody is."""
        sums = self.history.cells_between(self.slices.n_cells, since=since)
        traffic: Floats = sums[:, ROWS] + sums[:, LABELS]
        return traffic

    @property
    def watching(self) -> tuple[str, ...]:
        """Classes of streams that the budget is spent on now."""
        inputs = () if self.inputs.watch is None else (INPUTS,)
        return (*inputs, *(("process",) if self.watch is None else WATCHING))

    def _clocked(self, batch: EventBatch, received_at: int) -> tuple[Bools, list[Tick]]:
        """Move both clocks on by the batch: rows that are refused, and ticks that fall due.

        Refused are predictions so old when they came that whether they came before is no longer
        known.
        """
        before = self.row_clock.now
        predictions = np.flatnonzero(batch.kind & PREDICTION)
        times = batch.time[predictions]
        readings = self.row_clock.readings(times, received_at)
        if times.size:
            self.silence.is_live = received_at - int(times.max()) <= LIVE
        refused = np.zeros(len(batch), np.bool_)
        refused[predictions] = times < readings - self.join.horizon
        label_rows = np.flatnonzero(batch.kind & LABEL)
        due = self.clock.advance(batch.time[label_rows], received_at)
        stops = label_rows[[n_labels - 1 for n_labels, _ in due]] + 1
        reached = np.concatenate([[before], readings])[np.searchsorted(predictions, stops)]
        refused_rows = np.flatnonzero(refused)

        def after(stops: Indices) -> list[int]:
            places: list[int] = (stops - np.searchsorted(refused_rows, stops)).tolist()
            return places

        ticks = [
            Tick(stop, at, rows_at)
            for stop, (_, at), rows_at in zip(after(stops), due, reached.tolist(), strict=True)
        ]
        places, looks = self.looks.due(before, readings)
        stops = predictions[places] + 1
        ticks += [
            Tick(stop, look.at, look.at, look)
            for stop, look in zip(after(stops), looks, strict=True)
        ]
        return refused, sorted(ticks, key=lambda tick: (tick.after, tick.look is None))

    def _stretches(self, levels: Codes, ticks: list[Tick]) -> Iterator[tuple[int, int, list[Tick]]]:
        """Rows from one place to another, and the ticks among them, counted from the first.

        A stretch ends at the last tick before a row of a new cell: what a tick knows of is what
        came before it.
        """
        stops = np.array([tick.after for tick in ticks], np.intp)
        before = np.searchsorted(stops, self.slices.new_cells_at(levels), side="right")
        start = first = 0
        for last in [*np.unique(before[before > 0]).tolist(), None]:
            due = ticks[first:last]
            stop = len(levels) if last is None else due[-1].after
            yield start, stop, [replace(tick, after=tick.after - start) for tick in due]
            start, first = stop, last or 0

    def _count(
        self,
        part: EventBatch,
        cells: Indices,
        versions: Numbers,
        masks: Masks | None,
        rows: Matched,
        ticks: list[Tick],
    ) -> list[Finding]:
        """Count the rows of a stretch in their order, and look where a tick falls due."""
        findings: list[Finding] = []
        labelled, at_row, adding, annotators = self._score(rows)
        self.n_unscored += len(rows.labels) - len(labelled)
        new = rows.predictions
        hours, new_cells, versions = part.time[new] // HOUR, cells[new], versions[new]
        ends = [*(tick.after for tick in ticks), len(part)]
        row = label = n_described = 0
        for tick, next_row, next_label in zip(
            [*ticks, None],
            np.searchsorted(new, ends).tolist(),
            np.searchsorted(at_row, ends).tolist(),
            strict=True,
        ):
            counted = slice(row, next_row)
            self.history.add_rows(hours[counted], new_cells[counted], versions[counted])
            self.versions.count(versions[counted], hours[counted])
            if masks is not None:
                self.discovered.count(masks[new[counted]])
            self.n_predictions += next_row - row
            among = slice(label, next_label)
            self._sum(labelled.between(label, next_label), adding[among], _at(annotators, among))
            row, label = next_row, next_label
            look = None if tick is None else tick.look
            if tick is not None and look is None:
                findings += self.tick(tick)
            if tick is None or look is not None:
                described, in_reference = slice(n_described, row), self.inputs.is_learning
                for observer in self.observers:
                    observer.add(part, new[described], new_cells[described], in_reference)
                n_described = row
            if look is not None:
                findings += [f for observer in self.observers for f in observer.look(self, look)]
        return findings

    def _score(self, rows: Matched) -> tuple[Labelled, Indices, Indices, Categories]:
        """Losses of the labels that met their prediction, the rows at which they did, what cells
        the labels themselves add (none, if no label says more than its prediction), and by whom.
        """
        loss, exposure = score(self.schema.loss, rows.outputs, rows.labels, self.config.normaliser)
        fits = np.flatnonzero(~np.isnan(loss))
        weight = np.ones(fits.size)
        if rows.labels.inclusion_probability is not None:
            chance = rows.labels.inclusion_probability[fits]
            weight = np.minimum(1.0 / np.where(np.isnan(chance), 1.0, chance), MAX_WEIGHT)
        judged_by = weight.copy()
        if rows.labels.stratum is not None:
            judged_by[rows.labels.stratum.present[fits]] = 1.0
        given_by = rows.labels.attributes.get(ANNOTATOR) or Categories.absent(len(rows.labels))
        published = loss[fits]
        if self.config.loss_scale is not None:
            published = np.minimum(published, self.config.loss_scale * exposure[fits])
        labelled = Labelled(
            cell=rows.cell[fits],
            hour=rows.time[fits] // HOUR,
            cluster=rows.cluster[fits],
            weight=weight,
            loss=published,
            capped=published,  # until it is counted: the cap may change before
            exposure=exposure[fits],
            evidence_weight=judged_by,
            version=rows.version[fits],
            mask=rows.mask[fits],
            bin=rows.bin[fits],
        )
        return labelled, rows.at_row[fits], self._adding(rows.label_cell[fits]), _at(given_by, fits)

    def _adding(self, label_cells: Indices) -> Indices:
        levels = self.slices.levels[label_cells]
        said = (levels != ABSENT).any(axis=1) & (label_cells != 0)  # 0: past the cap, not known
        return np.where(said, label_cells, 0) if said.any() else label_cells[:0]

    def _labelled_cells(self, cells: Indices, adding: Indices) -> Indices:
        """The predictions' cells, with what their labels add."""
        if not adding.any():
            return cells
        theirs = self.slices.levels[adding]
        theirs[adding == 0] = ABSENT
        return self.slices.cells_of(np.where(theirs > 0, theirs, self.slices.levels[cells]))

    @property
    def loss_unit(self) -> float:
        """What detectors count as one loss: the cap where losses have no unit of their own."""
        is_scaled = self.schema.loss in SCALED_LOSSES and np.isfinite(self.cap)
        return float(self.cap) if is_scaled else 1.0

    def _capped(self, loss: Floats) -> Floats:
        """Losses as the detectors take them: at most the cap, in its units if they have none."""
        unit = self.loss_unit
        capped: Floats = np.minimum(loss, self.cap) / unit
        return capped

    def _sum(self, labelled: Labelled, adding: Indices, given_by: Categories) -> None:
        """Count labelled rows, in the cells that their labels add to."""
        annotators = self.label_process.annotators_of(given_by, self.watch is None)
        evidence = self.label_process.are_evidence(annotators)
        labelled = replace(
            labelled,
            cell=self._labelled_cells(labelled.cell, adding),
            capped=self._capped(labelled.loss),
            evidence_weight=np.where(evidence, labelled.evidence_weight, 0.0),
        )
        self.label_process.count(labelled.hour, labelled.cell, labelled.weight, annotators)
        self.history.add_labels(
            labelled.hour,
            labelled.cell,
            labelled.weight,
            labelled.loss,
            labelled.capped,
            labelled.exposure,
            labelled.evidence_weight,
            labelled.version,
        )
        self.n_labels += len(labelled)
        if self.watch is not None:
            self.incidents.add(self, self.watch, labelled)
        on_time = labelled.hour >= self.closed_until
        if not on_time.all():
            labelled = labelled.take(np.flatnonzero(on_time))
        if len(labelled):
            self._since_tick.append(labelled)

    def _ripe(self, tick: Tick) -> tuple[Labelled, list[Labelled]]:
        """The rows that may be counted now, all or those of hours whose labels are in; the others.

        Where delay depends on the outcome, early labels are not like late ones; an hour is then
        counted once, at its maturity, and what comes later is published and not judged.
        """
        if not isinstance(self.config.labels, Matured):
            return Labelled.concatenate(self._since_tick), []
        closed_until = (tick.rows_at - seconds(self.config.labels.matured) * SECOND) // HOUR
        if closed_until <= self.closed_until:
            return Labelled.concatenate([]), self._since_tick
        self.closed_until = closed_until
        rows = Labelled.concatenate(self._since_tick)
        ripe = rows.hour < closed_until
        return rows.take(np.flatnonzero(ripe)), [rows.take(np.flatnonzero(~ripe))]

    def _learn_reference(self, rows: Labelled, tick: Tick) -> None:
        """Keep rows for the reference, and learn from them once there are enough."""
        if len(rows):
            self.reference.append(rows)
        stated = self.config.reference
        if isinstance(stated, ReferenceRows) and self.n_predictions >= stated.rows:
            self.reference_until = self.reference_until or tick.rows_at
        n_labels = sum(len(part) for part in self.reference)
        if n_labels < MIN_REFERENCE_LABELS or not self._reference_is_over(n_labels, tick):
            return
        reference = Labelled.concatenate(self.reference)
        if not isinstance(stated, ReferenceRows):
            since, until = (int(at.timestamp()) * SECOND for at in (stated.from_, stated.until))
            inside = (reference.hour >= since // HOUR) & (reference.hour * HOUR < until)
            if inside.sum() >= MIN_REFERENCE_LABELS:
                reference = reference.take(np.flatnonzero(inside))
        matured = isinstance(self.config.labels, Matured)
        self.start_watch(reference, self.closed_until * HOUR if matured else tick.rows_at)

    def _reference_is_over(self, n_labels: int, tick: Tick) -> bool:
        """Whether the rows that are stated have come, and their labels are in."""
        stated = self.config.reference
        if n_labels >= MAX_REFERENCE_LABELS:
            return True
        if isinstance(stated, ReferenceRows):
            if not self.reference_until:
                return False
            until, reached = self.reference_until, tick.rows_at
        else:
            until, reached = int(stated.until.timestamp()) * SECOND, tick.at
        if isinstance(self.config.labels, Matured):
            reached = self.closed_until * HOUR
        return reached >= until

    def start_watch(self, reference: Labelled, rows_at: int) -> None:
        """Take these labelled rows as what normal was, and watch from now on.

        `rows_at` is how far the predictions have come.
        """
        self.cap = max(float(np.quantile(reference.loss, CAP_QUANTILE)), 1e-12)
        if self.schema.loss not in SCALED_LOSSES:
            self.cap = max(self.cap, 1.0)
        if self.config.loss_scale is not None and self.schema.loss not in RATIO_LOSSES:
            self.cap = self.config.loss_scale
        reference = replace(reference, capped=self._capped(reference.loss))
        before = self.watch
        self.incidents = Incidents()  # what was told of them was by the reference before
        if before is None:
            self.slices.settle(self._traffic(None))
        self.label_process.begin()
        self.watch = learn_watch(reference, self.slices, self.config)
        if before is not None:
            self.watch.take_over(before)
        self.rollout.forget()
        self.discovered.renew(self.watch)
        self.estimate.begin(reference, self.slices, self.loss_unit)
        self.outside.begin(reference, self.slices)
        self._since_tick = [
            replace(rows, capped=self._capped(rows.loss)) for rows in self._since_tick
        ]
        is_calibrated = self.watch.mode == self.config.false_alerts.mode
        self.reference = (
            [] if is_calibrated or n_hours([reference]) >= FEWEST_BLOCKS else [reference]
        )
        self.reference_until = self.settled_at = rows_at

    def _prolong_reference(self, watch: Watch, rows: Labelled) -> None:
        """Keep what is learnt from, and calibrate once there is enough of it to draw weeks from."""
        self.reference.append(watch.learnt_from(rows, self.slices))
        if sum(len(part) for part in self.reference) > MAX_REFERENCE_LABELS:
            self.reference = []  # it goes on as it is
        elif can_be_drawn_from(self.reference):
            prolonged = Labelled.concatenate(self.reference)
            self.watch, self.reference = learn_watch(prolonged, self.slices, self.config), []
            self.watch.go_on_from(watch)

    def reconfigure(self, config: MonitorConfig) -> None:
        """Take up what may change while watching: tolerance, budget, horizon, shown rows."""
        self.config = config
        self.outside.restate(config)
        self.join.horizon = seconds(config.label_horizon) * SECOND
        if self.watch is not None:
            self.watch.restate(config.tolerance, Budget(config.alerts_a_week))

    def adopt(self, found: Sequence[tuple[Condition, ...]]) -> int:
        """Test discovered slices on the rows to come; how many are new, none without a watch."""
        return 0 if self.watch is None else self.discovered.adopt(found, self.watch, self.clock.now)

    def upload_reference(self, batch: EventBatch) -> int:
        """Take a set of labelled predictions as the reference; give how many could be scored."""
        cells = self.slices.assign(batch)
        bins = self.estimate.bins_of(self.schema.loss, batch)
        rows = Join(self.schema.loss, self.join.horizon).match(batch, cells, bins=bins)
        labelled, _, adding, _ = self._score(rows)
        labelled = replace(labelled, cell=self._labelled_cells(labelled.cell, adding))
        self.inputs.forget_reference()
        self.composition.forget()
        for observer in self.observers:
            observer.add(batch, rows.predictions, cells[rows.predictions], True)
        self.inputs.begin(self.slices)
        if len(labelled) >= MIN_REFERENCE_LABELS:
            self.start_watch(labelled, self.row_clock.now)
            self.reference = []  # what comes is of another time, and does not go on from it
        self.composition.begin(self, self.row_clock.now)
        return len(labelled)

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "config": self.config.model_dump_json(by_alias=True),
            "schema": self.schema.save(),
            "tick_seconds": self.clock.tick // SECOND,
            "slices": self.slices.save(),
            "join": self.join.save(),
            "observers": {observer.name: observer.save() for observer in self.observers},
            "looks": self.looks.save(),
            "history": self.history.save(),
            "versions": self.versions.save(),
            "discovered": self.discovered.save(),
            "rollout": self.rollout.save(),
            "estimate": self.estimate.save(),
            "delays": self.delays.save(),
            "clock": self.clock.save(),
            "row_clock": self.row_clock.save(),
            "watch": None if self.watch is None else self.watch.save(),
            "incidents": self.incidents.save(),
            "outside": self.outside.save(),
            "reference": [_columns(part) for part in self.reference],
            "since_tick": [_columns(part) for part in self._since_tick],
            "numbers": [
                self.reference_until,
                self.closed_until,
                self.settled_at,
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
        for observer in monitor.observers:
            observer.restore(state["observers"][observer.name])
        monitor.looks.restore(state["looks"])
        monitor.history = History.restore(state["history"])
        monitor.versions = Versions.restore(state.get("versions", [[], 0, 0]))
        monitor.discovered.restore(state.get("discovered"), 1.0 + config.tolerance)
        monitor.rollout.restore(state.get("rollout"), 1.0 + config.tolerance)
        monitor.estimate.restore(state.get("estimate"))
        monitor.clock = StreamClock.restore(state["clock"])
        monitor.row_clock = StreamClock.restore(state["row_clock"])
        if state["watch"] is not None:
            budget = Budget(config.alerts_a_week)
            monitor.watch = Watch.restore(state["watch"], config.tolerance, budget)
        monitor.incidents.restore(state["incidents"])
        monitor.outside.restore(state["outside"])
        monitor.delays.restore(state["delays"])
        monitor.reference = [Labelled.of_columns(columns) for columns in state["reference"]]
        monitor._since_tick = [Labelled.of_columns(c) for c in state["since_tick"]]
        (
            monitor.reference_until,
            monitor.closed_until,
            monitor.settled_at,
            monitor.forgotten_at,
            monitor.cap,
            monitor.n_predictions,
            monitor.n_labels,
            monitor.n_unscored,
            monitor._n_ticks,
        ) = state["numbers"]
        return monitor


def _at(column: Categories, rows: Indices | slice) -> Categories:
    return Categories(column.codes[rows], column.values)


def _columns(rows: Labelled) -> list[Any]:
    return [getattr(rows, name) for name in Labelled.__slots__]
