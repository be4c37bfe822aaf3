"""The client against a real HTTP server: what arrives, what is retried, what is dropped."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import Client, Counts, LogHandler, is_sampled


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
                "time": 1_700_000_000.5,
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


def spooling(url: str, directory: Path, **settings: Any) -> Client:
    return client_of(url, spool_directory=directory, **settings)


def nobody() -> str:
    """A URL that no one listens at."""
    with serving() as service:
        return service.url


def test_what_waits_in_the_spool_is_sent_by_the_next_client(tmp_path: Path) -> None:
    with spooling(nobody(), tmp_path, batch_rows=10) as first:
        for i in range(25):
            first.predict(f"p{i}", output=1)
        first.close(timeout_seconds=0.1)
    assert first.counts == Counts(taken=25)
    assert first.counts.waiting == 25
    with serving() as service, spooling(service.url, tmp_path) as second:
        assert second.flush()
        assert [row["id"] for row in service.rows] == [f"p{i}" for i in range(25)]
        assert second.counts == Counts(taken=25, accepted=25)
    assert list(tmp_path.rglob("*.gz")) == []


def test_a_killed_program_loses_at_most_what_lingered(tmp_path: Path) -> None:
    program = (
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "from service.client import Client\n"
        f"client = Client({nobody()!r}, 'sw_k_s', model='m', batch_rows=100,\n"
        f"                linger_seconds=60, spool_directory={str(tmp_path)!r})\n"
        "for i in range(1050): client.predict(f'p{i}', output=i)\n"
        f"spool = Path({str(tmp_path)!r})\n"
        "while len(list(spool.rglob('*.gz'))) < 10: time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    assert killed.returncode == -9
    with serving() as service, spooling(service.url, tmp_path) as client:
        assert client.flush()
        assert {row["id"] for row in service.rows} == {f"p{i}" for i in range(1000)}
        assert client.counts == Counts(taken=1000, accepted=1000)


def test_a_batch_keeps_its_key_from_one_program_to_the_next(tmp_path: Path) -> None:
    with serving(*[(503, {})] * 1000) as service:
        with spooling(service.url, tmp_path) as first:
            first.predict("p1", output=1)
            first.close(timeout_seconds=0.2)
        service.script.clear()
        with spooling(service.url, tmp_path) as second:
            assert second.flush()
        assert len(service.requests) > 1
        assert len({headers["Idempotency-Key"] for headers, _ in service.requests}) == 1


def test_a_full_spool_drops_the_newest_and_counts_them(tmp_path: Path) -> None:
    down = nobody()
    with spooling(down, tmp_path, batch_rows=10, max_spooled_bytes=400) as client:
        for i in range(200):
            client.predict(f"p{i}", output=1)
        client.close(timeout_seconds=0.3)
    counts = client.counts
    assert 0 < counts.waiting < 200
    assert counts.dropped == 200 - counts.waiting
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.gz")) <= 400
    with serving() as service, spooling(service.url, tmp_path) as second:
        assert second.flush()
        assert [row["id"] for row in service.rows] == [f"p{i}" for i in range(counts.waiting)]


def test_clients_of_one_directory_leave_each_others_batches_alone(tmp_path: Path) -> None:
    with spooling(nobody(), tmp_path) as busy:
        busy.predict("p1", output=1)
        busy.flush(timeout_seconds=0.1)
        with serving() as service, spooling(service.url, tmp_path) as other:
            other.predict("p2", output=1)
            assert other.flush()
            assert [row["id"] for row in service.rows] == ["p2"]
        busy.close(timeout_seconds=0.1)
    assert busy.counts.waiting == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_sends_its_own_rows_and_not_its_parents(tmp_path: Path) -> None:
    with serving() as service:
        service.gate.clear()
        with spooling(service.url, tmp_path) as client:
            client.predict("parent", output=1)
            child = os.fork()
            if child == 0:  # in the child nothing may escape, or pytest would go on twice
                status = 1
                with contextlib.suppress(BaseException):
                    client.predict("child", output=1)
                    status = 0 if client.counts.taken == 1 and client.flush(10) else 1
                os._exit(status)
            service.gate.set()
            assert os.waitpid(child, 0)[1] == 0
            assert client.flush()
            assert client.counts == Counts(taken=1, accepted=1)
        assert sorted(row["id"] for row in service.rows) == ["child", "parent"]


def test_sampling_is_the_same_everywhere_and_as_often_as_said() -> None:
    ids = [f"utt-{i}" for i in range(20_000)]
    chosen = {id for id in ids if is_sampled(id, 0.05)}
    assert chosen == {id for id in ids if is_sampled(id, 0.05)}
    assert chosen <= {id for id in ids if is_sampled(id, 0.2)}
    # 20,000 draws at .05 have a standard deviation of 31; five of them
    assert abs(len(chosen) - 1_000) < 155
    assert abs(len(chosen & {id for id in ids if is_sampled(id, 0.05, "anew")}) - 50) < 36
    assert not is_sampled("utt-1", 0.0)
    assert is_sampled("utt-1", 1.0)


def test_log_records_carry_rows() -> None:
    log = logging.getLogger("a model")
    log.setLevel(logging.INFO)
    with serving() as service:
        with client_of(service.url) as client:
            handler = LogHandler(client)
            log.addHandler(handler)
            log.info("done", extra={"prediction": {"id": "p1", "output": "a"}})
            log.info("labelled", extra={"label": {"id": "p1", "truth": "a"}})
            log.info("nothing to send")
            assert client.flush()
            log.removeHandler(handler)
        assert [(row["kind"], row["id"]) for row in service.rows] == [
            ("prediction", "p1"),
            ("label", "p1"),
        ]


def test_a_log_record_with_an_argument_that_there_is_not_does_not_raise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving() as service, client_of(service.url) as client:
        record = logging.makeLogRecord({"prediction": {"id": "p1", "ouput": 1}})
        LogHandler(client).handle(record)
        assert client.counts == Counts()
    assert "ouput" in capsys.readouterr().err
