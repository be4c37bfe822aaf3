"""Database: one URL, SQLite or PostgreSQL, with two doors that mean the same on both.

    with database.read(tenant) as connection: ...    # one consistent view
    with database.write(tenant) as connection: ...   # one transaction, the only one that writes

`write` holds the write lock from its first statement, so that it never has to be retried half-way.
A tenant that is named is the only one whose rows PostgreSQL shows; the engine and the worker are
everyone's. Within both doors a database error is TryLater where it may pass. Where it must end the
process, `on_failed` is called, whoever met it: the engine, the delivery worker, or a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service import migrations, postgres, sqlite
from service.errors import StorageFailed, TryLater
from service.settings import Settings
from service.storage import is_unreachable, told_apart

EVERYONE: Final = "*"  # no tenant's name
DEADLINE_SECONDS: Final = 3.0  # of a transaction, on a server that may not answer
WHOLE_SECONDS: Final = 3_600.0  # of what reads or writes all there is: migration, backup, check
AGAIN_AFTER_SECONDS: Final = 1.0  # a server that did not answer is left alone for so long

Insert = postgresql_dialect.Insert | sqlite_dialect.Insert


def _raise_only(_: StorageFailed) -> None:
    """A command tells it and ends; a server has more to do."""


class Database:
    """The tables of `service.tables` behind one URL."""

    def __init__(self, url: str, on_failed: Callable[[StorageFailed], None] = _raise_only) -> None:
        self.is_sqlite = url.startswith("sqlite:")
        self.engine = sqlite.engine(url) if self.is_sqlite else postgres.engine(url)
        self._on_failed = on_failed
        self._again_at = 0.0  # on the monotonic clock; before it, nobody asks

    @classmethod
    def in_directory(
        cls, directory: Path, on_failed: Callable[[StorageFailed], None] = _raise_only
    ) -> Database:
        """The SQLite file of a data directory, made if it is not there."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{directory / 'slicewatch.db'}", on_failed)

    @classmethod
    def of(
        cls, settings: Settings, on_failed: Callable[[StorageFailed], None] = _raise_only
    ) -> Database:
        """The database that the settings name: `database_url`, else the data directory's own."""
        if settings.database_url is None:
            return cls.in_directory(settings.data_dir, on_failed)
        return cls(settings.database_url, on_failed)

    def create_tables(self) -> None:
        """Make the tables, or bring those of an older version up to this one.

        One process does; the others wait for it behind the write lock, and find it done. Raises
        Conflict where the tables are newer than this program.
        """
        with self.read() as connection:
            if migrations.is_current(connection):
                return
        with self.write(deadline_seconds=WHOLE_SECONDS) as connection:
            migrations.upgrade(connection)

    @contextmanager
    def read(
        self, tenant: str = EVERYONE, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Iterator[Connection]:
        """A connection on one consistent view of the database."""
        with self._transaction(tenant, False, deadline_seconds) as connection:
            yield connection

    @contextmanager
    def write(
        self, tenant: str = EVERYONE, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._transaction(tenant, True, deadline_seconds) as connection:
            yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _transaction(
        self, tenant: str, writes: bool, deadline_seconds: float
    ) -> Iterator[Connection]:
        self._refuse_while_unreachable(deadline_seconds)
        with self._errors_told_apart(), self.engine.connect() as plain:
            connection = plain.execution_options(**self._options(writes))
            with connection.begin():
                if not self.is_sqlite:
                    postgres.begin(connection, tenant, writes, deadline_seconds)
                    self._again_at = 0.0
                yield connection

    def _options(self, writes: bool) -> dict[str, Any]:
        if self.is_sqlite:
            return {"slicewatch_writes": writes}
        if writes:
            return {}
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    @contextmanager
    def _errors_told_apart(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise  # the rows' fault, not the storage's
        except (DBAPIError, PoolTimeout) as error:
            if is_unreachable(error):
                self._again_at = time.monotonic() + AGAIN_AFTER_SECONDS
            found = told_apart(error)
            if found is None:
                raise
            if isinstance(found, StorageFailed):
                self._on_failed(found)
            raise found from error

    def _refuse_while_unreachable(self, deadline_seconds: float) -> None:
        """Let one through every second, and spare the others the wait."""
        if not self._again_at:
            return
        now = time.monotonic()
        if now < self._again_at:
            raise TryLater("storage is unavailable for now (no answer)", retry_after_seconds=5)
        self._again_at = now + deadline_seconds


def insert_into(connection: Connection, table: Table) -> Insert:
    """An INSERT of this database's own kind, which knows ON CONFLICT."""
    if connection.dialect.name == "sqlite":
        return sqlite_dialect.insert(table)
    return postgresql_dialect.insert(table)
