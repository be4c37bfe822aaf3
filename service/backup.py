"""Backup: a whole database as one file, taken while it is written to, and put back anywhere.

    backup(database, Path("monday.backup"))            # of SQLite or PostgreSQL, at one instant
    restore(Path("monday.backup"), empty_database)     # into SQLite or PostgreSQL

A backup is a SQLite file with the same tables, so that moving from one database to the other is a
backup and a restore, and `slicewatch check` reads it like any other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, insert, select

from service.database import WHOLE_SECONDS, Database
from service.errors import Conflict, InvalidRequest
from service.tables import metadata

ROWS_AT_ONCE: Final = 64  # a row of the journal may be megabytes
PRIVATE: Final = 0o600  # it holds what signs webhooks
_MAGIC: Final = b"SQLite format 3\x00"

Progress = Callable[[str, int], None]


def backup(database: Database, path: Path, progress: Progress = lambda table, n: None) -> None:
    """Write the database as it is at this instant; `path` comes to be whole or not at all.

    Nobody who writes meanwhile waits. Raises Conflict where `path` is there already.
    """
    if path.exists():
        raise Conflict(f"{path}: is there already")
    part = path.with_name(f"{path.name}.part")
    _forget(part)
    part.touch(PRIVATE)
    try:
        with _opened(part) as copy:
            copy.create_tables()
            with database.read(deadline_seconds=WHOLE_SECONDS) as source, copy.write() as target:
                _copy(source, target, progress)
        _sync(part)
        part.rename(path)
        _sync(path.parent)
    finally:
        _forget(part)


def restore(path: Path, database: Database, progress: Progress = lambda table, n: None) -> None:
    """Put a backup into a database that has no rows; all of it or nothing.

    Raises InvalidRequest for a file that is no backup, Conflict where rows are there already.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InvalidRequest(f"{path}: not a backup")
    database.create_tables()
    copy = path.with_name(f"{path.name}.restoring")
    _forget(copy)
    try:
        shutil.copyfile(path, copy)  # it may be of an older version, and is brought up to this one
        with _opened(copy) as backup:
            backup.create_tables()
            with backup.read() as source, database.write(deadline_seconds=WHOLE_SECONDS) as target:
                _refuse_rows(target)
                _copy(source, target, progress)
    finally:
        _forget(copy)


@contextmanager
def _opened(path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{path}")
    try:
        yield database
    finally:
        database.close()  # which leaves one file, without a WAL beside it


def _copy(source: Connection, target: Connection, progress: Progress) -> None:
    for table in metadata.sorted_tables:
        n_rows = 0
        for rows in _rows(source, table):
            target.execute(insert(table), rows)
            n_rows += len(rows)
        progress(table.name, n_rows)


def _rows(source: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    streamed = source.execution_options(yield_per=ROWS_AT_ONCE)
    for part in streamed.execute(select(table)).mappings().partitions():
        yield [dict(row) for row in part]


def _refuse_rows(target: Connection) -> None:
    for table in metadata.sorted_tables:
        if target.execute(select(table).limit(1)).first() is not None:
            raise Conflict(f"{table.name}: has rows; restore into an empty database")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    for each in (path, *(path.with_name(path.name + tail) for tail in ("-wal", "-shm"))):
        each.unlink(missing_ok=True)
