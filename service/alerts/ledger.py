"""Ledger: the open alerts of one model; findings come in, transitions go out.

| an alert that is | and is found | gives | and is then |
|---|---|---|---|
| not open | pending | `alert.pending` | PENDING |
| not open, or PENDING | firing | `alert.firing` | FIRING; under its old id within a week |
| PENDING or FIRING | the same, with other figures | `alert.revised` | what it was |
| PENDING or FIRING | resolved | `alert.resolved` | RESOLVED, and no longer open |
| PENDING or FIRING | retracted | `alert.retracted` | RETRACTED, and no longer open |
| RESOLVED within a week | retracted | `alert.retracted` | RETRACTED |

Anything else changes nothing. A fingerprint has at most one open alert, and what fires again within
`SAME_INCIDENT` of its end is the same alert, whose revisions go on. What is pending, or is
explained by another alert, is told to no one. Everything here follows from the findings alone, ids
included, so a replay makes the same transitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from service.alerts.alert import Alert, Transition, alert_id, fingerprint
from service.alerts.causes import CAUSES, likely_causes, same_causes
from service.alerts.hierarchy import head_of, taken_over
from service.monitor.findings import BY_RULE, OUTSIDE_BUDGET, TAKEN_BACK, Finding, State, slice_text

# What happens to an alert in a state (None: there is none) of which a finding says a state.
TRANSITIONS: Final[Mapping[tuple[State | None, State], str]] = {
    (None, State.PENDING): "alert.pending",
    (None, State.FIRING): "alert.firing",
    (State.PENDING, State.PENDING): "alert.revised",
    (State.PENDING, State.FIRING): "alert.firing",
    (State.PENDING, State.RESOLVED): "alert.resolved",
    (State.PENDING, State.RETRACTED): "alert.retracted",
    (State.FIRING, State.FIRING): "alert.revised",
    (State.FIRING, State.RESOLVED): "alert.resolved",
    (State.FIRING, State.RETRACTED): "alert.retracted",
    (State.RESOLVED, State.RETRACTED): "alert.retracted",
}

SAME_INCIDENT: Final = 7 * 86_400_000_000  # microseconds

_ENDS: Final = frozenset({State.RESOLVED, State.RETRACTED})


class Ledger:
    """The open alerts of one tenant's model."""

    def __init__(self, tenant: str, model: str) -> None:
        self.tenant = tenant
        self.model = model
        self.open: dict[str, Alert] = {}  # by fingerprint, in the order they opened
        self.ended: dict[str, Alert] = {}  # those that may open again yet, the first to end first

    def apply(self, findings: Sequence[Finding]) -> list[Transition]:
        """What the findings change, in order."""
        transitions: list[Transition] = []
        for finding in findings:
            changes = self._apply(finding)
            transitions += changes
            if changes and finding.kind in CAUSES:
                transitions += self._blame(changes[0].alert, finding.detected_at)
        return transitions

    def _apply(self, finding: Finding) -> list[Transition]:
        key = fingerprint(self.tenant, self.model, finding.kind, finding.slice)
        known = self.open.get(key)
        if known is None and finding.state is State.RETRACTED:
            known = self._ended_before(key, finding.detected_at)
        type_ = TRANSITIONS.get((known.state if known else None, finding.state))
        if type_ is None:
            return []
        if known is not None and finding.state in _ENDS:
            return self._close(type_, known, finding)
        if known is not None and finding.state is known.state:
            return self._restate(type_, known, finding)
        return self._open(type_, key, known, finding)

    def _blame(self, cause: Alert, at: int) -> list[Transition]:
        """Join a cause that was found, or taken back, to what it may have caused.

        Whoever was told of an alert is told when it gets its first cause.
        """
        retracted = cause.id if cause.state is State.RETRACTED else None
        transitions = []
        for alert in [a for a in self.open.values() if a.state is State.FIRING]:
            known = tuple(c for c in alert.likely_causes if c["alert"] != retracted)
            causes = likely_causes(replace(alert, likely_causes=known), self.open.values())
            if same_causes(causes, alert.likely_causes):
                continue
            revised = replace(alert, likely_causes=causes, revision=alert.revision + 1)
            verb = "may explain it" if len(causes) > len(known) else "was taken back"
            reason = f"{cause.kind.value} of {slice_text(cause.slice)} {verb}"
            notify = _was_told(alert) and not alert.likely_causes
            transitions.append(self._now("alert.revised", at, reason, revised, notify=notify))
        return transitions

    def _open(
        self, type_: str, key: str, known: Alert | None, finding: Finding
    ) -> list[Transition]:
        """An alert that was not there, or was pending and now fires."""
        at = finding.detected_at
        known = known or self._ended_before(key, at)
        firing = [alert for alert in self.open.values() if alert.state is State.FIRING]
        head = head_of(finding.kind, finding.explained_by, firing)
        below = [] if head else taken_over(finding.kind, finding.slice, firing)
        alert = Alert(
            id=known.id if known else alert_id(key, at),
            tenant=self.tenant,
            fingerprint=key,
            model=self.model,
            kind=finding.kind,
            state=finding.state,
            severity=finding.severity,
            slice=finding.slice,
            onset=finding.onset,
            onset_interval=finding.onset_interval,
            detected_at=at,
            resolved_at=None,
            effect=finding.effect,
            evidence=finding.evidence,
            explained_by=head.id if head else None,
            explains=tuple(i for b in below for i in (b.id, *b.explains)),
            likely_causes=(),
            summary=finding.summary,
            revision=known.revision + 1 if known else 1,
        )
        alert = replace(alert, likely_causes=likely_causes(alert, firing))
        why = _why(finding)
        if known is not None and known.state in _ENDS:
            why = f"the same incident again: {why}"
        if alert.state is State.PENDING:
            return [self._now(type_, at, why, replace(alert, explains=()), notify=False)]
        reason = f"explained by {slice_text(head.slice)}" if head else why
        transitions = [self._now(type_, at, reason, alert, notify=head is None)]
        if head is not None and alert.id not in head.explains:
            reason = f"explains {slice_text(alert.slice)} too"
            transitions.append(
                self._revise(replace(head, explains=(*head.explains, alert.id)), at, reason)
            )
        for part in below:
            reason = f"explained by {slice_text(alert.slice)}"
            for inner in (part, *self._by_id(part.explains)):
                revised = replace(inner, explained_by=alert.id, explains=())
                transitions.append(self._revise(revised, at, reason))
        return transitions

    def _ended_before(self, key: str, at: int) -> Alert | None:
        """The alert of this fingerprint that ended within a week; those that are older are gone."""
        for old in [k for k, alert in self.ended.items() if _is_past(alert, at)]:
            del self.ended[old]
        return self.ended.pop(key, None)

    def _by_id(self, ids: Sequence[str]) -> list[Alert]:
        return [alert for alert in self.open.values() if alert.id in ids]

    def _revise(self, alert: Alert, at: int, reason: str) -> Transition:
        """A change in what belongs together; it is in the history, and no one is called for it."""
        revised = replace(alert, revision=alert.revision + 1)
        return self._now("alert.revised", at, reason, revised, notify=False)

    def _now(self, type_: str, at: int, reason: str, alert: Alert, *, notify: bool) -> Transition:
        """The transition that leaves this alert, which is open."""
        self.open[alert.fingerprint] = alert
        return Transition(type=type_, at=at, reason=reason, notify=notify, alert=alert)

    def _restate(self, type_: str, known: Alert, finding: Finding) -> list[Transition]:
        """Other figures, another story: whoever found it again has decided that it is worth it.

        A detector outside the budget takes nothing back of what one inside it has said.
        """
        outside = finding.evidence.mode == OUTSIDE_BUDGET != known.evidence.mode
        at = finding.detected_at
        stated = replace(
            known,
            severity=finding.severity,
            onset=finding.onset,
            onset_interval=finding.onset_interval,
            # who was left behind, and got worse later, was found out twice
            detected_at=known.detected_at if finding.onset <= known.detected_at else at,
            effect=finding.effect,
            evidence=finding.evidence,
            summary=finding.summary or known.summary,
        )
        if finding.leads and known.explained_by is not None:
            return self._lead(stated, finding)
        if outside or stated == known:
            return []
        revised = replace(stated, revision=known.revision + 1)
        notify = _was_told(known)
        return [self._now(type_, at, _why(finding), revised, notify=notify)]

    def _lead(self, stated: Alert, finding: Finding) -> list[Transition]:
        """Make an alert the head of what explained it, and of other heads that are part of it."""
        at, firing = finding.detected_at, list(self.open.values())
        below = [a for a in firing if a.id == stated.explained_by]
        below += [a for a in taken_over(stated.kind, stated.slice, firing) if a not in below]
        parts = [a for b in below for a in (b, *self._by_id(b.explains)) if a.id != stated.id]
        reason = f"explained by {slice_text(stated.slice)}"
        return self._made_head(stated, parts, at, _why(finding), reason)

    def _made_head(
        self, alert: Alert, parts: Sequence[Alert], at: int, why: str, reason: str
    ) -> list[Transition]:
        """Tell of an alert that was explained as the head of these parts; they are told to no one.

        `why` is of the head's change, `reason` of the parts'.
        """
        head = replace(
            alert,
            explained_by=None,
            explains=tuple(part.id for part in parts),
            revision=alert.revision + 1,
        )
        return [
            self._now("alert.firing", at, why, head, notify=True),
            *(
                self._revise(replace(part, explained_by=head.id, explains=()), at, reason)
                for part in parts
            ),
        ]

    def close_all(self, at: int) -> list[Transition]:
        """Close what is open: the model is watched anew, and no one will see how it goes on."""
        alerts, self.open = list(self.open.values()), {}
        return [
            Transition(
                type="alert.resolved",
                at=at,
                reason="the model is watched anew",
                notify=_was_told(alert),
                alert=replace(
                    alert, state=State.RESOLVED, resolved_at=at, revision=alert.revision + 1
                ),
            )
            for alert in alerts
        ]

    def _close(self, type_: str, known: Alert, finding: Finding) -> list[Transition]:
        at = finding.detected_at
        self.open.pop(known.fingerprint, None)
        closed = replace(
            known,
            state=finding.state,
            resolved_at=at,
            summary=finding.summary or known.summary,
            revision=known.revision + 1,
        )
        self.ended.pop(closed.fingerprint, None)
        self.ended[closed.fingerprint] = closed
        retracted = finding.state is State.RETRACTED
        reason = finding.reason or (TAKEN_BACK if retracted else "it is back")
        return [
            Transition(type=type_, at=at, reason=reason, notify=_was_told(known), alert=closed),
            *self._promote(known, at),
        ]

    def _promote(self, gone: Alert, at: int) -> list[Transition]:
        """Give what a closed head explained, and is open still, a head of its own: the eldest."""
        orphans = self._by_id(gone.explains)
        if not orphans:
            return []
        reason = f"{slice_text(gone.slice)}, which explained it, is back"
        return self._made_head(orphans[0], orphans[1:], at, reason, reason)

    def save(self) -> list[Any]:
        """The state."""
        return [
            [msgspec.to_builtins(alert) for alert in alerts.values()]
            for alerts in (self.open, self.ended)
        ]

    @classmethod
    def restore(cls, tenant: str, model: str, state: list[Any]) -> Ledger:
        """The ledger that `save` gave."""
        ledger = cls(tenant, model)
        for alerts, saved in zip((ledger.open, ledger.ended), state, strict=True):
            for alert in msgspec.convert(saved, list[Alert]):
                alerts[alert.fingerprint] = alert
        return ledger


def _is_past(alert: Alert, at: int) -> bool:
    return at - (alert.resolved_at or 0) > SAME_INCIDENT


def _was_told(alert: Alert) -> bool:
    """Whether endpoints may have heard of it: when it fired, or when it was resolved."""
    return alert.state is not State.PENDING and alert.explained_by is None


def _why(finding: Finding) -> str:
    """What made a finding fire, for the alert's history."""
    if finding.reason:
        return finding.reason
    if finding.evidence.mode == OUTSIDE_BUDGET:
        return f"a detector {OUTSIDE_BUDGET} says so"
    if finding.evidence.mode == BY_RULE:
        return "a rule is broken"
    if finding.effect.because == "left_behind":
        return "evidence of a wider gap at 1"
    return "evidence at 1" if finding.evidence.rest is None else "both kinds of evidence at 1"
