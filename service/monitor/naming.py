"""Naming: what crossed at a tick, named: since when, how much worse, and whose story it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from detectors import Detections
from detectors.confidence import combined_interval, rate_interval
from detectors.summary import EXPOSURE, LABELS, LOSS, ROWS
from service.ingest.events import Floats
from service.monitor.attribution import REPLAY_HOURS, Replay, Strength
from service.monitor.findings import (
    OUTSIDE_BUDGET,
    Effect,
    Evidence,
    Finding,
    Kind,
    Severity,
    Slice,
    State,
    slice_text,
)
from service.monitor.history import HOUR
from service.monitor.losses import SCALED_LOSSES
from service.monitor.severity import CRITICAL_RATIO, severity_of
from service.monitor.slices import ROOT
from service.monitor.stories import Story, Teller
from service.monitor.watch import heavier

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor
    from service.monitor.watch import Watch

Indices = npt.NDArray[np.intp]
Because = Literal["degraded", "left_behind"]

SUSPICIOUS: Final = 0.1  # evidence from which a slice may explain another before it alarms itself
EVIDENCE_SHOWN: Final = 1e4


class Namer:
    """Names the detections of one tick."""

    def __init__(self, monitor: Monitor, watch: Watch, at: int) -> None:
        self.monitor, self.watch, self.at = monitor, watch, at
        self.slices = monitor.slices
        # not the reference's last hour: its losses were summed before their cap was known
        watched_since = (monitor.reference_until // HOUR + 1) * HOUR
        # What labels say of later hours is of some of their rows, and not of any: errors may be
        # labelled sooner. None: labels count as they come.
        self.judged_until = monitor.closed_until * HOUR or None
        # hours from here on are not whole: at a tick, or until their labels have matured
        self.until = self.judged_until or (at // HOUR + 1) * HOUR
        self.replay = Replay(
            monitor.history,
            monitor.slices.membership(),
            watch.rates.predict(monitor.slices.levels),
            max(watched_since, at - REPLAY_HOURS * HOUR),
            watch.own_ratio(),
            watch.scale,
            self.judged_until,
        )
        self.enough = float(np.log(20 * len(monitor.slices)))  # nats that are more than chance

    def name(
        self,
        uneven: Detections,
        worldwide: Detections,
        outside: Mapping[int, str],
        recovered: list[int],
    ) -> list[Finding]:
        """The findings in the order to be told: heads before what they explain.

        `outside` are slices that a detector outside the budget speaks of, and its name.
        """
        findings = [finding for s in recovered for finding in self._recovered(s)]
        told = self._uneven(uneven)
        if len(worldwide) and self._is_worldwide():
            findings.append(self._worldwide(float(worldwide.own_reference[0])))
        return [*findings, *told, *(self._outside(*one) for one in outside.items())]

    def strength(self, slice_: int) -> Strength:
        """How strongly the hours up to now speak against a slice, or everyone, and since when."""
        if slice_ == ROOT:
            return self.replay.of_everyone(self.watch.everyone_dispersion)
        return self._strength(slice_)

    def _strength(self, slice_: int) -> Strength:
        return self.replay.of_slice(slice_, float(self.watch.disparity.dispersion[slice_]))

    def _heads(self) -> list[tuple[int, Strength]]:
        """Open incidents and how strongly each speaks, without what they explain; loudest first."""
        heads = [
            (s, self._strength(s))
            for s in np.flatnonzero(self.watch.disparity.open).tolist()
            if s not in self.watch.explained
        ]
        return sorted(heads, key=lambda head: (-head[1].nats, head[0]))

    def _suspects(self) -> list[int]:
        """Slices without an alert that the detectors hold something against."""
        disparity = self.watch.disparity
        held = disparity.meter >= SUSPICIOUS
        if not self.watch.everyone_improved:
            held &= disparity.own.meter >= SUSPICIOUS
        suspects: list[int] = np.flatnonzero(held & ~disparity.open).tolist()
        return suspects

    def _uneven(self, uneven: Detections) -> list[Finding]:
        """The findings of slices that crossed, or of those whose story it is that they did."""
        if not len(uneven):
            return []
        teller = Teller(
            self.replay,
            self.slices.names,
            self.watch.disparity.dispersion,
            self.enough,
            self._may_be_told,
        )
        crossed: dict[int, int] = {s: k for k, s in enumerate(uneven.slices.tolist())}
        leading = self._leading(list(crossed))
        # who was left behind, and is worse than it was now, is told anew and explains no one
        for culprit, strength in self._heads():
            if culprit not in crossed:
                teller.blame(culprit, strength)
        stories = teller.tell(list(crossed), self._suspects())
        told = [self._told(story, uneven, crossed[story.crossed]) for story in stories]
        return leading + told

    def _leading(self, crossed: list[int]) -> list[Finding]:
        """Slices that a part of theirs explained, and that are hurt beyond it and what crossed now.

        Where a whole floor is hurt, the one of its parts that is hurt most may speak first.
        """
        findings = []
        for slice_ in sorted(self.watch.explained):
            name = set(self.slices.names[slice_])
            inside = [s for s in crossed if name < set(self.slices.names[s])]
            leads = self.leads(slice_, inside) if inside else None
            findings += [] if leads is None else [leads]
        return findings

    def leads(self, slice_: int, inside: Sequence[int] = ()) -> Finding | None:
        """A slice that a part of its explained, told as what explains that part; None if it is not.

        It has to be hurt beyond every part of it that is told of by itself, and those `inside`.
        """
        names, head = self.slices.names, self.watch.explained.get(slice_)
        if head is None or not set(names[slice_]) < set(names[head]):
            return None
        parts = self._parts_of(slice_)
        left = self.replay
        for part in {head, *inside, *parts}:
            left = left.without(part, self._strength(part).onset)
        dispersion = float(self.watch.disparity.dispersion[slice_])
        if left.of_slice(slice_, dispersion).nats < self.enough:
            return None
        self.watch.lead(slice_, [head, *parts])
        return self.monitor.incidents.lead(self, slice_)

    def _parts_of(self, slice_: int) -> list[int]:
        """Open heads that are inside a slice."""
        name = set(self.slices.names[slice_])
        return [s for s, _ in self._heads() if name < set(self.slices.names[s])]

    def _may_be_told(self, slice_: int, strength: Strength) -> bool:
        history, n_cells = self.monitor.history, self.slices.n_cells
        members = self.slices.membership()[[slice_], :]
        sums = (members @ history.cells_between(n_cells, since=strength.onset))[0]
        return _shown_rows(sums) >= self.monitor.config.publish_min_rows

    def _told(self, story: Story, uneven: Detections, row: int) -> Finding:
        """The finding of a story; its incident is open from now on."""
        because: Because = "left_behind" if uneven.left_behind[row] else "degraded"
        slice_, strength = np.array([story.slice]), story.strength
        effect = self.effect(story.slice, strength.onset, because)
        self.watch.disparity.hold(slice_, because == "left_behind")
        self.watch.recovery.open(slice_, np.array([strength.shrunk_ratio]))
        head = None
        if story.head is not None:
            self.watch.explained[story.slice] = story.head
            head = self.slices.names[story.head]
        rest = 0.0 if uneven.rest is None else float(uneven.rest[row])
        evidence = (float(uneven.own_reference[row]), rest)
        self.monitor.incidents.begin(self, story.slice, strength, effect, evidence, head)
        return self.finding(
            story.slice, Kind.DISPARITY, State.FIRING, strength, effect, evidence, head
        )

    def _is_worldwide(self) -> bool:
        """Is anything left of the model's rise once its open incidents are due what they lost?"""
        heads = self._heads()
        allowed = self.replay
        for culprit, strength in heads:
            allowed = allowed.as_due(culprit, strength)
        left = allowed.of_everyone(self.watch.everyone_dispersion)
        return not heads or left.nats >= self.enough

    def _worldwide(self, meter: float) -> Finding:
        strength = self.replay.of_everyone(self.watch.everyone_dispersion)
        self.watch.everyone.open = True
        self.watch.recovery.open(np.array([ROOT]), np.array([strength.shrunk_ratio]))
        effect = self.effect(ROOT, strength.onset)
        self.monitor.incidents.begin(self, ROOT, strength, effect, (meter, None), None)
        return self.finding(
            ROOT, Kind.ERROR_RATE, State.FIRING, strength, effect, (meter, None), None
        )

    def _outside(self, slice_: int, detector: str) -> Finding:
        """What river's detector says of a slice: that it rose, in our words and with our figures.

        How far it rose is ours to say, and only in hindsight, so it is over at the latest when the
        slice is less than half-way to `CRITICAL_RATIO`.
        """
        watch, name = self.watch, self.slices.names[slice_]
        if slice_ == ROOT:
            strength = self.replay.of_everyone(watch.everyone_dispersion)
        else:
            own = float(watch.disparity.own.dispersion[slice_])
            strength = self.replay.of_slice_alone(slice_, own)
        theirs = map(self.slices.names.__getitem__, self.monitor.outside.open)
        head = next((other for other in theirs if other and set(other) < set(name)), None)
        self.monitor.outside.open[slice_] = detector  # it may have recovered in this very tick
        if not watch.recovery.midpoint[slice_]:
            ratio = max(strength.shrunk_ratio, CRITICAL_RATIO)
            watch.recovery.open(np.array([slice_]), np.array([ratio]))
        effect = self.effect(slice_, strength.onset)
        finding = self.finding(
            slice_, Kind.ERROR_RATE, State.FIRING, strength, effect, (1.0, None), head
        )
        return replace(
            finding,
            evidence=replace(finding.evidence, mode=OUTSIDE_BUDGET, false_alerts="not bounded"),
            summary=f"{finding.summary} River's {detector} says so, outside the budget.",
        )

    def _recovered(self, slice_: int) -> list[Finding]:
        """A slice is back: whatever was open on it is over."""
        kinds = []
        because: Because = "degraded"
        if slice_ != ROOT and self.watch.disparity.open[slice_]:
            because = "left_behind" if self.watch.disparity.left_behind[slice_] else "degraded"
            kinds.append(Kind.DISPARITY)
        self.release(slice_)
        if self.monitor.outside.open.pop(slice_, None) or slice_ == ROOT:
            kinds.append(Kind.ERROR_RATE)
        since = (self.judged_until or self.at) - 24 * HOUR
        strength = Strength(0.0, since, (since, since), 1.0, 1.0)
        effect = self.effect(slice_, since, because)
        return [
            self.finding(
                slice_,
                kind,
                State.RESOLVED,
                strength,
                effect,
                (0.0, None if kind is Kind.ERROR_RATE else 0.0),
                None,
            )
            for kind in kinds
        ]

    def release(self, slice_: int) -> None:
        """An alert within the budget is over: its slice is tested and learnt from again."""
        self.monitor.incidents.end(slice_)
        if slice_ == ROOT:
            self.watch.everyone.open = False
        else:
            self.watch.disparity.release(np.array([slice_]))
            self.watch.promote(slice_)
        if slice_ not in self.monitor.outside.open:
            self.watch.recovery.close(np.array([slice_]))

    def finding(
        self,
        slice_: int,
        kind: Kind,
        state: State,
        strength: Strength,
        effect: Effect,
        evidence: tuple[float, float | None],
        head: Slice | None,
    ) -> Finding:
        """What is told of a slice in the words and figures of the contract."""
        own, rest = evidence
        name = self.slices.names[slice_]
        severity = severity_of(strength.ratio, effect.rows, self.at - strength.onset)
        if effect.because == "left_behind":  # nobody is worse off than before
            severity = Severity.WARNING if severity is Severity.CRITICAL else Severity.INFO
        return Finding(
            model="",  # the model's own name is put on by whoever knows it
            kind=kind,
            slice=name,
            state=state,
            severity=severity,
            onset=strength.onset,
            onset_interval=strength.onset_interval,
            detected_at=self.at,
            effect=effect,
            evidence=Evidence(
                own_reference=float(min(own, EVIDENCE_SHOWN)),
                rest=None if rest is None else float(min(rest, EVIDENCE_SHOWN)),
                alarm_at=1.0,
                mode="proven" if slice_ == ROOT else self.watch.mode,
                false_alerts=self.monitor.config.budget_text,
            ),
            explained_by=head,
            summary=summary_of(name, effect, state),
        )

    def effect(
        self, slice_: int, onset: int, because: Because = "degraded", until: int | None = None
    ) -> Effect:
        """Loss of the slice and of the rest, before the onset and since."""
        history, n_cells = self.monitor.history, self.slices.n_cells
        membership = self.slices.membership()[[ROOT, slice_], :]
        since = history.cells_between(n_cells, since=onset, until=until or self.judged_until)
        normal = history.cells_between(n_cells, until=onset)
        if not normal[:, EXPOSURE].any():  # it began so long ago that nothing before it is kept
            normal = self._as_due(since)
        before, after = membership @ normal, membership @ since
        rates = [_rate(sums[1]) for sums in (before, after)]
        alone = slice_ == ROOT
        rest = [None if alone else _rate(sums[0] - sums[1]) for sums in (before, after)]
        moved = rates[1] - rates[0]
        widened = None if rest[0] is None or rest[1] is None else moved - (rest[1] - rest[0])
        parts = [after[1], before[1]]
        if not alone:
            parts += [before[0] - before[1], after[0] - after[1]]
        return Effect(
            metric=self.monitor.schema.loss,
            because=because,
            before=rates[0],
            after=rates[1],
            rest_before=rest[0],
            rest_after=rest[1],
            gap_widened_by=widened,
            interval=gap_interval(self.watch, len(self.slices), slice_, np.array(parts)),
            rows=_shown_rows(after[1]),
            labels=int(after[1][LABELS]),
        )

    def _as_due(self, sums: Floats) -> Floats:
        """The same rows of each cell, had they lost what the reference expects of them."""
        unit = self.monitor.cap if self.monitor.schema.loss in SCALED_LOSSES else 1.0
        as_due = sums.copy()
        as_due[:, LOSS] = unit * self.watch.rates.predict(self.slices.levels) * sums[:, EXPOSURE]
        return as_due


def gap_interval(
    watch: Watch, n_slices: int, slice_: int, parts: Floats
) -> tuple[float, float] | None:
    """How far the gap of a slice has widened, at whatever time one looks.

    `parts` are its sums since the onset and before it, then the rest's before it and since.
    """
    lost, exposure = np.maximum(parts[:, LOSS], 0.0), parts[:, EXPOSURE]
    if not (exposure > 0).all():
        return None
    dispersion = watch.scatter(n_slices)[slice_] * heavier(parts)
    limits = rate_interval(lost, exposure, dispersion, typical=watch.typical_rate)
    signs = np.array([1.0, -1.0, 1.0, -1.0])[: len(parts)]
    low, high = combined_interval(signs, lost / exposure, *limits)
    return float(low), float(high)


def _shown_rows(sums: Floats) -> int:
    """Rows of a slice; what labels alone say of rows is in cells that no prediction is in."""
    return int(max(sums[ROWS], sums[LABELS]))


def _rate(sums: Floats) -> float:
    return float(sums[LOSS] / sums[EXPOSURE]) if sums[EXPOSURE] > 0 else 0.0


METRICS: Final = {
    "wer": "WER",
    "cer": "CER",
    "zero_one": "The error rate",
    "log_loss": "Log loss",
    "brier": "The Brier score",
    "absolute_error": "The absolute error",
    "squared_error": "The squared error",
    "given": "The loss",
}


def summary_of(name: Slice, effect: Effect, state: State) -> str:
    """What is told of losses of a slice, in one sentence."""
    metric = METRICS[effect.metric]
    whom = f" for {slice_text(name)}" if name else " for everyone"
    if state is State.RESOLVED:
        back = "caught up" if effect.because == "left_behind" else "back"
        return f"{metric}{whom} is {back} at {shown(effect.after, effect.metric)}."
    if state is State.RETRACTED:
        rate = shown(effect.after, effect.metric)
        return f"{metric}{whom} was {rate} with all labels of those hours: no alarm after all."
    verb = "rose" if effect.after >= effect.before else "moved"
    told = f"{metric}{whom} {_course(verb, effect.before, effect.after, effect.metric)}"
    if effect.rest_after is None or effect.rest_before is None:
        return told + "."
    verb = "improved" if effect.because == "left_behind" else "went"
    rest = _course(verb, effect.rest_before, effect.rest_after, effect.metric)
    return f"{told} while the rest {rest}."


def _course(verb: str, before: float, after: float, metric: str) -> str:
    was, now = shown(before, metric), shown(after, metric)
    return f"stayed at {now}" if was == now else f"{verb} from {was} to {now}"


def shown(value: float, metric: str) -> str:
    """A loss in words: `8.1 %`, or three digits where it has a unit of its own."""
    if metric in ("wer", "cer", "zero_one"):
        return f"{value:.1%}".replace("%", " %")
    return f"{value:.3g}"
