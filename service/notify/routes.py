"""Routes of endpoints and their deliveries: `/v1/endpoints`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row, select

from service.auth import Scope, Tenant, requires
from service.clock import to_rfc3339
from service.notify import outbox
from service.notify.addresses import MAX_URL_LENGTH, AddressRules
from service.notify.endpoints import Endpoint, Endpoints, EndpointState, Filters, find
from service.notify.outbox import DeliveryState
from service.pages import OnePage, fetch
from service.services import Services, services
from service.settings import Settings
from service.tables import deliveries

router = APIRouter(tags=["endpoints"])

Running = Annotated[Services, Depends(services)]
Reader = Annotated[Tenant, Depends(requires(Scope.READ, Scope.ADMIN))]
Admin = Annotated[Tenant, Depends(requires(Scope.ADMIN))]
Url = Annotated[str, Field(max_length=MAX_URL_LENGTH, examples=["https://example.com/hooks"])]


class NewEndpoint(BaseModel):
    """A receiver to be told of alerts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Url
    format: Literal["standard"] = "standard"
    filters: Filters = Filters()


class EndpointChange(BaseModel):
    """What is to be different; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Url | None = None
    filters: Filters | None = None


@router.post("/v1/endpoints", status_code=201)
def create(tenant: Admin, running: Running, body: NewEndpoint) -> dict[str, Any]:
    """A new endpoint, with its signing secret: shown here and never again."""
    _rules(running.settings).target(body.url)
    endpoint = _endpoints(running).create(tenant, body.url, body.filters)
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
    """The endpoint with another URL or other filters."""
    if body.url is not None:
        _rules(running.settings).target(body.url)
    return _public(_endpoints(running).change(tenant, endpoint_id, body.url, body.filters))


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
    with running.database.write() as connection:
        id_ = outbox.enqueue_test(connection, tenant, endpoint_id, running.clock.now())
    running.outbox_wake()
    return {"id": id_, "state": DeliveryState.WAITING.value}


@router.get("/v1/endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    tenant: Reader, running: Running, endpoint_id: str, page: OnePage
) -> dict[str, Any]:
    """What was sent to the endpoint or waits for it, newest first, with every attempt."""
    query = select(deliveries).where(
        deliveries.c.tenant == tenant, deliveries.c.endpoint_id == endpoint_id
    )
    with running.database.read() as connection:
        find(connection, tenant, endpoint_id)
        rows, next_ = fetch(connection, query, (deliveries.c.created_at, deliveries.c.id), page)
        tried = outbox.attempts_of(connection, tenant, [row.id for row in rows])
    shown = [_public_delivery(row, tried.get(row.id, [])) for row in rows]
    return {"deliveries": shown, "next": next_}


@router.post("/v1/endpoints/{endpoint_id}/deliveries/{delivery_id}/replay", status_code=202)
def replay(tenant: Admin, running: Running, endpoint_id: str, delivery_id: str) -> dict[str, Any]:
    """Send a delivery again: the same `webhook-id`, the same bytes."""
    with running.database.write() as connection:
        outbox.replay(connection, tenant, endpoint_id, delivery_id, running.clock.now())
    running.outbox_wake()
    return {"id": delivery_id, "state": DeliveryState.WAITING.value}


def _rules(settings: Settings) -> AddressRules:
    return AddressRules(settings.egress_allow, settings.egress_http)


def _endpoints(running: Services) -> Endpoints:
    return Endpoints(running.database, running.clock)


def _public(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "format": endpoint.format,
        "filters": endpoint.filters.model_dump(mode="json", exclude_none=True),
        "state": endpoint.state.value,
        "state_reason": endpoint.state_reason or None,
        "created_at": to_rfc3339(endpoint.created_at),
    }


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
