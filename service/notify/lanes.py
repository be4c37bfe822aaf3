"""Lanes: each endpoint's deliveries, taken out of the outbox one after another.

A lane is leased by compare-and-set. A worker that dies between sending and recording leaves the
lease to run out, and the delivery goes out again: the same id, the same bytes. So an endpoint has
one delivery in flight, and of one alert it hears in order of `sequence`.

What an alert was before is superseded by what it is where the earlier news failed, was held, or
waited for a minute: after an outage a receiver is told how things stand, not how they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, bindparam, func, insert, select, update

from service.alerts.alert import Alert
from service.alerts.muting import Muting
from service.notify.endpoints import NEVER, EndpointState, disable
from service.notify.outbox import DeliveryState, enqueue_news, want
from service.notify.wants import Wants
from service.tables import alerts, attempts, deliveries, endpoints, lanes, silences

COALESCE_AFTER: Final = 60 * 1_000_000  # µs that news may wait and still be told one by one
LOOKS: Final = 100  # deliveries looked at in one claim; who finds none leaves the rest for the next
RELEASED_AT_ONCE: Final = 1_000
QUIET: Final = "quiet_hours"

_ENDINGS: Final = frozenset({"alert.resolved", "alert.retracted"})
_ITS_ENDPOINT: Final = and_(
    endpoints.c.tenant == lanes.c.tenant, endpoints.c.id == lanes.c.endpoint_id
)

# Statements of every claim, built once: building them costs more than running them.
_WAITING: Final = and_(
    deliveries.c.tenant == bindparam("its_tenant"),
    deliveries.c.endpoint_id == bindparam("its_endpoint"),
    deliveries.c.state == DeliveryState.WAITING.value,
)
_OLDEST_DUE: Final = (
    select(deliveries)
    .where(_WAITING, deliveries.c.next_attempt_at <= bindparam("now"))
    .order_by(deliveries.c.next_attempt_at, deliveries.c.sequence, deliveries.c.id)
    .limit(1)
)
_OF_ALERT: Final = (
    select(deliveries)
    .where(_WAITING, deliveries.c.alert_id == bindparam("alert"))
    .order_by(deliveries.c.sequence, deliveries.c.id)
)
_ALERT: Final = select(alerts.c.body).where(
    alerts.c.tenant == bindparam("its_tenant"), alerts.c.id == bindparam("alert")
)
_IS_ACTIVE: Final = (  # it may have been paused since it was seen to be due
    select(endpoints.c.id)
    .where(
        endpoints.c.tenant == bindparam("its_tenant"),
        endpoints.c.id == bindparam("its_endpoint"),
        endpoints.c.state == EndpointState.ACTIVE.value,
    )
    .exists()
)
_TAKE: Final = (
    update(lanes)
    .where(
        lanes.c.tenant == bindparam("its_tenant"),
        lanes.c.endpoint_id == bindparam("its_endpoint"),
        lanes.c.wanted_at <= bindparam("now"),
        lanes.c.free_at <= bindparam("now"),
        lanes.c.leased_until == bindparam("held_until"),
        _IS_ACTIVE,
    )
    .values(leased_until=bindparam("until"))
)


@dataclass(frozen=True, slots=True)
class Lane:
    """An endpoint that has something due and nobody at it."""

    tenant: str
    endpoint_id: str
    leased_until: int
    n_failures: int  # in a row
    wants: Wants
    sealed: str  # service.notify.endpoints.Private


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that is ours to attempt until the lease runs out."""

    tenant: str
    id: str
    endpoint_id: str
    wants: Wants
    sealed: str  # service.notify.endpoints.Private
    body: str
    n_attempts: int  # of this round; a replay starts a new one
    n_failures: int  # of its endpoint, in a row
    leased_until: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, and what came of it."""

    at: int
    status: int | None
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt makes of its delivery, and of its endpoint."""

    state: DeliveryState
    next_attempt_at: int
    gone: bool = False  # the receiver wants no more: its endpoint is disabled
    free_at: int = 0  # the lane takes up nothing before


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a lane stands once an attempt is recorded."""

    ready_at: int  # when it has something to do next
    disabled: str = ""  # "" or why it is told no more


def due(connection: Connection, now: int, limit: int) -> list[Lane]:
    """Lanes with something due, whoever had a turn longest ago first."""
    query = (
        select(
            lanes.c.tenant,
            lanes.c.endpoint_id,
            lanes.c.leased_until,
            lanes.c.n_failures,
            endpoints.c.wants,
            endpoints.c.sealed,
        )
        .join(endpoints, _ITS_ENDPOINT)
        .where(
            lanes.c.wanted_at <= now,
            lanes.c.free_at <= now,
            lanes.c.leased_until <= now,
            endpoints.c.state == EndpointState.ACTIVE.value,
        )
        .order_by(lanes.c.free_at, lanes.c.tenant, lanes.c.endpoint_id)
        .limit(limit)
    )
    return [
        Lane(*row[:4], Wants.model_validate_json(row.wants), row.sealed)
        for row in connection.execute(query)
    ]


def claim_all(connection: Connection, wanted: list[Lane], now: int, until: int) -> list[Leased]:
    """Lease these lanes `until` then, each with the delivery to make, where there is one."""
    muting: dict[str, Muting] = {}
    leased = []
    for lane in sorted(wanted, key=lambda lane: (lane.tenant, lane.endpoint_id)):  # as written to
        if lane.tenant not in muting:
            muting[lane.tenant] = Muting(connection, lane.tenant, now)
        leased.append(_claim(connection, lane, muting[lane.tenant], now, until))
    return [each for each in leased if each is not None]


def _claim(
    connection: Connection, lane: Lane, muting: Muting, now: int, until: int
) -> Leased | None:
    """Lease a lane `until` then, with the delivery to make; None where there is none to make."""
    whose = {"its_tenant": lane.tenant, "its_endpoint": lane.endpoint_id}
    held = {"held_until": lane.leased_until, "now": now, "until": until}
    if connection.execute(_TAKE, {**whose, **held}).rowcount == 0:
        return None
    chosen = _Choice(connection, lane, muting, now).choose()
    if chosen is None:
        _rest(connection, lane)
        return None
    return Leased(
        tenant=lane.tenant,
        id=chosen.id,
        endpoint_id=lane.endpoint_id,
        wants=lane.wants,
        sealed=lane.sealed,
        body=chosen.body,
        n_attempts=chosen.n_attempts,
        n_failures=lane.n_failures,
        leased_until=until,
    )


class _Choice:
    """Which delivery of a leased lane goes out now; what need not go out is put aside."""

    def __init__(self, connection: Connection, lane: Lane, muting: Muting, now: int) -> None:
        self._connection = connection
        self._lane = lane
        self._now = now
        self._muting = muting

    def choose(self) -> Row[Any] | None:
        """The oldest that may be told, once the alert it is of has been looked at as a whole."""
        for _ in range(LOOKS):
            first = self._oldest_due()
            if first is None or first.alert_id is None:
                return first
            chosen, held_by = self._newest_or_next(first.alert_id)
            if chosen.next_attempt_at > self._now:
                continue  # what was due is superseded by something that failed and waits
            if held_by not in (None, QUIET) and self._is_untold_ending(chosen):
                self._put(chosen, state=DeliveryState.MUTED.value)
            elif (hold := self._hold(chosen)) is not None:
                self._put(chosen, held_by=hold[0], next_attempt_at=hold[1])
            else:
                return chosen
        return None

    def _oldest_due(self) -> Row[Any] | None:
        return self._connection.execute(_OLDEST_DUE, {**self._its(), "now": self._now}).first()

    def _newest_or_next(self, alert_id: str) -> tuple[Row[Any], str | None]:
        """Of what waits about one alert: the first, or the last where that stands for them all;
        and what held any of it back."""
        waiting = self._connection.execute(_OF_ALERT, {**self._its(), "alert": alert_id}).all()
        first, newest = waiting[0], waiting[-1]
        waited = first.n_replays == 0 and first.created_at <= self._now - COALESCE_AFTER
        if not (first.n_attempts or first.held_by or waited):
            return first, None
        for earlier in waiting[:-1]:
            self._put(earlier, state=DeliveryState.SUPERSEDED.value)
        return newest, next((each.held_by for each in reversed(waiting) if each.held_by), None)

    def _is_untold_ending(self, delivery: Row[Any]) -> bool:
        """Whether an alert has ended of which the endpoint never heard."""
        if delivery.type not in _ENDINGS:
            return False
        its = and_(
            attempts.c.tenant == deliveries.c.tenant, attempts.c.delivery_id == deliveries.c.id
        )
        told = (
            select(attempts.c.number)
            .join(deliveries, its)
            .where(
                deliveries.c.tenant == self._lane.tenant,
                deliveries.c.alert_id == delivery.alert_id,
                deliveries.c.endpoint_id == self._lane.endpoint_id,
            )
        )
        return self._connection.execute(told.limit(1)).first() is None

    def _hold(self, delivery: Row[Any]) -> tuple[str, int] | None:
        """What keeps a delivery back now, and until when; an ending is held by quiet hours alone:
        who was called must hear that it is over."""
        alert = self._alert(delivery)
        if alert is None:
            return None
        mute = None if delivery.type in _ENDINGS else self._muting.of(alert)
        if mute is not None:
            return mute.by, mute.until
        quiet = self._lane.wants.quiet_hours
        if quiet is None or alert.severity in quiet.unless:
            return None
        until = quiet.until_when(self._now)
        return None if until is None else (QUIET, until)

    def _alert(self, delivery: Row[Any]) -> Alert | None:
        """The alert as it is now."""
        about = {"its_tenant": self._lane.tenant, "alert": delivery.alert_id}
        body = self._connection.scalar(_ALERT, about)
        return None if body is None else msgspec.json.decode(body, type=Alert)

    def _put(self, delivery: Row[Any], **values: Any) -> None:
        self._connection.execute(
            update(deliveries).where(_is(self._lane.tenant, delivery.id)).values(**values)
        )

    def _its(self) -> dict[str, Any]:
        return {"its_tenant": self._lane.tenant, "its_endpoint": self._lane.endpoint_id}


def record(
    connection: Connection,
    leased: Leased,
    attempt: Attempt,
    verdict: Verdict,
    disable_after: int,
) -> Recorded | None:
    """Store an attempt and what it made of its delivery; None where the lease was lost.

    An endpoint is disabled where the verdict says so, and once nothing but failures came of it
    for `disable_after` µs.
    """
    held = and_(_of(leased), lanes.c.leased_until == leased.leased_until)
    before = connection.execute(select(lanes).where(held).with_for_update()).one_or_none()
    if before is None:
        return None
    failed = verdict.state is not DeliveryState.DELIVERED
    n_failures = before.n_failures + 1 if failed else 0
    since = (before.failing_since or attempt.at) if failed else None
    connection.execute(
        update(lanes)
        .where(_of(leased))
        .values(free_at=verdict.free_at, n_failures=n_failures, failing_since=since)
    )
    connection.execute(
        update(deliveries)
        .where(_is(leased.tenant, leased.id))
        .values(
            state=verdict.state.value,
            held_by=None,
            n_attempts=leased.n_attempts + 1,
            next_attempt_at=verdict.next_attempt_at,
        )
    )
    _store(connection, leased, attempt)
    wanted_at = _rest(connection, leased)
    disabled = ""
    if verdict.gone:
        disabled = "it answered 410 Gone"
    elif since is not None and attempt.at - since >= disable_after:
        disabled = f"nothing but failures for {disable_after // 86_400_000_000} days"
    if disabled:
        _disable(connection, leased, disabled, attempt.at)
    return Recorded(max(wanted_at, verdict.free_at), disabled)


def give_back(connection: Connection, leased: Sequence[Leased]) -> None:
    """End leases of which nothing will come any more, those that are still held."""
    for each in leased:
        held = and_(_of(each), lanes.c.leased_until == each.leased_until)
        connection.execute(update(lanes).where(held).values(leased_until=0))


def held_by_ended(connection: Connection, now: int) -> list[tuple[str, str, str]]:
    """(tenant, endpoint, delivery) of what is held by a silence that has ended since."""
    d = deliveries.c
    query = (
        select(d.tenant, d.endpoint_id, d.id)
        .join(silences, and_(silences.c.tenant == d.tenant, silences.c.id == d.held_by))
        .where(
            silences.c.ends_at <= now,
            d.state == DeliveryState.WAITING.value,
            d.next_attempt_at > now,
        )
        .order_by(d.tenant, d.endpoint_id)
        .limit(RELEASED_AT_ONCE)
    )
    return [(row.tenant, row.endpoint_id, row.id) for row in connection.execute(query)]


def release(connection: Connection, held: list[tuple[str, str, str]], now: int) -> int:
    """Make these due; returns how many."""
    for tenant, endpoint_id, id_ in held:
        connection.execute(
            update(deliveries).where(_is(tenant, id_)).values(held_by=None, next_attempt_at=now)
        )
        want(connection, tenant, endpoint_id, now)
    return len(held)


def _rest(connection: Connection, lane: Lane | Leased) -> int:
    """End a lease; gives when the lane is wanted next."""
    soonest = select(func.min(deliveries.c.next_attempt_at)).where(
        _waiting(lane.tenant, lane.endpoint_id)
    )
    wanted_at = connection.scalar(soonest)
    wanted_at = NEVER if wanted_at is None else wanted_at
    connection.execute(update(lanes).where(_of(lane)).values(leased_until=0, wanted_at=wanted_at))
    return wanted_at


def _store(connection: Connection, leased: Leased, attempt: Attempt) -> None:
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


def _disable(connection: Connection, leased: Leased, reason: str, at: int) -> None:
    """Tell it no more, and tell those who asked for such news that it is so."""
    disable(connection, leased.tenant, leased.endpoint_id, reason)
    data = {"endpoint": leased.endpoint_id, "reason": reason}
    about = f"{leased.endpoint_id}:{leased.id}:{at}"
    enqueue_news(connection, leased.tenant, "endpoint.disabled", about, data, at)


def _of(lane: Lane | Leased) -> Any:
    return and_(lanes.c.tenant == lane.tenant, lanes.c.endpoint_id == lane.endpoint_id)


def _is(tenant: str, id_: str) -> Any:
    return and_(deliveries.c.tenant == tenant, deliveries.c.id == id_)


def _waiting(tenant: str, endpoint_id: str) -> Any:
    return and_(
        deliveries.c.tenant == tenant,
        deliveries.c.endpoint_id == endpoint_id,
        deliveries.c.state == DeliveryState.WAITING.value,
    )
