"""The client against a real HTTP server: what arrives, what is retried, what is dropped."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from service.client import Client, Counts


@dataclass
class Service:
    """A server that keeps what it was sent and answers by a script, then with 200."""

    script: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[tuple[dict[str, str], list[dict[str, Any]]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # answers wait for it
    url: str = ""

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for _, rows in self.requests for row in rows]


@contextmanager
def serving(*script: tuple[int, dict[str, str]], port: int = 0) -> Iterator[Service]:
    service = Service(list(script))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            rows = [json.loads(line) for line in gzip.decompress(body).splitlines()]
            service.requests.append((dict(self.headers) | {"path": self.path}, rows))
            service.gate.wait(10)
            status, headers = service.script.pop(0) if service.script else (200, {})
            answer = json.dumps(
                {"accepted": len(rows), "duplicates": 0, "rejected": 0, "errors": []}
            ).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(answer))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        service.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def client_of(url: str, **settings: Any) -> Client:
    """A client that hardly lingers and hardly waits between tries."""
    quick: dict[str, Any] = {"linger_seconds": 0.01, "first_wait_seconds": 0.01, "model": "m"}
    return Client(url, "sw_k_s", **{**quick, **settings})


def test_rows_arrive_in_the_contracts_form() -> None:
    at = datetime(2026, 11, 22, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    with serving() as service:
        with client_of(service.url, version="v1", now=lambda: 1_700_000_000.5) as client:
            client.predict(
                "p1",
                output="stable",
                features={"snr_db": np.float32(1.5), "gap": float("nan"), "e": np.array([1, 2])},
                attributes={"floor": "7"},
                confidence=0.9,
                cluster="round-1",
                time=at,
            )
            client.label("p1", errors=1, total=4, inclusion_probability=0.5)
            assert client.flush()
        assert service.rows == [
            {
                "kind": "prediction",
                "id": "p1",
                "model": "m",
                "version": "v1",
                "time": "2026-11-22T10:00:00+00:00",
                "output": "stable",
                "features": {"snr_db": 1.5, "gap": None, "e": [1, 2]},
                "attributes": {"floor": "7"},
                "confidence": 0.9,
                "cluster": "round-1",
            },
            {
                "kind": "label",
                "id": "p1",
                "model": "m",
                "time": datetime.fromtimestamp(1_700_000_000.5, UTC).isoformat(),
                "errors": 1,
                "total": 4,
                "inclusion_probability": 0.5,
            },
        ]
        headers = service.requests[0][0]
        assert headers["path"] == "/v1/events"
        assert headers["Authorization"] == "Bearer sw_k_s"
        assert client.counts == Counts(taken=2, accepted=2)


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_batch_is_sent_again_with_the_same_key_until_it_is_answered(status: int) -> None:
    with serving((status, {"Retry-After": "0"}), (status, {})) as service:
        with client_of(service.url) as client:
            client.predict("p1", output=1)
            assert client.flush()
        keys = {headers["Idempotency-Key"] for headers, _ in service.requests}
        assert len(service.requests) == 3
        assert len(keys) == 1
        assert client.counts == Counts(taken=1, accepted=1)


def test_retry_after_is_waited_for() -> None:
    with serving((503, {"Retry-After": "1"})) as service:
        with client_of(service.url) as client:
            client.predict("p1", output=1)
            assert not client.flush(timeout_seconds=0.5)
            assert client.flush(timeout_seconds=5)
        assert len(service.requests) == 2


def test_batches_have_keys_of_their_own() -> None:
    with serving() as service:
        with client_of(service.url, batch_rows=10, linger_seconds=60.0) as client:
            for i in range(25):
                client.predict(f"p{i}", output=1)
        assert [len(rows) for _, rows in service.requests] == [10, 10, 5]
        assert len({headers["Idempotency-Key"] for headers, _ in service.requests}) == 3


@pytest.mark.parametrize("status", [401, 403, 413, 422])
def test_a_batch_that_would_fail_again_is_dropped_and_counted(status: int) -> None:
    with serving((status, {})) as service:
        with client_of(service.url) as client:
            client.predict("p1", output=1)
            assert client.flush()
            client.predict("p2", output=1)
            assert client.flush()
        assert client.counts == Counts(taken=2, accepted=1, dropped=1)


def test_a_service_that_comes_later_gets_the_rows() -> None:
    with serving() as service:
        port = int(service.url.rsplit(":", 1)[1])
    with client_of(f"http://127.0.0.1:{port}") as client:
        client.predict("p1", output=1)
        assert not client.flush(timeout_seconds=0.1)
        with serving(port=port) as service:
            assert client.flush(timeout_seconds=5)
            assert [row["id"] for row in service.rows] == ["p1"]


def test_a_full_buffer_drops_and_counts_and_never_blocks() -> None:
    with serving() as service:
        service.gate.clear()
        with client_of(service.url, batch_rows=1, max_buffered_bytes=1000) as client:
            taken = [client.predict(f"p{i}", output="x" * 200) for i in range(20)]
            assert not taken[-1]
            service.gate.set()
            assert client.flush()
            counts = client.counts
        assert counts.dropped == taken.count(False) > 0
        assert counts.accepted == len(service.rows) == taken.count(True)
        assert counts.taken == counts.settled == 20


@pytest.mark.parametrize("output", [object(), float("inf"), {1, 2}])
def test_a_row_that_is_no_json_is_dropped_and_does_not_raise(output: object) -> None:
    with serving() as service:
        with client_of(service.url) as client:
            assert not client.predict("p1", output=output)
            assert client.predict("p2", output=1)
        assert [row["id"] for row in service.rows] == ["p2"]
        assert client.counts == Counts(taken=2, accepted=1, dropped=1)


def test_close_gives_up_in_time_and_counts_what_was_left() -> None:
    with serving(*[(503, {"Retry-After": "100"})] * 3) as service:
        client = client_of(service.url)
        client.predict("p1", output=1)
        client.close(timeout_seconds=0.2)
        assert client.counts == Counts(taken=1, dropped=1)
        assert not client.predict("p2", output=1)


def test_many_threads_lose_nothing() -> None:
    def send(client: Client, name: int) -> None:
        for i in range(500):
            client.predict(f"{name}-{i}", output=i)

    with serving() as service:
        with client_of(service.url, batch_rows=64) as client:
            threads = [threading.Thread(target=send, args=(client, name)) for name in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert client.flush()
        assert {row["id"] for row in service.rows} == {
            f"{name}-{i}" for name in range(4) for i in range(500)
        }
        assert client.counts == Counts(taken=2000, accepted=2000)


def test_rows_are_sent_when_the_program_ends_without_closing() -> None:
    with serving() as service:
        program = (
            "from service.client import Client\n"
            f"client = Client({service.url!r}, 'sw_k_s', model='m', linger_seconds=60)\n"
            "client.predict('p1', output=1)\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
        assert [row["id"] for row in service.rows] == ["p1"]


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://"])
def test_a_url_that_is_no_http_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        Client(url, "sw_k_s")


def test_the_key_is_not_in_the_repr() -> None:
    client = Client("http://127.0.0.1:1", "sw_k_secret")
    assert "secret" not in repr(client)
    client.close()
