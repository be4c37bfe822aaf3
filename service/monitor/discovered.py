"""Discovered: slices beyond the watched ones, adopted by a journal entry and tested on later rows.

A nightly search finds conditions whose rows lose more than is due of them, on attributes that are
no dimensions and on features too. What it says is chosen among very many, so it counts for nothing:
from its adoption on the slice is a stream of its own, with its own share of the budget, and only
rows that come behind its adoption are held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from detectors import Disparity, Outcomes, Recovery
from detectors.confidence import rate_interval
from service.clock import to_rfc3339
from service.ingest.events import Bools, EventBatch, Floats
from service.monitor.findings import Effect, Evidence, Finding, Kind, Slice, State
from service.monitor.history import HOUR
from service.monitor.severity import severity_of
from service.monitor.watch import WATCHING, Labelled, Watch

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Masks = npt.NDArray[np.uint64]

SHARE: Final = 0.1  # of the slices' share of the budget, while any slice is adopted
MAX_ADOPTED: Final = 64  # in a model's life: each has a bit of a row's mask
MAX_AT_ONCE: Final = 16  # the oldest without an alert gives way
PRIOR_LOSSES: Final = 100.0  # effective losses by which a slice is held to what its cells lost
_ROWS, _LABELS, _LOSS, _EXPOSURE, _DUE = range(5)


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """One condition on a prediction: a text, or a number from `at_least` on and under `below`."""

    field: str  # "attributes.site", "features.snr_db"
    value: str | None = None
    at_least: float | None = None
    below: float | None = None

    def holds(self, batch: EventBatch) -> Bools:
        """Which rows fulfil it; a row without the field does not."""
        kind, _, name = self.field.partition(".")
        none = np.zeros(len(batch), np.bool_)
        if self.value is not None:
            if kind == "attributes":
                text = batch.attributes.get(name)
            else:
                feature = batch.features.get(name)
                text = None if feature is None else feature.text
            if text is None or self.value not in text.values:
                return none
            is_it: Bools = text.codes == text.values.index(self.value)
            return is_it
        value = batch.features.get(name)
        if value is None or value.number is None:
            return none
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.below is None else self.below
        inside: Bools = (value.number >= low) & (value.number < high)
        return inside

    @property
    def name(self) -> tuple[str, str]:
        """As a slice has it: what it is about, and what of that."""
        about = self.field.removeprefix("attributes.")
        if self.value is not None:
            return about, self.value
        if self.below is None:
            return about, f">= {self.at_least:.6g}"
        if self.at_least is None:
            return about, f"< {self.below:.6g}"
        return about, f"{self.at_least:.6g} to {self.below:.6g}"


class Discovered:
    """The adopted slices of one model; each has a bit, by its place."""

    def __init__(self) -> None:
        self.slices: list[tuple[Condition, ...]] = []
        self.since: list[int] = []  # microseconds, of the labels' clock
        self.active: list[bool] = []
        self.fleet = Disparity()  # row 0 is the whole model, row k + 1 slice k
        self.recovery = Recovery()
        self.sums: Floats = np.zeros((0, 2, 5))  # since adoption: of the slice, of everyone

    @property
    def share(self) -> float:
        """What it takes of the share of the budget that slices have."""
        return SHARE if any(self.active) else 0.0

    def adopt(self, found: Sequence[tuple[Condition, ...]], watch: Watch, at: int) -> int:
        """Test these slices from now on; how many are new."""
        before = len(self.slices)
        for conditions in found:
            if conditions in self.slices or len(self.slices) >= MAX_ADOPTED:
                continue
            self._make_room()
            self.slices.append(conditions)
            self.since.append(at)
            self.active.append(True)
        n_new = len(self.slices) - before
        if n_new:
            self._grow(n_new, watch)
        return n_new

    def _make_room(self) -> None:
        """Retire the oldest without an alert where there are too many at once."""
        if sum(self.active) >= MAX_AT_ONCE:
            quiet = [k for k, on in enumerate(self.active) if on and not self.fleet.open[k + 1]]
            if quiet:
                self.active[quiet[0]] = False

    def _grow(self, n_new: int, watch: Watch) -> None:
        n = n_new + (0 if len(self.fleet) else 1)
        self._watch(n, watch)
        self.recovery.grow(n)
        self.sums = np.concatenate([self.sums, np.zeros((n_new, 2, 5))])

    def _watch(self, n: int, watch: Watch) -> None:
        """So many more streams, held to what their cells lost."""
        own, share = (np.full(n, dispersion) for dispersion in watch.new_dispersion)
        held = PRIOR_LOSSES * np.maximum(own, share)
        self.fleet.tolerance = self.fleet.own.tolerance = watch.disparity.tolerance
        self.fleet.grow(own, share, held, held)

    def renew(self, watch: Watch) -> None:
        """There is a new reference: begin again with what is learnt, and keep what is open."""
        n, is_open = len(self.fleet), self.fleet.open
        self.fleet = Disparity(watch.disparity.tolerance)
        if n:
            self._watch(n, watch)
            self.fleet.open[:] = is_open

    def masks(self, batch: EventBatch) -> Masks | None:
        """A bit for each adopted slice that a row is in; None where none is adopted."""
        if not any(self.active):
            return None
        masks = np.zeros(len(batch), np.uint64)
        for k, conditions in enumerate(self.slices):
            if self.active[k]:
                inside = np.ones(len(batch), np.bool_)
                for condition in conditions:
                    inside &= condition.holds(batch)
                masks[inside] |= np.uint64(1 << k)
        return masks

    def count(self, masks: Masks) -> None:
        """Count predictions."""
        for k in self._active():
            self.sums[k, 0, _ROWS] += np.count_nonzero(_inside(masks, k))
            self.sums[k, 1, _ROWS] += masks.size

    def _active(self) -> list[int]:
        return [k for k, on in enumerate(self.active) if on]

    def tick(
        self, monitor: Monitor, watch: Watch, rows: Labelled, at: int, seconds: float
    ) -> list[Finding]:
        """Look at a tick's labelled rows; those of slices whose alert is open are theirs."""
        active = self._active()
        if not active:
            return []
        told = np.flatnonzero(watch.disparity.open)
        explained = monitor.slices.membership()[told, :].sum(axis=0) > 0
        rows = rows.take(np.flatnonzero(~explained[rows.cell]))
        due = rows.exposure * watch.rates.predict(monitor.slices.levels)[rows.cell]
        weight = watch.scale * rows.evidence_weight
        self._sum(active, rows, due * monitor.loss_unit)
        lost, expected = weight * rows.capped, weight * due
        inside = np.array(
            [np.ones(len(rows)), *(_inside(rows.mask, k) for k in range(len(self.slices)))]
        )
        outcomes = Outcomes(inside @ lost, inside @ expected)
        hazard = np.zeros(len(self.fleet))
        orders = np.ones(len(active), np.intp)
        spend = SHARE * watch.budget.hazard("slices", orders, seconds, WATCHING)
        hazard[1 + np.array(active)] = spend
        findings = self._recovered(monitor, watch, outcomes, at)
        found = self.fleet.update(outcomes, hazard)
        rest = found.rest if found.rest is not None else np.zeros(len(found))
        for row, own, share in zip(found.slices.tolist(), found.own_reference, rest, strict=True):
            evidence = float(own), float(share)
            finding = self._finding(monitor, watch, row - 1, at, State.FIRING, evidence)
            if finding.effect.rows >= monitor.config.publish_min_rows:
                self.fleet.hold(np.array([row]))
                ratio = max(finding.effect.after / max(finding.effect.before, 1e-12), 1.1)
                self.recovery.open(np.array([row]), np.array([ratio]))
                findings.append(finding)
        return findings

    def _sum(self, active: list[int], rows: Labelled, due: Floats) -> None:
        columns = np.stack(
            [
                np.ones(len(rows)),
                rows.weight * rows.loss,
                rows.weight * rows.exposure,
                rows.weight * due,
            ]
        )
        whole = columns.sum(axis=1)
        for k in active:
            self.sums[k, 0, _LABELS:] += columns @ _inside(rows.mask, k)
            self.sums[k, 1, _LABELS:] += whole

    def _recovered(
        self, monitor: Monitor, watch: Watch, outcomes: Outcomes, at: int
    ) -> list[Finding]:
        back = self.recovery.update(outcomes, self.fleet.own.dispersion).slices
        self.fleet.release(back)
        return [
            self._finding(monitor, watch, int(row) - 1, at, State.RESOLVED, (0.0, 0.0))
            for row in back
        ]

    def _finding(
        self,
        monitor: Monitor,
        watch: Watch,
        k: int,
        at: int,
        state: State,
        evidence: tuple[float, float],
    ) -> Finding:
        effect = self._effect(monitor, watch, k)
        ratio = effect.after / max(effect.before, 1e-12)
        return Finding(
            model="",
            kind=Kind.DISPARITY,
            slice=self.name(k),
            state=state,
            severity=severity_of(ratio, effect.rows, at - self.since[k]),
            onset=self.since[k],
            onset_interval=(self.since[k] - 24 * HOUR, at),
            detected_at=at,
            effect=effect,
            evidence=Evidence(
                own_reference=evidence[0],
                rest=evidence[1],
                alarm_at=1.0,
                mode="proven",
                false_alerts=monitor.config.budget_text,
            ),
            summary=(
                f"The loss of {_told(self.name(k))}, a slice found by search, is "
                f"{effect.after:.3g} where {effect.before:.3g} is due of its rows; "
                f"the rest's is {effect.rest_after:.3g}."
            ),
        )

    def name(self, k: int) -> Slice:
        """The slice as alerts have it."""
        return tuple(sorted(condition.name for condition in self.slices[k]))

    def _effect(self, monitor: Monitor, watch: Watch, k: int) -> Effect:
        own, rest = self.sums[k, 0], self.sums[k, 1] - self.sums[k, 0]
        before, after, rest_before, rest_after = (
            float(part[column] / max(part[_EXPOSURE], 1e-12))
            for part in (own, rest)
            for column in (_DUE, _LOSS)
        )
        lower, upper = rate_interval(
            np.array([own[_LOSS]]),
            np.array([own[_EXPOSURE]]),
            np.array([watch.new_dispersion[0]]),
            typical=watch.typical_rate,
        )
        widened = (after - before) - (rest_after - rest_before)
        return Effect(
            metric=monitor.schema.loss,
            because="degraded",
            before=before,
            after=after,
            rest_before=rest_before,
            rest_after=rest_after,
            gap_widened_by=widened,
            interval=(float(lower[0]) - after + widened, float(upper[0]) - after + widened),
            rows=int(own[_ROWS]),
            labels=int(own[_LABELS]),
        )

    def told(self) -> list[dict[str, Any]]:
        """As `GET /v1/models/{model}` has them."""
        return [
            {
                "slice": dict(self.name(k)),
                "since": to_rfc3339(self.since[k]),
                "rows": int(self.sums[k, 0, _ROWS]),
                "labels": int(self.sums[k, 0, _LABELS]),
                "evidence": float(min(self.fleet.meter[k + 1], self.fleet.own.meter[k + 1])),
                "firing": bool(self.fleet.open[k + 1]),
            }
            for k in self._active()
        ]

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "slices": [[msgspec.to_builtins(c) for c in slice_] for slice_ in self.slices],
            "since": self.since,
            "active": self.active,
            "fleet": self.fleet.save(),
            "recovery": self.recovery.save(),
            "sums": self.sums,
        }

    def restore(self, state: dict[str, Any] | None, tolerance: float) -> None:
        """Take up the state that `save` gave; None was saved before there was any."""
        if state is None:
            return
        self.slices = [
            tuple(msgspec.convert(c, Condition) for c in slice_) for slice_ in state["slices"]
        ]
        self.since, self.active = list(state["since"]), list(state["active"])
        self.fleet = Disparity(tolerance)
        self.fleet.restore(state["fleet"])
        self.recovery.restore(state["recovery"])
        self.sums = state["sums"].copy()


def _inside(masks: Masks, k: int) -> Floats:
    return ((masks >> np.uint64(k)) & np.uint64(1)).astype(np.float64)


def _told(name: Slice) -> str:
    return ", ".join(
        f"{about} {what}" if what[0] in "<>" else f"{about}={what}" for about, what in name
    )
