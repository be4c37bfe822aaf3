"""Real senders through 429, 503, lost answers and a killed service: every record counted once.

Each is the sender's own code, started here. Figures are printed: run pytest with `-s` to see them.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.gate import Gate
from tests.server import Server, ended

N: Final = 400
FAULTS: Final = ("503", "lost", "pass", "429", "outage", "pass", "lost")
WITHIN_SECONDS: Final = 90.0
ROOT: Final = Path(__file__).parents[2]
NODE: Final = ROOT / "tests" / "node" / "otel"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    with ended(server):
        server.start()
        yield server


def accounts(server: Server) -> dict[str, int]:
    """Rows by what became of them, as /metrics has it since the last start."""
    page = server.client.get(f"{server.url}/metrics").text
    names = ("accepted", "duplicate", "rejected")
    return {
        name: sum(
            round(float(line.rpartition(" ")[2]))
            for line in page.splitlines()
            if line.startswith(f"slicewatch_rows_{name}_total{{")
        )
        for name in names
    }


def n_rows(server: Server, model: str) -> int:
    """How many predictions of a model count."""
    try:
        answer = server.client.get(
            f"{server.url}/v1/models/{model}/slices",
            params={"order": 0},
            headers={"authorization": f"Bearer {server.key}"},
        )
    except httpx2.TransportError:
        return 0  # it is being killed, or not there yet
    slices = answer.json()["slices"] if answer.status_code == 200 else []
    return int(slices[0]["rows"]) if slices else 0


def holds_all(server: Server, gate: Gate, model: str, n: int = N) -> None:
    """Every record is there once; asked until it is so, or the time is over."""
    until = time.monotonic() + WITHIN_SECONDS
    while (found := n_rows(server, model)) < n and time.monotonic() < until:
        threading.Event().wait(0.1)
    gate.await_service()
    sys.stdout.write(f"{model}: sent={n} counted={found} {dict(gate.met)} {accounts(server)}\n")
    assert found == n
    assert accounts(server)["rejected"] == 0
    assert gate.met["outage"] == 1 and gate.met["lost"] == 2


def run(*command: str, **options: Any) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WITHIN_SECONDS, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_opentelemetrys_sdk_for_python(server: Server) -> None:
    with Gate(server, FAULTS) as gate:
        script = str(ROOT / "tests" / "senders" / "otel_python.py")
        run(sys.executable, script, f"{gate.url}/v1/logs", server.key, str(N))
        holds_all(server, gate, "otel-python")


def test_opentelemetrys_sdk_for_javascript(server: Server) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: apt-get install npm")
    if not (NODE / "node_modules").exists():
        run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=NODE)
    with Gate(server, FAULTS) as gate:
        run("node", str(NODE / "send.cjs"), f"{gate.url}/v1/logs", server.key, str(N))
        holds_all(server, gate, "otel-js")


def test_cloudevents_of_a_logger_that_retries(server: Server) -> None:
    """Requests and responses of a model server, binary, structured and in batches."""
    with Gate(server, FAULTS) as gate, httpx2.Client(trust_env=False) as http:
        for body, headers in cloudevents(N):
            headers["authorization"] = f"Bearer {server.key}"
            until_taken(http, f"{gate.url}/v1/cloudevents", body, headers)
        holds_all(server, gate, "iris")


def cloudevents(n: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Requests and responses for `n` predictions: a few alone, the others in batches."""
    pairs = [(an_event(i, "request"), an_event(i, "response")) for i in range(n)]
    for asked, said in pairs[:10]:
        for message in (to_binary_event(asked), to_structured_event(said)):
            yield bytes(message.body), dict(message.headers)
    events = [event for pair in pairs[10:] for event in pair]
    for at in range(0, len(events), 45):  # cuts pairs in two
        some = [json.loads(to_structured_event(event).body) for event in events[at : at + 45]]
        yield json.dumps(some).encode(), {"content-type": "application/cloudevents-batch+json"}


def an_event(i: int, side: str) -> CloudEvent:
    payload = {"instances": [[i, 1.5]]} if side == "request" else {"predictions": [i % 3]}
    attributes = {
        "id": f"call-{i}",
        "type": f"org.kubeflow.serving.inference.{side}",
        "source": "http://localhost:9081/",
        "datacontenttype": "application/json",
        "inferenceservicename": "iris",
        "namespace": "test",
    }
    return CloudEvent(attributes, payload)


def until_taken(http: httpx2.Client, url: str, body: bytes, headers: dict[str, str]) -> None:
    until = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < until:
        try:
            answer = http.post(url, content=body, headers=headers)
        except httpx2.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200:
            return
        assert answer is None or answer.status_code in (429, 503), answer.text
        threading.Event().wait(0.05)
    raise AssertionError("never taken")


SYSLOG_NG: Final = """@version: 3.35
options {{ stats-freq(0); time-reopen(1); keep-hostname(yes); }};
source rows {{ file("{rows}" follow-freq(0.1) flags(no-parse) log-fetch-limit(100)); }};
destination slicewatch {{
    http(
        url("{url}/v1/events")
        method("POST")
        headers("Authorization: Bearer {key}", "Content-Type: application/x-ndjson")
        body("$MSG")
        delimiter("\\n")
        batch-lines(50)
        batch-timeout(100)
        timeout(10)
        retries(1000000)
        disk-buffer(reliable(yes) mem-buf-size(1048576) disk-buf-size(10485760) dir("{spool}"))
    );
}};
log {{ source(rows); destination(slicewatch); flags(flow-control); }};
"""


@contextmanager
def syslog_ng(directory: Path, gate: Gate, key: str) -> Iterator[Callable[[], None]]:
    """A running syslog-ng that follows `rows`; what is given kills it and starts it again."""
    config = directory / "syslog-ng.conf"
    spool = directory / "spool"
    spool.mkdir()
    rows = directory / "rows"
    config.write_text(SYSLOG_NG.format(rows=rows, url=gate.url, key=key, spool=spool))
    files = itertools.chain.from_iterable(
        (flag, str(directory / name))
        for flag, name in (("-R", "persist"), ("-c", "control"), ("-p", "pid"))
    )
    command = ["syslog-ng", "-F", "--no-caps", "-f", str(config), *files]
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        processes.append(process)

    def kill_and_start() -> None:
        os.kill(processes[-1].pid, signal.SIGKILL)
        processes[-1].wait()
        start()

    start()
    try:
        yield kill_and_start
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_syslog_ng_with_a_disk_buffer_through_its_own_kills(server: Server, tmp_path: Path) -> None:
    if shutil.which("syslog-ng") is None:
        pytest.skip("syslog-ng is not installed: apt-get install syslog-ng-core syslog-ng-mod-http")
    with Gate(server, FAULTS) as gate, syslog_ng(tmp_path, gate, server.key) as kill_and_start:
        with (tmp_path / "rows").open("w") as rows:
            for i in range(N):
                row = {"id": f"s-{i}", "model": "syslog", "output": "x", "time": 1_795_000_000 + i}
                rows.write(json.dumps(row) + "\n")
                rows.flush()
                if i in (N // 4, N // 2):
                    threading.Event().wait(0.3)
                    kill_and_start()
        holds_all(server, gate, "syslog")
