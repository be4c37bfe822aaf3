"""The two ports of the engine: where batches are logged, and where what follows from them is kept.

`EventLog` orders and keeps what was acknowledged; `StateStore` keeps the fold's snapshot, the
alerts and the outbox, under one epoch. Embedded, both are one SQLite file; each may be another
system (Kafka for the log, PostgreSQL for state) without a change on either side of the port.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from service.alerts.alert import Transition
from service.ingest.events import Rejected

Offset = int  # place in the log; the first entry has 1, 0 is before all

BATCH: Final = "batch/1"  # a frame of events, service.ingest.events
TICK: Final = "tick/1"  # eight bytes, big endian: the wall clock, microseconds
CONFIGURE: Final = "configure/1"  # JSON: {"model": ..., "config": {...}}
ADOPT: Final = "adopt/1"  # JSON: {"model": ..., "slices": [[condition, ...], ...]}
REFERENCE: Final = "reference/1"  # JSON: {"model": ...}, newline, a frame: an uploaded reference


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log, as it is appended and as it is read back."""

    tenant: str  # "" for a tick, which is everyone's
    codec: str  # BATCH, TICK, CONFIGURE, ADOPT or REFERENCE
    body: bytes
    received_at: int  # microseconds since 1970, UTC; the wall clock enters the fold only here
    batch_id: str | None = None  # the sender's Idempotency-Key; unique in a tenant's log
    rejected: tuple[Rejected, ...] = ()  # refused rows, kept for inspection, not replayed from here
    offset: Offset = 0  # given by the log


class EventLog(Protocol):
    """An ordered, durable log. One writer a partition."""

    def append(self, entries: Sequence[Entry], after: Offset | None = None) -> list[Offset]:
        """Store entries in one commit and give their offsets, in order.

        When it returns, they are on stable storage. May block for the length of a commit.
        Raises Conflict where a batch id is in its tenant's log already (nothing was stored),
        StorageFailed for an I/O error (the caller must end the process), OutOfStep where the
        newest entry is not `after` (nothing was stored), and TryLater where the storage is
        unavailable for now. Then they may be stored or not: the caller must read on from the
        last entry that it knows before it appends again.
        """

    def read(self, after: Offset, limit: int | None = None) -> Iterator[Entry]:
        """Entries behind `after`, in order.

        Raises DamagedEntry at an entry whose checksum fails and whose tenant is known: those
        behind it can be read. Raises Damaged where entries are missing, or nobody can say whose.
        """

    def last(self) -> Offset:
        """The offset of the newest entry, 0 where there is none."""

    def before(self, received_at: int) -> Offset:
        """The newest entry that came before this instant, 0 where there is none."""

    def keep_rejected(self, entry: Entry) -> None:
        """Keep for inspection the `rejected` of an entry that is stored: rows the fold refused.

        Best effort: they are counted whether or not this succeeds.
        """


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fold as bytes, and the last entry that it contains."""

    offset: Offset
    body: bytes


class StateStore(Protocol):
    """What follows from the log: snapshots, alerts, transitions, deliveries."""

    def claim(self) -> int:
        """Take the writer's epoch. Whoever held an older one can commit no more."""

    def commit(
        self, epoch: int, transitions: Sequence[Transition], snapshot: Snapshot | None = None
    ) -> int:
        """Store, in one transaction: alerts as the transitions leave them, the transitions, a
        delivery for each endpoint that wants one, and the snapshot where there is one.

        A transition that is stored already changes nothing and is delivered to no one again: the
        same log gives the same transitions, so a replay is silent. Returns how many were new.
        Raises Conflict where `epoch` is no longer the newest, StorageFailed for an I/O error.
        """

    def snapshots(self) -> list[Snapshot]:
        """The two newest whole snapshots, newest first; one whose CRC fails is left out."""
