"""Gate: what stands between a sender and the service, and does to requests what networks do."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

import httpx2

from tests.server import Server

_HOP_BY_HOP: Final = frozenset({"host", "connection", "transfer-encoding", "expect"})


class Gate:
    """A port that stays while the service behind it is killed and started again.

    Each request meets the next fault: `429` and `503` are answered so; `lost` is passed on and its
    answer thrown away; `outage` kills the service, which then starts again; `pass`, as all behind
    the last fault, is passed on.
    """

    def __init__(self, server: Server, faults: Sequence[str]) -> None:
        self.met: Counter[str] = Counter()  # what became of requests
        self._server = server
        self._faults = deque(faults)
        self._lock = threading.Lock()
        self._restart: threading.Thread | None = None
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where senders send."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Gate:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.await_service()

    def await_service(self) -> None:
        """Wait until a service that was killed is there again."""
        if self._restart is not None:
            self._restart.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = _body(self)
                fault = gate._next()
                if fault in ("429", "503"):
                    _answer(self, int(fault), {"retry-after": "1"}, b"")
                elif fault == "outage":
                    gate._outage()
                    self._hang_up()
                else:
                    answer = gate._pass_on(self.path, dict(self.headers.items()), body)
                    if answer is None or fault == "lost":
                        self._hang_up()
                    else:
                        _answer(self, answer.status_code, dict(answer.headers), answer.content)

            def _hang_up(self) -> None:
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests print what matters."""

        return Handler

    def _next(self) -> str:
        with self._lock:
            fault = self._faults.popleft() if self._faults else "pass"
            self.met[fault] += 1
            return fault

    def _outage(self) -> None:
        self._server.kill()
        self._restart = threading.Thread(target=self._server.start)
        self._restart.start()

    def _pass_on(self, path: str, headers: dict[str, str], body: bytes) -> httpx2.Response | None:
        kept = {name: v for name, v in headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            with httpx2.Client(timeout=30, trust_env=False) as http:
                answer = http.post(f"{self._server.url}{path}", content=body, headers=kept)
        except httpx2.TransportError:
            answer = None
        with self._lock:
            self.met["unreachable" if answer is None else str(answer.status_code)] += 1
        return answer


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in request.headers.get("transfer-encoding", ""):
        return request.rfile.read(int(request.headers.get("content-length", 0)))
    body = bytearray()
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return bytes(body)


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
) -> None:
    request.send_response(status)
    for name in ("retry-after", "content-type"):
        if name in headers:
            request.send_header(name, headers[name])
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
