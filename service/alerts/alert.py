"""Alert, Finding and Transition: one slice, one kind, from onset to resolution.

A `Finding` is what the monitor says at a tick. The ledger makes `Transition`s of findings; each
carries the whole alert as it then is, and is what endpoints are told. Muting (acknowledged,
silenced, inhibited) is never a state: it is joined to the alert when someone reads it.
"""

from __future__ import annotations

import base64
import hashlib
from enum import StrEnum
from typing import Any

import msgspec

Slice = tuple[tuple[str, str], ...]  # (dimension, value) sorted by dimension; () is the whole model


class Kind(StrEnum):
    """What is wrong."""

    ERROR_RATE = "error_rate"
    DISPARITY = "disparity"
    INPUT_SHIFT = "input_shift"
    COMPOSITION = "composition"
    VERSION = "version"
    LABELS = "labels"
    DATA_QUALITY = "data_quality"
    SILENCE = "silence"


class State(StrEnum):
    """Where an alert is in its life."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"
    RETRACTED = "retracted"


class Severity(StrEnum):
    """How much it hurts."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """How much worse, than what it was and than the rest."""

    metric: str  # the loss: "wer", "zero_one", ...
    because: str  # "degraded" or "left_behind"
    before: float  # loss in the reference
    after: float  # loss since onset
    rest_before: float | None
    rest_after: float | None
    gap_widened_by: float | None
    interval: tuple[float, float] | None  # of gap_widened_by; of after - before where there is no rest
    rows: int  # predictions of the slice since onset
    labels: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the detectors hold against the slice; an alarm needs each that is given at `alarm_at`."""

    own_reference: float
    rest: float | None
    alarm_at: float
    mode: str  # "proven" or "calibrated"
    false_alerts: str  # the budget in words: "1 per 7d"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One slice found out at one tick, named and storable."""

    model: str
    kind: Kind
    slice: Slice
    state: State  # what the finding says of the alert: FIRING opens or revises, RESOLVED closes
    severity: Severity
    onset: int  # microseconds since 1970, UTC, as are all instants here
    onset_interval: tuple[int, int]
    detected_at: int
    effect: Effect
    evidence: Evidence
    explained_by: Slice | None = None  # the slice whose incident this belongs to
    likely_causes: tuple[dict[str, Any], ...] = ()
    summary: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as the ledger holds it; `service.alerts.routes` adds who acknowledged or muted it."""

    id: str
    tenant: str
    fingerprint: str  # of tenant, model, kind and slice: two alerts that share it are never open at once
    model: str
    kind: Kind
    state: State
    severity: Severity
    slice: Slice
    onset: int
    onset_interval: tuple[int, int]
    detected_at: int
    resolved_at: int | None
    effect: Effect
    evidence: Evidence
    explained_by: str | None  # id of the alert that heads this incident
    explains: tuple[str, ...]  # ids of those that this one heads
    likely_causes: tuple[dict[str, Any], ...]
    summary: str
    revision: int  # 1 when it opens, one more with each transition


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an alert: unique by (tenant, alert id, revision)."""

    type: str  # "alert.firing", "alert.revised", "alert.resolved", "alert.retracted"
    at: int  # the tick that made it
    reason: str  # in words
    notify: bool  # False where another alert heads the incident: kept in its history, told to no one
    alert: Alert


def fingerprint(tenant: str, model: str, kind: Kind, slice_: Slice) -> str:
    """32 hex digits that name what an alert is about."""
    parts = [tenant, model, kind.value, *(part for pair in slice_ for part in pair)]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def alert_id(fingerprint_: str, detected_at: int) -> str:
    """An id that the same journal gives again: `al_` and 26 characters, sortable by time."""
    digest = hashlib.blake2b(f"{fingerprint_}:{detected_at}".encode(), digest_size=10).digest()
    stamped = (detected_at // 1000).to_bytes(6, "big") + digest
    return "al_" + base64.b32hexencode(stamped).decode().rstrip("=")


def slice_text(slice_: Slice) -> str:
    """`floor=7, accent=scottish`; `everyone` for the whole model."""
    return ", ".join(f"{dimension}={value}" for dimension, value in slice_) or "everyone"
