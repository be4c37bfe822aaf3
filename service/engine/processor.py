"""Processor: the fold and where it stands in the log; the engine without its thread.

The order is always the same: entries are appended in one commit, folded one by one, and what
follows from them (transitions, a snapshot) is committed under the epoch. Recovery is the same
folding of the same entries, so it comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final
from zlib import crc32

import structlog

from service.alerts.alert import Transition
from service.clock import Clock
from service.engine.fold import Applied, Fold, Receipt
from service.engine.ports import BATCH, TICK, Entry, EventLog, Offset, Snapshot, StateStore
from service.errors import Conflict, DamagedEntry, InvalidRequest, TryLater
from service.ingest.frame import FrameError, from_frame
from service.metrics import Metrics, Table
from service.settings import Settings

log = structlog.get_logger()

SECOND: Final = 1_000_000
_REPLAY_COMMITS_EVERY: Final = 256  # entries
_NOTHING: Final = Receipt(0, 0, 0)

Answer = Receipt | InvalidRequest | TryLater


class Processor:
    """Owned by one thread. `series` tells `/metrics` what a fold comes to; `free_bytes` is how much
    room is left on the disk; `on_transitions` is called when new ones were stored."""

    def __init__(
        self,
        event_log: EventLog,
        store: StateStore,
        fold_type: type[Fold],
        clock: Clock,
        settings: Settings,
        metrics: Metrics,
        *,
        series: Callable[[Fold], Iterable[Table]],
        free_bytes: Callable[[], int],
        on_transitions: Callable[[], None],
    ) -> None:
        self._log = event_log
        self._store = store
        self._fold_type = fold_type
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._series = series
        self._free_bytes = free_bytes
        self._on_transitions = on_transitions
        self.fold = fold_type()
        self.offset: Offset = 0  # of the newest entry folded
        self.trouble: str | None = None  # why storage took nothing when last tried
        self.stopped: dict[str, Offset] = {}  # tenants, by whose damaged entry
        self._is_in_doubt = False  # the log may hold what we were not told was stored
        self._epoch = 0
        self._unsaved: list[Transition] = []  # folded and not yet stored
        self._bytes_since_snapshot = 0
        self._snapshots: list[tuple[Offset, int]] = []  # (offset, size) of those kept, newest first
        self._last_tick_at = 0
        self._last_publish_at = 0
        self._last_room_at = 0

    def recover(self, is_stopping: Callable[[], bool]) -> None:
        """Claim the epoch, restore the newest good snapshot, and replay the log behind it.

        A damaged entry stops its tenant there, and no one else. Raises Damaged where neither gives
        the whole state of the others back.
        """
        self._epoch = self._store.claim()
        self._restore()
        restored = self.offset
        self._replay(is_stopping)
        if is_stopping():
            return
        self._commit()
        self._last_tick_at = self._clock.now()
        log.info("recovered", epoch=self._epoch, snapshot=restored, offset=self.offset)

    def answer(self, entries: Sequence[Entry]) -> list[Answer]:
        """The receipt or refusal of each entry; those that are new share one commit."""
        if entries and (refusal := self._settle()):
            return [refusal] * len(entries)
        new: dict[tuple[str, object], int] = {}
        for place, entry in enumerate(entries):
            if not self._is_known(entry) and entry.tenant not in self.stopped:
                new.setdefault((entry.tenant, entry.batch_id or place), place)
        written = self._write([entries[place] for place in new.values()])
        answers: dict[int, Answer] = dict(zip(new.values(), written, strict=True))
        self._commit()
        return [
            answers[place] if place in answers else self._repeated(entry)
            for place, entry in enumerate(entries)
        ]

    def keep_time(self) -> None:
        """Journal a tick and refresh the slice series, where they are due.

        While storage is in trouble a tick is tried every second: when it is through, all is well.
        """
        now = self._clock.now()
        wait = 1 if self.trouble else self._settings.tick_seconds
        if _is_due(self._last_tick_at, now, wait):
            self._last_tick_at = now
            if (self.offset or self.trouble) and self._settle() is None:
                self._write([Entry("", TICK, now.to_bytes(8, "big"), now)])
            self._commit()
        if _is_due(self._last_publish_at, now, self._settings.publish_seconds):
            self._last_publish_at = now
            self._publish()

    def finish(self) -> None:
        """Store a snapshot of where things stand, if they moved since the last."""
        if self._unsaved or self._bytes_since_snapshot:
            self._commit(with_snapshot=not self.stopped)

    def _replay(self, is_stopping: Callable[[], bool]) -> None:
        """Fold what the log holds behind the newest entry folded."""
        while True:
            try:
                for entry in self._log.read(self.offset):
                    if is_stopping():
                        return
                    self._apply(entry)
                    if entry.offset % _REPLAY_COMMITS_EVERY == 0:
                        self._commit()
                return
            except DamagedEntry as damage:
                self._stop(damage)

    def _stop(self, damage: DamagedEntry) -> None:
        """Take nothing more of a tenant, and no snapshot: mended, the log gives all of it back."""
        log.critical("tenant stopped", tenant=damage.tenant, offset=damage.offset)
        self.stopped.setdefault(damage.tenant, damage.offset)
        self._metrics.tenant_stopped.labels(damage.tenant).set(self.stopped[damage.tenant])
        self._metrics.entries_quarantined.labels(damage.tenant).inc()
        self.offset = damage.offset

    def _settle(self) -> TryLater | None:
        """Read what the log may hold of appends that were not answered; why that can't be now."""
        if not self._is_in_doubt:
            return None
        try:
            self._store.commit(self._epoch, [])  # raises Conflict where another process writes
            self._replay(lambda: False)
        except TryLater as refusal:
            return self._refused(refusal)
        self._is_in_doubt = False
        return None

    def _refused(self, refusal: TryLater) -> TryLater:
        if self.trouble is None:
            log.error("storage takes nothing", reason=refusal.detail)
        self.trouble = refusal.detail
        return refusal

    def _restore(self) -> None:
        for snapshot in self._store.snapshots():
            self._snapshots.append((snapshot.offset, len(snapshot.body)))
            if self.offset:
                continue  # a newer one is in place
            try:
                self.fold = self._fold_type.restore(snapshot.body)
            except MemoryError:
                raise
            except Exception:  # the one before it, or the whole journal, gives the same state
                log.exception("snapshot can't be restored", offset=snapshot.offset)
                self._snapshots.pop()
                continue
            self.offset = snapshot.offset
        if self._snapshots:
            self._metrics.snapshot_bytes.set(self._snapshots[0][1])

    def _is_known(self, entry: Entry) -> bool:
        if entry.batch_id is None:
            return False
        return self.fold.receipt_for(entry.tenant, entry.batch_id) is not None

    def _repeated(self, entry: Entry) -> Answer:
        """The answer to a batch whose id was used before, or whose tenant is stopped."""
        known = self.fold.receipt_for(entry.tenant, entry.batch_id or "")
        if entry.tenant in self.stopped:
            return TryLater("this tenant's journal is damaged; its operator must look", 60)
        if known is None:  # the first of its group was refused
            return TryLater("storage is unavailable for now")
        receipt, body_crc32 = known
        if body_crc32 != crc32(entry.body) and not _has_times_of_receipt(entry):
            return InvalidRequest("Idempotency-Key: used before with another body")
        self._metrics.batches_repeated.labels(entry.tenant).inc()
        return receipt

    def _write(self, entries: Sequence[Entry]) -> list[Answer]:
        """Append entries and fold them."""
        if not entries:
            return []
        try:
            self._refuse_without_room()
            self._is_in_doubt = True
            with self._metrics.commit_seconds.time():
                offsets = self._log.append(entries, self.offset)
            self._is_in_doubt = False
        except Conflict:  # a batch id whose receipt is forgotten: its rows are known by their ids
            if len(entries) == 1:
                return self._write([replace(entries[0], batch_id=None)])
            return [answer for entry in entries for answer in self._write([entry])]
        except TryLater as refusal:
            return [self._refused(refusal)] * len(entries)
        self.trouble = None
        placed = [replace(e, offset=o) for e, o in zip(entries, offsets, strict=True)]
        receipts = [self._counted(entry, self._apply(entry)) for entry in placed]
        for entry, receipt in zip(placed, receipts, strict=True):
            if receipt.rejected > len(entry.rejected):
                self._keep_refused(entry, receipt)
        return list(receipts)

    def _keep_refused(self, entry: Entry, receipt: Receipt) -> None:
        """Put rows that only the fold could refuse beside those that the decoder did."""
        known = {row.index for row in entry.rejected}
        rows = tuple(row for row in receipt.errors if row.index not in known)
        try:
            self._log.keep_rejected(replace(entry, rejected=rows))
        except TryLater as refusal:
            log.error("refused rows not kept", offset=entry.offset, reason=refusal.detail)

    def _apply(self, entry: Entry) -> Applied:
        """Fold one entry in, live or replayed."""
        applied = self._folded(entry)
        self.offset = entry.offset
        self._metrics.journal_offset.set(entry.offset)
        self._metrics.journal_lag.set((self._clock.now() - entry.received_at) / SECOND)
        self._unsaved.extend(applied.transitions)
        for cap, n in applied.overflowed.items():
            self._metrics.overflow.labels(cap).inc(n)
        self._bytes_since_snapshot += len(entry.body)
        return applied

    def _folded(self, entry: Entry) -> Applied:
        """What the fold made of an entry.

        One that it fails on is quarantined: it stays in the journal, and fails again in the same
        way at each replay. So are those behind a stopped tenant's damaged one.
        """
        try:
            if entry.tenant not in self.stopped:
                with self._metrics.fold_seconds.time():
                    return self.fold.apply(entry)
        except MemoryError:
            raise  # of this machine at this moment, not of the entry
        except Exception:
            log.exception("entry quarantined", tenant=entry.tenant, offset=entry.offset)
        self._metrics.entries_quarantined.labels(entry.tenant).inc()
        return self.fold.quarantine(entry)

    def _counted(self, entry: Entry, applied: Applied) -> Receipt:
        receipt = applied.receipt or _NOTHING
        metrics, tenant = self._metrics, entry.tenant
        metrics.journal_entries.labels(entry.codec).inc()
        metrics.journal_bytes.inc(len(entry.body))
        if entry.codec == BATCH:
            n_rows = receipt.accepted + receipt.duplicates + receipt.rejected
            metrics.rows_received.labels(tenant).inc(n_rows)
            metrics.rows_accepted.labels(tenant).inc(receipt.accepted)
            metrics.rows_duplicate.labels(tenant).inc(receipt.duplicates)
            self._count_rejected(entry, receipt)
            metrics.rows_applied.labels(tenant).inc(applied.applied)
            metrics.rows_late.labels(tenant).inc(applied.late)
            metrics.rows_quarantined.labels(tenant).inc(applied.quarantined)
            metrics.batch_seconds.observe((self._clock.now() - entry.received_at) / SECOND)
        elif entry.codec == TICK:
            metrics.tick.set(entry.received_at / SECOND)
        return receipt

    def _count_rejected(self, entry: Entry, receipt: Receipt) -> None:
        """By reason; those of the fold that the receipt has no room for are counted without."""
        refused = {row.index: row.reason for row in (*receipt.errors, *entry.rejected)}
        unnamed = receipt.rejected - len(refused)
        self._metrics.rejected(entry.tenant, [*refused.values(), *[""] * unnamed])

    def _commit(self, with_snapshot: bool = False) -> None:
        """Store what followed from the entries folded so far.

        Where storage refuses for now it is kept for the next time: the journal has the entries
        already, so their receipts stand.
        """
        with_snapshot = with_snapshot or self._snapshot_is_due()
        if not (self._unsaved or with_snapshot):
            return
        snapshot = self._snapshot() if with_snapshot else None
        try:
            n_new = self._store.commit(self._epoch, self._unsaved, snapshot)
        except TryLater as refusal:
            log.error("state not stored yet", reason=refusal.detail)
            self.trouble = refusal.detail
            return
        if n_new:
            for transition in self._unsaved:
                self._metrics.transitions.labels(transition.alert.tenant, transition.type).inc()
            self._on_transitions()
            self._last_publish_at = 0  # the next page has them, whenever it is asked for
        self._unsaved.clear()
        if snapshot is not None:
            self._took(snapshot)

    def _snapshot(self) -> Snapshot | None:
        """The fold as it stands; none where it can't be saved, for the journal holds it too."""
        try:
            return Snapshot(self.offset, self.fold.save())
        except MemoryError:
            raise
        except Exception:
            log.exception("snapshot not made", offset=self.offset)
            self._bytes_since_snapshot = 0  # not again with every group
            return None

    def _took(self, snapshot: Snapshot) -> None:
        size = len(snapshot.body)
        self._snapshots = [(snapshot.offset, size), *self._snapshots[:1]]
        self._bytes_since_snapshot = 0
        self._metrics.snapshots.inc()
        self._metrics.snapshot_bytes.set(size)

    def _snapshot_is_due(self) -> bool:
        """So much was journaled that reading it back would cost more than a snapshot."""
        if self.stopped:
            return False
        newest_size = self._snapshots[0][1] if self._snapshots else 0
        return self._bytes_since_snapshot > max(self._settings.snapshot_bytes, 2 * newest_size)

    def _publish(self) -> None:
        try:
            with self._metrics.publish_seconds.time():
                self._metrics.publish(self._series(self.fold))
        except Exception:  # a page without slices is no reason to stop taking rows in
            log.exception("series not published")

    def _refuse_without_room(self) -> None:
        now = self._clock.now()
        if self.trouble is None and not _is_due(self._last_room_at, now, 1):
            return
        self._last_room_at = now
        free_bytes = self._free_bytes()
        self._metrics.disk_free_bytes.set(free_bytes)
        if free_bytes < self._settings.min_free_disk_bytes:
            raise TryLater("the disk is almost full", retry_after_seconds=5)


def _is_due(last_at: int, now: int, every_seconds: int) -> bool:
    """`every_seconds` have passed; a clock that was set back counts as passed."""
    return not 0 <= now - last_at < every_seconds * SECOND


def _has_times_of_receipt(entry: Entry) -> bool:
    """Rows came without a time and got that of their receipt, so a retry's bytes differ."""
    try:
        batch, _ = from_frame(entry.body)
    except FrameError:
        return False
    return bool((batch.time == entry.received_at).any())
