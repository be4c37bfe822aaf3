"""Check: whether a database is whole, and what is wrong where it is not.

Every checksum is verified, every offset must be there, snapshots must be restorable, and folding
the journal behind one must give the next, digest for digest. It reads one consistent view, while a
server writes or not, and changes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, select, text
from sqlalchemy.exc import DatabaseError

from service.database import WHOLE_SECONDS, Database
from service.engine.fold import Fold
from service.engine.journal import checksum
from service.engine.ports import Entry
from service.engine.state_store import SNAPSHOT_VERSION
from service.errors import SlicewatchError, StorageFailed, TryLater
from service.tables import alerts, deliveries, endpoints, journal, snapshots, transitions


@dataclass(slots=True)
class Checked:
    """What was looked at, and what is wrong with it."""

    n_entries: int = 0
    first: int = 0  # offset of the oldest entry
    last: int = 0  # of the newest
    n_snapshots: int = 0
    n_quarantined: int = 0  # entries that are whole and can't be folded
    digest: str | None = None  # of the state after the newest entry
    accounts: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def check(database: Database) -> Checked:
    """All that can be told of a database from itself."""
    checked = Checked()
    try:
        with database.read(deadline_seconds=WHOLE_SECONDS) as connection:
            if database.is_sqlite:
                checked.faults += _of_the_file(connection)
            kept = _snapshots(connection, checked)
            _fold(connection, kept, checked)
            checked.faults += _of_alerts(connection)
    except (DatabaseError, StorageFailed, TryLater) as error:
        told = type(error).__name__ if isinstance(error, DatabaseError) else str(error)
        checked.faults.append(f"database: can't be read ({told})")
    return checked


def _of_the_file(connection: Connection) -> Iterator[str]:
    for (found,) in connection.execute(text("PRAGMA integrity_check(20)")):
        if found != "ok":
            yield f"file: {found}"


def _snapshots(connection: Connection, checked: Checked) -> dict[int, Fold]:
    """The folds of the snapshots that are whole, by offset."""
    kept = {}
    for row in connection.execute(select(snapshots).order_by(snapshots.c.offset)):
        checked.n_snapshots += 1
        try:
            kept[row.offset] = _restored(row)
        except SlicewatchError as error:
            checked.faults.append(f"snapshot {row.offset}: {error}")
    return kept


def _restored(row: Row[Any]) -> Fold:
    if row.version != SNAPSHOT_VERSION:
        raise SlicewatchError(f"of version {row.version}; this program reads {SNAPSHOT_VERSION}")
    if row.crc32 != zlib.crc32(row.body, row.offset & 0xFFFFFFFF):
        raise SlicewatchError("its checksum fails")
    return Fold.restore(row.body)


def _fold(connection: Connection, kept: dict[int, Fold], checked: Checked) -> None:
    """Verify every entry, and fold them from the beginning, or else from the oldest snapshot."""
    oldest = connection.scalar(select(func.min(journal.c.seq)))
    checked.first = oldest or 0
    start = 0 if oldest == 1 else min(kept, default=0)
    fold = kept.pop(start, None) or Fold()
    is_whole = start > 0 or oldest in (None, 1)
    if not is_whole:
        checked.faults.append("state: no snapshot is whole and the journal begins behind them all")
    for entry in _entries(connection, checked):
        if is_whole and entry.offset > start:
            checked.n_quarantined += not _applied(fold, entry)
            if entry.offset in kept and kept[entry.offset].digest() != fold.digest():
                checked.faults.append(f"snapshot {entry.offset}: its journal gives another state")
    checked.faults += [
        f"snapshot {offset}: lies behind the journal's end"
        for offset in kept
        if offset > checked.last
    ]
    if is_whole:
        checked.digest = fold.digest()
        checked.faults += _of_accounts(fold, checked)


def _entries(connection: Connection, checked: Checked) -> Iterator[Entry]:
    """The entries that are whole, in order."""
    query = select(journal).order_by(journal.c.seq)
    for row in connection.execution_options(yield_per=16).execute(query):
        if checked.n_entries and row.seq != checked.last + 1:
            checked.faults.append(f"journal: entries {checked.last + 1} to {row.seq - 1} missing")
        checked.n_entries, checked.last = checked.n_entries + 1, row.seq
        entry = Entry(
            row.tenant, row.codec, row.body, row.received_at, row.batch_id, offset=row.seq
        )
        if row.crc32 == checksum(row.seq, entry):
            yield entry
        else:
            checked.faults.append(f"journal: entry {row.seq}: its checksum fails")


def _applied(fold: Fold, entry: Entry) -> bool:
    try:
        fold.apply(entry)
    except MemoryError:
        raise
    except Exception:
        return False
    return True


def _of_accounts(fold: Fold, checked: Checked) -> Iterator[str]:
    for name, tenant in fold.tenants.items():
        of = tenant.accounts
        checked.accounts[name] = (of.received, of.accepted, of.duplicates, of.rejected)
        if of.received != of.accepted + of.duplicates + of.rejected:
            yield f"accounts of {name}: received is not accepted + duplicates + rejected"


def _of_alerts(connection: Connection) -> Iterator[str]:
    newest = (
        select(
            transitions.c.tenant,
            transitions.c.alert_id,
            func.max(transitions.c.revision).label("revision"),
        )
        .group_by(transitions.c.tenant, transitions.c.alert_id)
        .subquery()
    )
    its = (newest.c.tenant == alerts.c.tenant) & (newest.c.alert_id == alerts.c.id)
    query = select(alerts.c.id, alerts.c.revision, newest.c.revision.label("told"))
    for row in connection.execute(query.outerjoin(newest, its).limit(100_000)):
        if row.revision != row.told:
            yield f"alert {row.id}: is not as its last transition left it"
    orphans = select(deliveries.c.id).where(
        ~select(endpoints.c.id)
        .where(
            endpoints.c.tenant == deliveries.c.tenant, endpoints.c.id == deliveries.c.endpoint_id
        )
        .exists()
    )
    for row in connection.execute(orphans.limit(20)):
        yield f"delivery {row.id}: its endpoint is not there"
