"""Send what a web service predicts to Slicewatch: an ASGI middleware, to be copied and changed.

    client = Client("https://slicewatch.example", key, model="transcribe-medical",
                    spool_directory="/var/spool/slicewatch")
    app = Starlette(..., middleware=[Middleware(PredictionMiddleware, client=client)])

An endpoint says what it predicted in the request's state, and a row is sent once the answer is out,
so nobody waits for it:

    request.state.prediction = {"id": utterance_id, "output": text, "features": {"snr_db": 11.2}}
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.client import Client

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class PredictionMiddleware:
    """Takes `request.state.prediction` for sending; attributes may come from headers."""

    def __init__(
        self, app: App, client: Client, attribute_headers: tuple[str, ...] = ("x-site", "x-floor")
    ) -> None:
        self.app, self.client = app, client
        self.attribute_headers = tuple(name.lower().encode() for name in attribute_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the app does, then send what it predicted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        await self.app(scope, receive, send)
        prediction = state.get("prediction")
        if prediction is not None:
            attributes = self._attributes(scope) | dict(prediction.get("attributes", {}))
            self.client.predict(**{**prediction, "attributes": attributes})

    def _attributes(self, scope: Scope) -> dict[str, str]:
        headers = dict(scope["headers"])
        return {
            name.decode().removeprefix("x-"): headers[name].decode("latin-1")
            for name in self.attribute_headers
            if name in headers
        }
