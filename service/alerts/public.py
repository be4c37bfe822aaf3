"""The alert as everyone outside sees it: in the API, in webhooks and in backtests, one form."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from service.alerts.alert import Alert
from service.clock import to_rfc3339

SIGNIFICANT_DIGITS = 6


def public_alert(
    alert: Alert,
    acknowledged: dict[str, Any] | None = None,
    silenced_by: str | None = None,
    inhibited_by: str | None = None,
) -> dict[str, Any]:
    """The contract's alert: RFC 3339 instants, the slice as an object, finite rounded numbers.

    `acknowledged` is who took it in hand, where someone did: {"by", "at", "comment"}; the other
    two are ids of what keeps it quiet at this moment.
    """
    return {
        "id": alert.id,
        "model": alert.model,
        "kind": alert.kind.value,
        "state": alert.state.value,
        "severity": alert.severity.value,
        "slice": dict(alert.slice),
        "order": len(alert.slice),
        "onset": to_rfc3339(alert.onset),
        "onset_interval": [to_rfc3339(at) for at in alert.onset_interval],
        "detected_at": to_rfc3339(alert.detected_at),
        "resolved_at": None if alert.resolved_at is None else to_rfc3339(alert.resolved_at),
        "effect": rounded(_public_effect(alert)),
        "evidence": rounded(msgspec.to_builtins(alert.evidence)),
        "explained_by": alert.explained_by,
        "explains": list(alert.explains),
        "likely_causes": [_public_cause(cause) for cause in alert.likely_causes],
        "summary": alert.summary,
        "acknowledged": acknowledged,
        "silenced_by": silenced_by,
        "inhibited_by": inhibited_by,
        "revision": alert.revision,
    }


def _public_effect(alert: Alert) -> dict[str, Any]:
    """As it is; of losses there is no feature that moved."""
    effect: dict[str, Any] = msgspec.to_builtins(alert.effect)
    return {k: v for k, v in effect.items() if v is not None or k not in ("feature", "moved")}


def rounded(value: Any) -> Any:
    """The same document, its numbers at six significant digits; null where one is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return value


def _public_cause(cause: dict[str, Any]) -> dict[str, Any]:
    since = cause.get("since")
    if isinstance(since, int):
        cause = {**cause, "since": to_rfc3339(since)}
    return dict(rounded(cause))
