"""Kill -9 in the middle of a stream, ten times: nothing is lost, and nothing counts twice."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from service.clock import SystemClock
from service.database import Database
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH
from service.engine.state_store import SqlStateStore
from service.ingest.frame import from_frame
from service.notify.outbox import enqueue
from service.tables import alerts, deliveries, transitions
from tests.server import Server, ended, retried

SEED = 20261122
N_ROWS, ROWS_A_REQUEST, N_KILLS = 12_000, 200, 10
CHANGE_AT = 7_500  # rows; the first 5,000 are the reference


def stream() -> list[dict[str, Any]]:
    """Predictions with their truth; floor 7 is wrong in 10 % of rows, and then in 60 %."""
    rng = random.Random(SEED)
    rows: list[dict[str, Any]] = []
    for i in range(N_ROWS):
        floor = rng.choice("5678")
        wrong = 0.6 if floor == "7" and i >= CHANGE_AT else 0.1
        rows.append(
            {
                "id": f"r{i}",
                "model": "triage",
                "time": 1_793_500_000 + 30 * i,
                "attributes": {"floor": floor, "accent": rng.choice("abc")},
                "features": {"snr_db": rng.gauss(10, 2)},
                "output": "yes",
                "truth": "no" if rng.random() < wrong else "yes",
            }
        )
    return rows


def requests() -> Iterator[tuple[str, str]]:
    """Batch ids and bodies; every tenth sends ten rows of the one before again, one row is bad."""
    rows = stream()
    for n, first in enumerate(range(0, N_ROWS, ROWS_A_REQUEST)):
        again = rows[max(0, first - 10) : first] if n % 10 == 9 else []
        bad = [{"id": f"bad{n}", "model": "triage", "time": "yesterday", "output": "yes"}]
        body = [*again, *rows[first : first + ROWS_A_REQUEST], *bad]
        yield f"batch-{n}", "\n".join(map(json.dumps, body))


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    receipts: tuple[tuple[int, int, int], ...]
    digest: str
    replayed_digest: str
    alerts: tuple[tuple[Any, ...], ...]
    transitions: tuple[tuple[Any, ...], ...]
    n_deliveries: int
    stored_ids: tuple[str, ...]
    accounts: tuple[int, ...]


def post(server: Server, key: str, body: str) -> httpx2.Response | None:
    headers = {"idempotency-key": key, "content-type": "application/x-ndjson"}
    return retried(lambda: server.post("/v1/events", body, **headers))


def acknowledged(server: Server, key: str, body: str) -> tuple[int, int, int]:
    """Send until it is acknowledged, as a sender does."""
    while (answer := post(server, key, body)) is None:
        assert server.process.poll() is None, "".join(server.log)
        threading.Event().wait(0.02)
    assert answer.status_code == 200, answer.text
    receipt = answer.json()
    return receipt["accepted"], receipt["duplicates"], receipt["rejected"]


def kill_while_sending(server: Server, key: str, body: str, rng: random.Random) -> None:
    """Send a request, and kill the server at some moment of its handling."""
    sending = threading.Thread(target=post, args=(server, key, body))
    sending.start()
    threading.Event().wait(rng.uniform(0, 0.03))
    server.kill()
    sending.join()
    if rng.random() < 0.3:  # and once more while it comes up
        server.launch()
        threading.Event().wait(rng.uniform(0.5, 1.5))
        server.kill()
    server.start()


def run(directory: Path, kills: frozenset[int]) -> Outcome:
    server = Server(directory, tick_seconds=1, snapshot_bytes=60_000)
    rng = random.Random(SEED)
    receipts = []
    with ended(server):
        server.start()
        made = server.post(
            "/v1/endpoints",
            json.dumps({"url": "https://receiver.example/hook"}),
            **{"content-type": "application/json"},
        )
        assert made.status_code == 201, made.text
        for n, (key, body) in enumerate(requests()):
            if n in kills:
                kill_while_sending(server, key, body, rng)
            receipts.append(acknowledged(server, key, body))
        assert server.stop() == 0
    return outcome(directory, tuple(receipts))


def outcome(directory: Path, receipts: tuple[tuple[int, int, int], ...]) -> Outcome:
    database = Database.in_directory(directory / "data")
    log = SqlEventLog(database)
    store = SqlStateStore(database, SystemClock(), enqueue)
    newest = store.snapshots()[0]
    fold, whole = Fold.restore(newest.body), Fold()
    ids: list[str] = []
    for entry in log.read(newest.offset):
        fold.apply(entry)
    for entry in log.read(0):
        whole.apply(entry)
        if entry.codec == BATCH:
            ids += from_frame(entry.body)[0].ids
    accounts = fold.tenants["acme"].accounts
    with database.read() as connection:
        found = Outcome(
            receipts=receipts,
            digest=fold.digest(),
            replayed_digest=whole.digest(),
            alerts=_all(connection.execute(select(alerts).order_by(alerts.c.id))),
            transitions=_all(
                connection.execute(
                    select(transitions).order_by(transitions.c.alert_id, transitions.c.revision)
                )
            ),
            n_deliveries=len(connection.execute(select(deliveries.c.id)).all()),
            stored_ids=tuple(ids),
            accounts=(
                accounts.received,
                accounts.accepted,
                accounts.duplicates,
                accounts.rejected,
            ),
        )
    database.close()
    return found


def _all(rows: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row) for row in rows)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(tmp_path_factory.mktemp("undisturbed"), frozenset())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    places = range(5, N_ROWS // ROWS_A_REQUEST)
    kills = frozenset(random.Random(SEED).sample(places, N_KILLS))
    return run(tmp_path_factory.mktemp("killed"), kills)


def test_the_stream_is_one_that_alerts(undisturbed: Outcome) -> None:
    assert undisturbed.alerts and undisturbed.n_deliveries > 0


def test_nothing_acknowledged_is_lost_and_nothing_is_stored_twice(killed: Outcome) -> None:
    issued = [row["id"] for row in stream()]
    assert set(issued) == set(killed.stored_ids)
    n_again = sum(1 for n in range(N_ROWS // ROWS_A_REQUEST) if n % 10 == 9) * 10
    assert len(killed.stored_ids) == N_ROWS + n_again


def test_every_receipt_is_as_it_would_have_been(undisturbed: Outcome, killed: Outcome) -> None:
    assert killed.receipts == undisturbed.receipts


def test_rows_are_accounted_for_exactly(undisturbed: Outcome, killed: Outcome) -> None:
    sums = tuple(sum(column) for column in zip(*killed.receipts, strict=True))
    assert sums == (N_ROWS, 60, 60)
    assert killed.accounts == undisturbed.accounts == (sum(sums), *sums)


def test_the_alerts_are_the_same_and_each_was_told_once(
    undisturbed: Outcome, killed: Outcome
) -> None:
    assert killed.alerts == undisturbed.alerts
    assert killed.transitions == undisturbed.transitions
    assert killed.n_deliveries == undisturbed.n_deliveries


def test_the_state_is_the_same_live_recovered_and_replayed(
    undisturbed: Outcome, killed: Outcome
) -> None:
    digests = {
        undisturbed.digest,
        undisturbed.replayed_digest,
        killed.digest,
        killed.replayed_digest,
    }
    assert len(digests) == 1
