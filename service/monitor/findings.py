"""Finding: one slice found out at one tick, named and storable.

Kinds, states and severities are closed sets that decide something; a slice is what its rows have
in common.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

OUTSIDE_BUDGET: Final = "outside the budget"  # mode of evidence that no promise covers
BY_RULE: Final = "rule"  # mode of what no promise covers and needs none: it is not chance
TAKEN_BACK: Final = "later labels took the evidence back"

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

    metric: str  # what is measured: the loss ("wer", "zero_one", ...), or a share of rows
    because: str | None  # "degraded" or "left_behind"; None where it is not of losses
    before: float  # in the reference
    after: float  # since onset
    rest_before: float | None
    rest_after: float | None
    gap_widened_by: float | None
    interval: tuple[float, float] | None  # of gap_widened_by; without a rest of after - before
    rows: int  # predictions of the slice since onset
    labels: int
    feature: str | None = None  # whose values moved, where it is an input
    moved: str | None = None  # how, in words: "share above 12.5 dB: 10 % → 31 %"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the detectors hold against the slice; an alarm needs each that is given to reach
    `alarm_at`."""

    own_reference: float
    rest: float | None
    alarm_at: float
    mode: str  # "proven", "calibrated", OUTSIDE_BUDGET or BY_RULE
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
    leads: bool = False  # it heads the incident from now on that another explained it in
    summary: str = ""
    reason: str = ""  # of this change, in words, for the alert's history

    def with_reason(self, reason: str) -> Finding:
        """The same, and why it is told now."""
        return replace(self, reason=reason)


def slice_text(slice_: Slice) -> str:
    """`floor=7, accent=scottish`; `everyone` for the whole model."""
    return ", ".join(f"{dimension}={value}" for dimension, value in slice_) or "everyone"
