"""Jobs: when a slot is due, who may run it, and what a process that was late may still write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import time_machine
from sqlalchemy import insert, select

from service.clock import SystemClock
from service.database import Database
from service.errors import Conflict
from service.metrics import Metrics
from service.schedule import Job, Run, Schedule
from service.tables import job_slots, jobs, keys
from tests.builders import NOW, ManualClock

MINUTE, HOUR = 60, 3_600


@dataclass
class Machine:
    """One process: its wall clock, its steady clock, its schedule of one job, and what it ran."""

    database: Database
    name: str = "one"
    every_seconds: float = MINUTE
    clock: ManualClock = field(default_factory=ManualClock)
    steady: float = 1_000.0
    metrics: Metrics = field(default_factory=Metrics)
    ran: list[int] = field(default_factory=list)
    has_more: bool = False
    may_run: bool = True

    def __post_init__(self) -> None:
        self.job = Job("tidy", self.every_seconds, self.work)
        self.schedule = Schedule(
            self.database,
            [self.job],
            self.clock,
            self.metrics,
            holder=self.name,
            may_run=lambda: self.may_run,
            steady=lambda: self.steady,
        )

    def work(self, run: Run) -> bool:
        with run.commit():
            self.ran.append(run.lease.slot)
        return self.has_more

    def look(self) -> bool:
        return self.schedule.look(self.job)

    def pass_time(self, seconds: float) -> None:
        self.steady += seconds
        self.clock.advance(seconds)

    def runs_in(self, seconds: int) -> int:
        """How many slots it runs in so many seconds, looking every second."""
        before = len(self.ran)
        for _ in range(seconds):
            self.pass_time(1)
            self.look()
        return len(self.ran) - before

    def count(self, result: str) -> float:
        labels = {"job": "tidy", "result": result}
        return self.metrics.registry.get_sample_value("slicewatch_job_runs_total", labels) or 0.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.in_directory(tmp_path)
    database.create_tables()
    yield database
    database.close()


@pytest.fixture
def machine(database: Database) -> Machine:
    return Machine(database)


def slots(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.scalars(select(job_slots.c.slot).order_by(job_slots.c.slot)))


# When


def test_a_new_job_runs_at_once_and_then_every_so_often(machine: Machine) -> None:
    assert machine.look() and not machine.look()
    assert machine.runs_in(10 * MINUTE) == 10
    assert slots(machine.database) == machine.ran == list(range(1, 12))


def test_a_start_goes_on_from_the_last_slot_and_not_anew(
    machine: Machine, database: Database
) -> None:
    machine.look()
    after = Machine(database, "two")
    after.clock.advance(40)
    assert not after.look()
    assert after.runs_in(19) == 0 and after.runs_in(2) == 1


def test_a_job_that_restarts_keep_interrupting_still_runs(database: Database) -> None:
    Machine(database).look()
    ran = 0
    for n in range(1, 11):  # a process lives for half a period
        process = Machine(database, f"process {n}")
        process.clock.advance(n * MINUTE / 2)
        ran += process.look() + process.runs_in(MINUTE // 2 - 1)
    assert 4 <= ran <= 5


@pytest.mark.parametrize("step", [HOUR, -HOUR, 1, -1, 30 * 86_400, -30 * 86_400])
def test_a_clock_that_is_set_neither_stops_a_job_nor_makes_it_burst(
    machine: Machine, step: int
) -> None:
    machine.look()
    assert machine.runs_in(5 * MINUTE) == 5
    machine.clock.advance(step)
    assert machine.runs_in(5 * MINUTE) == 5


def test_a_process_that_starts_after_the_clock_was_set_back_waits_once_and_goes_on(
    machine: Machine, database: Database
) -> None:
    machine.look()
    after = Machine(database, "two")
    after.clock.advance(-HOUR)
    assert after.runs_in(MINUTE - 1) == 0
    assert after.runs_in(5 * MINUTE) == 5


def test_two_machines_whose_clocks_disagree_share_the_slots_of_one(database: Database) -> None:
    one, two = Machine(database, "one"), Machine(database, "two")
    two.clock.advance(-HOUR)
    n = 0
    for _ in range(10 * MINUTE):
        for machine in (one, two):
            n += machine.runs_in(1)
    assert 10 <= n <= 11
    assert sorted(one.ran + two.ran) == slots(database) == list(range(1, n + 1))


def test_slots_follow_each_other_while_there_is_more(machine: Machine) -> None:
    machine.has_more = True
    assert machine.look() and machine.runs_in(3) == 3
    machine.has_more = False
    assert machine.runs_in(1) == 1 and machine.runs_in(MINUTE - 1) == 0


def test_nothing_runs_before_it_may(machine: Machine) -> None:
    machine.may_run = False
    assert machine.runs_in(2 * MINUTE) == 0
    machine.may_run = True
    assert machine.look()


# Who


def test_a_slot_that_another_is_running_is_left_to_it(database: Database) -> None:
    one, two = Machine(database, "one"), Machine(database, "two")
    seen: list[bool] = []

    def slowly(run: Run) -> bool:
        seen.append(two.look())
        return one.work(run)

    assert one.schedule.look(Job("tidy", MINUTE, slowly))
    assert seen == [False] and two.ran == []


def late_write(database: Database, lease_seconds: float = 30) -> tuple[Machine, Machine]:
    """One is stopped at work for so long that two takes its slot, and then goes on."""
    one, two = Machine(database, "one"), Machine(database, "two")

    def stopped(run: Run) -> bool:
        two.runs_in(31)
        with run.commit() as connection:
            connection.execute(insert(keys).values(**a_key()))
        return False

    one.schedule.look(Job("tidy", MINUTE, stopped, lease_seconds))
    return one, two


def a_key() -> dict[str, object]:
    return {
        "id": "effect",
        "tenant": "acme",
        "scopes": "read",
        "secret_sha256": b"",
        "created_at": NOW,
    }


def test_who_was_stopped_too_long_writes_nothing(database: Database) -> None:
    one, two = late_write(database)
    assert two.ran == [1] == slots(database)
    assert one.count("refused") == 1 and one.count("done") == 0
    with database.read() as connection:
        assert connection.execute(select(keys)).all() == []


def test_without_the_fence_the_late_write_would_stand(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "commit", lambda run: run._database.write())
    late_write(database)
    with database.read() as connection:
        assert connection.execute(select(keys)).all() != []


def test_what_a_killed_process_held_is_taken_over_after_its_lease(database: Database) -> None:
    one, two = Machine(database, "one"), Machine(database, "two")

    def killed(run: Run) -> bool:
        raise SystemExit

    one.schedule._give_back = lambda lease: None  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        one.schedule.look(Job("tidy", MINUTE, killed))
    assert two.runs_in(29) == 0
    assert two.runs_in(2) == 1


def test_a_lease_is_taken_once_though_two_see_it_free(database: Database) -> None:
    one, two = Machine(database, "one"), Machine(database, "two")
    barrier = threading.Barrier(2)
    taken = []

    def take(machine: Machine) -> None:
        barrier.wait()
        taken.append(machine.look())

    for _ in range(20):
        both = [threading.Thread(target=take, args=(machine,)) for machine in (one, two)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        one.pass_time(MINUTE)
        two.pass_time(MINUTE)
    assert sorted(one.ran + two.ran) == slots(database)
    assert len(slots(database)) == sum(taken) >= 20


# What goes wrong


def test_a_job_that_fails_takes_its_effect_and_its_slot_back_and_is_tried_in_a_while(
    machine: Machine,
) -> None:
    fails = True

    def work(run: Run) -> bool:
        with run.commit() as connection:
            connection.execute(insert(keys).values(**a_key()))
            if fails:
                raise ZeroDivisionError
        return False

    machine.job = Job("tidy", MINUTE, work)
    assert not machine.look()
    assert machine.count("failed") == 1
    with machine.database.read() as connection:
        assert connection.execute(select(keys)).all() == []
    assert machine.runs_in(MINUTE - 1) == 0
    assert machine.count("failed") == 1
    fails = False
    machine.runs_in(1)
    assert slots(machine.database) == [1]


def test_a_job_without_a_commit_is_told_so(machine: Machine) -> None:
    machine.job = Job("tidy", MINUTE, lambda _: False)
    assert not machine.look()
    assert machine.count("failed") == 1 and slots(machine.database) == []


def test_a_slot_has_one_commit(machine: Machine) -> None:
    refused = []

    def twice(run: Run) -> bool:
        with run.commit():
            pass
        with pytest.raises(Conflict), run.commit():
            refused.append("not reached")
        return False

    machine.job = Job("tidy", MINUTE, twice)
    assert machine.look() and refused == []


def test_the_lease_is_given_back_with_the_slot(machine: Machine) -> None:
    machine.look()
    with machine.database.read() as connection:
        row = connection.execute(select(jobs)).one()
    assert (row.holder, row.fence, row.slot) == ("", 1, 1)


# The beat


class Beating:
    """A schedule under APScheduler's own threads, looking every 20 ms."""

    def __init__(self, database: Database) -> None:
        self.n_runs = 0
        self.ran = threading.Event()
        self.schedule = Schedule(
            database,
            [Job("tidy", 0.01, self.work)],
            SystemClock(),
            Metrics(),
            holder="one",
            look_seconds=0.02,
        )

    def work(self, run: Run) -> bool:
        with run.commit():
            self.n_runs += 1
        self.ran.set()
        return False

    async def ran_again(self, within_seconds: float = 5.0) -> bool:
        self.ran.clear()
        return await asyncio.to_thread(self.ran.wait, within_seconds)


@pytest.mark.anyio
@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_apscheduler_goes_on_when_the_clock_is_set(database: Database, step: int) -> None:
    beating = Beating(database)
    with time_machine.travel(NOW / 1_000_000, tick=True) as traveller:
        running = asyncio.create_task(beating.schedule.run())
        assert await beating.ran_again()
        traveller.shift(step)
        assert await beating.ran_again() and await beating.ran_again()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    n_runs = beating.n_runs
    await asyncio.sleep(0.05)
    assert beating.n_runs == n_runs  # it ended


@pytest.mark.anyio
async def test_apscheduler_alone_stops_when_the_clock_is_set_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def follow_nothing(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Schedule, "_follow_the_clock", follow_nothing)
    beating = Beating(database)
    with time_machine.travel(NOW / 1_000_000, tick=True) as traveller:
        running = asyncio.create_task(beating.schedule.run())
        assert await beating.ran_again()
        traveller.shift(-HOUR)
        await beating.ran_again(0.2)  # one that was under way
        assert not await beating.ran_again(0.5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
