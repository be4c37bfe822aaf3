"""Retention: what is forgotten when, and what stays whatever is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, delete, func, insert, select

from service import retention
from service.database import Database
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH, Entry
from service.evidence.sessions import SESSION_SECONDS, Sessions
from service.keys import Keys, Scope
from service.metrics import Metrics
from service.monitor.findings import State
from service.retention import Retention
from service.schedule import Schedule
from service.settings import Settings
from service.tables import (
    acknowledgements,
    alerts,
    attempts,
    deliveries,
    job_slots,
    jobs,
    journal,
    rejected,
    sessions,
    snapshots,
    transitions,
)
from tests.builders import NOW, ManualClock

DAY = 86_400
MICROS = 1_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.in_directory(tmp_path)
    database.create_tables()
    yield database
    database.close()


class House:
    """A schedule of the retention job alone, whose time is made to pass."""

    def __init__(self, database: Database, **stated: Any) -> None:
        self.database = database
        self.clock = ManualClock()
        self.steady = 1_000.0
        self.metrics = Metrics()
        self.job = Retention(database, Settings(**stated)).job()
        self.schedule = Schedule(
            database,
            [self.job],
            self.clock,
            self.metrics,
            holder="one",
            steady=lambda: self.steady,
        )

    def run(self) -> int:
        """Run the slot that is due and those that follow it; returns how many."""
        self.steady += retention.EVERY_SECONDS
        n_slots = 0
        while self.schedule.look(self.job):
            n_slots += 1
        return n_slots

    def append(self, n: int, received_at: int = NOW, size: int = 10) -> None:
        SqlEventLog(self.database).append([Entry("acme", BATCH, b"x" * size, received_at)] * n)

    def snapshot(self, *offsets: int) -> None:
        with self.database.write() as connection:
            connection.execute(delete(snapshots))
            connection.execute(
                insert(snapshots),
                [{"offset": o, "version": 1, "crc32": 0, "body": b""} for o in offsets],
            )

    def offsets(self) -> list[int]:
        with self.database.read() as connection:
            return list(connection.scalars(select(journal.c.seq).order_by(journal.c.seq)))

    def count(self, table: Table) -> int:
        with self.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0


def test_the_journal_is_forgotten_with_age_behind_the_older_of_two_snapshots(
    database: Database,
) -> None:
    house = House(database, journal_retention_seconds=60)
    house.append(10, received_at=NOW)
    house.snapshot(4, 8)
    house.run()
    assert house.offsets() == list(range(1, 11))  # too young
    house.clock.advance(61)
    house.run()
    assert house.offsets() == list(range(5, 11))
    assert [e.offset for e in SqlEventLog(database).read(4)] == list(range(5, 11))


def test_the_journal_stays_whole_until_there_are_two_snapshots(database: Database) -> None:
    house = House(database, journal_retention_seconds=0, journal_retention_bytes=0)
    house.append(5, received_at=NOW - DAY * MICROS)
    for offsets in ((), (5,)):
        if offsets:
            house.snapshot(*offsets)
        house.run()
        assert house.offsets() == [1, 2, 3, 4, 5]


def test_the_newest_entry_stays_so_that_offsets_go_on_from_it(database: Database) -> None:
    house = House(database, journal_retention_seconds=0)
    house.append(5, received_at=NOW - DAY * MICROS)
    house.snapshot(5, 6)
    house.run()
    assert house.offsets() == [5]
    house.append(1)
    assert house.offsets() == [5, 6]


def test_forgetting_stops_at_what_was_received_lately(database: Database) -> None:
    house = House(database, journal_retention_seconds=60)
    house.append(3, received_at=NOW - 61 * MICROS)
    house.append(3, received_at=NOW)
    house.snapshot(6, 6 + 1)
    house.run()
    assert house.offsets() == [4, 5, 6]


def test_a_journal_over_its_size_is_forgotten_before_its_time(database: Database) -> None:
    house = House(database, journal_retention_bytes=500)
    house.append(10, size=100)
    house.snapshot(9, 10)
    house.run()
    assert house.offsets() == [6, 7, 8, 9, 10]
    house.append(2, size=100)
    house.snapshot(11, 12)
    house.run()
    assert house.offsets() == [8, 9, 10, 11, 12]


def test_a_large_backlog_goes_a_piece_a_slot(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BYTES_AT_ONCE", 300)
    house = House(database, journal_retention_bytes=0)
    house.append(11, size=100)
    house.snapshot(10, 11)
    assert house.run() == 4
    assert house.offsets() == [11]


def test_the_size_is_counted_anew_after_another_process_ran_slots(database: Database) -> None:
    one, two = (House(database, journal_retention_bytes=500) for _ in range(2))
    one.append(5, size=100)
    one.run()
    one.append(5, size=100)
    one.snapshot(9, 10)
    two.run()
    two.run()
    assert one.offsets() == [6, 7, 8, 9, 10]
    one.steady += retention.EVERY_SECONDS
    one.append(1, size=100)
    one.snapshot(10, 11)
    one.run()
    one.run()
    assert one.offsets() == [7, 8, 9, 10, 11]


def test_refused_rows_are_forgotten_with_age(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 4)
    house = House(database, rejected_retention_seconds=DAY)
    with database.write() as connection:
        for n in range(10):
            at = NOW - 2 * DAY * MICROS if n < 9 else NOW
            row = {"tenant": "acme", "seq": n, "index": 0, "reason": "time", "received_at": at}
            connection.execute(insert(rejected).values(**row))
    assert house.run() == 3  # 4, 4 and 1
    assert house.count(rejected) == 1


def an_alert(id_: str, state: State, changed_at: int) -> list[tuple[Table, dict[str, Any]]]:
    whose = {"tenant": "acme", "alert_id": id_}
    about = {"model": "m", "kind": "disparity", "severity": "info", "revision": 1, "body": "{}"}
    told = {"type": "alert.firing", "reason": "found", "revision": 1, "body": "{}"}
    return [
        (
            alerts,
            {"tenant": "acme", "id": id_, "state": state.value, "detected_at": NOW // 2, **about},
        ),
        (transitions, {**whose, "at": changed_at, **told}),
        (acknowledgements, {**whose, "by": "k", "comment": "", "at": NOW}),
    ]


def test_alerts_that_are_over_are_forgotten_with_their_history_and_open_ones_never(
    database: Database,
) -> None:
    house = House(database, alert_retention_seconds=DAY)
    old, young = NOW - 2 * DAY * MICROS, NOW
    with database.write() as connection:
        for id_, state, changed_at in (
            ("over", State.RESOLVED, old),
            ("taken back", State.RETRACTED, old),
            ("over lately", State.RESOLVED, young),
            ("open", State.FIRING, old),
        ):
            for table, row in an_alert(id_, state, changed_at):
                connection.execute(insert(table).values(**row))
    house.run()
    for table in (alerts, transitions, acknowledgements):
        assert house.count(table) == 2
    with database.read() as connection:
        assert set(connection.scalars(select(alerts.c.id))) == {"over lately", "open"}


def test_deliveries_that_are_done_are_forgotten_and_waiting_ones_are_not(
    database: Database,
) -> None:
    house = House(database, delivery_retention_seconds=DAY)
    old = NOW - 2 * DAY * MICROS
    with database.write() as connection:
        for id_, state in (("done", "delivered"), ("given up", "failed"), ("due", "waiting")):
            row = {"tenant": "acme", "id": id_, "endpoint_id": "e", "type": "t", "sequence": 1}
            when = {"n_attempts": 1, "next_attempt_at": old, "n_replays": 0, "created_at": old}
            connection.execute(insert(deliveries).values(**row, **when, body="{}", state=state))
            tried = {"tenant": "acme", "delivery_id": id_, "number": 1, "at": old}
            connection.execute(insert(attempts).values(**tried, error="", seconds=0.1))
    house.run()
    assert house.count(deliveries) == house.count(attempts) == 1


def test_the_slots_of_jobs_are_bounded_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SLOTS_KEPT", 3)
    house = House(database)
    for _ in range(6):
        house.run()
    with database.read() as connection:
        assert list(connection.scalars(select(job_slots.c.slot))) == [4, 5, 6]
        assert connection.scalar(select(jobs.c.slot)) == 6


def test_sessions_are_forgotten_when_they_have_ended(database: Database) -> None:
    house = House(database)
    keys = Keys(database, house.clock)
    key = keys.authenticate(f"Bearer {keys.create('acme', [Scope.READ])}")
    Sessions(database, house.clock, keys).begin(key)
    house.clock.advance(SESSION_SECONDS - 1)
    house.run()
    assert house.count(sessions) == 1
    house.clock.advance(1)
    house.run()
    assert house.count(sessions) == 0
