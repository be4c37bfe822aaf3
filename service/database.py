"""Database: one SQLAlchemy engine, with SQLite set so that a commit is on stable storage.

`read()` gives a connection for looking, `write()` one transaction that holds the write lock from
its first statement (BEGIN IMMEDIATE), so that it never has to be retried half-way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import Engine as SqlEngine

from service.tables import metadata

BUSY_TIMEOUT_SECONDS = 5


class Database:
    """The tables of `service.tables` behind one URL."""

    def __init__(self, url: str) -> None:
        self.engine: SqlEngine = create_engine(url, pool_pre_ping=False, hide_parameters=True)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin)

    @classmethod
    def in_directory(cls, directory: Path) -> Database:
        """The SQLite file of a data directory, made if it is not there."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{directory / 'slicewatch.db'}")

    def create_tables(self) -> None:
        """Make the tables that are missing."""
        metadata.create_all(self.engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on one consistent view of the database."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self.engine.connect().execution_options(slicewatch_writes=True) as connection:
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the begin event below opens transactions, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA page_size=16384")  # for a new file: a batch's blob fills whole pages
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA wal_autocheckpoint=2000")
    cursor.execute("PRAGMA synchronous=FULL")  # NORMAL loses acknowledged commits at a power cut
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("slicewatch_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
