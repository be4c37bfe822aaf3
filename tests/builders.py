"""Builders: whole alerts and transitions of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

import msgspec

from service.alerts.alert import Alert, Transition
from service.clock import Clock
from service.monitor.findings import Effect, Evidence, Kind, Severity, State

NOW = 1_795_000_000_000_000  # microseconds: 2026-11-18


class ManualClock:
    """A clock that goes on when it is told."""

    def __init__(self, now: int = NOW) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += round(seconds * 1_000_000)


_: Clock = ManualClock()

_ALERT = Alert(
    id="al_1",
    tenant="acme",
    fingerprint="f" * 32,
    model="transcribe-medical",
    kind=Kind.DISPARITY,
    state=State.FIRING,
    severity=Severity.CRITICAL,
    slice=(("accent", "scottish"), ("floor", "7")),
    onset=NOW - 1_380_000_000,
    onset_interval=(NOW - 1_400_000_000, NOW - 1_300_000_000),
    detected_at=NOW,
    resolved_at=None,
    effect=Effect(
        metric="wer",
        because="degraded",
        before=0.081,
        after=0.193,
        rest_before=0.079,
        rest_after=0.084,
        gap_widened_by=0.107,
        interval=(0.061, 0.153),
        rows=412,
        labels=96,
    ),
    evidence=Evidence(
        own_reference=3.2, rest=1.4, alarm_at=1.0, mode="calibrated", false_alerts="1 per 7d"
    ),
    explained_by=None,
    explains=(),
    likely_causes=(),
    summary="WER on floor 7 for Scottish accents rose from 8.1 % to 19.3 %.",
    revision=1,
)


def an_alert(**changes: Any) -> Alert:
    """A firing disparity alert of tenant acme, with these fields changed."""
    return msgspec.structs.replace(_ALERT, **changes)


def a_transition(
    type_: str = "alert.firing",
    notify: bool = True,
    reason: str = "found",
    at: int = NOW,
    **changes: Any,
) -> Transition:
    """A transition that leaves `an_alert(**changes)`."""
    return Transition(type=type_, at=at, reason=reason, notify=notify, alert=an_alert(**changes))
