"""Audit: what was done to a tenant's keys, models, endpoints and alerts; by whom, when, from where.

A request that a route asks `admin` for is written down with its answer's status before the answer
goes out, refused ones as well; a command is, when it has done its work. What was sent is not in it.
"""

from __future__ import annotations

import asyncio
import getpass
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends
from sqlalchemy import Connection, Row, insert, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import Scope as KeyScope
from service.auth import Tenant, requires
from service.clock import Clock, to_rfc3339
from service.database import Database
from service.keys import Key
from service.pages import OnePage, fetch
from service.services import Services, services
from service.tables import audit as table

log = structlog.get_logger()

router = APIRouter(tags=["operations"])

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OBJECT_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Action:
    """One line of the log."""

    tenant: str
    at: int  # microseconds since 1970, UTC
    who: str  # a key's id, or `command:<user>`
    what: str  # `PUT /v1/models/{model}`, `keys rotate`
    object: str  # which model, endpoint, alert or key
    where: str  # the peer's address, or `local`
    status: int  # of the answer; 0 for a command


def write_down(connection: Connection, action: Action) -> None:
    """Append a line to the log."""
    connection.execute(
        insert(table).values(
            id=secrets.token_hex(8),
            **{name: getattr(action, name) for name in Action.__slots__},
        )
    )


def by_command(tenant: str, what: str, object_: str, clock: Clock) -> Action:
    """What the person at this machine's terminal did."""
    return Action(tenant, clock.now(), f"command:{getpass.getuser()}", what, object_, "local", 0)


class Audit:
    """Writes down what keys that asked for a management route did, before they are answered."""

    def __init__(self, app: ASGIApp, services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application around another."""
        if scope["type"] != "http" or scope["method"] in _SAFE:
            await self._app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            key = scope.get("state", {}).get("manager")
            if message["type"] == "http.response.start" and key is not None:
                await self._write(scope, key, message["status"])
            await send(message)

        await self._app(scope, receive, watched)

    async def _write(self, scope: Scope, key: Key, status: int) -> None:
        running = self._services()
        action = Action(
            tenant=key.tenant,
            at=running.clock.now(),
            who=key.id,
            what=f"{scope['method']} {getattr(scope.get('route'), 'path', '')}",
            object=" ".join(map(str, scope.get("path_params", {}).values()))[:_OBJECT_CHARS],
            where=scope["client"][0] if scope.get("client") else "",
            status=status,
        )

        def write() -> None:
            with running.database.write(key.tenant) as connection:
                write_down(connection, action)

        try:
            await asyncio.to_thread(write)
        except Exception:  # it is done; what is left is to shout
            log.exception("action not written down", tenant=key.tenant, key=key.id)


@router.get("/v1/audit")
def list_audit(
    tenant: Annotated[Tenant, Depends(requires(KeyScope.ADMIN))],
    running: Annotated[Services, Depends(services)],
    page: OnePage,
) -> dict[str, Any]:
    """What was done to the tenant's own things, the newest first."""
    query = select(table).where(table.c.tenant == tenant)
    with running.database.read(tenant) as connection:
        rows, next_ = fetch(connection, query, (table.c.at, table.c.id), page)
    shown = ("id", "who", "what", "object", "where", "status")
    return {
        "audit": [
            {**{name: row._mapping[name] for name in shown}, "at": to_rfc3339(row.at)}
            for row in rows
        ],
        "next": next_,
    }


def newest(database: Database, tenant: str | None, limit: int) -> Sequence[Row[Any]]:
    """The newest lines of a tenant's log, or of everyone's."""
    query = select(table).order_by(table.c.at.desc(), table.c.id).limit(limit)
    if tenant is not None:
        query = query.where(table.c.tenant == tenant)
    with database.read() as connection:
        return connection.execute(query).all()
