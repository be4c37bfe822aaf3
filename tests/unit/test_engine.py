"""The engine over a real database, with a fold that only counts."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from sqlalchemy import Connection, delete, func, select, update

from service.alerts.alert import Transition
from service.database import Database
from service.engine.engine import Engine, Phase
from service.engine.fold import Applied, Fold, Receipt
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH, CONFIGURE, TICK, Entry, Snapshot
from service.engine.processor import Processor
from service.engine.state_store import SqlStateStore
from service.errors import Conflict, InvalidRequest, RateLimited, TryLater
from service.ingest.events import PREDICTION, Categories, EventBatch, Rejected
from service.ingest.frame import from_frame, to_frame
from service.metrics import SLICE, Metrics, Table, label_set
from service.settings import Settings
from service.tables import journal, snapshots, transitions
from tests.builders import ManualClock, a_transition

T = TypeVar("T")

pytestmark = pytest.mark.anyio

HOUR = 3_600  # seconds


class CountingFold(Fold):
    """Counts each id once, remembers receipts, alerts on ids that ask for it, fails on "boom"."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        self.receipts: dict[str, tuple[tuple[int, int, int], int]] = {}
        self.ticks: list[int] = []
        self.controls: list[bytes] = []
        self.cannot_be_saved = False

    def apply(self, entry: Entry) -> Applied:
        if entry.codec == TICK:
            self.ticks.append(int.from_bytes(entry.body, "big"))
            return Applied()
        if entry.codec == CONFIGURE:
            self.controls.append(entry.body)
            return Applied()
        batch, refused = from_frame(entry.body)
        seen = self.ids.setdefault(entry.tenant, [])
        new = [id_ for id_ in batch.ids if id_ not in seen]
        seen.extend(new)
        if "boom" in batch.ids:
            raise ZeroDivisionError
        receipt = Receipt(len(new), len(batch) - len(new), len(refused), tuple(refused))
        if entry.batch_id is not None:
            counts = (receipt.accepted, receipt.duplicates, receipt.rejected)
            self.receipts[f"{entry.tenant}/{entry.batch_id}"] = (counts, zlib.crc32(entry.body))
        found = [
            a_transition(tenant=entry.tenant, id=f"al_{id_}")
            for id_ in new
            if id_.startswith("alert")
        ]
        return Applied(receipt, found)

    def quarantine(self, entry: Entry) -> Applied:
        batch, refused = from_frame(entry.body)
        receipt = Receipt(len(batch), 0, len(refused), tuple(refused))
        return Applied(receipt, quarantined=len(batch))

    def receipt_for(self, tenant: str, batch_id: str) -> tuple[Receipt, int] | None:
        known = self.receipts.get(f"{tenant}/{batch_id}")
        return None if known is None else (Receipt(*known[0]), known[1])

    def save(self) -> bytes:
        if self.cannot_be_saved:
            raise ZeroDivisionError
        return msgspec.json.encode([self.ids, self.receipts, self.ticks])

    @classmethod
    def restore(cls, body: bytes) -> CountingFold:
        fold = cls()
        fold.ids, fold.receipts, fold.ticks = msgspec.json.decode(
            body,
            type=tuple[
                dict[str, list[str]], dict[str, tuple[tuple[int, int, int], int]], list[int]
            ],
        )
        return fold

    def digest(self) -> str:
        return hashlib.sha256(self.save()).hexdigest()


@dataclass
class House:
    """A data directory, and engines over it, one after another."""

    directory: Path
    settings: Settings = field(default_factory=lambda: Settings(data_dir=Path(".")))
    clock: ManualClock = field(default_factory=ManualClock)
    free_bytes: int = 10**12
    ended: list[int] = field(default_factory=list)
    enqueued: list[str] = field(default_factory=list)
    n_wakes: int = 0
    databases: list[Database] = field(default_factory=list)

    def open(self) -> Database:
        database = Database.in_directory(self.directory)
        database.create_tables()
        self.databases.append(database)
        return database

    def store(self, database: Database) -> SqlStateStore:
        return SqlStateStore(database, self.clock, self.enqueue)

    def enqueue(self, _connection: Connection, transition: Transition, _now: int) -> int:
        self.enqueued.append(transition.alert.id)
        return 1

    def processor(self, database: Database, metrics: Metrics) -> Processor:
        return Processor(
            SqlEventLog(database),
            self.store(database),
            CountingFold,
            self.clock,
            self.settings,
            metrics,
            series=self.series,
            free_bytes=lambda: self.free_bytes,
            on_transitions=self.wake,
        )

    def wake(self) -> None:
        self.n_wakes += 1

    @staticmethod
    def series(fold: Fold) -> Iterator[Table]:
        assert isinstance(fold, CountingFold)
        for tenant, ids in fold.ids.items():
            labels = label_set(SLICE, (tenant, "speech", "everyone"))
            yield Table([labels], {"slicewatch_slice_rows": [float(len(ids))]})


class Running:
    """One engine that is up, until its block ends."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.database = house.open()
        self.metrics = Metrics()
        self.engine = Engine(
            house.processor(self.database, self.metrics),
            house.clock,
            house.settings,
            self.metrics,
            end=house.ended.append,
        )

    async def __aenter__(self) -> Running:
        self.engine.start()
        assert await asyncio.to_thread(self.engine.wait_until_ready, 5)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert await asyncio.to_thread(self.engine.stop)

    async def fold(self, of: Callable[[CountingFold], T]) -> T:
        def ask(fold: Fold) -> T:
            assert isinstance(fold, CountingFold)
            return of(fold)

        return await self.engine.ask(ask)

    async def digest(self) -> str:
        return await self.engine.ask(lambda fold: fold.digest())

    async def once_more(self) -> None:
        """Return when the engine thread has looked at its clock after this call."""
        for _ in range(2):
            await self.engine.ask(lambda _: None)

    def n_journaled(self, codec: str = BATCH) -> int:
        query = select(func.count()).where(journal.c.codec == codec)
        with self.database.read() as connection:
            return connection.scalar(query) or 0

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"slicewatch_{name}", labels) or 0.0

    def total(self, name: str, **labels: str) -> float:
        """Over the labels that are not named."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"slicewatch_{name}" and labels.items() <= sample.labels.items()
        )


class Held:
    """The engine thread, held inside a question until let go."""

    def __init__(self, running: Running) -> None:
        self._reached, self._let_go = threading.Event(), threading.Event()
        self._asked = asyncio.ensure_future(running.engine.ask(self._hold))

    def _hold(self, _: Fold) -> None:
        self._reached.set()
        assert self._let_go.wait(10)

    async def __aenter__(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 5)

    async def __aexit__(self, *_: object) -> None:
        self._let_go.set()
        await self._asked


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    for database in house.databases:
        database.close()


def settings(**changes: Any) -> Settings:
    return Settings(data_dir=Path("."), **changes)


def batch(*ids: str, time: int = 1) -> EventBatch:
    n = len(ids)
    return EventBatch(
        ids=list(ids),
        kind=np.full(n, PREDICTION, np.uint8),
        time=np.full(n, time, np.int64),
        model=Categories.of(["speech"] * n),
        version=Categories.absent(n),
    )


def entry(
    *ids: str, tenant: str = "acme", key: str | None = None, at: int = 5, time: int = 1
) -> Entry:
    return Entry(tenant, BATCH, to_frame(batch(*ids, time=time)), at, key)


async def both_ways(work: list[Awaitable[T]]) -> list[T | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


async def test_a_receipt_means_it_is_in_the_journal(house: House) -> None:
    async with Running(house) as running:
        receipt = await running.engine.submit(entry("a", "b"))
        assert receipt == Receipt(2, 0, 0)
        assert running.n_journaled() == 1


async def test_a_row_is_accepted_once_and_then_a_duplicate(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a"))
        assert await running.engine.submit(entry("a", "b")) == Receipt(1, 1, 0)


async def test_what_waits_shares_a_commit(house: House) -> None:
    async with Running(house) as running:
        async with Held(running):
            waiting = [
                asyncio.ensure_future(running.engine.submit(entry(f"r{i}"))) for i in range(100)
            ]
            await asyncio.sleep(0)  # each has put its entry in the inbox
        assert await asyncio.gather(*waiting) == [Receipt(1, 0, 0)] * 100
        assert running.n_journaled() == 100
        assert running.value("journal_commit_seconds_count") == 2  # of 64 and of 36


async def test_entries_are_folded_in_the_order_they_came(house: House) -> None:
    async with Running(house) as running:
        ids = [f"r{i}" for i in range(30)]
        await asyncio.gather(*(running.engine.submit(entry(id_)) for id_ in ids))
        assert await running.fold(lambda fold: list(fold.ids["acme"])) == ids


async def test_a_repeated_batch_is_answered_as_before_and_journaled_once(house: House) -> None:
    async with Running(house) as running:
        first = await running.engine.submit(entry("a", "b", key="k1"))
        again = await running.engine.submit(entry("a", "b", key="k1"))
        assert first == again == Receipt(2, 0, 0)
        assert running.n_journaled() == 1
        assert running.value("batches_repeated_total", tenant="acme") == 1
        assert running.value("rows_received_total", tenant="acme") == 2


async def test_a_batch_repeated_while_it_waits_is_journaled_once(house: House) -> None:
    async with Running(house) as running:
        async with Held(running):
            both = [
                asyncio.ensure_future(running.engine.submit(entry("a", key="k1"))) for _ in "12"
            ]
            await asyncio.sleep(0)
        assert await asyncio.gather(*both) == [Receipt(1, 0, 0)] * 2
        assert running.n_journaled() == 1


async def test_a_batch_id_is_its_tenants_own(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a", key="k1"))
        other = await running.engine.submit(entry("a", key="k1", tenant="other"))
        assert other == Receipt(1, 0, 0)
        assert running.n_journaled() == 2


async def test_a_batch_id_used_with_another_body_is_refused(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a", key="k1"))
        with pytest.raises(InvalidRequest, match="Idempotency-Key"):
            await running.engine.submit(entry("b", key="k1"))
        assert running.n_journaled() == 1


async def test_rows_without_a_time_may_be_sent_again(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a", key="k1", at=100, time=100))
        again = await running.engine.submit(entry("a", key="k1", at=200, time=200))
        assert again == Receipt(1, 0, 0)


async def test_a_batch_whose_receipt_is_forgotten_is_known_by_its_rows(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a", key="k1"))
        await running.fold(lambda fold: fold.receipts.clear())
        async with Held(running):
            waiting = [
                asyncio.ensure_future(running.engine.submit(entry(id_, key=key)))
                for id_, key in (("x", "k2"), ("a", "k1"), ("y", None))
            ]
            await asyncio.sleep(0)
        answers = await asyncio.gather(*waiting)
    assert answers == [Receipt(1, 0, 0), Receipt(0, 1, 0), Receipt(1, 0, 0)]


async def test_rows_are_accounted_for_exactly(house: House) -> None:
    refused = [Rejected(2, "c", "time: not one")]
    async with Running(house) as running:
        await running.engine.submit(entry("a", "b"))
        await running.engine.submit(Entry("acme", BATCH, to_frame(batch("b", "d"), refused), 5))
        counted = {
            name: running.total(f"rows_{name}_total", tenant="acme")
            for name in ("received", "accepted", "duplicate", "rejected")
        }
    assert counted == {"received": 5, "accepted": 3, "duplicate": 1, "rejected": 1}


async def test_a_full_queue_refuses_for_now(house: House) -> None:
    house.settings = settings(queue_batches=3)
    async with Running(house) as running:
        async with Held(running):
            waiting = [
                asyncio.ensure_future(running.engine.submit(entry(f"r{i}"))) for i in range(5)
            ]
            await asyncio.sleep(0)
        answers = await both_ways(list(waiting))
        assert answers[:3] == [Receipt(1, 0, 0)] * 3
        assert all(isinstance(answer, TryLater) for answer in answers[3:])
        assert running.value("overflow_total", cap="queue_batches") == 2
        assert await running.engine.submit(entry("r3")) == Receipt(1, 0, 0)


async def test_a_tenant_may_hold_half_of_a_queue_that_others_use_and_they_come_in_turn(
    house: House,
) -> None:
    house.settings = settings(queue_batches=8)
    async with Running(house) as running:
        await running.engine.submit(entry("q", tenant="quiet"))
        async with Held(running):
            noisy = [asyncio.ensure_future(running.engine.submit(entry(f"r{i}"))) for i in range(6)]
            await asyncio.sleep(0)
            quiet = asyncio.ensure_future(running.engine.submit(entry("s", tenant="quiet")))
            await asyncio.sleep(0)
        answers = await both_ways([*noisy, quiet])
        order = [stored.tenant for stored in SqlEventLog(running.database).read(1)]
    assert [isinstance(answer, RateLimited) for answer in answers] == [False] * 4 + [True] * 2 + [
        False
    ]
    assert order[:3].count("quiet") == 1  # not behind all of the other's


async def test_a_queue_of_too_many_bytes_refuses_for_now(house: House) -> None:
    size = len(entry("r0").body)
    house.settings = settings(queue_bytes=2 * size)
    async with Running(house) as running:
        async with Held(running):
            waiting = [
                asyncio.ensure_future(running.engine.submit(entry(f"r{i}"))) for i in range(3)
            ]
            await asyncio.sleep(0)
        answers = await both_ways(list(waiting))
        assert [isinstance(answer, TryLater) for answer in answers] == [False, False, True]
        assert running.value("overflow_total", cap="queue_bytes") == 1
        assert running.value("queue_bytes") == 0


async def test_a_batch_larger_than_the_queue_passes_alone(house: House) -> None:
    house.settings = settings(queue_bytes=1)
    async with Running(house) as running:
        assert await running.engine.submit(entry("a")) == Receipt(1, 0, 0)


async def test_nothing_is_taken_in_before_the_start_and_after_the_stop(house: House) -> None:
    running = Running(house)
    with pytest.raises(TryLater, match="starting"):
        await running.engine.submit(entry("a"))
    assert running.engine.why_not_ready() == "the service is starting"
    async with running:
        assert running.engine.why_not_ready() is None
    assert running.engine.phase is Phase.STOPPED
    with pytest.raises(TryLater, match="stopped"):
        await running.engine.submit(entry("a"))
    with pytest.raises(TryLater):
        await running.engine.ask(lambda fold: fold.digest())


async def test_an_engine_that_never_started_stops(house: House) -> None:
    assert Running(house).engine.stop()


async def test_a_stop_finishes_what_waits(house: House) -> None:
    async with Running(house) as running:
        async with Held(running):
            waiting = [
                asyncio.ensure_future(running.engine.submit(entry(f"r{i}"))) for i in range(70)
            ]
            await asyncio.sleep(0)
            stopping = asyncio.ensure_future(asyncio.to_thread(running.engine.stop))
            while running.engine.phase is Phase.READY:
                await asyncio.sleep(0)
        assert await asyncio.gather(*waiting) == [Receipt(1, 0, 0)] * 70
        assert await stopping


async def test_what_a_question_raises_reaches_who_asked(house: House) -> None:
    def fail(_: Fold) -> None:
        raise Conflict("not so")

    async with Running(house) as running:
        with pytest.raises(Conflict, match="not so"):
            await running.engine.ask(fail)
        await running.engine.submit(entry("a"))


async def test_a_stop_and_a_start_give_the_same_state(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a", "b", key="k1"))
        await running.engine.submit_control(CONFIGURE, "acme", b"{}")
        before = await running.digest()
    async with Running(house) as running:
        assert await running.digest() == before
        assert running.value("snapshots_total") == 0  # it was restored, not made again
        assert await running.engine.submit(entry("a", "b", key="k1")) == Receipt(2, 0, 0)


async def crash(running: Running) -> None:
    """End it as a kill would: with the journal written, and no snapshot."""
    running.house.store(running.house.open()).claim()  # what it would still store is refused
    await asyncio.to_thread(running.engine.stop)
    assert running.house.ended.pop() == 75


async def ended(running: Running) -> None:
    """Return once the engine thread is at its end."""
    while running.engine.phase is not Phase.STOPPED:
        await asyncio.sleep(0.001)


async def test_a_journal_without_a_snapshot_gives_the_state_back(house: House) -> None:
    running = await Running(house).__aenter__()
    for n in range(20):
        await running.engine.submit(entry(f"r{n}", key=f"k{n}"))
    before = await running.digest()
    await crash(running)
    async with Running(house) as again:
        with again.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(snapshots)) == 0
        assert await again.digest() == before


async def test_who_lost_its_epoch_ends_instead_of_committing(house: House) -> None:
    running = await Running(house).__aenter__()
    house.store(house.open()).claim()
    submitted = asyncio.ensure_future(running.engine.submit(entry("alert-1")))
    await ended(running)
    assert house.ended == [75]
    with running.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(transitions)) == 0
    submitted.cancel()


async def test_alerts_are_told_once_across_restarts(house: House) -> None:
    running = await Running(house).__aenter__()
    await running.engine.submit(entry("alert-1"))
    assert house.enqueued == ["al_alert-1"] and house.n_wakes == 1
    await crash(running)
    async with Running(house) as again:  # the replay makes the same transition again
        await again.engine.submit(entry("alert-2"))
    assert house.enqueued == ["al_alert-1", "al_alert-2"]
    assert house.n_wakes == 2


async def test_what_was_journaled_and_not_folded_is_folded_at_the_start(house: House) -> None:
    SqlEventLog(house.open()).append([entry("a"), entry("alert-1")])
    async with Running(house) as running:
        assert await running.fold(lambda fold: list(fold.ids["acme"])) == ["a", "alert-1"]
    assert house.enqueued == ["al_alert-1"]


async def test_a_snapshot_is_stored_when_enough_was_journaled(house: House) -> None:
    house.settings = settings(snapshot_bytes=1)
    async with Running(house) as running:
        await running.engine.submit(entry("a"))
        assert running.value("snapshots_total") == 1
        small = running.value("snapshot_bytes")
        await running.engine.submit(entry("b"))
        assert len(entry("b").body) > 2 * small and running.value("snapshots_total") == 2


async def test_a_snapshot_that_cannot_be_restored_is_passed_over(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a"))
    async with Running(house) as running:
        await running.engine.submit(entry("b"))
        before = await running.digest()
    database = house.open()
    store = house.store(database)
    newest = store.snapshots()[0].offset
    store.commit(store.claim(), [], Snapshot(newest, b"broken, with a good checksum"))
    async with Running(house) as again:
        assert await again.digest() == before


async def test_a_fold_that_cannot_be_saved_goes_on_from_its_journal(house: House) -> None:
    house.settings = settings(snapshot_bytes=1)
    async with Running(house) as running:
        await running.fold(lambda fold: setattr(fold, "cannot_be_saved", True))
        assert await running.engine.submit(entry("a")) == Receipt(1, 0, 0)
        assert await running.engine.submit(entry("b")) == Receipt(1, 0, 0)
        assert running.value("snapshots_total") == 0
    async with Running(house) as again:
        assert await again.fold(lambda fold: fold.ids) == {"acme": ["a", "b"]}


async def test_a_journal_with_an_entry_missing_ends_the_process(house: House) -> None:
    SqlEventLog(house.open()).append([entry("a"), entry("b")])
    with house.open().write() as connection:
        connection.execute(delete(journal).where(journal.c.seq == 1))
    running = Running(house)
    running.engine.start()
    await ended(running)
    assert house.ended == [65]


async def damaged(house: House, offset: int) -> bytes:
    """Damage an entry's body, and give what it was."""
    its = journal.c.seq == offset
    with house.open().write() as connection:
        body = connection.execute(select(journal.c.body).where(its)).scalar_one()
        connection.execute(update(journal).where(its).values(body=b"x"))
    return bytes(body)


async def test_a_damaged_entry_stops_its_tenant_and_no_other(house: House) -> None:
    house.settings = settings(snapshot_bytes=1)
    entries = [entry("a"), entry("b", tenant="other"), entry("c"), entry("d", tenant="other")]
    SqlEventLog(house.open()).append(entries)
    await damaged(house, 1)
    async with Running(house) as running:
        assert await running.fold(lambda fold: fold.ids) == {"other": ["b", "d"]}
        with pytest.raises(TryLater, match="operator"):
            await running.engine.submit(entry("e"))
        assert await running.engine.submit(entry("f", tenant="other")) == Receipt(1, 0, 0)
        assert running.engine.why_not_ready() is None and running.engine.n_stopped == 1
        assert running.value("tenant_stopped", tenant="acme") == 1
        assert running.value("entries_quarantined_total", tenant="acme") == 2
    assert running.value("snapshots_total") == 0  # it would hold what the tenant lacks


async def test_a_journal_that_was_mended_gives_the_whole_state_back(house: House) -> None:
    running = await Running(house).__aenter__()
    for n in range(3):
        await running.engine.submit(entry(f"r{n}", key=f"k{n}"))
    before = await running.digest()
    await crash(running)
    body = await damaged(house, 2)
    async with Running(house) as stopped:
        assert await stopped.digest() != before
    with house.open().write() as connection:
        connection.execute(update(journal).where(journal.c.seq == 2).values(body=body))
    async with Running(house) as again:
        assert await again.digest() == before
        assert again.engine.n_stopped == 0


class Forgetful(SqlEventLog):
    """Stores entries, and says that it could not: a commit whose answer was lost."""

    n_lost = 0

    def append(self, entries: Sequence[Entry], after: int | None = None) -> list[int]:
        offsets = super().append(entries, after)
        if self.n_lost:
            self.n_lost -= 1
            raise TryLater("no answer")
        return offsets


async def test_an_append_whose_answer_was_lost_is_found_and_counted_once(house: House) -> None:
    running = Running(house)
    log = Forgetful(running.database)
    running.engine._processor._log = log
    async with running:
        await running.engine.submit(entry("a", key="k1"))
        log.n_lost = 1
        with pytest.raises(TryLater, match="no answer"):
            await running.engine.submit(entry("b", key="k2"))
        assert await running.engine.submit(entry("c", key="k3")) == Receipt(1, 0, 0)
        assert await running.engine.submit(entry("b", key="k2")) == Receipt(1, 0, 0)
        assert await running.fold(lambda fold: fold.ids) == {"acme": ["a", "b", "c"]}
        assert running.n_journaled() == 3
        before = await running.digest()
        await crash(running)
    async with Running(house) as again:
        assert await again.digest() == before


async def test_a_writer_that_another_overtook_in_the_log_ends(house: House) -> None:
    running = await Running(house).__aenter__()
    await running.engine.submit(entry("a"))
    SqlEventLog(house.open()).append([entry("b")])
    with pytest.raises(TryLater):
        await running.engine.submit(entry("c"))
    house.store(house.open()).claim()
    gone = asyncio.ensure_future(running.engine.submit(entry("c")))
    await ended(running)
    assert house.ended.pop() == 75
    gone.cancel()


async def test_an_answer_that_takes_too_long_is_a_refusal_for_now(house: House) -> None:
    house.settings = settings(answer_deadline_seconds=0.05)
    async with Running(house) as running:
        async with Held(running):
            with pytest.raises(TryLater, match="slow"):
                await running.engine.submit(entry("a"))
        assert await running.engine.submit(entry("b")) == Receipt(1, 0, 0)


async def test_an_entry_that_the_fold_fails_on_is_quarantined(house: House) -> None:
    async with Running(house) as running:
        assert await running.engine.submit(entry("boom", "c")) == Receipt(2, 0, 0)
        assert await running.engine.submit(entry("d")) == Receipt(1, 0, 0)
        assert running.value("entries_quarantined_total", tenant="acme") == 1
        before = await running.digest()
        await crash(running)
    async with Running(house) as again:  # it fails in the same way at the replay
        assert await again.digest() == before
        assert again.value("entries_quarantined_total", tenant="acme") == 1


async def test_a_tick_is_journaled_when_its_time_has_come(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a"))
        await running.once_more()
        assert running.n_journaled(TICK) == 0
        house.clock.advance(60)
        await running.once_more()
        assert await running.fold(lambda fold: list(fold.ticks)) == [house.clock.now()]
        assert running.n_journaled(TICK) == 1


async def test_time_that_jumps_makes_one_tick_and_none_waits_for_it_to_return(
    house: House,
) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a"))
        house.clock.advance(HOUR)
        await running.once_more()
        assert running.n_journaled(TICK) == 1
        house.clock.advance(-HOUR)
        await running.once_more()
        assert running.n_journaled(TICK) == 2
        house.clock.advance(59)
        await running.once_more()
        assert running.n_journaled(TICK) == 2


async def test_an_empty_journal_gets_no_ticks(house: House) -> None:
    async with Running(house) as running:
        house.clock.advance(HOUR)
        await running.once_more()
        assert running.n_journaled(TICK) == 0


async def test_an_almost_full_disk_refuses_until_there_is_room(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a"))
        house.free_bytes = 1
        house.clock.advance(1)
        with pytest.raises(TryLater, match="disk"):
            await running.engine.submit(entry("b"))
        assert running.engine.why_not_ready() == "the disk is almost full"
        assert running.n_journaled() == 1
        house.free_bytes = 10**12
        house.clock.advance(1)
        await running.once_more()  # nobody sends; it finds out by itself
        assert running.engine.why_not_ready() is None
        assert await running.engine.submit(entry("b")) == Receipt(1, 0, 0)


async def test_slices_are_published(house: House) -> None:
    async with Running(house) as running:
        await running.engine.submit(entry("a", "b"))
        house.clock.advance(5)
        await running.once_more()
        page, _ = running.metrics.page("")
        assert b'slicewatch_slice_rows{tenant="acme",model="speech",slice="everyone"} 2.0' in page


async def test_a_caller_that_gave_up_costs_nothing(house: House) -> None:
    async with Running(house) as running:
        async with Held(running):
            gone = asyncio.ensure_future(running.engine.submit(entry("a")))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
        assert await running.engine.submit(entry("b")) == Receipt(1, 0, 0)
        assert await running.fold(lambda fold: fold.ids) == {"acme": ["b"]}
