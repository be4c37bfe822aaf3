"""Two and four processes share a job, and are killed and stopped at it: no slot is run twice.

Run as a program, it is one of those processes.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, func, insert, select

from service.clock import SystemClock
from service.database import Database
from service.metrics import Metrics
from service.schedule import Job, Run, Schedule
from service.tables import job_slots
from tests.figures import Figures

EVERY_SECONDS, LEASE_SECONDS, WORK_SECONDS = 0.02, 0.5, 0.03
N_KILLS = N_STOPS = 3
WITHIN_SECONDS = 60.0  # four interpreters load at once, on what may be a busy machine

pytestmark = pytest.mark.fault

Said = queue.SimpleQueue[tuple["Process", str]]

effects = Table(  # no constraint: what was done twice would be here twice
    "effects", MetaData(), Column("slot", Integer), Column("holder", Text)
)


class Process:
    """A process that runs the job; what it prints goes to `said`, with itself."""

    def __init__(self, directory: Path, holder: str, said: Said) -> None:
        self.directory, self.holder, self.said = directory, holder, said
        self.start()

    def start(self) -> None:
        """Start it, in place of the one before."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.directory), self.holder],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.said.put((self, line.strip()))

    def send(self, signal_: signal.Signals) -> None:
        self._process.send_signal(signal_)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def processes(directory: Path, n: int) -> Iterator[Said]:
    """So many of them, and what they say."""
    said: Said = queue.SimpleQueue()
    started = [Process(directory, f"process {k}", said) for k in range(n)]
    try:
        yield said
    finally:
        for process in started:
            process.kill()


def next_that_says(said: Said, beginning: str) -> Process:
    """Whoever says so next."""
    while not said.empty():
        said.get()
    while True:
        process, line = said.get(timeout=WITHIN_SECONDS)
        if line.startswith(beginning):
            return process


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.in_directory(tmp_path)
    database.create_tables()
    effects.metadata.create_all(database.engine)
    yield database
    database.close()


def n_slots(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(job_slots)) or 0


def goes_on(database: Database, n_more: int, within_seconds: float) -> bool:
    """So many more slots are run in that time."""
    wanted, ends_at = n_slots(database) + n_more, time.monotonic() + within_seconds
    while n_slots(database) < wanted:
        if time.monotonic() > ends_at:
            return False
        threading.Event().wait(0.01)
    return True


def await_progress(database: Database, n_more: int) -> None:
    assert goes_on(database, n_more, WITHIN_SECONDS), "the job has stopped"


def stop_at_work(database: Database, said: Said) -> bool:
    """Stop whoever is at work until another has its slot; its late write was refused.

    False where it was stopped inside a transaction instead: SQLite's lock is then its own until
    it goes on, and nobody can take over.
    """
    victim = next_that_says(said, "at work")
    victim.send(signal.SIGSTOP)
    was_taken_over = goes_on(database, 2, WITHIN_SECONDS / 6)
    victim.send(signal.SIGCONT)
    return was_taken_over and next_that_says(said, "refused") is victim


@pytest.mark.parametrize("n", [2, 4])
def test_slots_run_twice_0_with_holders_killed_and_stopped_at_work(
    tmp_path: Path, database: Database, n: int, figures: Figures
) -> None:
    n_refused = 0
    with processes(tmp_path, n) as said:
        await_progress(database, 5)
        for _ in range(N_KILLS):
            victim = next_that_says(said, "at work")
            victim.kill()
            await_progress(database, 2)
            victim.start()
        for _ in range(3 * N_STOPS):
            if n_refused < N_STOPS:
                n_refused += stop_at_work(database, said)
        await_progress(database, 5)
    with database.read() as connection:
        ran = list(connection.scalars(select(effects.c.slot).order_by(effects.c.slot)))
        holders = set(connection.scalars(select(effects.c.holder)))
    figures(
        f"{n} processes share a job",
        slots=len(ran),
        kills=N_KILLS,
        stops=N_STOPS,
        refused=n_refused,
        twice=len(ran) - len(set(ran)),
    )
    assert ran == list(range(1, len(ran) + 1))  # each once, none left out
    assert n_refused == N_STOPS and len(holders) > 1


def main(directory: Path, holder: str) -> None:
    """Run the job until killed."""
    database = Database.in_directory(directory)
    logging.disable(logging.WARNING)  # apscheduler, at each look at a job at work
    metrics = Metrics()

    def say(what: str) -> None:
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()

    def work(run: Run) -> bool:
        say(f"at work {run.lease.slot}")
        time.sleep(WORK_SECONDS)  # long enough to be hit at it
        try:
            with run.commit() as connection:
                connection.execute(insert(effects).values(slot=run.lease.slot, holder=holder))
        except BaseException:
            say(f"refused {run.lease.slot}")
            raise
        return False

    job = Job("count", EVERY_SECONDS, work, LEASE_SECONDS)
    schedule = Schedule(
        database, [job], SystemClock(), metrics, holder=holder, look_seconds=EVERY_SECONDS
    )
    asyncio.run(schedule.run())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
