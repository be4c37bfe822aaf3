"""Storage errors, told apart: will it pass, or must the process end?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError

from service.errors import StorageFailed, TryLater

# Nothing was written and nothing is lost: the disk is full, another process holds the lock, or
# descriptors or memory ran out. SQLite has rolled back by itself.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
    }
)
RETRY_AFTER_SECONDS: Final = 5


@contextmanager
def storage_errors() -> Iterator[None]:
    """Inside this block a database error is TryLater where it may pass, else StorageFailed.

    An I/O error is never retried: after one, SQLite goes on as if its pages were on disk, and they
    may not be.
    """
    try:
        yield
    except IntegrityError:
        raise  # the rows' fault, not the storage's
    except DBAPIError as error:
        raise _told_apart(error) from error


def _told_apart(error: DBAPIError) -> TryLater | StorageFailed:
    cause = error.orig
    code = getattr(cause, "sqlite_errorcode", None)
    name = getattr(cause, "sqlite_errorname", type(cause).__name__)
    if code is not None and code & 0xFF in _PASSING:
        return TryLater(f"storage is unavailable for now ({name})", RETRY_AFTER_SECONDS)
    return StorageFailed(f"storage failed ({name})")
