"""Deadlines: an HTTP protocol that waits so long for a head, so long for a body, and no longer.

uvicorn itself waits for ever for a sender that stops half-way, and takes a head of any length.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

MAX_HEAD_BYTES: Final = 64 * 1024


def protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol class with the deadlines of these settings."""
    return type(
        "DeadlineProtocol",
        (_DeadlineProtocol,),
        {
            "head_seconds": settings.head_deadline_seconds,
            "body_seconds": settings.body_deadline_seconds,
        },
    )


class _DeadlineProtocol(HttpToolsProtocol):
    head_seconds: float
    body_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _awaits_head = True
    _n_head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.head_seconds)

    def data_received(self, data: bytes) -> None:
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
