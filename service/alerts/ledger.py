"""Ledger: the open alerts of one model; findings come in, transitions go out.

    (none) ── firing ──▶ FIRING ── resolved ──▶ RESOLVED
                           └─ retracted ─▶ RETRACTED

A fingerprint has at most one open alert. Everything here follows from the findings alone, ids
included, so a replay makes the same transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from service.alerts.alert import Alert, Transition, alert_id, fingerprint
from service.alerts.hierarchy import head_of, taken_over
from service.monitor.findings import OUTSIDE_BUDGET, Finding, State, slice_text


class Ledger:
    """The open alerts of one tenant's model."""

    def __init__(self, tenant: str, model: str) -> None:
        self.tenant = tenant
        self.model = model
        self.open: dict[str, Alert] = {}  # by fingerprint, in the order they opened

    def apply(self, findings: Sequence[Finding]) -> list[Transition]:
        """What the findings change, in order."""
        transitions: list[Transition] = []
        for finding in findings:
            key = fingerprint(self.tenant, self.model, finding.kind, finding.slice)
            known = self.open.get(key)
            if finding.state is State.FIRING and known is None:
                transitions += self._open(key, finding)
            elif finding.state is not State.FIRING and known is not None:
                transitions += self._close(key, known, finding)
        return transitions

    def _open(self, key: str, finding: Finding) -> list[Transition]:
        at = finding.detected_at
        head = head_of(finding.kind, finding.explained_by, self.open.values())
        below = [] if head else taken_over(finding.kind, finding.slice, self.open.values())
        alert = Alert(
            id=alert_id(key, at),
            tenant=self.tenant,
            fingerprint=key,
            model=self.model,
            kind=finding.kind,
            state=State.FIRING,
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
            likely_causes=finding.likely_causes,
            summary=finding.summary,
            revision=1,
        )
        self.open[key] = alert
        reason = f"explained by {slice_text(head.slice)}" if head else _why(finding)
        transitions = [
            Transition(type="alert.firing", at=at, reason=reason, notify=head is None, alert=alert)
        ]
        if head is not None:
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

    def _by_id(self, ids: Sequence[str]) -> list[Alert]:
        return [alert for alert in self.open.values() if alert.id in ids]

    def _revise(self, alert: Alert, at: int, reason: str) -> Transition:
        """A change in what belongs together; it is in the history, and no one is called for it."""
        revised = replace(alert, revision=alert.revision + 1)
        self.open[alert.fingerprint] = revised
        return Transition(type="alert.revised", at=at, reason=reason, notify=False, alert=revised)

    def close_all(self, at: int) -> list[Transition]:
        """Close what is open: the model is watched anew, and no one will see how it goes on."""
        alerts, self.open = list(self.open.values()), {}
        return [
            Transition(
                type="alert.resolved",
                at=at,
                reason="the model is watched anew",
                notify=alert.explained_by is None,
                alert=replace(
                    alert, state=State.RESOLVED, resolved_at=at, revision=alert.revision + 1
                ),
            )
            for alert in alerts
        ]

    def _close(self, key: str, known: Alert, finding: Finding) -> list[Transition]:
        del self.open[key]
        closed = replace(
            known,
            state=finding.state,
            resolved_at=finding.detected_at,
            summary=finding.summary or known.summary,
            revision=known.revision + 1,
        )
        retracted = finding.state is State.RETRACTED
        transitions = [
            Transition(
                type="alert.retracted" if retracted else "alert.resolved",
                at=finding.detected_at,
                reason="later labels took the evidence back" if retracted else "it is back",
                notify=known.explained_by is None,
                alert=closed,
            )
        ]
        return transitions + self._promote(known, finding.detected_at)

    def _promote(self, gone: Alert, at: int) -> list[Transition]:
        """Give what a closed head explained, and is open still, a head of its own: the eldest."""
        orphans = self._by_id(gone.explains)
        if not orphans:
            return []
        eldest, others = orphans[0], orphans[1:]
        head = replace(
            eldest,
            explained_by=None,
            explains=tuple(other.id for other in others),
            revision=eldest.revision + 1,
        )
        self.open[head.fingerprint] = head
        reason = f"{slice_text(gone.slice)}, which explained it, is back"
        firing = Transition(type="alert.firing", at=at, reason=reason, notify=True, alert=head)
        return [
            firing,
            *(self._revise(replace(o, explained_by=head.id), at, reason) for o in others),
        ]

    def save(self) -> list[Any]:
        """The state."""
        return [msgspec.to_builtins(alert) for alert in self.open.values()]

    @classmethod
    def restore(cls, tenant: str, model: str, state: list[Any]) -> Ledger:
        """The ledger that `save` gave."""
        ledger = cls(tenant, model)
        for alert in msgspec.convert(state, list[Alert]):
            ledger.open[alert.fingerprint] = alert
        return ledger


def _why(finding: Finding) -> str:
    """What made a finding fire, for the alert's history."""
    if finding.evidence.mode == OUTSIDE_BUDGET:
        return f"a detector {OUTSIDE_BUDGET} says so"
    return "evidence at 1" if finding.evidence.rest is None else "both kinds of evidence at 1"
