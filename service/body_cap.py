"""BodyCap: bodies that are not rows are small, whoever sends them and before anyone reads them."""

from __future__ import annotations

import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.limits import MANAGEMENT_BODY
from service.metrics import Metrics
from service.problems import problem

# Rows come to these; they read their bodies themselves, up to `max_body_bytes`.
TAKES_ROWS: Final = re.compile(r"/v1/(events|logs|cloudevents)|/v1/models/.+/reference")


class BodyCap:
    """Refuses a body over the cap: at once where its length is told, else when it is reached."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._overflow = metrics.overflow.labels(MANAGEMENT_BODY.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application around another."""
        if scope["type"] != "http" or TAKES_ROWS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        if _declared_bytes(scope) > MANAGEMENT_BODY.limit:
            self._overflow.inc()
            detail = f"the body is over {MANAGEMENT_BODY.limit} bytes"
            await problem(413, "Content too large", detail)(scope, receive, send)
            return
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > MANAGEMENT_BODY.limit:
                self._overflow.inc()
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
