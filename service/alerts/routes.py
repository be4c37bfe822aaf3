"""Routes of alerts: `/v1/alerts`, their history, and taking one in hand."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, Select, and_, select

from service.alerts import acknowledgements as notes
from service.alerts.alert import Alert
from service.alerts.muting import Muting
from service.alerts.public import public_alert
from service.auth import Scope, Tenant, requires, requires_key
from service.clock import from_datetime, to_rfc3339
from service.errors import NotFound
from service.ingest.events import NAME
from service.keys import Key
from service.monitor.findings import Kind, State
from service.pages import OnePage, fetch
from service.services import Services, services
from service.tables import acknowledgements, alerts, transitions

router = APIRouter(tags=["alerts"])

Running = Annotated[Services, Depends(services)]
Reader = Annotated[Tenant, Depends(requires(Scope.READ, Scope.ADMIN))]
AdminKey = Annotated[Key, Depends(requires_key(Scope.ADMIN))]


class Acknowledgement(BaseModel):
    """Someone has taken the alert in hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    comment: str = Field("", max_length=2000, pattern=r"^[^\x00]*$")


@router.get("/v1/alerts")
def list_alerts(
    tenant: Reader,
    running: Running,
    page: OnePage,
    state: Annotated[list[State] | None, Query(max_length=len(State))] = None,
    model: Annotated[str | None, Query(pattern=NAME)] = None,
    kind: Annotated[list[Kind] | None, Query(max_length=len(Kind))] = None,
    since: Annotated[AwareDatetime | None, Query(description="detected at or after")] = None,
) -> dict[str, Any]:
    """The alerts, the newest first; `state` and `kind` may be given more than once."""
    query = _alerts_of(tenant)
    if state:
        query = query.where(alerts.c.state.in_(state))
    if kind:
        query = query.where(alerts.c.kind.in_(kind))
    if model is not None:
        query = query.where(alerts.c.model == model)
    if since is not None:
        query = query.where(alerts.c.detected_at >= from_datetime(since))
    with running.database.read(tenant) as connection:
        rows, next_ = fetch(connection, query, (alerts.c.detected_at, alerts.c.id), page)
        muting = Muting(connection, tenant, running.clock.now())
        return {"alerts": [_public(row, muting) for row in rows], "next": next_}


@router.get("/v1/alerts/{alert_id}")
def get(tenant: Reader, running: Running, alert_id: str) -> dict[str, Any]:
    """One alert."""
    with running.database.read(tenant) as connection:
        return _shown(connection, running, tenant, alert_id)


@router.get("/v1/alerts/{alert_id}/history")
def history(tenant: Reader, running: Running, alert_id: str, page: OnePage) -> dict[str, Any]:
    """Every change of the alert, oldest first, with the alert as each left it."""
    rows, next_ = _transitions(running, tenant, alert_id, page)
    changes = [{**_change(row), "alert": public_alert(_alert(row))} for row in rows]
    return {"history": changes, "next": next_}


@router.post("/v1/alerts/{alert_id}/acknowledge")
def acknowledge(
    key: AdminKey, running: Running, alert_id: str, body: Acknowledgement | None = None
) -> dict[str, Any]:
    """Note who has taken the alert in hand; it goes on as it is. The newest note stands."""
    comment = "" if body is None else body.comment
    with running.database.write(key.tenant) as connection:
        _find(connection, key.tenant, alert_id)
        at = running.clock.now()
        notes.acknowledge(connection, key.tenant, alert_id, by=key.id, comment=comment, at=at)
        return _shown(connection, running, key.tenant, alert_id)


@router.delete("/v1/alerts/{alert_id}/acknowledge", status_code=204)
def take_back(key: AdminKey, running: Running, alert_id: str) -> None:
    """Nobody has the alert in hand any more."""
    with running.database.write(key.tenant) as connection:
        _find(connection, key.tenant, alert_id)
        notes.take_back(connection, key.tenant, alert_id)


def _alerts_of(tenant: str) -> Select[Any]:
    theirs = and_(
        acknowledgements.c.tenant == alerts.c.tenant, acknowledgements.c.alert_id == alerts.c.id
    )
    return (
        select(
            alerts.c.id,
            alerts.c.detected_at,
            alerts.c.body,
            acknowledgements.c.by,
            acknowledgements.c.at,
            acknowledgements.c.comment,
        )
        .join(acknowledgements, theirs, isouter=True)
        .where(alerts.c.tenant == tenant)
    )


def _find(connection: Connection, tenant: str, alert_id: str) -> Row[Any]:
    row = connection.execute(_alerts_of(tenant).where(alerts.c.id == alert_id)).one_or_none()
    if row is None:
        raise NotFound("no such alert")
    return row


def _transitions(
    running: Services, tenant: str, alert_id: str, page: OnePage
) -> tuple[list[Row[Any]], str | None]:
    query = select(transitions).where(
        transitions.c.tenant == tenant, transitions.c.alert_id == alert_id
    )
    with running.database.read(tenant) as connection:
        _find(connection, tenant, alert_id)
        return fetch(
            connection,
            query,
            (transitions.c.revision, transitions.c.alert_id),
            page,
            descending=False,
        )


def _alert(row: Row[Any]) -> Alert:
    return msgspec.json.decode(row.body, type=Alert)


def _shown(connection: Connection, running: Services, tenant: str, alert_id: str) -> dict[str, Any]:
    row = _find(connection, tenant, alert_id)
    return _public(row, Muting(connection, tenant, running.clock.now()))


def _public(row: Row[Any], muting: Muting) -> dict[str, Any]:
    alert = _alert(row)
    mute = muting.of(alert)
    return public_alert(
        alert,
        acknowledged=notes.public_acknowledgement(row),
        silenced_by=None if mute is None else mute.silence,
        inhibited_by=None if mute is None else mute.inhibitor,
    )


def _change(row: Row[Any]) -> dict[str, Any]:
    return {
        "revision": row.revision,
        "type": row.type,
        "at": to_rfc3339(row.at),
        "reason": row.reason,
    }
