"""Routes of endpoints and their deliveries: `/v1/endpoints`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Row, select

from service.alerts.matcher import Matcher
from service.auth import Scope, Tenant, requires
from service.clock import from_datetime, to_rfc3339
from service.errors import InvalidRequest, TooLarge
from service.limits import ENDPOINTS
from service.notify import outbox
from service.notify.addresses import MAX_URL_LENGTH, AddressRules
from service.notify.endpoints import Endpoint, Endpoints, EndpointState, find
from service.notify.outbox import DeliveryState
from service.notify.wants import (
    URL_IS_SECRET,
    ClientCertificate,
    EndpointSettings,
    News,
    QuietHours,
)
from service.pages import OnePage, fetch
from service.services import Services, services
from service.settings import Settings
from service.tables import deliveries

router = APIRouter(tags=["endpoints"])

Running = Annotated[Services, Depends(services)]
Reader = Annotated[Tenant, Depends(requires(Scope.READ, Scope.ADMIN))]
Admin = Annotated[Tenant, Depends(requires(Scope.ADMIN))]


class EndpointChange(BaseModel):
    """What is to be different; what is left out stays, and null takes away."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, max_length=MAX_URL_LENGTH)
    filters: Matcher | None = None
    group: str | None = None
    also: list[News] | None = None
    max_per_minute: int | None = None
    quiet_hours: QuietHours | None = None
    headers: dict[str, str] | None = None
    routing_key: str | None = None
    client_certificate: ClientCertificate | None = None

    def applied_to(self, before: EndpointSettings) -> EndpointSettings:
        """The settings with this change. Raises InvalidRequest where they don't fit together."""
        given = self.model_dump(exclude_unset=True, by_alias=True)
        kept = before.model_dump(by_alias=True)
        merged = {name: value for name, value in {**kept, **given}.items() if value is not None}
        try:
            return EndpointSettings.model_validate(merged)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = problem["loc"][:1]
            raise InvalidRequest(": ".join([*map(str, where), problem["msg"]])) from None


class Range(BaseModel):
    """Which deliveries to send again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: AwareDatetime
    until: AwareDatetime
    states: list[DeliveryState] = Field(
        default=[DeliveryState.FAILED], min_length=1, max_length=len(DeliveryState)
    )


@router.post("/v1/endpoints", status_code=201)
def create(tenant: Admin, running: Running, body: EndpointSettings) -> dict[str, Any]:
    """A new endpoint, with its signing secret: shown here and never again."""
    _rules(running.settings).target(body.url)
    try:
        endpoint = _endpoints(running).create(tenant, body)
    except TooLarge:
        running.metrics.overflow.labels(ENDPOINTS.name).inc()
        raise
    return _with_secret(endpoint)


@router.get("/v1/endpoints")
def list_endpoints(tenant: Reader, running: Running, page: OnePage) -> dict[str, Any]:
    """The endpoints, newest first."""
    found, next_ = _endpoints(running).list(tenant, page)
    return {"endpoints": [_public(endpoint) for endpoint in found], "next": next_}


@router.get("/v1/endpoints/{endpoint_id}")
def get(tenant: Reader, running: Running, endpoint_id: str) -> dict[str, Any]:
    """One endpoint."""
    return _public(_endpoints(running).get(tenant, endpoint_id))


@router.patch("/v1/endpoints/{endpoint_id}")
def change(
    tenant: Admin, running: Running, endpoint_id: str, body: EndpointChange
) -> dict[str, Any]:
    """The endpoint with what is given changed; its format stays what it is."""
    changed = partial(_changed, _rules(running.settings), body)
    return _public(_endpoints(running).change(tenant, endpoint_id, changed))


@router.delete("/v1/endpoints/{endpoint_id}", status_code=204)
def delete(tenant: Admin, running: Running, endpoint_id: str) -> None:
    """Forget the endpoint and its deliveries."""
    _endpoints(running).delete(tenant, endpoint_id)


@router.post("/v1/endpoints/{endpoint_id}/rotate")
def rotate(tenant: Admin, running: Running, endpoint_id: str) -> dict[str, Any]:
    """A new signing secret; for a day, deliveries carry the old one's signature as well."""
    return _with_secret(_endpoints(running).rotate(tenant, endpoint_id))


@router.post("/v1/endpoints/{endpoint_id}/pause")
def pause(tenant: Admin, running: Running, endpoint_id: str) -> dict[str, Any]:
    """Tell it nothing until it is resumed; what happens meanwhile is not kept for it."""
    return _public(_endpoints(running).set_state(tenant, endpoint_id, EndpointState.PAUSED))


@router.post("/v1/endpoints/{endpoint_id}/resume")
def resume(tenant: Admin, running: Running, endpoint_id: str) -> dict[str, Any]:
    """Tell it again, paused or disabled; what was waiting goes out."""
    endpoint = _endpoints(running).set_state(tenant, endpoint_id, EndpointState.ACTIVE)
    running.outbox_wake()
    return _public(endpoint)


@router.post("/v1/endpoints/{endpoint_id}/test", status_code=202)
def test(tenant: Admin, running: Running, endpoint_id: str) -> dict[str, Any]:
    """Send an `endpoint.test`; its fate is among the deliveries."""
    with running.database.write(tenant) as connection:
        id_ = outbox.enqueue_test(connection, tenant, endpoint_id, running.clock.now())
    running.outbox_wake()
    return {"id": id_, "state": DeliveryState.WAITING.value}


@router.get("/v1/endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    tenant: Reader,
    running: Running,
    endpoint_id: str,
    page: OnePage,
    state: Annotated[list[DeliveryState] | None, Query(max_length=len(DeliveryState))] = None,
    alert: Annotated[str | None, Query(max_length=64, description="an alert's id")] = None,
) -> dict[str, Any]:
    """What was sent to the endpoint or waits for it, newest first, with every attempt."""
    query = select(deliveries).where(
        deliveries.c.tenant == tenant, deliveries.c.endpoint_id == endpoint_id
    )
    if state:
        query = query.where(deliveries.c.state.in_(state))
    if alert is not None:
        query = query.where(deliveries.c.alert_id == alert)
    with running.database.read(tenant) as connection:
        find(connection, tenant, endpoint_id)
        rows, next_ = fetch(connection, query, (deliveries.c.created_at, deliveries.c.id), page)
        tried = outbox.attempts_of(connection, tenant, [row.id for row in rows])
    shown = [_public_delivery(row, tried.get(row.id, [])) for row in rows]
    return {"deliveries": shown, "next": next_}


@router.post("/v1/endpoints/{endpoint_id}/deliveries/{delivery_id}/replay", status_code=202)
def replay(tenant: Admin, running: Running, endpoint_id: str, delivery_id: str) -> dict[str, Any]:
    """Send a delivery again: the same `webhook-id`, the same bytes."""
    with running.database.write(tenant) as connection:
        outbox.replay(connection, tenant, endpoint_id, delivery_id, running.clock.now())
    running.outbox_wake()
    return {"id": delivery_id, "state": DeliveryState.WAITING.value}


@router.post("/v1/endpoints/{endpoint_id}/replay", status_code=202)
def replay_range(tenant: Admin, running: Running, endpoint_id: str, body: Range) -> dict[str, Any]:
    """Send again what was made in a span of time: what failed, or what is in the states given.

    At most 10,000 at once, the oldest; ask again for the rest.
    """
    with running.database.write(tenant) as connection:
        n = outbox.replay_range(
            connection,
            tenant,
            endpoint_id,
            since=from_datetime(body.since),
            until=from_datetime(body.until),
            states=body.states,
            now=running.clock.now(),
        )
    running.outbox_wake()
    return {"replayed": n}


def _rules(settings: Settings) -> AddressRules:
    return AddressRules(settings.egress_allow, settings.egress_http)


def _endpoints(running: Services) -> Endpoints:
    return Endpoints(running.database, running.clock, running.seal)


def _changed(
    rules: AddressRules, change_: EndpointChange, before: EndpointSettings
) -> EndpointSettings:
    after = change_.applied_to(before)
    rules.target(after.url)
    return after


def _public(endpoint: Endpoint) -> dict[str, Any]:
    settings, certificate = endpoint.settings, endpoint.settings.client_certificate
    wants = settings.wants.model_dump(mode="json", exclude_none=True, by_alias=True)
    return {
        "id": endpoint.id,
        "url": _public_url(settings),
        **wants,
        "quiet_hours": wants.get("quiet_hours"),
        "headers": sorted(settings.headers),
        "client_certificate": (
            None
            if certificate is None
            else {
                "sha256": certificate.sha256,
                "not_after": to_rfc3339(from_datetime(certificate.leaf.not_valid_after_utc)),
            }
        ),
        "state": endpoint.state.value,
        "state_reason": endpoint.state_reason or None,
        "created_at": to_rfc3339(endpoint.created_at),
    }


def _public_url(settings: EndpointSettings) -> str:
    if settings.format not in URL_IS_SECRET:
        return settings.url
    parts = urlsplit(settings.url)
    return f"{parts.scheme}://{parts.netloc}/…"


def _with_secret(endpoint: Endpoint) -> dict[str, Any]:
    return {**_public(endpoint), "secret": endpoint.secrets[0].secret}


def _public_delivery(row: Row[Any], tried: list[Row[Any]]) -> dict[str, Any]:
    waiting = row.state == DeliveryState.WAITING.value
    return {
        "id": row.id,
        "type": row.type,
        "alert": row.alert_id,
        "sequence": row.sequence,
        "state": row.state,
        "held_by": row.held_by,
        "created_at": to_rfc3339(row.created_at),
        "next_attempt_at": to_rfc3339(row.next_attempt_at) if waiting else None,
        "attempts": [
            {
                "number": each.number,
                "at": to_rfc3339(each.at),
                "status": each.status,
                "error": each.error or None,
                "seconds": each.seconds,
            }
            for each in tried
        ],
    }
