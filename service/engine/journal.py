"""SqlEventLog: the journal, in which an acknowledged batch is kept, one row a batch.

Offsets are given here, without gaps, so that a missing row shows. The checksum covers the whole
row, so that a flipped bit in a tenant's name is found like one in the rows.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, exists, func, insert, or_, select, tuple_
from sqlalchemy.exc import IntegrityError

from service.database import Database
from service.engine.ports import Entry, Offset
from service.errors import Conflict, Damaged, DamagedEntry, OutOfStep
from service.limits import REJECTED_ROWS
from service.tables import journal, keys, rejected

_TRIM_REJECTED_EVERY: Final = 1_000  # rows of a tenant between two looks at its cap
_PAGE: Final = 32  # entries in memory at a time
_READ_SECONDS: Final = 60.0  # for a page of the largest entries over a slow line


class SqlEventLog:
    """The `EventLog` of one database; its writer is one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._n_since_trim: Counter[str] = Counter()  # rejected rows, by tenant
        self._trimmed: set[str] = set()  # tenants whose rejected rows were under the cap once

    def append(self, entries: Sequence[Entry], after: Offset | None = None) -> list[Offset]:
        """Store entries in one commit and give their offsets, in order.

        Raises Conflict, with nothing stored, where a batch id is in its tenant's log already, and
        OutOfStep where the newest entry is another than `after`.
        """
        if not entries:
            return []
        try:
            with self._database.write() as connection:
                last = _last(connection)
                if after is not None and last != after:
                    raise OutOfStep(f"journal: it goes on to entry {last} behind entry {after}")
                offsets = list(range(last + 1, last + 1 + len(entries)))
                placed = list(zip(offsets, entries, strict=True))
                connection.execute(insert(journal), [_row(*place) for place in placed])
                self._keep_rejected(connection, placed)
        except IntegrityError:
            raise Conflict("batch_id: it is in the log already") from None
        return offsets

    def read(self, after: Offset, limit: int | None = None) -> Iterator[Entry]:
        """Entries behind `after`, in order, a few in memory at a time.

        Raises DamagedEntry at a row whose checksum fails, and Damaged where its tenant is no one's
        or rows are missing: whatever is in the journal was acknowledged, the last row included.
        """
        left = limit
        while left is None or left > 0:
            page = self._page(after, _PAGE if left is None else min(left, _PAGE))
            for row in page:
                if row.seq != after + 1:
                    raise Damaged(f"journal: entries {after + 1} to {row.seq - 1} are missing")
                after = row.seq
                yield self._checked(row)
            if len(page) < _PAGE:
                return
            left = None if left is None else left - len(page)

    def _page(self, after: Offset, limit: int) -> Sequence[Row[Any]]:
        query = select(journal).where(journal.c.seq > after).order_by(journal.c.seq).limit(limit)
        with self._database.read(deadline_seconds=_READ_SECONDS) as connection:
            return connection.execute(query).all()

    def _checked(self, row: Row[Any]) -> Entry:
        entry = Entry(
            tenant=row.tenant,
            codec=row.codec,
            body=row.body,
            received_at=row.received_at,
            batch_id=row.batch_id,
            offset=row.seq,
        )
        if row.crc32 == checksum(row.seq, entry):
            return entry
        if self._is_tenant(row.tenant, row.seq):
            raise DamagedEntry(row.seq, row.tenant)
        raise Damaged(f"journal: entry {row.seq} is damaged, and nobody can say whose it is")

    def _is_tenant(self, name: str, offset: Offset) -> bool:
        """Someone has this name: it is not what the damage made of another's."""
        others = journal.c.tenant == name, journal.c.seq != offset
        known = or_(exists().where(keys.c.tenant == name), exists().where(*others))
        with self._database.read() as connection:
            return bool(name) and bool(connection.scalar(select(known)))

    def last(self) -> Offset:
        """The offset of the newest entry, 0 where there is none."""
        with self._database.read() as connection:
            return _last(connection)

    def before(self, received_at: int) -> Offset:
        """The newest entry that came before this instant; or the newest that was trimmed."""
        older = select(func.max(journal.c.seq)).where(journal.c.received_at < received_at)
        with self._database.read() as connection:
            oldest = connection.scalar(select(func.min(journal.c.seq)))
            return connection.scalar(older) or max((oldest or 1) - 1, 0)

    def keep_rejected(self, entry: Entry) -> None:
        """Keep for inspection rows of a stored entry that the fold refused."""
        with self._database.write() as connection:
            self._keep_rejected(connection, [(entry.offset, entry)])

    def _keep_rejected(
        self, connection: Connection, placed: Sequence[tuple[Offset, Entry]]
    ) -> None:
        """Store refused rows for inspection, and bring tenants that had many back to their cap."""
        refused = [
            {
                "tenant": entry.tenant,
                "seq": offset,
                "index": row.index,
                "id": row.id,
                "model": row.model,
                "reason": row.reason,
                "received_at": entry.received_at,
            }
            for offset, entry in placed
            for row in islice(entry.rejected, REJECTED_ROWS.limit)
        ]
        if not refused:
            return
        connection.execute(insert(rejected), refused)
        self._n_since_trim.update(str(row["tenant"]) for row in refused)
        for tenant in sorted({str(row["tenant"]) for row in refused}):
            if tenant not in self._trimmed or self._n_since_trim[tenant] > _TRIM_REJECTED_EVERY:
                _trim_rejected(connection, tenant)
                self._trimmed.add(tenant)
                self._n_since_trim[tenant] = 0


def checksum(offset: Offset, entry: Entry) -> int:
    """CRC-32 of a whole row: where it is, whose, when and what."""
    head = repr((offset, entry.tenant, entry.batch_id, entry.received_at, entry.codec))
    return zlib.crc32(entry.body, zlib.crc32(head.encode()))


def _row(offset: Offset, entry: Entry) -> dict[str, Any]:
    return {
        "seq": offset,
        "tenant": entry.tenant,
        "batch_id": entry.batch_id,
        "received_at": entry.received_at,
        "codec": entry.codec,
        "crc32": checksum(offset, entry),
        "body": entry.body,
    }


def _last(connection: Connection) -> Offset:
    return connection.scalar(select(func.max(journal.c.seq))) or 0


def _trim_rejected(connection: Connection, tenant: str) -> None:
    of_tenant = rejected.c.tenant == tenant
    newest_over_the_cap = connection.execute(
        select(rejected.c.seq, rejected.c.index)
        .where(of_tenant)
        .order_by(rejected.c.seq.desc(), rejected.c.index.desc())
        .offset(REJECTED_ROWS.limit)
        .limit(1)
    ).one_or_none()
    if newest_over_the_cap is not None:
        place = tuple_(rejected.c.seq, rejected.c.index)
        connection.execute(delete(rejected).where(of_tenant, place <= tuple(newest_over_the_cap)))
