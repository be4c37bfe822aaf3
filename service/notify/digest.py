"""Digest: a tenant's day in one piece of news: what is open, what ended, what could not be watched.

`digest` is the document, a pure function; `send` writes it for the endpoints that asked for it,
once for each day; `job` does so every day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, select

from service.alerts.alert import Alert
from service.alerts.public import public_alert
from service.clock import to_rfc3339
from service.monitor.findings import Severity, State
from service.notify.endpoints import EndpointState
from service.notify.outbox import enqueue_news
from service.notify.wants import Wants
from service.schedule import Job, Run
from service.tables import alerts, endpoints, transitions

TYPE: Final = "digest.daily"
DAY: Final = 86_400 * 1_000_000  # µs
LISTED: Final = 50  # alerts of each list; their number is told besides
SHOWN: Final = ("id", "model", "kind", "severity", "state", "slice", "onset", "summary")

NotWatched = Mapping[str, Sequence[Mapping[str, str]]]  # by tenant: {"model", "reason"}

_SEVEREST_FIRST: Final = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


def digest(
    open_: Sequence[Alert],
    ended: Sequence[Alert],
    not_watched: Sequence[Mapping[str, str]],
    since: int,
    until: int,
    public_url: str | None = None,
) -> dict[str, Any]:
    """The document of one tenant's day; the severest and newest alerts first."""
    document: dict[str, Any] = {
        "since": to_rfc3339(since),
        "until": to_rfc3339(until),
        "n_open": len(open_),
        "n_ended": len(ended),
        "open": _listed(open_),
        "ended": _listed(ended),
        "not_watched": [dict(each) for each in not_watched[:LISTED]],
    }
    if public_url is not None:
        document["url"] = public_url
    return document


def job(not_watched: Callable[[int], NotWatched], public_url: str | None = None) -> Job:
    """The daily job; `not_watched` says what could not be watched at an instant."""

    def work(run: Run) -> bool:
        unwatched = not_watched(run.at)  # before the transaction: the engine may wait for that
        with run.commit() as connection:
            send(connection, run.at, unwatched, public_url)
        return False

    return Job("digest", DAY / 1_000_000, work)


def send(
    connection: Connection, now: int, unwatched: NotWatched, public_url: str | None = None
) -> int:
    """Write the digest of the day that ends now for each who asked; returns how many were new."""
    n = 0
    for tenant in _wanting(connection):
        document = digest(
            _heads(connection, tenant, alerts.c.state == State.FIRING.value),
            _heads(connection, tenant, _ended_since(now - DAY)),
            unwatched.get(tenant, ()),
            now - DAY,
            now,
            public_url,
        )
        n += enqueue_news(connection, tenant, TYPE, to_rfc3339(now)[:10], document, now)
    return n


def _wanting(connection: Connection) -> list[str]:
    """Tenants with an endpoint that is told."""
    query = select(endpoints.c.tenant, endpoints.c.wants).where(
        endpoints.c.state == EndpointState.ACTIVE.value
    )
    rows = connection.execute(query)
    return sorted({row.tenant for row in rows if TYPE in Wants.model_validate_json(row.wants).also})


def _heads(connection: Connection, tenant: str, which: Any) -> list[Alert]:
    query = select(alerts.c.body).where(alerts.c.tenant == tenant, which)
    found = (msgspec.json.decode(body, type=Alert) for body in connection.execute(query).scalars())
    return [alert for alert in found if alert.explained_by is None]


def _ended_since(instant: int) -> Any:
    ended = and_(
        transitions.c.tenant == alerts.c.tenant,
        transitions.c.alert_id == alerts.c.id,
        transitions.c.revision == alerts.c.revision,
        transitions.c.at >= instant,
    )
    ends = (State.RESOLVED.value, State.RETRACTED.value)
    return and_(alerts.c.state.in_(ends), select(transitions.c.at).where(ended).exists())


def _listed(found: Sequence[Alert]) -> list[dict[str, Any]]:
    ordered = sorted(
        found, key=lambda alert: (_SEVEREST_FIRST.index(alert.severity), -alert.onset, alert.id)
    )
    return [
        {name: public[name] for name in SHOWN} for public in map(public_alert, ordered[:LISTED])
    ]
