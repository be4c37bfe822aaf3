"""Outbox: deliveries that are to be made, written with what they tell of.

    waiting ── 2xx ──────────────────────────────→ delivered
       │  ├─── schedule used up, or 410 ─────────→ failed
       │  ├─── its alert has gone on meanwhile ──→ superseded
       │  ├─── its alert ended while muted ──────→ muted
       └─ any other end: waiting, later
    delivered, failed, superseded, muted ── replay ──→ waiting

Written in the transaction that stores a transition. `service.notify.lanes` takes them out again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    case,
    delete,
    func,
    select,
    tuple_,
    update,
)

from service.alerts.acknowledgements import acknowledgement_of
from service.alerts.alert import Transition
from service.database import insert_into
from service.errors import Conflict, NotFound
from service.notify.endpoints import EndpointState, Subscriber, active, find
from service.notify.webhook import (
    TEST_TYPE,
    body_for,
    body_for_test,
    body_of_news,
    delivery_id,
)
from service.tables import attempts, deliveries, lanes

MAX_REPLAYED: Final = 10_000  # deliveries by one request


class DeliveryState(StrEnum):
    """Where a delivery is."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # the alert's newest state was told in its place
    MUTED = "muted"  # a silence or another alert kept it back until there was nothing to tell


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell of: a transition's or another's, once for each who wants it."""

    tenant: str
    about: str  # with the number, what the id of a delivery is made of
    number: int
    type: str
    body: str
    alert_id: str | None = None


# Writing


def enqueue(
    connection: Connection, transition: Transition, now: int, public_url: str | None = None
) -> int:
    """Write a delivery for each active endpoint that wants to hear of a transition.

    An endpoint that heard of an alert before hears of it to the end, whatever its filters say of
    what the alert has become. Returns how many were new: one that is there already is left alone.
    """
    alert = transition.alert
    wanting = [
        endpoint
        for endpoint in active(connection, alert.tenant)
        if (transition.notify or endpoint.wants.group == "alert")
        and (endpoint.wants.filters.match(alert) or _was_told(connection, endpoint, alert.id))
    ]
    if not wanting:
        return 0
    acknowledged = acknowledgement_of(connection, alert.tenant, alert.id)
    news = News(
        tenant=alert.tenant,
        about=alert.id,
        number=alert.revision,
        type=transition.type,
        body=body_for(transition, acknowledged, public_url),
        alert_id=alert.id,
    )
    return _tell(connection, wanting, news, now)


def enqueue_test(connection: Connection, tenant: str, endpoint_id: str, now: int) -> str:
    """Write an `endpoint.test` delivery and give its id. Raises Conflict unless active."""
    endpoint = _sendable(connection, tenant, endpoint_id)
    before = select(func.count()).where(
        deliveries.c.tenant == tenant, deliveries.c.endpoint_id == endpoint_id
    )
    news = News(
        tenant=tenant,
        about=f"{TEST_TYPE}:{now}",
        number=connection.scalar(before) or 0,
        type=TEST_TYPE,
        body=body_for_test(endpoint_id, now),
    )
    _tell(connection, [endpoint], news, now)
    return delivery_id(tenant, news.about, news.number, endpoint_id)


def enqueue_news(
    connection: Connection, tenant: str, type_: str, about: str, data: dict[str, Any], now: int
) -> int:
    """Write what is no alert for each active endpoint that asked for this type besides.

    `about` makes it once: the same again is no new delivery. Returns how many were new.
    """
    wanting = [each for each in active(connection, tenant) if type_ in each.wants.also]
    body = body_of_news(type_, now, data)
    return _tell(connection, wanting, News(tenant, f"{type_}:{about}", 0, type_, body), now)


def replay(connection: Connection, tenant: str, endpoint_id: str, id_: str, now: int) -> None:
    """Make a delivery due again, on a fresh schedule, with the id and the bytes it always had.

    Raises NotFound; Conflict where its endpoint is not active.
    """
    _sendable(connection, tenant, endpoint_id)
    if _queue_again(connection, tenant, endpoint_id, deliveries.c.id == id_, now) == 0:
        raise NotFound("no such delivery")


def replay_range(
    connection: Connection,
    tenant: str,
    endpoint_id: str,
    *,
    since: int,
    until: int,
    states: Iterable[DeliveryState],
    now: int,
) -> int:
    """Make due again what was made between two instants and is in one of these states.

    At most `MAX_REPLAYED`, the oldest; returns how many. Raises as `replay` does.
    """
    _sendable(connection, tenant, endpoint_id)
    d = deliveries.c
    chosen = (
        select(d.id)
        .where(
            d.tenant == tenant,
            d.endpoint_id == endpoint_id,
            d.created_at >= since,
            d.created_at < until,
            d.state.in_(tuple(states)),
        )
        .order_by(d.created_at, d.sequence, d.id)
        .limit(MAX_REPLAYED)
    )
    return _queue_again(connection, tenant, endpoint_id, d.id.in_(chosen), now)


def forget(connection: Connection, before: int, limit: int) -> int:
    """Drop finished deliveries made before an instant, oldest first; returns how many."""
    old = connection.execute(
        select(deliveries.c.tenant, deliveries.c.id)
        .where(deliveries.c.state != DeliveryState.WAITING.value, deliveries.c.created_at < before)
        .order_by(deliveries.c.created_at)
        .limit(limit)
    ).all()
    done = [tuple(row) for row in old]
    for key, table in ((attempts.c.delivery_id, attempts), (deliveries.c.id, deliveries)):
        connection.execute(delete(table).where(tuple_(table.c.tenant, key).in_(done)))
    return len(old)


def _was_told(connection: Connection, endpoint: Subscriber, alert_id: str) -> bool:
    query = select(deliveries.c.id).where(
        deliveries.c.tenant == endpoint.tenant,
        deliveries.c.endpoint_id == endpoint.id,
        deliveries.c.alert_id == alert_id,
    )
    return connection.execute(query.limit(1)).first() is not None


def _sendable(connection: Connection, tenant: str, endpoint_id: str) -> Subscriber:
    endpoint = find(connection, tenant, endpoint_id)
    if endpoint.state is not EndpointState.ACTIVE:
        raise Conflict(f"endpoint: is {endpoint.state.value}; resume it first")
    return endpoint


def _queue_again(
    connection: Connection, tenant: str, endpoint_id: str, which: ColumnElement[bool], now: int
) -> int:
    its = and_(deliveries.c.tenant == tenant, deliveries.c.endpoint_id == endpoint_id, which)
    waiting = {
        "state": DeliveryState.WAITING.value,
        "n_attempts": 0,
        "held_by": None,
        "n_replays": deliveries.c.n_replays + 1,
        "next_attempt_at": now,
    }
    n = connection.execute(update(deliveries).where(its).values(waiting)).rowcount
    want(connection, tenant, endpoint_id, now)
    return n


def _tell(connection: Connection, wanting: Iterable[Subscriber], news: News, now: int) -> int:
    """A delivery for each of these; returns how many were not there before."""
    n_new = 0
    for endpoint in wanting:
        row = {
            "tenant": news.tenant,
            "id": delivery_id(news.tenant, news.about, news.number, endpoint.id),
            "endpoint_id": endpoint.id,
            "alert_id": news.alert_id,
            "type": news.type,
            "sequence": news.number if news.alert_id else 0,
            "body": news.body,
            "state": DeliveryState.WAITING.value,
            "held_by": None,
            "n_attempts": 0,
            "n_replays": 0,
            "next_attempt_at": now,
            "created_at": now,
        }
        if _insert_or_ignore(connection, deliveries, row):
            want(connection, news.tenant, endpoint.id, now)
            n_new += 1
    return n_new


def want(connection: Connection, tenant: str, endpoint_id: str, at: int) -> None:
    """See to it that an endpoint's lane is looked at by then.

    The row is written whether or not it changes: who works on the lane in another transaction
    has to wait for ours, and cannot miss what it adds.
    """
    sooner = case((lanes.c.wanted_at < at, lanes.c.wanted_at), else_=at)
    connection.execute(
        update(lanes)
        .where(lanes.c.tenant == tenant, lanes.c.endpoint_id == endpoint_id)
        .values(wanted_at=sooner)
    )


def _insert_or_ignore(connection: Connection, table: Table, row: dict[str, Any]) -> int:
    inserted = (
        insert_into(connection, table)
        .values(row)
        .on_conflict_do_nothing()
        .returning(*table.primary_key)
    )
    return len(connection.execute(inserted).all())


# Reading


def waiting(connection: Connection) -> tuple[int, int | None]:
    """How many deliveries are not yet made, and when the oldest of them was."""
    d = deliveries.c
    query = select(func.count(), func.min(d.created_at)).where(
        d.state == DeliveryState.WAITING.value
    )
    n, oldest = connection.execute(query).one()
    return n, oldest


def attempts_of(
    connection: Connection, tenant: str, delivery_ids: list[str]
) -> dict[str, list[Row[Any]]]:
    """The attempts of these deliveries, in order."""
    query = (
        select(attempts)
        .where(attempts.c.tenant == tenant, attempts.c.delivery_id.in_(delivery_ids))
        .order_by(attempts.c.delivery_id, attempts.c.number)
    )
    found: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(query):
        found.setdefault(row.delivery_id, []).append(row)
    return found
