"""The two doors of the database: what failed tells whoever must end, and what passes, to wait."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from service.database import AGAIN_AFTER_SECONDS, Database
from service.errors import StorageFailed, TryLater
from service.storage import told_apart
from service.tables import keys

KEY = {"id": "k", "tenant": "acme", "scopes": "read", "secret_sha256": b"", "created_at": 1}


def test_what_a_write_raises_is_rolled_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(insert(keys), KEY)
        raise ZeroDivisionError
    with database.read() as connection:
        assert connection.execute(select(keys)).all() == []


def test_a_view_does_not_change_while_it_is_looked_at(
    database: Database, database_url: str
) -> None:
    other = Database(database_url)
    with database.read() as connection:
        assert connection.execute(select(keys)).all() == []
        with other.write() as writing:
            writing.execute(insert(keys), KEY)
        assert connection.execute(select(keys)).all() == []
    with database.read() as connection:
        assert len(connection.execute(select(keys)).all()) == 1
    other.close()


def postgres_error(kind: type[psycopg.Error]) -> OperationalError:
    return OperationalError("SELECT 1", {}, kind("told by the server"))


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (psycopg.errors.DiskFull, TryLater),
        (psycopg.errors.AdminShutdown, TryLater),
        (psycopg.errors.CannotConnectNow, TryLater),
        (psycopg.errors.QueryCanceled, TryLater),
        (psycopg.errors.LockNotAvailable, TryLater),
        (psycopg.errors.ReadOnlySqlTransaction, TryLater),
        (psycopg.errors.ConnectionTimeout, TryLater),
        (psycopg.errors.IoError, StorageFailed),
        (psycopg.errors.DataCorrupted, StorageFailed),
        (psycopg.errors.UndefinedTable, type(None)),
    ],
)
def test_what_a_server_says_is_told_apart(kind: type[psycopg.Error], answer: type) -> None:
    assert isinstance(told_apart(postgres_error(kind)), answer)


def test_a_fault_of_our_own_is_neither() -> None:
    ours = sqlite3.OperationalError("no such table")
    ours.sqlite_errorcode = sqlite3.SQLITE_ERROR
    assert told_apart(DBAPIError("SELECT 1", {}, ours)) is None
    assert told_apart(InterfaceError("SELECT 1", {}, psycopg.InterfaceError("a cursor"))) is None


def test_whoever_meets_a_failure_the_owner_hears_of_it(tmp_path: Path) -> None:
    heard: list[StorageFailed] = []
    database = Database.in_directory(tmp_path, on_failed=heard.append)
    database.create_tables()
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    failure.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    with pytest.raises(StorageFailed, match="SQLITE_IOERR_FSYNC"), database.write():
        raise OperationalError("COMMIT", {}, failure)
    assert len(heard) == 1
    database.close()


def test_a_server_that_is_not_there_is_asked_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("service.database.time.monotonic", lambda: now)
    database = Database(f"postgresql://slicewatch@/none?host={tmp_path}")

    def ask() -> str:
        with pytest.raises(TryLater) as refusal, database.read():
            pass
        return refusal.value.detail

    assert "OperationalError" in ask()
    assert "no answer" in ask()
    now += AGAIN_AFTER_SECONDS
    assert "OperationalError" in ask()
    database.close()
