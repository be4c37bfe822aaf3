"""Incidents: open alerts with what each explains, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

PublicAlert = Mapping[str, Any]

_SEVERITIES: Final = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Incident:
    """An alert that heads others, and those."""

    head: PublicAlert
    parts: tuple[PublicAlert, ...]

    @property
    def rows_an_hour(self) -> float:
        """How many predictions of the slice an hour are hurt."""
        onset, seen = (datetime.fromisoformat(self.head[name]) for name in ("onset", "detected_at"))
        hours = max((seen - onset).total_seconds() / 3600, 1.0)
        return float(self.head["effect"]["rows"]) / hours

    @property
    def is_muted(self) -> bool:
        """Someone has seen to it that nobody is called for this."""
        return bool(self.head["silenced_by"] or self.head["inhibited_by"])

    @property
    def harm(self) -> float:
        """Loss an hour beyond what it was: how bad, times for how many."""
        effect = self.head["effect"]
        widened = effect["gap_widened_by"]
        worse = effect["after"] - effect["before"] if widened is None else widened
        return float(max(worse, 0.0) * self.rows_an_hour)


def incidents(alerts: Iterable[PublicAlert]) -> list[Incident]:
    """Heads with their parts; muted ones last, then by severity, then by harm."""
    by_id = {alert["id"]: alert for alert in alerts}
    heads = [alert for alert in by_id.values() if alert["explained_by"] not in by_id]
    found = [
        Incident(head, tuple(by_id[id_] for id_ in head["explains"] if id_ in by_id))
        for head in heads
    ]
    return sorted(found, key=_worst_first)


def _worst_first(incident: Incident) -> tuple[bool, int, float, str]:
    severity = _SEVERITIES.index(incident.head["severity"])
    return incident.is_muted, severity, -incident.harm, incident.head["id"]
