"""Storage errors, told apart: will it pass, or must the process end?

What is neither is a fault of our own, and raised as it came.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import StorageFailed, TryLater

RETRY_AFTER_SECONDS: Final = 5

# Nothing was written and nothing is lost: the disk is full, another process holds the lock, or
# descriptors or memory ran out. SQLite has rolled back by itself.
_SQLITE_PASSES: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
    }
)
# After an I/O error SQLite goes on as if its pages were on disk, and they may not be.
_SQLITE_FAILED: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
    }
)

# By the first letters of a SQLSTATE. A server whose own fsync failed restarts itself, and we see a
# lost connection: then nobody knows whether the last commit is there, and the log must be asked.
_POSTGRES_PASSES: Final = ("08", "40", "53", "55P03", "57", "25006")
_POSTGRES_FAILED: Final = ("58", "XX")
_POSTGRES_UNREACHABLE: Final = ("08", "57P")


def told_apart(error: DBAPIError | PoolTimeout) -> TryLater | StorageFailed | None:
    """TryLater for what may pass, StorageFailed for what must end the process, else None."""
    if isinstance(error, PoolTimeout):
        return _try_later("too many connections are in use")
    cause = error.orig
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        name = getattr(cause, "sqlite_errorname", "")
        if code & 0xFF in _SQLITE_PASSES:
            return _try_later(name)
        return StorageFailed(f"storage failed ({name})") if code & 0xFF in _SQLITE_FAILED else None
    state = getattr(cause, "sqlstate", None)
    name = f"{type(cause).__name__}{f', {state}' if state else ''}"
    if is_unreachable(error) or (state or "").startswith(_POSTGRES_PASSES):
        return _try_later(name)
    if (state or "").startswith(_POSTGRES_FAILED):
        return StorageFailed(f"storage failed ({name})")
    return None


def is_unreachable(error: DBAPIError | PoolTimeout) -> bool:
    """The server went away or never answered: whoever asks next will fare no better."""
    cause = getattr(error, "orig", None)
    if getattr(cause, "sqlite_errorcode", None) is not None:
        return False
    state = getattr(cause, "sqlstate", None)
    if state is None:
        return isinstance(error, OperationalError)
    return str(state).startswith(_POSTGRES_UNREACHABLE)


def _try_later(name: str) -> TryLater:
    return TryLater(f"storage is unavailable for now ({name})", RETRY_AFTER_SECONDS)
