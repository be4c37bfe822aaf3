"""PostgreSQL gone, stopped or restarted under load: 2xx or 503, soon, and nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psycopg
import pytest

from service import postgres as client
from service.database import Database
from service.errors import TryLater
from tests.figures import Figures
from tests.load import Senders, judged
from tests.postgres import Postgres
from tests.server import Server, ended

pytestmark = pytest.mark.fault

SEED = 7
OUTAGE_SECONDS = (8, 20)  # in CI, in the long run
ANSWER_SECONDS = BACK_SECONDS = 5.0


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A server that no other test uses."""
    with Postgres.started() as server:
        yield server


@dataclass
class Probe:
    """Asks again and again, on each of the ways in, and notes how each answer was."""

    server: Server
    slowest: float = 0.0
    statuses: set[int] = field(default_factory=set)
    liveness: set[int] = field(default_factory=set)
    taken_at: float = 0.0  # when rows were last taken in, on the monotonic clock
    n: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until stopped."""
        headers = {"authorization": f"Bearer {self.server.key}"}
        with httpx2.Client(timeout=30, headers=headers, base_url=self.server.url) as http:
            while not self._stopping.wait(0.05):
                self.n += 1
                row = f'{{"id": "probe-{self.n}", "model": "triage", "output": "1"}}'
                taken = self._ask(lambda: http.post("/v1/events", content=row), self.statuses)  # noqa: B023
                if taken == 200:
                    self.taken_at = time.monotonic()
                self._ask(lambda: http.get("/v1/alerts"), self.statuses)
                self._ask(lambda: http.get("/livez"), self.liveness)

    def _ask(self, send: Callable[[], httpx2.Response], statuses: set[int]) -> int:
        started = time.monotonic()
        status = send().status_code
        self.slowest = max(self.slowest, time.monotonic() - started)
        statuses.add(status)
        return status

    def stop(self) -> None:
        """End."""
        self._stopping.set()


FAULTS: dict[str, tuple[Callable[[Postgres], None], Callable[[Postgres], None]]] = {
    "gone": (Postgres.kill, Postgres.start),
    "stopped (SIGSTOP)": (Postgres.pause, Postgres.resume),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_costs_nothing_but_time(
    fault: str, own: Postgres, tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    server = Server(tmp_path, database_url=own.database(), tick_seconds=1)
    senders, probe = Senders(server, SEED), Probe(server)
    begin, mend = FAULTS[fault]
    with ended(server):
        server.start()
        asking = threading.Thread(target=probe.run)
        senders.start()
        asking.start()
        try:
            threading.Event().wait(1)
            begin(own)
            threading.Event().wait(OUTAGE_SECONDS[is_full])
            assert server.client.get(f"{server.url}/readyz").status_code == 503
            mend(own)
            mended_at = time.monotonic()
            while probe.taken_at < mended_at and time.monotonic() < mended_at + 30:
                threading.Event().wait(0.05)
            back = probe.taken_at - mended_at
        finally:
            probe.stop()
            asking.join(60)
            sent = senders.stop()
        sent.issued |= {f"probe-{n}": "1" for n in range(1, probe.n + 1)}
        assert server.stop() == 0
    verdict = judged(server, sent)
    figures(
        f"PostgreSQL {fault}",
        seconds=OUTAGE_SECONDS[is_full],
        acked=verdict.acked,
        lost=verdict.lost,
        double=verdict.double,
        slowest_answer=f"{probe.slowest:.1f}s",
        back_after=f"{back:.1f}s",
        answers=sorted(probe.statuses),
    )
    assert verdict.holds(), verdict
    assert probe.statuses == {200, 503} and probe.liveness == {200}
    assert probe.slowest <= ANSWER_SECONDS
    assert 0 <= back <= BACK_SECONDS


def test_restarts_under_load_cost_nothing_but_time(
    own: Postgres, tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    n_restarts = 20 if is_full else 5
    server = Server(tmp_path, database_url=own.database(), tick_seconds=1)
    senders = Senders(server, SEED)
    with ended(server):
        server.start()
        senders.start()
        try:
            for n in range(n_restarts):
                threading.Event().wait(0.5)
                (own.kill if n % 2 else own.stop)()
                own.start()
        finally:
            sent = senders.stop()
        assert server.stop() == 0
    verdict = judged(server, sent)
    figures(
        "PostgreSQL restarted",
        restarts=n_restarts,
        acked=verdict.acked,
        lost=verdict.lost,
        double=verdict.double,
    )
    assert verdict.holds(), verdict


def test_without_a_deadline_a_stopped_server_is_waited_for_without_end(
    own: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same call, once with its deadline and once without."""
    database = Database(own.database())
    database.create_tables()
    own.pause()

    def ask() -> float:
        started = time.monotonic()
        try:
            with database.read():
                pass
        except TryLater:
            pass
        return time.monotonic() - started

    assert ask() <= ANSWER_SECONDS
    own.resume()
    threading.Event().wait(1.1)
    with database.read():
        pass
    own.pause()
    monkeypatch.setattr(client.DeadlineConnection, "wait", psycopg.Connection.wait)
    took: list[float] = []
    waiting = threading.Thread(target=lambda: took.append(ask()))
    waiting.start()
    waiting.join(2 * ANSWER_SECONDS)
    assert waiting.is_alive() and not took
    own.resume()
    waiting.join(30)
    assert took and took[0] > ANSWER_SECONDS
    database.close()
