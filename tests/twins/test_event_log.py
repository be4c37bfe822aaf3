"""The laws of an EventLog, over every implementation."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, event, func, select, text, update

from service.database import Database
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH, Entry, EventLog
from service.errors import (
    Conflict,
    Damaged,
    DamagedEntry,
    OutOfStep,
    StorageFailed,
    TryLater,
)
from service.ingest.events import Rejected
from service.limits import REJECTED_ROWS
from service.tables import journal, rejected


@pytest.fixture
def log(database: Database) -> EventLog:
    return SqlEventLog(database)


def entry(n: int, tenant: str = "acme", batch_id: str | None = None, size: int = 10) -> Entry:
    return Entry(tenant, BATCH, bytes([n % 256]) * size, 1_000_000 * n, batch_id)


def numbered(first: int, last: int) -> list[Entry]:
    return [entry(n) for n in range(first, last + 1)]


def test_what_was_appended_is_read_back_in_order(log: EventLog) -> None:
    entries = [entry(1, batch_id="a"), entry(2, tenant="other"), entry(3)]
    assert log.append(entries[:2]) == [1, 2]
    assert log.append(entries[2:]) == [3]
    assert list(log.read(0)) == [replace(e, offset=i) for i, e in enumerate(entries, 1)]
    assert log.last() == 3


@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_the_log_reads_the_same_however_it_is_cut(log: EventLog, size: int) -> None:
    log.append(numbered(1, 20))
    got: list[Entry] = []
    while part := list(log.read(got[-1].offset if got else 0, size)):
        assert len(part) <= size
        got += part
    assert got == list(log.read(0))
    assert [e.offset for e in got] == list(range(1, 21))


def test_an_empty_append_stores_nothing(log: EventLog) -> None:
    assert log.append([]) == []
    assert log.last() == 0


def test_what_append_returned_for_is_seen_by_another_process(
    log: EventLog, database_url: str
) -> None:
    log.append(numbered(1, 3))
    other = Database(database_url)
    assert len(list(SqlEventLog(other).read(0))) == 3
    other.close()


def test_commits_wait_for_the_disk(database: Database) -> None:
    with database.read() as connection:
        if database.is_sqlite:
            assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL; 1 loses commits
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        else:
            assert connection.scalar(text("SHOW synchronous_commit")) == "on"


def test_a_reader_may_begin_with_an_instant_whatever_was_forgotten(
    log: EventLog, database: Database
) -> None:
    assert log.before(9_000_000) == 0
    log.append(numbered(1, 6))
    assert [e.offset for e in log.read(log.before(4_000_000))] == [4, 5, 6]
    with database.write() as connection:
        connection.execute(delete(journal).where(journal.c.seq <= 3))
    assert [e.offset for e in log.read(log.before(2_000_000))] == [4, 5, 6]
    assert list(log.read(log.before(9_000_000))) == []


def test_reading_from_before_what_was_forgotten_is_refused(
    log: EventLog, database: Database
) -> None:
    log.append(numbered(1, 6))
    with database.write() as connection:
        connection.execute(delete(journal).where(journal.c.seq <= 3))
    with pytest.raises(Damaged, match="entries 1 to 3 are missing"):
        list(log.read(0))
    assert [e.offset for e in log.read(3)] == [4, 5, 6]


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"\x02" * 9 + b"\x03"},
        {"tenant": "evil"},
        {"batch_id": "x"},
        {"received_at": 7},
        {"codec": "tick/1"},
        {"crc32": 0},
    ],
)
@pytest.mark.parametrize("offset", [2, 3])  # in the middle, and the last
def test_a_changed_row_is_damage(
    log: EventLog, database: Database, change: dict[str, object], offset: int
) -> None:
    log.append([entry(1), entry(2), entry(2)])
    with database.write() as connection:
        connection.execute(update(journal).where(journal.c.seq == offset).values(change))
    with pytest.raises(Damaged, match=f"entry {offset} "):
        list(log.read(0))
    assert [e.offset for e in log.read(0, offset - 1)] == list(range(1, offset))


def test_a_missing_row_is_damage(log: EventLog, database: Database) -> None:
    log.append(numbered(1, 5))
    with database.write() as connection:
        connection.execute(delete(journal).where(journal.c.seq == 3))
    with pytest.raises(Damaged, match="entries 3 to 3 are missing"):
        list(log.read(0))


def test_a_batch_id_is_unique_in_its_tenant(log: EventLog) -> None:
    log.append([entry(1, batch_id="a"), entry(2, tenant="other", batch_id="a")])
    with pytest.raises(Conflict):
        log.append([entry(3), entry(4, batch_id="a")])
    assert log.last() == 2  # nothing of the group was stored
    assert log.append([entry(3)]) == [3]


def refusing(n: int, n_rows: int, tenant: str = "acme") -> Entry:
    rows = tuple(Rejected(i, f"{n}-{i}", "time: not one", "speech") for i in range(n_rows))
    return replace(entry(n, tenant), rejected=rows)


def test_refused_rows_are_kept_with_their_reason(log: EventLog, database: Database) -> None:
    log.append([refusing(1, 2)])
    with database.read() as connection:
        rows = connection.execute(select(rejected).order_by(rejected.c.index)).all()
    assert [tuple(row) for row in rows] == [
        ("acme", 1, 0, "1-0", "speech", "time: not one", 1_000_000),
        ("acme", 1, 1, "1-1", "speech", "time: not one", 1_000_000),
    ]


def test_only_the_newest_refused_rows_of_a_tenant_are_kept(
    log: EventLog, database: Database
) -> None:
    log.append([refusing(1, 10, "quiet")])
    for n in range(2, 9):
        log.append([refusing(n, 2_500)])
    with database.read() as connection:
        counted = connection.execute(
            select(rejected.c.tenant, func.count()).group_by(rejected.c.tenant)
        )
        n_rows = {row[0]: row[1] for row in counted}
        newest = connection.scalar(
            select(func.count()).where(rejected.c.tenant == "acme", rejected.c.seq == log.last())
        )
    assert n_rows == {"quiet": 10, "acme": REJECTED_ROWS.limit}
    assert newest == 2_500


def test_a_few_new_refusals_do_not_cost_a_large_request_its_own(
    log: EventLog, database: Database
) -> None:
    log.append([refusing(1, REJECTED_ROWS.limit - 2)])
    log.append([refusing(2, 1_001)])
    log.append([refusing(3, 1)])
    with database.read() as connection:
        n_rows = connection.scalar(select(func.count()).select_from(rejected)) or 0
    assert REJECTED_ROWS.limit <= n_rows <= REJECTED_ROWS.limit + 1


def test_one_request_full_of_refusals_is_cut_at_the_cap(log: EventLog, database: Database) -> None:
    log.append([refusing(1, REJECTED_ROWS.limit + 5)])
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(rejected)) == REJECTED_ROWS.limit


def test_a_writer_that_is_out_of_step_stores_nothing(log: EventLog) -> None:
    assert log.append([entry(1)], after=0) == [1]
    log.append([entry(2)])  # another's, or its own that it lost sight of
    with pytest.raises(OutOfStep, match="entry 2 behind entry 1"):
        log.append([entry(3)], after=1)
    assert log.last() == 2
    assert log.append([entry(3)], after=2) == [3]


def test_a_damaged_entry_says_whose_it_is_and_those_behind_it_can_be_read(
    log: EventLog, database: Database
) -> None:
    log.append([entry(1), entry(2), entry(3, tenant="other"), entry(4)])
    with database.write() as connection:
        connection.execute(update(journal).where(journal.c.seq == 2).values(body=b"x"))
    with pytest.raises(DamagedEntry) as damaged:
        list(log.read(0))
    assert (damaged.value.offset, damaged.value.tenant) == (2, "acme")
    assert [e.offset for e in log.read(2)] == [3, 4]


def test_a_damaged_entry_of_no_one_is_everyones(log: EventLog, database: Database) -> None:
    log.append([entry(1), entry(2)])
    with database.write() as connection:
        connection.execute(update(journal).where(journal.c.seq == 2).values(tenant="acmd"))
    with pytest.raises(Damaged, match="nobody can say") as damaged:
        list(log.read(0))
    assert not isinstance(damaged.value, DamagedEntry)


# What SQLite's own errors mean; what PostgreSQL's do is in the acceptance tests of a real server.


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    database = Database.in_directory(tmp_path)
    database.create_tables()
    yield database
    database.close()


@pytest.fixture
def file_log(file: Database) -> EventLog:
    return SqlEventLog(file)


def pragma(database: Database, statement: str) -> None:
    """Run a PRAGMA on every connection from now on."""
    database.close()  # those that are pooled

    @event.listens_for(database.engine, "connect")
    def set_up(connection: object, _record: object) -> None:
        connection.execute(statement)  # type: ignore[attr-defined]

    assert isinstance(database.engine, Engine)


def test_a_full_disk_refuses_for_now_and_stores_nothing(file_log: EventLog, file: Database) -> None:
    file_log.append([entry(1)])
    pragma(file, "PRAGMA max_page_count=30")
    with pytest.raises(TryLater, match="SQLITE_FULL"):
        file_log.append([entry(2, size=200_000)])
    pragma(file, "PRAGMA max_page_count=1000000")
    assert file_log.append([entry(2, size=200_000)]) == [2]


def test_a_locked_database_refuses_for_now(file_log: EventLog, file: Database) -> None:
    pragma(file, "PRAGMA busy_timeout=1")
    with file.write() as holder:
        holder.execute(select(1))
        with pytest.raises(TryLater, match="SQLITE_BUSY"):
            file_log.append([entry(1)])
    assert file_log.append([entry(1)]) == [1]


@contextmanager
def files_no_larger_than(n_bytes: int) -> Iterator[None]:
    """A write beyond this fails with EFBIG, which SQLite calls an I/O error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_io_error_is_not_one_to_try_again(file_log: EventLog) -> None:
    file_log.append([entry(1)])
    with files_no_larger_than(300_000), pytest.raises(StorageFailed, match="SQLITE_IOERR"):
        file_log.append([entry(2, size=1_000_000)])
