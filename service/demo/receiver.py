"""Receiver: a webhook endpoint on the loopback that believes only what is signed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from service.clock import Clock
from service.notify.webhook import verify

LONGEST_BODY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """One webhook whose signature held."""

    id: str  # webhook-id, the same on every retry
    type: str  # "alert.firing", ...
    data: dict[str, Any]


class Receiver:
    """Keeps each verified webhook once, however often it is sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._arrived = threading.Condition()  # guards what follows
        self._received: dict[str, Received] = {}
        self._secret: str | None = None
        self.url = ""

    def trust(self, secret: str) -> None:
        """Verify by this secret, which the service gives when the endpoint is made."""
        with self._arrived:
            self._secret = secret

    @property
    def received(self) -> list[Received]:
        """What has come so far, oldest first."""
        with self._arrived:
            return list(self._received.values())

    def wait_for(self, ids: set[str], timeout_seconds: float) -> bool:
        """Wait until all of these webhook ids have come; False where time ran out."""
        with self._arrived:
            return self._arrived.wait_for(lambda: ids <= self._received.keys(), timeout_seconds)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """The status that a request is answered with; `headers` by lower-case name."""
        with self._arrived:
            if self._secret is None:
                return 503
            if not verify(headers, body, self._secret, self._clock.now() // 1_000_000):
                return 401
            document = json.loads(body)
            webhook_id = headers["webhook-id"]
            self._received.setdefault(
                webhook_id, Received(webhook_id, document["type"], document["data"])
            )
            self._arrived.notify_all()
            return 204


@contextmanager
def receiving(clock: Clock) -> Iterator[Receiver]:
    """A receiver that listens on a free port of the loopback while the block runs."""
    receiver = Receiver(clock)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > LONGEST_BODY_BYTES:
                self.send_error(413)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(receiver.take(headers, self.rfile.read(int(length))))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the demo has its own words."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/hooks"
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
