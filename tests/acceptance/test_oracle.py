"""Flaky networks, SIGTERM at any moment, backups under writes: nothing is lost, nothing doubled.

The sender keeps what it issued and what was acknowledged; at the end acknowledged ⊆ stored ⊆
issued, each once, and a fresh row is still taken.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest
from sqlalchemy import text

from service.check import check
from service.database import Database
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH
from service.ingest.frame import from_frame
from tests.figures import Figures
from tests.proxy import FlakyProxy, Harm
from tests.server import Server, ended

pytestmark = pytest.mark.fault

SEED: Final = 20261122
ROWS_A_REQUEST: Final = 50
NO_KEEP_ALIVE: Final = httpx2.Limits(max_keepalive_connections=0)  # a connection, a harm


class Sender(threading.Thread):
    """Sends batches until each is acknowledged, a tenth of them rows that were sent before."""

    def __init__(self, name: str, server: Server, port: int | None, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.label, self.server, self.port, self.rng = name, server, port, rng
        self.issued: set[str] = set()
        self.acknowledged: set[str] = set()
        self.statuses: Counter[int] = Counter()
        self.n_retries = 0
        self.client = httpx2.Client(timeout=1.0, trust_env=False, limits=NO_KEEP_ALIVE)
        self.ends = threading.Event()

    def run(self) -> None:
        n = 0
        while not self.ends.is_set():
            ids = [f"{self.label}.{n}.{i}" for i in range(ROWS_A_REQUEST)]
            if n and self.rng.random() < 0.1:
                ids += [f"{self.label}.{n - 1}.{i}" for i in range(5)]
            self.issued.update(ids)
            if self._send(f"{self.label}-{n}", ids):
                self.acknowledged.update(ids)
            n += 1

    def _send(self, key: str, ids: list[str]) -> bool:
        """Whether a batch was acknowledged before the end."""
        body = "\n".join(
            json.dumps({"id": i, "model": "m", "time": 1_790_000_000, "output": "y"}) for i in ids
        )
        while True:
            port = self.port or int(self.server.url.rsplit(":", 1)[1])
            try:
                answer = self.client.post(
                    f"http://127.0.0.1:{port}/v1/events",
                    content=body,
                    headers={
                        "authorization": f"Bearer {self.server.key}",
                        "idempotency-key": key,
                    },
                )
            except httpx2.TransportError:
                answer = None
            if answer is not None:
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    return True
            if self.ends.is_set():
                return False
            self.n_retries += 1
            threading.Event().wait(self.rng.uniform(0.02, 0.1))


@contextmanager
def sending(server: Server, n: int, port: int | None = None) -> Iterator[list[Sender]]:
    senders = [Sender(f"s{i}", server, port, random.Random(SEED + i)) for i in range(n)]
    for sender in senders:
        sender.start()
    try:
        yield senders
    finally:
        for sender in senders:
            sender.ends.set()
        for sender in senders:
            sender.join(30)
            sender.client.close()


def stored_ids(directory: Path) -> list[str]:
    """Every id that counts, as a replay of the journal finds it."""
    database = Database.in_directory(directory)
    ids: list[str] = []
    for entry in SqlEventLog(database).read(0):
        if entry.codec == BATCH:
            ids += from_frame(entry.body)[0].ids
    database.close()
    return ids


def judged(server: Server, senders: list[Sender]) -> dict[str, int]:
    """The oracle, of a server that has ended: what was lost, invented, or counted twice."""
    issued = set().union(*(sender.issued for sender in senders))
    acknowledged = set().union(*(sender.acknowledged for sender in senders))
    stored = set(stored_ids(server.directory / "data"))
    database = Database.in_directory(server.directory / "data")
    checked = check(database)
    database.close()
    assert checked.faults == []
    received, accepted, duplicates, rejected = checked.accounts["acme"]
    assert received == accepted + duplicates + rejected
    assert len(acknowledged) > 100
    return {
        "acked": len(acknowledged),
        "lost": len(acknowledged - stored),
        "invented": len(stored - issued),
        "double": accepted - len(stored),
    }


GOOD: Final = {"lost": 0, "invented": 0, "double": 0}


def fresh_is_counted(server: Server) -> None:
    answer = server.post("/v1/events", '{"id": "fresh", "model": "fresh", "output": "y"}')
    assert answer.json()["accepted"] == 1


@pytest.mark.parametrize("harm", [h for h in Harm if h is not Harm.NONE])
def test_a_flaky_network_loses_nothing_and_doubles_nothing(
    tmp_path: Path, figures: Figures, is_full: bool, harm: Harm
) -> None:
    server = Server(tmp_path, body_deadline_seconds=3)
    with ended(server):
        server.start()
        proxy = FlakyProxy(
            int(server.url.rsplit(":", 1)[1]), [Harm.NONE, harm], random.Random(SEED)
        )
        with sending(server, 4, proxy.port) as senders:
            threading.Event().wait(30 if is_full else 4)
        proxy.close()
        assert proxy.done[harm] > 0
        assert server.stop() == 0
    found = judged(server, senders)
    retries = sum(sender.n_retries for sender in senders)
    figures(f"flaky network, {harm}", harmed=proxy.done[harm], retries=retries, **found)
    assert {name: found[name] for name in GOOD} == GOOD
    if harm in (Harm.LOST_ANSWER, Harm.RESET):
        assert retries > 0  # the control: it did harm


def test_without_the_dedup_lost_answers_would_count_twice(tmp_path: Path) -> None:
    """The control: the same stream holds rows that came twice, and the fold counts them once."""
    server = Server(tmp_path)
    with ended(server):
        server.start()
        for key in ("one", "another"):  # a retry that forgot its key
            rows = '{"id": "a", "model": "m", "output": "y"}'
            server.post("/v1/events", rows, **{"idempotency-key": key})
        assert server.stop() == 0
    assert stored_ids(server.directory / "data") == ["a", "a"]
    database = Database.in_directory(server.directory / "data")
    assert check(database).accounts["acme"] == (2, 1, 1, 0)
    database.close()


def test_sigterm_at_any_moment_ends_with_0_within_ten_seconds_and_counts_once(
    tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    n_terms = 60 if is_full else 5
    rng = random.Random(SEED)
    server = Server(tmp_path, snapshot_bytes=50_000)
    took, codes, early = [], [], []
    with ended(server):
        server.start()
        with sending(server, 4) as senders:
            for n in range(n_terms):
                threading.Event().wait(rng.uniform(0.05, 0.8))
                began = time.monotonic()
                codes.append(server.stop())
                took.append(time.monotonic() - began)
                if n % 2:  # once more while it starts; an interpreter that loads dies of it
                    server.launch()
                    threading.Event().wait(rng.uniform(0.5, 3.0))
                    began = time.monotonic()
                    early.append(server.stop())
                    took.append(time.monotonic() - began)
                server.start()
            threading.Event().wait(0.5)
        fresh_is_counted(server)
        assert server.stop() == 0
    for sender in senders:
        sender.issued.add("fresh")
    found = judged(server, senders)
    figures("SIGTERM anywhere", terms=len(codes), slowest_s=round(max(took), 2), **found)
    assert {name: found[name] for name in GOOD} == GOOD
    assert max(took) <= 10
    assert codes == [0] * len(codes) and set(early) <= {0, -signal.SIGTERM}


def slicewatch(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={"PATH": "/usr/bin:/bin", "SLICEWATCH_DATA_DIR": str(directory)},
        cwd=directory.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def digests_at(directory: Path, offsets: list[int]) -> list[str]:
    """The states that a whole journal gives at these offsets, in their order."""
    database, fold, found = Database.in_directory(directory), Fold(), []
    for entry in SqlEventLog(database).read(0, max(offsets)):
        fold.apply(entry)
        if entry.offset in offsets:
            found.append(fold.digest())
    database.close()
    return found


def test_a_backup_under_writes_restores_to_the_state_of_its_instant(
    tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    n_backups = 10 if is_full else 3
    server = Server(tmp_path / "live", snapshot_bytes=50_000)
    data, digests, offsets = tmp_path / "live" / "data", list[str](), list[int]()
    with ended(server):
        server.start()
        with sending(server, 4) as senders:
            for n in range(n_backups):
                threading.Event().wait(0.5)
                done = slicewatch(data, "backup", str(tmp_path / f"{n}.backup"))
                assert done.returncode == 0, done.stderr
            threading.Event().wait(0.5)
        assert server.stop() == 0
    for n in range(n_backups):
        restored = tmp_path / f"restored{n}"
        assert slicewatch(restored, "restore", str(tmp_path / f"{n}.backup")).returncode == 0
        told = slicewatch(restored, "check")
        assert told.returncode == 0, told.stdout
        lines = dict(line.split("\t", 1) for line in told.stdout.splitlines())
        offset = int(lines["journal"].rsplit(" ", 1)[1])
        offsets.append(offset)
        digests.append(lines["digest"])
    assert offsets == sorted(set(offsets)) and offsets[0] > 1
    equal = [a == b for a, b in zip(digests, digests_at(data, offsets), strict=True)]
    figures(
        "backup under writes, restore",
        backups=n_backups,
        offsets=",".join(map(str, offsets)),
        digests_equal=sum(equal),
        refused_meanwhile=sum(n for s in senders for code, n in s.statuses.items() if code != 200),
    )
    assert all(equal)


def test_a_copy_of_the_file_alone_is_no_backup(tmp_path: Path) -> None:
    """The control: what lies in the write-ahead log is missing from it."""
    server = Server(tmp_path)
    with ended(server):
        server.start()
        server.post("/v1/events", '{"id": "a", "model": "m", "output": "y"}')
        (tmp_path / "copy.db").write_bytes((tmp_path / "data" / "slicewatch.db").read_bytes())
        server.kill()
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        tables = copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'journal'")
        is_there = (
            tables.fetchone()[0] and copy.execute("SELECT count(*) FROM journal").fetchone()[0]
        )
    assert not is_there
    database = Database.in_directory(tmp_path / "data")
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM journal")) == 1
    database.close()
