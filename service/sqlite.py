"""SQLite, set so that a commit is on stable storage."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, Final

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import Engine as SqlEngine

BUSY_TIMEOUT_SECONDS: Final = 5
LOCKED_TRIES: Final = 100
LOCKED_WAIT_SECONDS: Final = 0.05

# Of a connection, in order; the laws of the log check them, and simulated power cuts.
PRAGMAS: Final = (
    "page_size=16384",  # for a new file: a batch's blob fills whole pages
    "journal_mode=WAL",
    "wal_autocheckpoint=2000",
    "synchronous=FULL",  # NORMAL loses acknowledged commits at a power cut
    f"busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}",
    "foreign_keys=ON",
)


def engine(url: str) -> SqlEngine:
    """An engine whose transactions are opened by `begin` alone."""
    made = create_engine(url, hide_parameters=True, pool_timeout=BUSY_TIMEOUT_SECONDS)
    event.listen(made, "connect", _set_up)
    event.listen(made, "begin", _begin)
    return made


def _set_up(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the begin event opens transactions, not the driver
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        _say(cursor, pragma)
    cursor.close()


def _say(cursor: Any, pragma: str) -> None:
    """Set a pragma. Processes that turn a new file to WAL together are told at once that it is
    locked, whatever the busy timeout: SQLite sees that two who wait would wait for each other."""
    for tries_left in range(LOCKED_TRIES, -1, -1):
        try:
            cursor.execute(f"PRAGMA {pragma}")
            return
        except sqlite3.OperationalError as error:
            if not tries_left or "locked" not in str(error):
                raise
            time.sleep(LOCKED_WAIT_SECONDS)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("slicewatch_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
