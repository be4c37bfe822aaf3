"""Deadlines: an HTTP protocol that waits so long for a head, so long for a body, and no longer.

uvicorn itself waits for ever for a sender that stops half-way, and takes a head of any length. Its
own limit of connections looks at a request when its head has come, and says nothing of when to try
again; this one refuses a connection when it is made.
"""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.metrics import Metrics
from service.problems import problem
from service.settings import Settings

MAX_HEAD_BYTES: Final = 64 * 1024


_FULL: Final = problem(503, "Service unavailable", "too many connections")
_FULL_HEAD: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-type: application/problem+json\r\ncontent-length: %d\r\n\r\n"
)


def protocol(settings: Settings, metrics: Metrics) -> type[HttpToolsProtocol]:
    """The protocol class with the deadlines and the connections of these settings."""
    return type(
        "DeadlineProtocol",
        (_DeadlineProtocol,),
        {
            "head_seconds": settings.head_deadline_seconds,
            "body_seconds": settings.body_deadline_seconds,
            "max_connections": settings.max_connections,
            "overflow": metrics.overflow.labels("connections"),
        },
    )


class _DeadlineProtocol(HttpToolsProtocol):
    head_seconds: float
    body_seconds: float
    max_connections: int
    overflow: Counter
    _timer: asyncio.TimerHandle | None = None
    _awaits_head = True
    _n_head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse()
            return
        self._expect(self.head_seconds)

    def _refuse(self) -> None:
        self.overflow.inc()
        body = bytes(_FULL.body)
        self.transport.write(_FULL_HEAD % len(body) + body)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is None and self._awaits_head:
            self._expect(self.head_seconds)  # of the next request on a connection kept alive
        if self._awaits_head:
            self._n_head_bytes += len(data)
        super().data_received(data)  # a head that ends in these bytes sets the count back to 0
        if self._awaits_head and self._n_head_bytes > MAX_HEAD_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._awaits_head, self._n_head_bytes = False, 0
        self._expect(self.body_seconds)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._awaits_head = True
        self._cancel()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _expect(self, seconds: float) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
