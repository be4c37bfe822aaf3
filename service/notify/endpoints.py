"""Endpoints: where a tenant wants its alerts posted, which of them, and signed with what."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from service.alerts.alert import Alert
from service.clock import Clock
from service.database import Database
from service.errors import NotFound, TooLarge
from service.ingest.events import NAME
from service.monitor.config import FieldName
from service.monitor.findings import Kind, Severity
from service.notify.webhook import SECRET_BYTES, new_secret
from service.pages import Page, fetch
from service.tables import attempts, deliveries, endpoints

MAX_ENDPOINTS: Final = 100  # a tenant
ROTATION_OVERLAP: Final = (
    24 * 3600 * 1_000_000
)  # µs for which the secret before the newest signs on

_SliceValue = Annotated[str, Field(max_length=256)]
_SliceMatcher = Annotated[dict[FieldName, _SliceValue], Field(min_length=1, max_length=16)]


class EndpointState(StrEnum):
    """Whether an endpoint is told."""

    ACTIVE = "active"
    PAUSED = "paused"  # by its owner
    DISABLED = "disabled"  # by what it answered


class Filters(BaseModel):
    """Which alerts an endpoint wants: those that match every list that is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[Annotated[str, Field(pattern=NAME)]] | None = Field(default=None, max_length=100)
    kinds: list[Kind] | None = Field(default=None, max_length=len(Kind))
    severities: list[Severity] | None = Field(default=None, max_length=len(Severity))
    slices: list[_SliceMatcher] | None = Field(
        default=None,
        max_length=100,
        description="Any of these; {floor: 7} matches floor=7,accent=scottish",
    )

    def match(self, alert: Alert) -> bool:
        """Whether an alert is wanted."""
        pairs = set(alert.slice)
        return (
            (self.models is None or alert.model in self.models)
            and (self.kinds is None or alert.kind in self.kinds)
            and (self.severities is None or alert.severity in self.severities)
            and (self.slices is None or any(pairs >= set(some.items()) for some in self.slices))
        )


class Secret(msgspec.Struct, frozen=True):
    """A signing secret, and until when it signs."""

    secret: str
    expires_at: int | None = None  # None: it is the newest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One receiver of one tenant."""

    tenant: str
    id: str
    url: str
    format: str  # "standard"
    filters: Filters
    secrets: tuple[Secret, ...]  # newest first
    state: EndpointState
    state_reason: str  # "" or why it is not active
    created_at: int


class Endpoints:
    """The endpoints in the database. Someone else's are not found."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._entropy = entropy

    def create(self, tenant: str, url: str, filters: Filters) -> Endpoint:
        """A new active endpoint with a secret. Raises TooLarge at the cap."""
        endpoint = Endpoint(
            tenant=tenant,
            id="ep_" + self._entropy(12).hex(),
            url=url,
            format="standard",
            filters=filters,
            secrets=(Secret(new_secret(self._entropy(SECRET_BYTES))),),
            state=EndpointState.ACTIVE,
            state_reason="",
            created_at=self._clock.now(),
        )
        with self._database.write() as connection:
            count = select(func.count()).where(endpoints.c.tenant == tenant)
            if (connection.scalar(count) or 0) >= MAX_ENDPOINTS:
                raise TooLarge(f"endpoints: a tenant may have {MAX_ENDPOINTS}")
            connection.execute(insert(endpoints).values(**_columns(endpoint)))
        return endpoint

    def get(self, tenant: str, id_: str) -> Endpoint:
        """One endpoint. Raises NotFound."""
        with self._database.read() as connection:
            return find(connection, tenant, id_)

    def list(self, tenant: str, page: Page) -> tuple[list[Endpoint], str | None]:
        """A page of a tenant's endpoints, newest first."""
        query = select(endpoints).where(endpoints.c.tenant == tenant)
        with self._database.read() as connection:
            rows, next_ = fetch(connection, query, (endpoints.c.created_at, endpoints.c.id), page)
        return [_endpoint(row) for row in rows], next_

    def change(
        self, tenant: str, id_: str, url: str | None = None, filters: Filters | None = None
    ) -> Endpoint:
        """The endpoint with what is given changed."""
        values: dict[str, Any] = {}
        if url is not None:
            values["url"] = url
        if filters is not None:
            values["filters"] = filters.model_dump_json(exclude_none=True)
        return self._update(tenant, id_, values)

    def set_state(self, tenant: str, id_: str, state: EndpointState, reason: str = "") -> Endpoint:
        """The endpoint in this state; what waits for it waits on unless it is active."""
        return self._update(tenant, id_, {"state": state.value, "state_reason": reason})

    def rotate(self, tenant: str, id_: str) -> Endpoint:
        """The endpoint with a new secret; the one before signs on for a day, older ones stop."""
        now = self._clock.now()
        fresh = Secret(new_secret(self._entropy(SECRET_BYTES)))
        with self._database.write() as connection:
            before = find(connection, tenant, id_).secrets[0]
            both = (fresh, Secret(before.secret, now + ROTATION_OVERLAP))
            _set(connection, tenant, id_, {"secrets": _pack_secrets(both)})
            return find(connection, tenant, id_)

    def delete(self, tenant: str, id_: str) -> None:
        """Forget the endpoint, what waits for it and what was sent to it."""
        with self._database.write() as connection:
            find(connection, tenant, id_)
            its = (deliveries.c.tenant == tenant) & (deliveries.c.endpoint_id == id_)
            sent = select(deliveries.c.id).where(its)
            connection.execute(
                delete(attempts).where(
                    attempts.c.tenant == tenant, attempts.c.delivery_id.in_(sent)
                )
            )
            connection.execute(delete(deliveries).where(its))
            connection.execute(
                delete(endpoints).where(endpoints.c.tenant == tenant, endpoints.c.id == id_)
            )

    def _update(self, tenant: str, id_: str, values: Mapping[str, Any]) -> Endpoint:
        with self._database.write() as connection:
            find(connection, tenant, id_)
            if values:
                _set(connection, tenant, id_, values)
            return find(connection, tenant, id_)


def find(connection: Connection, tenant: str, id_: str) -> Endpoint:
    """One endpoint. Raises NotFound."""
    row = connection.execute(
        select(endpoints).where(endpoints.c.tenant == tenant, endpoints.c.id == id_)
    ).one_or_none()
    if row is None:
        raise NotFound("no such endpoint")
    return _endpoint(row)


def active(connection: Connection, tenant: str) -> list[Endpoint]:
    """A tenant's active endpoints, oldest first."""
    query = (
        select(endpoints)
        .where(endpoints.c.tenant == tenant, endpoints.c.state == EndpointState.ACTIVE.value)
        .order_by(endpoints.c.created_at, endpoints.c.id)
    )
    return [_endpoint(row) for row in connection.execute(query)]


def live_secrets(stored: Sequence[Secret], now: int) -> list[str]:
    """The secrets that sign at this instant, newest first."""
    return [each.secret for each in stored if each.expires_at is None or now < each.expires_at]


def unpack_secrets(text: str) -> tuple[Secret, ...]:
    """The secrets that a row holds."""
    return msgspec.json.decode(text, type=tuple[Secret, ...])


def _pack_secrets(stored: Sequence[Secret]) -> str:
    return msgspec.json.encode(stored).decode()


def _set(connection: Connection, tenant: str, id_: str, values: Mapping[str, Any]) -> None:
    connection.execute(
        update(endpoints)
        .where(endpoints.c.tenant == tenant, endpoints.c.id == id_)
        .values(dict(values))
    )


def _columns(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "tenant": endpoint.tenant,
        "id": endpoint.id,
        "url": endpoint.url,
        "format": endpoint.format,
        "filters": endpoint.filters.model_dump_json(exclude_none=True),
        "secrets": _pack_secrets(endpoint.secrets),
        "state": endpoint.state.value,
        "state_reason": endpoint.state_reason,
        "created_at": endpoint.created_at,
    }


def _endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint(
        tenant=row.tenant,
        id=row.id,
        url=row.url,
        format=row.format,
        filters=Filters.model_validate_json(row.filters),
        secrets=unpack_secrets(row.secrets),
        state=EndpointState(row.state),
        state_reason=row.state_reason,
        created_at=row.created_at,
    )
