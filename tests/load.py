"""Load: threads that send rows until they are acknowledged, and the oracle of what they sent.

The oracle knows what was issued and what was acknowledged. At the end acknowledged ⊆ stored ⊆
issued, each row counts once, as it was sent, and the state is what a replay of the journal gives.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from service.clock import SystemClock
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH
from service.engine.state_store import SqlStateStore
from service.ingest.frame import from_frame
from service.notify.outbox import enqueue
from tests.server import Server, retried

LOST_ACKNOWLEDGEMENTS: Final = 0.05
REPEATED_IN_OTHERS: Final = 0.1
MODEL: Final = "triage"


@dataclass
class Sent:
    """What all senders issued, and what of it was acknowledged."""

    issued: dict[str, str] = field(default_factory=dict)  # id: output
    acknowledged: set[str] = field(default_factory=set)
    n_requests: int = 0
    answers: Counter[int] = field(default_factory=Counter)  # by status; 0: no answer


class Senders:
    """Threads that send until told to stop; each finishes what it has begun."""

    def __init__(
        self, server: Server, seed: int, n_threads: int = 4, rows_a_request: int = 50
    ) -> None:
        self.sent = Sent()
        self.failures: list[BaseException] = []
        self._server = server
        self._rows = rows_a_request
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n, random.Random(seed + n)))
            for n in range(n_threads)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> Sent:
        """What was sent, once every request is acknowledged. The server must be up."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a sender was never answered"
        if self.failures:
            raise self.failures[0]
        return self.sent

    def _run(self, thread: int, rng: random.Random) -> None:
        try:
            before: list[dict[str, Any]] = []
            n = 0
            while not self._stopping.is_set():
                n += 1
                rows = [self._row(f"{thread}-{n}-{i}", rng) for i in range(self._rows)]
                again = before[:10] if rng.random() < REPEATED_IN_OTHERS else []
                self._send(f"{thread}-{n}", [*again, *rows], rng)
                before = rows
        except BaseException as failure:
            self.failures.append(failure)

    def _row(self, id_: str, rng: random.Random) -> dict[str, Any]:
        output = f"{rng.getrandbits(64):x}"
        with self._lock:
            self.sent.issued[id_] = output
        return {
            "id": id_,
            "model": MODEL,
            "time": 1_793_500_000 + rng.randrange(3600),
            "attributes": {"floor": rng.choice("5678")},
            "output": output,
            "truth": rng.choice(["yes", output]),
        }

    def _send(self, key: str, rows: list[dict[str, Any]], rng: random.Random) -> None:
        body = "\n".join(map(json.dumps, rows))
        headers = {"idempotency-key": key, "content-type": "application/x-ndjson"}
        while True:
            answer = retried(lambda: self._server.post("/v1/events", body, **headers))
            with self._lock:
                self.sent.n_requests += 1
                self.sent.answers[0 if answer is None else answer.status_code] += 1
            if answer is None:
                threading.Event().wait(0.2)
                continue
            assert answer.status_code == 200, answer.text
            with self._lock:
                self.sent.acknowledged |= {row["id"] for row in rows}
            if rng.random() >= LOST_ACKNOWLEDGEMENTS:  # else as if it had never come
                return


@dataclass(frozen=True)
class Verdict:
    """What the oracle found; a promise is kept where `lost`, `double`, `altered` are 0."""

    acked: int
    lost: int  # acknowledged and not in the journal
    double: int  # counted more often than once
    altered: int  # stored otherwise than issued
    digests: int  # different ones among the live state, and its replay from the first entry
    is_exact: bool  # the accounts

    def holds(self) -> bool:
        """Every promise."""
        faults = self.lost + self.double + self.altered
        return faults == 0 and self.digests == 1 and self.is_exact and self.acked > 0


def judged(server: Server, sent: Sent) -> Verdict:
    """The oracle's verdict on a server that was stopped in an orderly way, so that its newest
    snapshot is the live state."""
    database = server.database()
    log = SqlEventLog(database)
    newest = SqlStateStore(database, SystemClock(), enqueue).snapshots()[0]
    assert newest.offset == log.last()
    live, whole, stored = Fold.restore(newest.body), Fold(), dict[str, str | None]()
    for entry in log.read(0):
        whole.apply(entry)
        if entry.codec == BATCH:
            batch, _ = from_frame(entry.body)
            assert batch.output is not None and batch.output.text is not None
            texts = batch.output.text
            for id_, code in zip(batch.ids, texts.codes.tolist(), strict=True):
                stored.setdefault(id_, texts.values[code])
    database.close()
    accounts = whole.tenants["acme"].accounts
    return Verdict(
        acked=len(sent.acknowledged),
        lost=len(sent.acknowledged - stored.keys()),
        double=accounts.accepted - len(stored),
        altered=sum(sent.issued.get(id_) != output for id_, output in stored.items()),
        digests=len({live.digest(), whole.digest()}),
        is_exact=accounts.are_exact,
    )
