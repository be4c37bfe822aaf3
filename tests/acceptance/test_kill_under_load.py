"""Kill -9 at any moment while four senders send: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select

from service.clock import SystemClock
from service.database import Database
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.ports import Entry, Snapshot
from service.engine.state_store import SqlStateStore
from service.monitor.model import Model
from service.monitor.pending import Pending
from service.notify.outbox import enqueue
from service.tables import journal, snapshots
from tests.figures import Figures
from tests.load import Senders, judged
from tests.postgres import Postgres
from tests.server import Server, ended

pytestmark = pytest.mark.fault

SEED = 20261122
KILLS = {"sqlite": (30, 300), "postgres": (30, 300)}  # in CI, in the long run
ROWS_A_REQUEST = (50, 250)


def kept_in(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The setting that says where state is kept; none for SQLite."""
    if kind == "sqlite":
        return {}
    postgres: Postgres = request.getfixturevalue("postgres")
    return {"database_url": postgres.database()}


@pytest.mark.parametrize("kind", KILLS)
def test_nothing_is_lost_or_doubled_by_kills_under_load(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    figures: Figures,
    is_full: bool,
) -> None:
    server = Server(tmp_path, tick_seconds=1, snapshot_bytes=200_000, **kept_in(kind, request))
    senders = Senders(server, SEED, rows_a_request=ROWS_A_REQUEST[is_full])
    rng = random.Random(SEED)
    with ended(server):
        server.start()
        senders.start()
        try:
            for _ in range(KILLS[kind][is_full]):
                threading.Event().wait(rng.uniform(0.02, 0.35))
                server.kill()
                server.start()
        finally:
            sent = senders.stop()
        fresh = server.post("/v1/events", '{"id": "fresh", "model": "triage", "output": "1"}')
        assert fresh.json()["accepted"] == 1
        sent.issued["fresh"] = "1"
        assert server.stop() == 0
    verdict = judged(server, sent)
    figures(
        f"kill -9 under load, {kind}",
        kills=KILLS[kind][is_full],
        acked=verdict.acked,
        requests=sent.n_requests,
        lost=verdict.lost,
        double=verdict.double,
        altered=verdict.altered,
        digests=verdict.digests,
    )
    assert verdict.holds(), verdict


def test_the_oracle_sees_an_acknowledged_batch_that_is_gone(tmp_path: Path) -> None:
    """The control: a journal that lost its newest batch, as one that answered before its commit."""
    server = Server(tmp_path)
    senders = Senders(server, SEED, n_threads=1)
    with ended(server):
        server.start()
        senders.start()
        threading.Event().wait(0.5)
        sent = senders.stop()
        assert server.stop() == 0
    assert judged(server, sent).holds()
    database = server.database()
    with database.write() as connection:
        connection.execute(delete(journal).where(journal.c.seq == 1))
        rest = [dict(row) for row in connection.execute(select(journal)).mappings()]
        connection.execute(delete(journal))
    log = SqlEventLog(database)
    for row in rest:
        row.pop("crc32"), row.pop("seq")
        log.append([Entry(**row)])
    snapshot(database, log)
    database.close()
    verdict = judged(server, sent)
    assert verdict.lost > 0 and not verdict.holds()


def test_the_oracle_sees_rows_that_count_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same stream, folded by one that knows no row and no batch again."""
    server = Server(tmp_path)
    senders = Senders(server, SEED)
    with ended(server):
        server.start()
        senders.start()
        threading.Event().wait(1)
        sent = senders.stop()
        assert server.stop() == 0
    assert judged(server, sent).double == 0
    monkeypatch.setattr(Pending, "find", lambda _, hashes: np.full(hashes.size, -1, np.int64))
    monkeypatch.setattr(Model, "_known", lambda _, batch: np.zeros(len(batch), np.bool_))
    verdict = judged(server, sent)
    assert verdict.double > 0 and not verdict.holds()


def snapshot(database: Database, log: SqlEventLog) -> None:
    """Make the stored state agree with the journal, so that only the oracle can tell."""
    fold = Fold()
    for entry in log.read(0):
        fold.apply(entry)
    store = SqlStateStore(database, SystemClock(), enqueue)
    with database.write() as connection:
        connection.execute(delete(snapshots))
    store.commit(store.claim(), [], Snapshot(log.last(), fold.save()))
