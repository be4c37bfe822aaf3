"""Receiver: a real HTTP server on the loopback that notes what comes and answers as it is told."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What came."""

    path: str
    headers: dict[str, str]  # by lower-case name
    body: bytes


def status(code: int, **headers: str) -> Reply:
    """Answer with a status and no body; `retry_after="7"` is the header Retry-After."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return reply


@dataclass
class Receiver:
    """Answers each request with the next of `replies`, and with the last for ever after."""

    url: str
    replies: list[Reply] = field(default_factory=lambda: [status(204)])
    requests: list[Request] = field(default_factory=list)
    n_connections: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", "0"))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._arrived:
            self.requests.append(Request(handler.path, headers, handler.rfile.read(length)))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            self._arrived.notify_all()
        reply(handler)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer nothing until `released` is set."""
        self.released.wait(30)

    def wait_for(self, n: int, timeout_seconds: float = 10) -> None:
        """Wait until `n` requests have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= n, timeout_seconds)


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a free port while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            try:
                receiver.take(self)
            except OSError:
                return  # whoever asked has gone

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256  # who waits to be accepted

        def process_request(self, request: object, client_address: object) -> None:
            receiver.n_connections += 1
            super().process_request(request, client_address)  # type: ignore[arg-type]

        def handle_error(self, request: object, client_address: object) -> None:
            return  # a broken handshake is the test's own doing

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    scheme = "http" if tls is None else "https"
    receiver = Receiver(f"{scheme}://127.0.0.1:{server.server_port}/hooks")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
