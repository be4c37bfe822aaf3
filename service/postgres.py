"""PostgreSQL behind the same two doors: deadlines on every call, one writer, tenants kept apart.

A server that is stopped keeps its sockets open and answers nothing, and a driver waits for it for
ever. So each wait has what is left of its transaction's time, and a connection that runs out of it
is closed: whether its last commit took place is then for the log to say.
"""

from __future__ import annotations

import time
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import Engine as SqlEngine

RV = TypeVar("RV")

CONNECT_TIMEOUT_SECONDS: Final = 2  # libpq knows whole seconds, two at least
POOL_TIMEOUT_SECONDS: Final = 2
IDLE_IN_TRANSACTION_SECONDS: Final = 10  # a writer that was stopped half-way gives its lock back
WRITERS: Final = 0x736C696365  # the advisory lock that a write transaction holds

log = structlog.get_logger()

_SESSION: Final = (
    "SET synchronous_commit = on",  # a commit is on disk when it returns, whatever the default
    f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_SECONDS}s'",
)
_LIMITS: Final = text(
    "SELECT set_config('statement_timeout', :limit, true),"
    " set_config('lock_timeout', :limit, true), set_config('slicewatch.tenant', :tenant, true)"
)
_LOCK: Final = text("SELECT pg_advisory_xact_lock(:key)")
_ROLE: Final = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection whose waits end when `until` is reached, on the monotonic clock."""

    until: float | None = None  # None while it is being set up

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for an answer, and close the connection where it does not come in time."""
        left = CONNECT_TIMEOUT_SECONDS if self.until is None else self.until - time.monotonic()
        try:
            return super().wait(gen, interval, max(0.0, left))
        except psycopg.OperationalError:
            if self.until is not None and time.monotonic() >= self.until:
                self.pgconn.finish()  # it may answer yet, to a question long forgotten
            raise


def engine(url: str) -> SqlEngine:
    """An engine on connections with deadlines."""
    made = create_engine(
        url, hide_parameters=True, pool_size=8, max_overflow=8, pool_timeout=POOL_TIMEOUT_SECONDS
    )
    event.listen(made, "do_connect", _connect)
    event.listen(made, "connect", _set_up)
    event.listen(made, "first_connect", _warn_of_a_role_that_sees_all)
    return made


def begin(connection: Connection, tenant: str, writes: bool, deadline_seconds: float) -> None:
    """Bound a transaction that has begun: its time, whose rows it sees, and who else writes."""
    driver: Any = connection.connection.dbapi_connection
    driver.until = time.monotonic() + deadline_seconds
    limit = str(round(deadline_seconds * 1000))
    connection.execute(_LIMITS, {"limit": limit, "tenant": tenant})
    if writes:
        connection.execute(_LOCK, {"key": WRITERS})


def _connect(_dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
    ours: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "client_encoding": "utf8"}
    return DeadlineConnection.connect(*args, **(ours | parameters))


def _set_up(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for statement in _SESSION:
            cursor.execute(statement)
    connection.commit()


def _warn_of_a_role_that_sees_all(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        row = cursor.execute(_ROLE).fetchone()
    connection.commit()
    if row is not None and row[0]:
        log.warning("row-level security does not bind this database role; use one without it")
