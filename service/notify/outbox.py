"""Outbox: deliveries that are to be made, written with what they tell of; all their SQL is here.

    waiting ── 2xx ──────────────────────→ delivered
       │  └─── schedule used up, or 410 ─→ failed
       └─ any other end: waiting, later
    delivered, failed ── replay ──→ waiting

A delivery is claimed by compare-and-set with a lease. A worker that dies between sending and
recording leaves the lease to run out, and the same delivery goes out again: the same id, the same
bytes. An endpoint has one delivery in flight, and an alert's deliveries reach it in order: what
comes later waits for what is still waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from service.alerts.alert import Transition
from service.errors import Conflict, NotFound
from service.notify.endpoints import (
    Endpoint,
    EndpointState,
    Secret,
    active,
    find,
    live_secrets,
    unpack_secrets,
)
from service.notify.webhook import TEST_TYPE, body_for, body_for_test, delivery_id
from service.tables import attempts, deliveries, endpoints

_ITS_ENDPOINT: Final = and_(
    endpoints.c.tenant == deliveries.c.tenant, endpoints.c.id == deliveries.c.endpoint_id
)


class DeliveryState(StrEnum):
    """Where a delivery is."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that may be claimed now."""

    tenant: str
    id: str
    endpoint_id: str
    next_attempt_at: int
    leased_until: int


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that is ours to attempt until the lease runs out."""

    tenant: str
    id: str
    endpoint_id: str
    url: str
    secrets: tuple[Secret, ...]
    body: str
    n_attempts: int  # of this round; a replay starts a new one
    leased_until: int

    def signing_secrets(self, now: int) -> list[str]:
        """The secrets to sign an attempt with, newest first."""
        return live_secrets(self.secrets, now)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, and what came of it."""

    at: int
    status: int | None
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt makes of its delivery."""

    state: DeliveryState
    next_attempt_at: int
    gone: bool = False  # the receiver wants no more: its endpoint is disabled


# Writing


def enqueue(connection: Connection, transition: Transition, now: int) -> int:
    """Write a delivery for each active endpoint that wants to hear of a transition.

    An endpoint that heard of an alert before hears of it to the end, whatever its filters say of
    what the alert has become. Returns how many were new: one that is there already is left alone.
    """
    if not transition.notify:
        return 0
    alert = transition.alert
    wanting = [
        endpoint
        for endpoint in active(connection, alert.tenant)
        if endpoint.filters.match(alert) or _was_told(connection, endpoint, alert.id)
    ]
    body = body_for(transition) if wanting else ""
    return sum(
        _put(
            connection,
            endpoint,
            id_=delivery_id(alert.tenant, alert.id, alert.revision, endpoint.id),
            alert_id=alert.id,
            type_=transition.type,
            sequence=alert.revision,
            body=body,
            now=now,
        )
        for endpoint in wanting
    )


def enqueue_test(connection: Connection, tenant: str, endpoint_id: str, now: int) -> str:
    """Write an `endpoint.test` delivery and give its id. Raises Conflict unless active."""
    endpoint = _sendable(connection, tenant, endpoint_id)
    before = select(func.count()).where(
        deliveries.c.tenant == tenant, deliveries.c.endpoint_id == endpoint_id
    )
    id_ = delivery_id(tenant, f"{TEST_TYPE}:{now}", connection.scalar(before) or 0, endpoint_id)
    body = body_for_test(endpoint_id, now)
    _put(
        connection,
        endpoint,
        id_=id_,
        alert_id=None,
        type_=TEST_TYPE,
        sequence=0,
        body=body,
        now=now,
    )
    return id_


def replay(connection: Connection, tenant: str, endpoint_id: str, id_: str, now: int) -> None:
    """Make a delivery due again, on a fresh schedule, with the id and the bytes it always had.

    Raises NotFound; Conflict where its endpoint is not active.
    """
    _sendable(connection, tenant, endpoint_id)
    done = connection.execute(
        update(deliveries)
        .where(_is(tenant, id_), deliveries.c.endpoint_id == endpoint_id)
        .values(state=DeliveryState.WAITING.value, n_attempts=0, next_attempt_at=now)
    )
    if done.rowcount == 0:
        raise NotFound("no such delivery")


def _was_told(connection: Connection, endpoint: Endpoint, alert_id: str) -> bool:
    query = select(deliveries.c.id).where(
        deliveries.c.tenant == endpoint.tenant,
        deliveries.c.endpoint_id == endpoint.id,
        deliveries.c.alert_id == alert_id,
    )
    return connection.execute(query.limit(1)).first() is not None


def _sendable(connection: Connection, tenant: str, endpoint_id: str) -> Endpoint:
    endpoint = find(connection, tenant, endpoint_id)
    if endpoint.state is not EndpointState.ACTIVE:
        raise Conflict(f"endpoint: is {endpoint.state.value}; resume it first")
    return endpoint


def _put(
    connection: Connection,
    endpoint: Endpoint,
    *,
    id_: str,
    alert_id: str | None,
    type_: str,
    sequence: int,
    body: str,
    now: int,
) -> int:
    return _insert_or_ignore(
        connection,
        deliveries,
        {
            "tenant": endpoint.tenant,
            "id": id_,
            "endpoint_id": endpoint.id,
            "alert_id": alert_id,
            "type": type_,
            "sequence": sequence,
            "body": body,
            "state": DeliveryState.WAITING.value,
            "n_attempts": 0,
            "next_attempt_at": now,
            "leased_until": 0,
            "created_at": now,
        },
    )


def _insert_or_ignore(connection: Connection, table: Table, row: dict[str, Any]) -> int:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return connection.execute(dialect.insert(table).values(row).on_conflict_do_nothing()).rowcount


# Claiming and recording


def due(connection: Connection, now: int) -> list[Due]:
    """The next delivery of each endpoint that has one due and none in flight."""
    d = deliveries.c
    waiting = (
        select(
            d.tenant,
            d.id,
            d.endpoint_id,
            d.next_attempt_at,
            d.leased_until,
            d.created_at,
            d.sequence,
            func.row_number()
            .over(
                partition_by=(d.tenant, d.endpoint_id, func.coalesce(d.alert_id, d.id)),
                order_by=d.sequence,
            )
            .label("place_in_alert"),
            func.max(d.leased_until)
            .over(partition_by=(d.tenant, d.endpoint_id))
            .label("lane_leased_until"),
        )
        .join(endpoints, _ITS_ENDPOINT)
        .where(
            d.state == DeliveryState.WAITING.value,
            endpoints.c.state == EndpointState.ACTIVE.value,
        )
        .subquery()
    )
    w = waiting.c
    ready = (
        select(
            w.tenant,
            w.id,
            w.endpoint_id,
            w.next_attempt_at,
            w.leased_until,
            func.row_number()
            .over(partition_by=(w.tenant, w.endpoint_id), order_by=(w.created_at, w.sequence, w.id))
            .label("place_in_lane"),
        )
        .where(w.place_in_alert == 1, w.next_attempt_at <= now, w.lane_leased_until <= now)
        .subquery()
    )
    r = ready.c
    query = (
        select(r.tenant, r.id, r.endpoint_id, r.next_attempt_at, r.leased_until)
        .where(r.place_in_lane == 1)
        .order_by(r.next_attempt_at, r.tenant, r.endpoint_id)
    )
    return [Due(*row) for row in connection.execute(query)]


def claim(connection: Connection, wanted: Due, until: int) -> Leased | None:
    """Lease a delivery `until` then; None where another was first or its endpoint went away."""
    query = (
        select(deliveries.c.body, deliveries.c.n_attempts, endpoints.c.url, endpoints.c.secrets)
        .join(endpoints, _ITS_ENDPOINT)
        .where(_is(wanted.tenant, wanted.id), endpoints.c.state == EndpointState.ACTIVE.value)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    claimed = connection.execute(
        update(deliveries)
        .where(
            _is(wanted.tenant, wanted.id),
            deliveries.c.state == DeliveryState.WAITING.value,
            deliveries.c.next_attempt_at == wanted.next_attempt_at,
            deliveries.c.leased_until == wanted.leased_until,
        )
        .values(leased_until=until)
    )
    if claimed.rowcount == 0:
        return None
    return Leased(
        tenant=wanted.tenant,
        id=wanted.id,
        endpoint_id=wanted.endpoint_id,
        url=row.url,
        secrets=unpack_secrets(row.secrets),
        body=row.body,
        n_attempts=row.n_attempts,
        leased_until=until,
    )


def record(connection: Connection, leased: Leased, attempt: Attempt, verdict: Verdict) -> bool:
    """Store an attempt and what it made of its delivery; False where the lease was lost."""
    held = connection.execute(
        update(deliveries)
        .where(_is(leased.tenant, leased.id), deliveries.c.leased_until == leased.leased_until)
        .values(
            state=verdict.state.value,
            n_attempts=leased.n_attempts + 1,
            next_attempt_at=verdict.next_attempt_at,
            leased_until=0,
        )
    )
    if held.rowcount == 0:
        return False
    its = and_(attempts.c.tenant == leased.tenant, attempts.c.delivery_id == leased.id)
    last = connection.scalar(select(func.max(attempts.c.number)).where(its)) or 0
    connection.execute(
        insert(attempts).values(
            tenant=leased.tenant,
            delivery_id=leased.id,
            number=last + 1,
            at=attempt.at,
            status=attempt.status,
            error=attempt.error,
            seconds=attempt.seconds,
        )
    )
    if verdict.gone:
        connection.execute(
            update(endpoints)
            .where(endpoints.c.tenant == leased.tenant, endpoints.c.id == leased.endpoint_id)
            .values(state=EndpointState.DISABLED.value, state_reason="it answered 410 Gone")
        )
    return True


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


# Reading


def n_waiting(connection: Connection) -> int:
    """How many deliveries are not yet made."""
    query = select(func.count()).where(deliveries.c.state == DeliveryState.WAITING.value)
    return connection.scalar(query) or 0


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


def _is(tenant: str, id_: str) -> Any:
    return and_(deliveries.c.tenant == tenant, deliveries.c.id == id_)
