"""RolloutWatch: whom a new version of the model serves worse, though it may serve most better.

A version that appears begins an epoch: what was learnt under old ones weighs less from then on,
evidence and open incidents stay as they are, and the new version is watched for a fortnight, out of
the budget's share for versions. Where the old version runs beside it, both are compared hour by
hour; else the new one is held to what each slice lost before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from detectors import Detections, Outcomes
from detectors.confidence import RATIOS, WEIGHTS, accumulate
from detectors.rollout import Rollout, beside, bounded
from detectors.summary import CAPPED, EXPOSURE, JUDGED, LABELS, LOSS, ROWS
from service.ingest.events import Floats
from service.monitor.compare import common_hours
from service.monitor.findings import Effect, Evidence, Finding, Kind, Severity, Slice, State
from service.monitor.history import HOUR
from service.monitor.naming import EVIDENCE_SHOWN, gap_interval, summary_of
from service.monitor.severity import severity_of
from service.monitor.slices import ROOT
from service.monitor.versions import KEPT_VERSIONS, NONE
from service.monitor.watch import Labelled, Watch, complements

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Indices = npt.NDArray[np.intp]

SHARE: Final = 0.25  # of the slices' share of the budget, while a version is new
NEW_HOURS: Final = 14 * 24  # for which a version is new
GONE_HOURS: Final = 24  # without a row, after which a version is no longer in use
_UNKNOWN: Final = -1


class RolloutWatch:
    """The newest version of one model against the one before it."""

    def __init__(self) -> None:
        self.seen = _UNKNOWN  # the newest version when it was last looked
        self.new = NONE  # the version that is watched
        self.old = NONE  # what it is held to
        self.since = 0  # microseconds: the first hour of the new version
        self.fleet: Rollout | None = None  # None: nothing is watched
        self.open: list[tuple[int, str]] = []  # slices with an alert, and because of what
        self.improvement: Floats = np.empty((0, RATIOS.size))  # of all, and of all but each part

    def tick(
        self, monitor: Monitor, watch: Watch, rows: Labelled, at: int, seconds: float
    ) -> list[Finding]:
        """Look at a tick's labelled rows."""
        if self.seen != monitor.versions.newest:
            return self._begin(monitor, watch, at)  # it is watched from the next tick on
        if self.open and self._is_gone(monitor):
            return self._end(monitor, watch, at, "is no longer in use")
        if at - self.since > NEW_HOURS * HOUR:
            self.fleet = None
        if self.fleet is None:
            return []
        self._grow(monitor, watch)
        new, old = (
            watch.outcomes(
                watch.summary(rows.take(np.flatnonzero(of)), monitor.slices), monitor.slices
            )
            for of in (rows.version == self.new, rows.version == self.old)
        )
        orders = monitor.slices.orders()
        hazard = SHARE * watch.budget.hazard("slices", orders[1:], seconds, monitor.watching)
        improved = self._everyone_improved(watch, new, old, hazard)
        found = self.fleet.compare(new, old, np.append(0.0, hazard), improved)
        return self._named(monitor, watch, found, at) if len(found) else []

    @property
    def share(self) -> float:
        """What it takes of the share of the budget that slices have."""
        return 0.0 if self.fleet is None else SHARE

    def forget(self) -> None:
        """Stop watching: what was learnt before is no longer what is compared with."""
        self.fleet = None

    def _begin(self, monitor: Monitor, watch: Watch, at: int) -> list[Finding]:
        """A version appeared: an epoch begins."""
        first, self.seen = self.seen == _UNKNOWN, monitor.versions.newest
        if first:
            return []
        bounded(watch.disparity)
        findings = self._end(monitor, watch, at, "was followed by another")
        self.new = self.seen
        self.old = self._most_labelled_before(monitor)
        self.since = at // HOUR * HOUR
        self.fleet = Rollout.of(watch.disparity)
        self.improvement = np.zeros((1 + len(watch.parts), RATIOS.size))
        return findings

    def _most_labelled_before(self, monitor: Monitor) -> int:
        """Of the versions before it, the one that most is known of."""
        earlier = range(max(NONE, self.new - KEPT_VERSIONS), self.new)
        labels = {v: float(monitor.history.labels_by_hour(v)[1].sum()) for v in earlier}
        return max(labels, key=lambda version: (labels[version], version))

    def _is_gone(self, monitor: Monitor) -> bool:
        return monitor.row_clock.now // HOUR - monitor.versions.newest_hour > GONE_HOURS

    def in_use(self) -> list[int]:
        """Slices with an alert."""
        return [slice_ for slice_, _ in self.open]

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: nothing is held against them."""
        if self.fleet is not None:
            self.fleet.begin_again(places[places < len(self.fleet)])

    def _grow(self, monitor: Monitor, watch: Watch) -> None:
        assert self.fleet is not None  # noqa: S101 - it is watched
        n_new = len(monitor.slices) - len(self.fleet)
        if n_new > 0:
            own, share = watch.new_dispersion
            self.fleet.grow(np.full(n_new, own), np.full(n_new, share))

    def _everyone_improved(
        self, watch: Watch, new: Outcomes, old: Outcomes, hazard: Floats
    ) -> bool:
        """Whether the model at large is better under the new version, whoever is left out.

        It names what is found and alarms nobody.
        """
        assert self.fleet is not None  # noqa: S101 - it is watched
        new, old = (
            Outcomes(complements(o.observed, watch.parts), complements(o.expected, watch.parts))
            for o in (new, old)
        )
        rows = np.flatnonzero((new.expected > 0) & (old.expected > 0))
        inverse = np.tile(1.0 / RATIOS, (rows.size, 1))
        dispersion = np.full(rows.size, watch.everyone_dispersion)
        log_e = beside(new, old, rows, dispersion, inverse)
        spend = np.full(rows.size, float(hazard.sum()))
        self.improvement[rows] = accumulate(self.improvement[rows], log_e, spend, WEIGHTS)
        if self.fleet.is_beside[ROOT]:
            return bool(self.improvement.sum(axis=1).min() >= 1.0)
        return watch.everyone_improved

    def _named(self, monitor: Monitor, watch: Watch, found: Detections, at: int) -> list[Finding]:
        """Findings, what is explained by another left out or put under it."""
        assert self.fleet is not None and found.rest is not None  # noqa: S101 - watched
        evidence = dict(
            zip(
                found.slices.tolist(),
                zip(found.own_reference.tolist(), found.rest.tolist(), strict=True),
                strict=True,
            )
        )
        story = _Story(monitor, watch, self)
        enough, names, findings = float(np.log(20 * len(monitor.slices))), monitor.slices.names, []
        for slice_ in sorted(evidence, key=lambda s: (-story.nats(s), -len(names[s]), s)):
            head: Slice | None = None
            explained = False
            for culprit, _ in self.open:
                theirs, name = set(names[culprit]), set(names[slice_])
                left = story.nats(slice_, culprit) < enough
                if theirs < name or (name < theirs and left):
                    head = head or names[culprit]
                explained |= left and head is None
            because = "left_behind" if self.fleet.left_behind[slice_] else "degraded"
            finding = story.finding(slice_, because, evidence[slice_], head, at)
            if explained or finding.effect.rows < monitor.config.publish_min_rows:
                self.fleet.begin_again(np.array([slice_]))
                continue
            self.open.append((slice_, because))
            findings.append(finding)
        return findings

    def _end(self, monitor: Monitor, watch: Watch, at: int, why: str) -> list[Finding]:
        """Close what is open: the version is over, or is no longer the newest."""
        findings = []
        if self.open:
            story = _Story(monitor, watch, self)
            findings = [story.ended(slice_, because, at, why) for slice_, because in self.open]
        self.open, self.fleet = [], None
        return findings

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "numbers": [self.seen, self.new, self.old, self.since],
            "fleet": None if self.fleet is None else self.fleet.save(),
            "open": [list(each) for each in self.open],
            "improvement": self.improvement,
        }

    def restore(self, state: dict[str, Any] | None, tolerance: float) -> None:
        """Take up the state that `save` gave; None was saved before versions were watched."""
        if state is None:
            return
        self.seen, self.new, self.old, self.since = state["numbers"]
        self.open = [(slice_, because) for slice_, because in state["open"]]
        self.improvement = state["improvement"]
        if state["fleet"] is not None:
            self.fleet = Rollout(tolerance)
            self.fleet.restore(state["fleet"])


class _Story:
    """What is told of a version: figures of both, from the hours in which they are comparable."""

    def __init__(self, monitor: Monitor, watch: Watch, rollout: RolloutWatch) -> None:
        self.monitor, self.watch, self.rollout = monitor, watch, rollout
        self.names = (
            monitor.versions.names[rollout.old] or "none",
            monitor.versions.names[rollout.new],
        )
        hours = common_hours(monitor, rollout.old, rollout.new)
        until = None if hours is not None else rollout.since
        n_cells, history = monitor.slices.n_cells, monitor.history
        self.side_by_side = hours is not None
        self.old = history.cells_between(n_cells, until=until, version=rollout.old, hours=hours)
        self.new = history.cells_between(n_cells, version=rollout.new, hours=hours)
        self.rates = watch.rates.predict(monitor.slices.levels)
        self.membership = monitor.slices.membership()

    def nats(self, slice_: int, culprit: int | None = None) -> float:
        """How strongly the slice's losses moved from version to version, beside the rest's.

        Without the cells of a culprit, whose story is told already.
        """
        inside = self.membership[[slice_], :].toarray().ravel()
        kept = np.ones(inside.size)
        if culprit is not None:
            kept = 1.0 - self.membership[[culprit], :].toarray().ravel()
        sums = [
            (float((part * of[:, CAPPED]).sum()), float((part * of[:, JUDGED] * self.rates).sum()))
            for of in (self.new, self.old)
            for part in (inside * kept, (1 - inside) * kept)
        ]
        (x, e), (rest, rest_due), (x_old, e_old), (rest_old, rest_due_old) = sums
        if min(x_old, e, e_old, rest, rest_old, rest_due, rest_due_old) <= 0:
            return 0.0
        moved = (rest / rest_due) / (rest_old / rest_due_old)
        share = moved * e / (moved * e + e_old)
        if x <= (x + x_old) * share:
            return 0.0
        nats = x * np.log(x / ((x + x_old) * share))
        nats += x_old * np.log(x_old / ((x + x_old) * (1 - share)))
        return float(nats * self.watch.scale / self.watch.disparity.dispersion[slice_])

    def finding(
        self,
        slice_: int,
        because: str,
        evidence: tuple[float, float],
        head: Slice | None,
        at: int,
        state: State = State.FIRING,
    ) -> Finding:
        """The finding of one slice."""
        effect = self._effect(slice_, because)
        ratio = effect.after / effect.before if effect.before > 0 else np.inf
        severity = severity_of(float(ratio), effect.rows, at - self.rollout.since)
        if because == "left_behind":
            severity = Severity.WARNING if severity is Severity.CRITICAL else Severity.INFO
        own, rest = (min(value, EVIDENCE_SHOWN) for value in evidence)
        return Finding(
            model="",
            kind=Kind.VERSION,
            slice=self.monitor.slices.names[slice_],
            state=state,
            severity=severity,
            onset=self.rollout.since,
            onset_interval=(self.rollout.since, self.rollout.since + HOUR),
            detected_at=at,
            effect=effect,
            evidence=Evidence(
                own_reference=own,
                rest=rest,
                alarm_at=1.0,
                mode="proven",
                false_alerts=self.monitor.config.budget_text,
            ),
            explained_by=head,
            summary=self._summary(slice_, effect),
        )

    def ended(self, slice_: int, because: str, at: int, why: str) -> Finding:
        """The finding that closes an alert."""
        finding = self.finding(slice_, because, (0.0, 0.0), None, at, State.RESOLVED)
        return replace(finding, summary=f"Version {self.names[1]} {why}.")

    def _effect(self, slice_: int, because: str) -> Effect:
        two = self.membership[[ROOT, slice_], :]
        before, after = two @ self.old, two @ self.new
        parts = np.array([after[1], before[1], before[0] - before[1], after[0] - after[1]])
        exposure = np.maximum(parts[:, EXPOSURE], 1e-12)
        now, was, rest_was, rest_now = (np.maximum(parts[:, LOSS], 0.0) / exposure).tolist()
        return Effect(
            metric=self.monitor.schema.loss,
            because=because,
            before=was,
            after=now,
            rest_before=rest_was,
            rest_after=rest_now,
            gap_widened_by=(now - was) - (rest_now - rest_was),
            interval=gap_interval(self.watch, len(self.monitor.slices), slice_, parts),
            rows=int(after[1][ROWS]),
            labels=int(after[1][LABELS]),
            feature="version",
            moved=" → ".join(self.names),
        )

    def _summary(self, slice_: int, effect: Effect) -> str:
        old, new = self.names
        how = "side by side with" if self.side_by_side else "after"
        told = summary_of(self.monitor.slices.names[slice_], effect, State.FIRING)
        return f"Version {new}, {how} {old}: {told}"
