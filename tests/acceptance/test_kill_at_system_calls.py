"""Killed before each of the system calls by which commits reach the disk, one after another."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

from service.clock import SystemClock
from service.database import Database
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH, Entry, Snapshot
from service.engine.state_store import SqlStateStore
from service.notify.outbox import enqueue
from tests.builders import a_transition
from tests.figures import Figures

pytestmark = pytest.mark.fault

CALLS: Final = "pwrite64,fdatasync,fsync,ftruncate"
N_APPENDS: Final = (4, 12)  # in CI, in the long run
SAID: Final = "said"
FORK: Final = multiprocessing.get_context("fork")  # no thread runs here, and it has our modules
MOST_POINTS: Final = 2_000


def work(directory: Path, n_appends: int, answers_first: bool, go: Event) -> None:
    """What is killed: says what is acknowledged; the control says so before it is."""
    said = os.open(directory / SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    assert go.wait(60)
    database = Database.in_directory(directory)
    log, store = SqlEventLog(database), SqlStateStore(database, SystemClock(), enqueue)
    epoch = store.claim()
    for n in range(1, n_appends + 1):
        if answers_first:
            os.write(said, f"{n}\n".encode())
        log.append([Entry("acme", BATCH, bytes([n]) * 20_000, n)], after=n - 1)
        if not answers_first:
            os.write(said, f"{n}\n".encode())
        store.commit(epoch, [a_transition(id=f"al_{n}")], Snapshot(n, b"s" * 5_000))
        if n % 2 == 0:
            with database.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def killed_at(
    point: int, directory: Path, n_appends: int, answers_first: bool = False
) -> list[int] | None:
    """What it said before it was killed at this call; None where it came through."""
    go = FORK.Event()
    worker = FORK.Process(target=work, args=(directory, n_appends, answers_first, go))
    worker.start()
    database = directory / "slicewatch.db"
    watched = [part for path in (database, f"{database}-wal") for part in ("-P", str(path))]
    inject = f"inject={CALLS}:signal=SIGKILL:when={point}"
    attach = ("-f", "-p", str(worker.pid), "-o", "/dev/null")
    tracer = subprocess.Popen(
        ["strace", *attach, *watched, "-e", f"trace={CALLS}", "-e", inject],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    go.set()
    worker.join(60)
    tracer.communicate(timeout=60)
    assert worker.exitcode in (0, -signal.SIGKILL)
    if worker.exitcode == 0:
        return None
    return [int(line) for line in (directory / SAID).read_text().split()]


def violations(directory: Path, acknowledged: list[int]) -> int:
    """What does not hold of the files that a kill left."""
    database = Database.in_directory(directory)
    try:
        stored = [entry.offset for entry in SqlEventLog(database).read(0)]
        newest = SqlStateStore(database, SystemClock(), enqueue).snapshots()
        with database.read() as connection:
            n_alerts = connection.scalar(text("SELECT count(*) FROM alerts")) or 0
            n_transitions = connection.scalar(text("SELECT count(*) FROM transitions")) or 0
        lost = set(acknowledged) - set(stored)
        ahead = [snapshot.offset for snapshot in newest if snapshot.offset > len(stored)]
        return len(lost) + len(ahead) + (n_alerts != n_transitions)
    finally:
        database.close()


def made(directory: Path) -> Path:
    """A directory with its tables, in which nothing has been appended."""
    database = Database.in_directory(directory)
    database.create_tables()
    database.close()
    return directory


@pytest.fixture(autouse=True)
def has_strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")


def test_a_kill_before_any_call_breaks_no_promise(
    tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    fresh, n_appends = made(tmp_path / "fresh"), N_APPENDS[is_full]
    n_violations, n_acknowledged, point = 0, 0, 0
    while point < MOST_POINTS:
        point += 1
        directory = Path(shutil.copytree(fresh, tmp_path / f"at-{point}"))
        said = killed_at(point, directory, n_appends)
        if said is None:  # there is no such call
            break
        n_acknowledged += len(said)
        n_violations += violations(directory, said)
        shutil.rmtree(directory)
    figures(
        "kill before each system call",
        points=point - 1,
        acked=n_acknowledged,
        violations=n_violations,
    )
    assert point > 4 * n_appends, "it hardly fired"
    assert n_violations == 0


def test_who_answers_before_the_commit_is_found_out(tmp_path: Path) -> None:
    """The control."""
    fresh = made(tmp_path / "fresh")
    found = 0
    for point in range(2, 8):
        directory = Path(shutil.copytree(fresh, tmp_path / f"at-{point}"))
        said = killed_at(point, directory, N_APPENDS[0], answers_first=True)
        found += violations(directory, said or [])
    assert found > 0
