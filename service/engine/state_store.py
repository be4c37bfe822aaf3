"""SqlStateStore: alerts, their transitions and deliveries, and snapshots, under one epoch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.exc import DBAPIError

from service.alerts.alert import Transition
from service.clock import Clock
from service.database import DEADLINE_SECONDS, Database, insert_into
from service.engine.ports import Snapshot
from service.errors import Conflict
from service.tables import alerts, epoch, snapshots, transitions

log = structlog.get_logger()

SNAPSHOT_VERSION: Final = 1
PARTITION: Final = 0  # the embedded engine has one
SNAPSHOTS_KEPT: Final = 2
_READ_SECONDS: Final = 300.0  # for the snapshots, once at a start
_SLOWEST_BYTES_A_SECOND: Final = 16 << 20  # at which a snapshot is still worth the wait

Enqueue = Callable[[Connection, Transition, int], int]


class SqlStateStore:
    """The `StateStore` of one database.

    `enqueue` writes the deliveries of a transition on the connection that it is given
    (`service.notify.outbox`).
    """

    def __init__(self, database: Database, clock: Clock, enqueue: Enqueue) -> None:
        self._database = database
        self._clock = clock
        self._enqueue = enqueue

    def claim(self) -> int:
        """Take the writer's epoch. Whoever held an older one can commit no more."""
        with self._database.write() as connection:
            claimed = (
                insert_into(connection, epoch)
                .values(partition=PARTITION, epoch=1)
                .on_conflict_do_update(
                    index_elements=["partition"], set_={"epoch": epoch.c.epoch + 1}
                )
                .returning(epoch.c.epoch)
            )
            newest: int = connection.execute(claimed).scalar_one()
            return newest

    def commit(
        self, epoch: int, transitions: Sequence[Transition], snapshot: Snapshot | None = None
    ) -> int:
        """Store what followed from the log, in one transaction; returns how many were new."""
        with self._database.write(deadline_seconds=_seconds_for(snapshot)) as connection:
            _fence(connection, epoch)
            now = self._clock.now()
            n_new = sum(self._try_to_store(connection, each, now) for each in transitions)
            if snapshot is not None:
                self._store_snapshot(connection, snapshot)
            return n_new

    def snapshots(self) -> list[Snapshot]:
        """The newest whole snapshots, newest first; one whose checksum fails is left out."""
        newest = (
            select(snapshots)
            .where(snapshots.c.version == SNAPSHOT_VERSION)
            .order_by(snapshots.c.offset.desc())
        )
        with self._database.read(deadline_seconds=_READ_SECONDS) as connection:
            rows = connection.execute(newest).all()
        return [
            Snapshot(row.offset, row.body)
            for row in rows
            if zlib.crc32(row.body, row.offset & 0xFFFFFFFF) == row.crc32
        ]

    def _try_to_store(self, connection: Connection, transition: Transition, now: int) -> bool:
        """One transition, or none of it where our own code fails on it.

        The others and whoever sends meanwhile must not pay for that, at this start and every
        next. It is shouted about, and a replay tries again.
        """
        try:
            with connection.begin_nested():
                return self._store(connection, transition, now)
        except (DBAPIError, MemoryError):
            raise
        except Exception:
            alert = transition.alert
            log.exception("transition not stored", tenant=alert.tenant, alert=alert.id)
            return False

    def _store(self, connection: Connection, transition: Transition, now: int) -> bool:
        """One transition with its alert and its deliveries; False where it was there already."""
        alert = transition.alert
        body = msgspec.json.encode(alert).decode()
        inserted = connection.execute(
            insert_into(connection, transitions)
            .values(
                tenant=alert.tenant,
                alert_id=alert.id,
                revision=alert.revision,
                type=transition.type,
                at=transition.at,
                reason=transition.reason,
                body=body,
            )
            .on_conflict_do_nothing()
            .returning(transitions.c.revision)
        )
        if inserted.first() is None:
            return False
        self._store_alert(connection, transition, body)
        self._enqueue(connection, transition, now)
        return True

    def _store_alert(self, connection: Connection, transition: Transition, body: str) -> None:
        alert = transition.alert
        changing = {
            "state": alert.state.value,
            "severity": alert.severity.value,
            "detected_at": alert.detected_at,
            "revision": alert.revision,
            "body": body,
        }
        connection.execute(
            insert_into(connection, alerts)
            .values(
                tenant=alert.tenant,
                id=alert.id,
                model=alert.model,
                kind=alert.kind.value,
                **changing,
            )
            .on_conflict_do_update(
                index_elements=["tenant", "id"],
                set_=changing,
                where=alerts.c.revision < alert.revision,
            )
        )

    def _store_snapshot(self, connection: Connection, snapshot: Snapshot) -> None:
        insert = insert_into(connection, snapshots).values(
            offset=snapshot.offset,
            version=SNAPSHOT_VERSION,
            crc32=zlib.crc32(snapshot.body, snapshot.offset & 0xFFFFFFFF),
            body=snapshot.body,
        )
        new = insert.excluded  # the values themselves would be sent twice
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["offset"],
                set_={"version": new.version, "crc32": new.crc32, "body": new.body},
            )
        )
        kept = (
            select(snapshots.c.offset).order_by(snapshots.c.offset.desc()).limit(SNAPSHOTS_KEPT)
        ).subquery()
        oldest_kept = select(func.min(kept.c.offset)).scalar_subquery()
        connection.execute(delete(snapshots).where(snapshots.c.offset < oldest_kept))


def _seconds_for(snapshot: Snapshot | None) -> float:
    n_bytes = 0 if snapshot is None else len(snapshot.body)
    return DEADLINE_SECONDS + n_bytes / _SLOWEST_BYTES_A_SECOND


def _fence(connection: Connection, held: int) -> None:
    newest = connection.scalar(select(epoch.c.epoch).where(epoch.c.partition == PARTITION))
    if newest != held:
        raise Conflict(f"epoch: {held} was taken over by {newest}")
