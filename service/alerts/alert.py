"""Alert and Transition: one slice, one kind, from onset to resolution.

The ledger makes `Transition`s of the monitor's findings; each
carries the whole alert as it then is, and is what endpoints are told. Muting (acknowledged,
silenced, inhibited) is never a state: it is joined to the alert when someone reads it.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec

from service.monitor.findings import Effect, Evidence, Kind, Severity, Slice, State


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as the ledger holds it; who acknowledged or muted it is joined when it is read."""

    id: str
    tenant: str
    fingerprint: str  # of tenant, model, kind and slice: at most one open alert has it
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
    notify: bool  # False: kept in the history, told to no one
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
