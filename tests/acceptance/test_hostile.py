"""Hostile numbers, text, shapes, bombs and slow senders, against the real server.

Nothing is answered 5xx, nothing takes long, nothing changes, and whoever behaves is served.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import secrets
import socket
import statistics
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import schemathesis
import zstandard
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from schemathesis.core.result import Ok

from service.settings import Settings
from tests.figures import Figures
from tests.server import Server, ended

pytestmark = pytest.mark.fault

FIXED_SEED: Final = 20261122
MIB: Final = 1024 * 1024
SLOWEST_SECONDS: Final = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), max_body_bytes=4 * MIB)
    with ended(server):
        server.start()
        yield server


class Timed:
    """Requests, each with how long its answer took."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seconds: list[float] = []
        self.statuses: list[int] = []

    def request(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> None:
        """Send one; a connection that is closed without an answer counts as status 0."""
        began = time.perf_counter()
        try:
            answer = self.server.client.request(
                method,
                self.server.url + path,
                content=content,
                headers={"authorization": f"Bearer {self.server.key}", **headers},
            )
            self.statuses.append(answer.status_code)
        except httpx2.RemoteProtocolError:
            self.statuses.append(0)
        self.seconds.append(time.perf_counter() - began)

    def n_5xx(self) -> int:
        return sum(status >= 500 for status in self.statuses)

    def slowest(self) -> float:
        return round(max(self.seconds), 3)


NUMBERS: Final = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0", "0x10", "01", "1.", ".5",
    "9" * 400, "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e308",
    "1" + "0" * 4_300, "1e+999999999999", "true", "null",
)  # fmt: skip
TEXTS: Final = (
    '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"a\\u0000b"', '"\\u202e\\u2066"',
    '"' + "a" * 70_000 + '"',
    '"' + "e\\u0301" * 30_000 + '"', '"<script>alert(1)</script>"', '"\'; DROP TABLE journal; --"',
    '"{__name__=\\"x\\"}"', '"\\n# HELP evil"', '"../../etc/passwd"',
    '"%00%0a"',
    '"\\\\x"', '"\\q"',
    '"unterminated', '"\ufeff"', '"${jndi:ldap://x}"', '"{{7*7}}"',
)  # fmt: skip
SHAPES: Final = (
    "[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 50_000, "{}", "[]", "[[]]", "[null]",
    '{"events": {}}',
    '{"events": [[]]}', '{"id": "a", "id": "b", "model": "m", "output": 1}', '{"id": "a"} trailing',
    "\x00", "\xff\xfe", "", " ", "\n\n", ",",
    "{" + ",".join(f'"k{i}": {i}' for i in range(5_000)) + "}",
    json.dumps({"id": "a", "model": "bad name", "attributes": {f"k{i}": "v" for i in range(999)}}),
    json.dumps({"id": "a", "model": "bad name", "features": {"e": [1.0] * 100_000}}),
)  # fmt: skip
FIELDS: Final = (
    "id", "model", "version", "time", "kind", "output", "truth", "loss", "errors", "total",
    "confidence", "inclusion_probability", "cluster", "stratum", "attributes", "features",
)  # fmt: skip


def hostile_rows() -> Iterator[bytes]:
    """Bodies none of which holds a row that may be accepted."""
    for field in FIELDS:
        for value in (*NUMBERS, *TEXTS):
            others = {"model": "bad name", "output": 1}  # the model's name is refused
            known = "".join(f', "{k}": {json.dumps(v)}' for k, v in others.items() if k != field)
            text = f'{{"{field}": {value}{known}, "model": "bad name"}}'
            yield text.encode("utf-8", "surrogatepass")
    for shape in SHAPES:
        if '"model": "m"' not in shape:
            yield shape.encode("utf-8", "surrogatepass")


def hostile_requests() -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Paths, queries, heads and management bodies of the same kind."""
    as_json = {"content-type": "application/json"}
    for text in (*NUMBERS, *TEXTS, *SHAPES):
        body = text.encode("utf-8", "surrogatepass")
        yield "PUT", "/v1/models/m", b"[" + body[: 200 * 1024] + b"]", as_json
        yield "POST", "/v1/endpoints", b'{"url": ' + body[: 200 * 1024] + b"}", as_json
        yield "POST", "/v1/alerts/none/acknowledge", body[: 200 * 1024], as_json
    for hostile in ("%00", "%ff", "..%2f", "%0d%0a", "'", "\u202e", "a" * 5_000, "-1", "1e400"):
        for path in ("/v1/models/{}", "/v1/alerts/{}", "/v1/endpoints/{}/deliveries", "/{}"):
            yield "GET", path.format(hostile), b"", {}
        for name in (
            "limit",
            "cursor",
            "since",
            "until",
            "state",
            "kind",
            "order",
            "sort",
            "model",
        ):
            for path in ("/v1/alerts", "/v1/rejected", "/v1/models/m/slices", "/v1/endpoints"):
                yield "GET", f"{path}?{name}={hostile}", b"", {}
    for name, value in (
        ("content-type", "x" * 5_000), ("content-encoding", "br"), ("content-encoding", "gzip"),
        ("content-encoding", "gzip, gzip, gzip"), ("idempotency-key", "x" * 5_000),
        ("idempotency-key", '"'), ("authorization", "Bearer sw_"), ("accept", "*" * 1_000),
    ):  # fmt: skip
        yield "POST", "/v1/events", b"{}", {name: value}


def counted(server: Server) -> dict[str, float]:
    """The counters that tell of accepted rows and of what is kept."""
    page = server.client.get(f"{server.url}/metrics").text
    wanted = re.findall(r"^(slicewatch_rows_(?:accepted|duplicate)_total\S*) (\S+)$", page, re.M)
    return {name: float(value) for name, value in wanted if float(value)}


def test_the_corpus_is_answered_below_500_at_once_and_changes_nothing(
    server: Server, figures: Figures
) -> None:
    timed = Timed(server)
    before = counted(server)
    for body in hostile_rows():
        timed.request("POST", "/v1/events", body, {"content-type": "application/x-ndjson"})
    assert set(timed.statuses) <= {200, 400, 413, 422}
    n_rows = len(timed.statuses)
    for method, path, body, headers in hostile_requests():
        timed.request(method, path, body, headers)
    figures(
        "hostile numbers, text, shapes",
        rows=n_rows,
        requests=len(timed.statuses),
        answered_5xx=timed.n_5xx(),
        slowest_s=timed.slowest(),
    )
    assert timed.n_5xx() == 0
    assert timed.slowest() <= SLOWEST_SECONDS
    assert counted(server) == before
    fine = server.post("/v1/events", '{"id": "fine", "model": "m", "output": 1}')
    assert fine.json()["accepted"] == 1  # the control: a row that is good is counted
    assert counted(server) != before


@pytest.mark.parametrize("which", ["fixed", "random"])
def test_schemathesis_finds_no_5xx_in_any_operation(
    server: Server, figures: Figures, is_full: bool, which: str
) -> None:
    chosen = FIXED_SEED if which == "fixed" else secrets.randbelow(1 << 32)
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    timed: list[float] = []
    failures: list[str] = []
    n_operations = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation: Any = found.ok()
        n_operations += 1

        @seed(chosen)
        @hypothesis_settings(
            max_examples=200 if is_full else 12,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            headers = {"Authorization": f"Bearer {server.key}"}
            answer = case.call(base_url=server.url, headers=headers)
            timed.append(answer.elapsed)
            if answer.status_code >= 500:
                failures.append(f"{case.method} {case.path}: {answer.status_code}")

        answered()
    figures(
        f"schemathesis, {which} seed",
        seed=chosen,
        operations=n_operations,
        requests=len(timed),
        answered_5xx=len(failures),
        slowest_s=round(max(timed), 3),
    )
    assert failures == []
    assert statistics.quantiles(timed, n=100)[-1] <= SLOWEST_SECONDS


# Bombs


def gzip_bomb() -> bytes:
    """A gibibyte of one byte."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b" " * MIB
    return b"".join(compressor.compress(zeros) for _ in range(1024)) + compressor.flush()


def zstd_bomb() -> bytes:
    """Two gibibytes of one byte."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=3).stream_writer(out, closefd=False) as writer:
        for _ in range(2048):
            writer.write(b" " * MIB)
    return out.getvalue()


def nested_bomb() -> bytes:
    """A bomb in a bomb."""
    return gzip.compress(gzip_bomb())


def peak_bytes(server: Server) -> int:
    """The most memory that the server's process ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


BOMBS: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "gzip": (gzip_bomb, "gzip"),
    "zstd": (zstd_bomb, "zstd"),
    "nested": (nested_bomb, "gzip, gzip"),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_bomb_costs_what_the_cap_allows(server: Server, figures: Figures, kind: str) -> None:
    make, coding = BOMBS[kind]
    bomb = make()
    timed, before = Timed(server), peak_bytes(server)
    timed.request("POST", "/v1/events", bomb, {"content-encoding": coding})
    grown = (peak_bytes(server) - before) / MIB
    figures(
        f"bombs, {kind}",
        sent_bytes=len(bomb),
        status=timed.statuses[0],
        grown_mb=round(grown, 1),
        seconds=timed.slowest(),
    )
    assert timed.statuses == [413]
    assert grown < 32 and timed.slowest() <= SLOWEST_SECONDS


def test_without_the_cap_the_same_bomb_would_fill_memory(tmp_path: Path) -> None:
    server = Server(tmp_path, max_body_bytes=512 * MIB)
    with ended(server):
        server.start()
        before = peak_bytes(server)
        timed = Timed(server)
        timed.request("POST", "/v1/events", gzip_bomb(), {"content-encoding": "gzip"})
        assert (peak_bytes(server) - before) / MIB > 256


# Slow senders


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with deadlines of 2 and 3 s, so that the tests need not wait for the defaults."""
    directory = tmp_path_factory.mktemp("patient")
    server = Server(directory, head_deadline_seconds=2, body_deadline_seconds=3)
    with ended(server):
        server.start()
        yield server


HEAD: Final = b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
SLOW: Final = {"silent": b"", "half a head": HEAD, "half a body": HEAD + b"\r\n{"}


def seconds_until_closed(server: Server, sent: bytes, patience_seconds: float) -> float:
    """How long a sender that stops there is kept; `patience_seconds` where it is still open."""
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=patience_seconds) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
            return patience_seconds
        except ConnectionError:
            pass
        return time.monotonic() - began


@pytest.mark.parametrize(("kind", "deadline"), [(k, 3 if "body" in k else 2) for k in SLOW])
def test_a_sender_that_stops_is_hung_up_on(
    patient: Server, figures: Figures, kind: str, deadline: float
) -> None:
    kept = seconds_until_closed(patient, SLOW[kind], 10)
    figures(f"slow senders, {kind}", deadline_s=deadline, closed_after_s=round(kept, 2))
    assert deadline - 0.1 <= kept <= deadline + 1


def test_the_defaults_are_those_promised_and_longer_deadlines_keep_it_longer(
    tmp_path: Path,
) -> None:
    assert (Settings().head_deadline_seconds, Settings().body_deadline_seconds) == (10, 30)
    server = Server(tmp_path, head_deadline_seconds=60, body_deadline_seconds=60)
    with ended(server):
        server.start()
        assert seconds_until_closed(server, SLOW["half a body"], 4) == 4  # the control


@pytest.mark.parametrize("mode", ["-H", "-B"])
def test_whoever_behaves_is_served_while_slowhttptest_runs(
    patient: Server, figures: Figures, mode: str, tmp_path: Path
) -> None:
    attack = subprocess.Popen(
        ["slowhttptest", mode, "-c", "400", "-r", "200", "-i", "1", "-l", "10", "-x", "8",
         "-u", f"{patient.url}/v1/events", "-s", "8192", "-v", "0"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rng, seconds, statuses = random.Random(FIXED_SEED), [], []
    try:
        while attack.poll() is None:
            row = {"id": f"r{rng.random()}", "model": "m", "output": 1}
            began = time.perf_counter()
            statuses.append(patient.post("/v1/events", json.dumps(row)).status_code)
            seconds.append(time.perf_counter() - began)
            threading.Event().wait(0.02)
    finally:
        attack.kill()
        attack.wait()
    p99 = statistics.quantiles(seconds, n=100)[-1]
    figures(
        f"slowhttptest {mode}, 400 connections",
        healthy_requests=len(seconds),
        healthy_p99_ms=round(1000 * p99, 1),
        refused=sum(status != 200 for status in statuses),
    )
    assert len(seconds) > 50 and set(statuses) == {200}
    assert p99 <= 1
