"""Endpoints: where a tenant wants its alerts posted, which of them, and signed with what."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from service.clock import Clock
from service.database import EVERYONE, Database
from service.errors import NotFound, TooLarge
from service.limits import ENDPOINTS
from service.notify.wants import ClientCertificate, EndpointSettings, Wants
from service.notify.webhook import SECRET_BYTES, new_secret
from service.pages import Page, fetch
from service.seal import Seal
from service.tables import attempts, deliveries, endpoints, lanes

ROTATION_OVERLAP: Final = (
    24 * 3600 * 1_000_000
)  # µs for which the secret before the newest signs on
NEVER: Final = 2**62  # an instant behind all others: nothing waits


class EndpointState(StrEnum):
    """Whether an endpoint is told."""

    ACTIVE = "active"
    PAUSED = "paused"  # by its owner
    DISABLED = "disabled"  # by what it answered


class Secret(msgspec.Struct, frozen=True):
    """A signing secret, and until when it signs."""

    secret: str
    expires_at: int | None = None  # None: it is the newest


class Private(msgspec.Struct, frozen=True, kw_only=True):
    """What of an endpoint is sealed at rest."""

    url: str
    secrets: tuple[Secret, ...]  # newest first
    headers: dict[str, str]
    routing_key: str | None
    certificate: tuple[str, str] | None  # PEM of the chain, PEM of its key

    def signing_secrets(self, now: int) -> list[str]:
        """The secrets to sign an attempt with, newest first."""
        return live_secrets(self.secrets, now)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One receiver of one tenant."""

    tenant: str
    id: str
    settings: EndpointSettings
    secrets: tuple[Secret, ...]  # newest first
    state: EndpointState
    state_reason: str  # "" or why it is not active
    created_at: int


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An endpoint as the outbox sees it: what it wants, and none of its secrets."""

    tenant: str
    id: str
    state: EndpointState
    wants: Wants


class Endpoints:
    """The endpoints in the database. Someone else's are not found."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        seal: Seal,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._seal = seal
        self._entropy = entropy

    def create(self, tenant: str, settings: EndpointSettings) -> Endpoint:
        """A new active endpoint with a secret. Raises TooLarge at the cap."""
        endpoint = Endpoint(
            tenant=tenant,
            id="ep_" + self._entropy(12).hex(),
            settings=settings,
            secrets=(Secret(new_secret(self._entropy(SECRET_BYTES))),),
            state=EndpointState.ACTIVE,
            state_reason="",
            created_at=self._clock.now(),
        )
        with self._database.write(tenant) as connection:
            count = select(func.count()).where(endpoints.c.tenant == tenant)
            if (connection.scalar(count) or 0) >= ENDPOINTS.limit:
                raise TooLarge(f"endpoints: a tenant may have {ENDPOINTS.limit}")
            connection.execute(insert(endpoints).values(**self._columns(endpoint)))
            connection.execute(insert(lanes).values(**_new_lane(endpoint)))
        return endpoint

    def get(self, tenant: str, id_: str) -> Endpoint:
        """One endpoint. Raises NotFound."""
        with self._database.read(tenant) as connection:
            return self._endpoint(_find(connection, tenant, id_))

    def list(self, tenant: str, page: Page) -> tuple[list[Endpoint], str | None]:
        """A page of a tenant's endpoints, newest first."""
        query = select(endpoints).where(endpoints.c.tenant == tenant)
        with self._database.read(tenant) as connection:
            rows, next_ = fetch(connection, query, (endpoints.c.created_at, endpoints.c.id), page)
        return [self._endpoint(row) for row in rows], next_

    def change(
        self, tenant: str, id_: str, changed: Callable[[EndpointSettings], EndpointSettings]
    ) -> Endpoint:
        """The endpoint with its settings changed; whatever that raises is raised."""
        with self._database.write(tenant) as connection:
            before = self._endpoint(_find(connection, tenant, id_))
            after = replace(before, settings=changed(before.settings))
            _set(connection, tenant, id_, self._columns(after))
            return after

    def set_state(self, tenant: str, id_: str, state: EndpointState, reason: str = "") -> Endpoint:
        """The endpoint in this state; what waits for it waits on unless it is active."""
        with self._database.write(tenant) as connection:
            before = self._endpoint(_find(connection, tenant, id_))
            _set(connection, tenant, id_, {"state": state.value, "state_reason": reason})
            if state is EndpointState.ACTIVE:
                _reset_lane(connection, tenant, id_)
            return replace(before, state=state, state_reason=reason)

    def rotate(self, tenant: str, id_: str) -> Endpoint:
        """The endpoint with a new secret; the one before signs on for a day, older ones stop."""
        now = self._clock.now()
        fresh = Secret(new_secret(self._entropy(SECRET_BYTES)))
        with self._database.write(tenant) as connection:
            before = self._endpoint(_find(connection, tenant, id_))
            both = (fresh, Secret(before.secrets[0].secret, now + ROTATION_OVERLAP))
            after = replace(before, secrets=both)
            _set(connection, tenant, id_, self._columns(after))
            return after

    def delete(self, tenant: str, id_: str) -> None:
        """Forget the endpoint, what waits for it and what was sent to it."""
        with self._database.write(tenant) as connection:
            _find(connection, tenant, id_)
            its = (deliveries.c.tenant == tenant) & (deliveries.c.endpoint_id == id_)
            sent = select(deliveries.c.id).where(its)
            connection.execute(
                delete(attempts).where(
                    attempts.c.tenant == tenant, attempts.c.delivery_id.in_(sent)
                )
            )
            connection.execute(delete(deliveries).where(its))
            connection.execute(
                delete(lanes).where(lanes.c.tenant == tenant, lanes.c.endpoint_id == id_)
            )
            connection.execute(
                delete(endpoints).where(endpoints.c.tenant == tenant, endpoints.c.id == id_)
            )

    def reseal(self) -> int:
        """Put under the newest key what is not; returns how many. Raises Damaged where a key is
        missing: no endpoint of that key could be told anything."""
        with self._database.write(EVERYONE) as connection:
            rows = connection.execute(select(endpoints)).all()
            opened = [self._endpoint(row) for row in rows]
            old = [
                endpoint
                for endpoint, row in zip(opened, rows, strict=True)
                if not self._seal.is_current(row.sealed)
            ]
            for endpoint in old:
                _set(connection, endpoint.tenant, endpoint.id, self._columns(endpoint))
            return len(old)

    def _columns(self, endpoint: Endpoint) -> dict[str, Any]:
        return {
            "tenant": endpoint.tenant,
            "id": endpoint.id,
            "wants": endpoint.settings.wants.model_dump_json(exclude_none=True, by_alias=True),
            "sealed": close_private(self._seal, endpoint),
            "state": endpoint.state.value,
            "state_reason": endpoint.state_reason,
            "created_at": endpoint.created_at,
        }

    def _endpoint(self, row: Row[Any]) -> Endpoint:
        private = open_private(self._seal, row.tenant, row.id, row.sealed)
        wants = Wants.model_validate_json(row.wants)
        certificate = None
        if private.certificate is not None:
            chain, key = private.certificate
            certificate = ClientCertificate.model_construct(certificate=chain, key=key)
        return Endpoint(
            tenant=row.tenant,
            id=row.id,
            settings=EndpointSettings.model_construct(
                **{name: getattr(wants, name) for name in Wants.model_fields},
                url=private.url,
                headers=private.headers,
                routing_key=private.routing_key,
                client_certificate=certificate,
            ),
            secrets=private.secrets,
            state=EndpointState(row.state),
            state_reason=row.state_reason,
            created_at=row.created_at,
        )


def close_private(seal: Seal, endpoint: Endpoint) -> str:
    """What of an endpoint is secret, as its row holds it."""
    settings, certificate = endpoint.settings, endpoint.settings.client_certificate
    private = Private(
        url=settings.url,
        secrets=endpoint.secrets,
        headers=settings.headers,
        routing_key=settings.routing_key,
        certificate=None if certificate is None else (certificate.certificate, certificate.key),
    )
    return seal.close(msgspec.json.encode(private).decode(), f"{endpoint.tenant}/{endpoint.id}")


def open_private(seal: Seal, tenant: str, id_: str, sealed: str) -> Private:
    """What `close_private` gave. Raises Damaged."""
    return msgspec.json.decode(seal.open(sealed, f"{tenant}/{id_}"), type=Private)


def find(connection: Connection, tenant: str, id_: str) -> Subscriber:
    """One endpoint, without its secrets. Raises NotFound."""
    return _subscriber(_find(connection, tenant, id_))


def active(connection: Connection, tenant: str) -> list[Subscriber]:
    """A tenant's active endpoints, in the order of their ids: lanes are locked in it."""
    query = (
        select(endpoints)
        .where(endpoints.c.tenant == tenant, endpoints.c.state == EndpointState.ACTIVE.value)
        .order_by(endpoints.c.id)
    )
    return [_subscriber(row) for row in connection.execute(query)]


def disable(connection: Connection, tenant: str, id_: str, reason: str) -> None:
    """Tell an endpoint no more, by what it answered."""
    values = {"state": EndpointState.DISABLED.value, "state_reason": reason}
    _set(connection, tenant, id_, values)


def live_secrets(stored: Sequence[Secret], now: int) -> list[str]:
    """The secrets that sign at this instant, newest first."""
    return [each.secret for each in stored if each.expires_at is None or now < each.expires_at]


def _find(connection: Connection, tenant: str, id_: str) -> Row[Any]:
    row = connection.execute(
        select(endpoints).where(endpoints.c.tenant == tenant, endpoints.c.id == id_)
    ).one_or_none()
    if row is None:
        raise NotFound("no such endpoint")
    return row


def _subscriber(row: Row[Any]) -> Subscriber:
    wants = Wants.model_validate_json(row.wants)
    return Subscriber(row.tenant, row.id, EndpointState(row.state), wants)


def _set(connection: Connection, tenant: str, id_: str, values: Mapping[str, Any]) -> None:
    connection.execute(
        update(endpoints)
        .where(endpoints.c.tenant == tenant, endpoints.c.id == id_)
        .values(dict(values))
    )


def _new_lane(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "tenant": endpoint.tenant,
        "endpoint_id": endpoint.id,
        "wanted_at": NEVER,
        "free_at": 0,
        "leased_until": 0,
        "n_failures": 0,
        "failing_since": None,
    }


def _reset_lane(connection: Connection, tenant: str, id_: str) -> None:
    """Forget what it answered before, and what it was waited for; a lease in it stands."""
    connection.execute(
        update(lanes)
        .where(lanes.c.tenant == tenant, lanes.c.endpoint_id == id_)
        .values(free_at=0, n_failures=0, failing_since=None)
    )
