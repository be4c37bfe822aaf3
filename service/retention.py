"""Retention: forgets what is old, or more than there is room for, a piece at a time.

- journal entries, once the older of two snapshots has them: after `journal_retention_seconds`, and
  before that where they are more than `journal_retention_bytes`
- refused rows: after `rejected_retention_seconds`; what is over `rejected_rows`, when it is written
- deliveries that are done, with their attempts: after `delivery_retention_seconds`
- alerts that are over, with their history: after `alert_retention_seconds`
- the audit log: after `audit_retention_seconds`
- sessions of browsers that have ended
- silences that have ended: after thirty days
- slots of jobs: all but the newest thousand of each

It is one job of `service.schedule`. A slot is one short transaction, so that whoever sends waits
for milliseconds; while more is left, slots follow each other.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, select, tuple_

from service.alerts import silences
from service.database import Database
from service.monitor.findings import State
from service.notify import outbox
from service.schedule import Job, Run
from service.settings import Settings
from service.tables import (
    acknowledgements,
    alerts,
    audit,
    job_slots,
    jobs,
    journal,
    rejected,
    sessions,
    snapshots,
    transitions,
)

EVERY_SECONDS: Final = 60
ROWS_AT_ONCE: Final = 2_000  # of a table in one slot
BYTES_AT_ONCE: Final = 64 * 1024 * 1024  # of the journal in one slot
SLOTS_KEPT: Final = 1_000  # of each job
_MICROS: Final = 1_000_000


class Retention:
    """The work of one process's retention job."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._journal = _JournalSize()

    def job(self) -> Job:
        """It, to be scheduled."""
        return Job("retention", EVERY_SECONDS, self.forget)

    def forget(self, run: Run) -> bool:
        """Forget a piece of each; True where one had more."""
        with self._database.read() as connection:
            size = self._journal.measured(connection, run.lease.slot)
        settings = self._settings
        with run.commit() as connection:
            n_bytes, n_entries = _forget_journal(
                connection,
                received_before=_before(run, settings.journal_retention_seconds),
                excess_bytes=size - settings.journal_retention_bytes,
            )
            counts = [
                n_entries,
                _forget_rejected(connection, _before(run, settings.rejected_retention_seconds)),
                outbox.forget(
                    connection, _before(run, settings.delivery_retention_seconds), ROWS_AT_ONCE
                ),
                _forget_audit(connection, _before(run, settings.audit_retention_seconds)),
                _forget_alerts(connection, _before(run, settings.alert_retention_seconds)),
                _forget_sessions(connection, run.at),
            ]
            silences.forget(connection, run.at)
            _forget_slots(connection)
        self._journal.n_bytes -= n_bytes
        return max(counts) >= ROWS_AT_ONCE or n_bytes >= BYTES_AT_ONCE


class _JournalSize:
    """How many bytes the journal's bodies have, told without reading all of it each time."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._through = 0  # the newest entry counted
        self._slot = 0  # of the last look

    def measured(self, connection: Connection, slot: int) -> int:
        """Its size now; counted anew where another process may have run the slots between."""
        if slot != self._slot + 1:
            self.n_bytes, self._through = 0, 0
        self._slot = slot
        newer = journal.c.seq > self._through
        size = func.coalesce(func.sum(func.length(journal.c.body)), 0)
        row = connection.execute(select(size, func.max(journal.c.seq)).where(newer)).one()
        self.n_bytes += int(row[0])
        self._through = row[1] or self._through
        return self.n_bytes


def _before(run: Run, seconds: int) -> int:
    return run.at - seconds * _MICROS


def _forget_journal(
    connection: Connection, received_before: int, excess_bytes: int
) -> tuple[int, int]:
    """Forget the oldest entries that the older snapshot contains; returns bytes and entries.

    The newest entry stays whatever is asked: offsets go on from it.
    """
    kept = connection.execute(select(func.count(), func.min(snapshots.c.offset))).one()
    newest = connection.scalar(select(func.max(journal.c.seq))) or 0
    if kept[0] < 2:  # a replay may have to begin before the only one
        return 0, 0
    oldest = (
        select(journal.c.seq, journal.c.received_at, func.length(journal.c.body).label("size"))
        .where(journal.c.seq <= min(kept[1], newest - 1))
        .order_by(journal.c.seq)
        .limit(ROWS_AT_ONCE)
    )
    last = n_bytes = n_entries = 0
    for row in connection.execute(oldest).all():
        is_wanted = row.received_at >= received_before and n_bytes >= excess_bytes
        if is_wanted or n_bytes >= BYTES_AT_ONCE:
            break
        last, n_bytes, n_entries = row.seq, n_bytes + row.size, n_entries + 1
    connection.execute(delete(journal).where(journal.c.seq <= last))
    return n_bytes, n_entries


def _forget_rejected(connection: Connection, before: int) -> int:
    key = (rejected.c.tenant, rejected.c.seq, rejected.c.index)
    return _forget_where(connection, rejected, key, rejected.c.received_at < before)


def _forget_audit(connection: Connection, before: int) -> int:
    return _forget_where(connection, audit, (audit.c.tenant, audit.c.id), audit.c.at < before)


def _forget_alerts(connection: Connection, before: int) -> int:
    """Forget alerts that are over and have not changed since, with all that was said of them."""
    changed_since = exists().where(
        transitions.c.tenant == alerts.c.tenant,
        transitions.c.alert_id == alerts.c.id,
        transitions.c.at >= before,
    )
    over = and_(
        alerts.c.state.in_([State.RESOLVED.value, State.RETRACTED.value]),
        alerts.c.detected_at < before,
        ~changed_since,
    )
    old = [
        tuple(row)
        for row in connection.execute(
            select(alerts.c.tenant, alerts.c.id).where(over).limit(ROWS_AT_ONCE)
        )
    ]
    for key, table in (
        (transitions.c.alert_id, transitions),
        (acknowledgements.c.alert_id, acknowledgements),
        (alerts.c.id, alerts),
    ):
        connection.execute(delete(table).where(tuple_(table.c.tenant, key).in_(old)))
    return len(old)


def _forget_sessions(connection: Connection, now: int) -> int:
    key = (sessions.c.tenant, sessions.c.token_sha256)
    return _forget_where(connection, sessions, key, sessions.c.expires_at <= now)


def _forget_slots(connection: Connection) -> None:
    for job, slot in connection.execute(select(jobs.c.job, jobs.c.slot)).all():
        old = and_(job_slots.c.job == job, job_slots.c.slot <= slot - SLOTS_KEPT)
        connection.execute(delete(job_slots).where(old))


def _forget_where(
    connection: Connection,
    table: Table,
    key: tuple[ColumnElement[Any], ...],
    old: ColumnElement[bool],
) -> int:
    """Forget rows that are old, some at a time; returns how many."""
    some = select(*key).where(old).limit(ROWS_AT_ONCE)
    return connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount
