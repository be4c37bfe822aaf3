"""Muting: why an alert is kept quiet at this moment, worked out of silences and firing alerts.

Never a state of the alert: it is asked when someone reads the alert, and again when a receiver is
about to be told of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection, select

from service.alerts.alert import Alert
from service.alerts.inhibition import inhibitor, inhibitors_of
from service.alerts.silences import current
from service.monitor.findings import State
from service.tables import alerts

RECHECK: Final = 60 * 1_000_000  # µs until an inhibited alert is looked at again


@dataclass(frozen=True, slots=True)
class Mute:
    """What keeps an alert quiet, and until when at least."""

    silence: str | None  # its id
    inhibitor: str | None  # the id of the alert that makes this one pointless
    until: int

    @property
    def by(self) -> str:
        """The id of what mutes it."""
        return self.silence or self.inhibitor or ""


class Muting:
    """What is muted for one tenant at one instant, as one connection sees it."""

    def __init__(self, connection: Connection, tenant: str, now: int) -> None:
        self._connection = connection
        self._tenant = tenant
        self._now = now
        self._silences = current(connection, tenant, now)
        self._firing: dict[str, list[Alert]] = {}  # by model, those that may inhibit

    def of(self, alert: Alert) -> Mute | None:
        """Why this alert is kept quiet; None where it is not, or is no longer open."""
        if alert.state is not State.FIRING:
            return None
        silence, until = self._silence(alert)
        other = self._inhibitor(alert)
        if silence is None and other is None:
            return None
        return Mute(
            silence=silence,
            inhibitor=None if other is None else other.id,
            until=until if other is None else max(until, self._now + RECHECK),
        )

    def _silence(self, alert: Alert) -> tuple[str | None, int]:
        """The silence that lasts longest, and until when."""
        ends = [(silence.until_when(alert, self._now), silence.id) for silence in self._silences]
        longest = max(((until, id_) for until, id_ in ends if until is not None), default=None)
        return (None, 0) if longest is None else (longest[1], longest[0])

    def _inhibitor(self, alert: Alert) -> Alert | None:
        kinds = inhibitors_of(alert.kind)
        if not kinds:
            return None
        if alert.model not in self._firing:
            query = (
                select(alerts.c.body)
                .where(
                    alerts.c.tenant == self._tenant,
                    alerts.c.state == State.FIRING.value,
                    alerts.c.model == alert.model,
                )
                .order_by(alerts.c.detected_at, alerts.c.id)
            )
            self._firing[alert.model] = [
                msgspec.json.decode(body, type=Alert)
                for body in self._connection.execute(query).scalars()
            ]
        return inhibitor(alert, self._firing[alert.model])
