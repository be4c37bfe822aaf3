"""A seeded run: the hospital's fortnight through a real service that a real Prometheus scrapes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import httpx2

from grafana.checks.prometheus import SCRAPE_SECONDS, Prometheus, scraping, until
from service.replay import Sender, Source, replay
from tests.receiver import receiving
from tests.server import Server, ended

REPLAY_SECONDS: Final = 40  # for the fortnight
FORTNIGHT_SECONDS: Final = 14 * 86_400
JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Seeded:
    """What is there to be asked, and when it happened; instants are seconds since 1970."""

    prometheus: Prometheus
    metrics_page: bytes
    began_at: float
    ended_at: float
    alert_seen_at: float  # when the API first had an alert that heads an incident


@contextmanager
def seeded(directory: Path) -> Iterator[Seeded]:
    """The run, done; service and Prometheus stay up while the block runs.

    1. Start the service, a receiver that is registered for webhooks, and Prometheus.
    2. Send what is refused, and what is not allowed.
    3. Replay the fortnight in 40 s, looking at the API for the first alert all the while.
    4. Wait for two scrapes more.
    """
    server = Server(
        directory, egress_allow="127.0.0.0/8", egress_http="true", publish_seconds=1, tick_seconds=1
    )
    with ended(server), receiving() as receiver:
        server.start()
        endpoint = server.post("/v1/endpoints", json.dumps({"url": receiver.url}), **JSON)
        endpoint.raise_for_status()
        with scraping(directory, server.url) as prometheus:
            began_at = time.time()  # noqa: TID251 - Prometheus' clock is the machine's
            _misbehave(server)
            seen = _Watching(server)
            _replay(server)
            seen.end()
            receiver.wait_for(1)
            _await_scrapes(prometheus, 2)
            yield Seeded(
                prometheus,
                server.client.get(f"{server.url}/metrics").content,
                began_at,
                time.time(),  # noqa: TID251
                seen.at,
            )


class _Watching:
    """Looks at the API until it has an incident, in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.at = 0.0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        headers = {"authorization": f"Bearer {self._server.key}"}
        with httpx2.Client(base_url=self._server.url, headers=headers, trust_env=False) as api:
            while not self._stop.wait(0.05):
                alerts = api.get("/v1/alerts", params={"state": "firing"}).json()["alerts"]
                if any(alert["explained_by"] is None for alert in alerts):
                    self.at = time.time()  # noqa: TID251
                    return

    def end(self) -> None:
        self._stop.set()
        self._thread.join(10)


def _replay(server: Server) -> None:
    with (
        as_file(files("service.demo") / "hospital.parquet") as recordings,
        Sender(server.url, server.key) as sender,
    ):
        replay(
            Source((recordings,)), sender, speed=FORTNIGHT_SECONDS / REPLAY_SECONDS, batch_rows=200
        )


def _misbehave(server: Server) -> None:
    rows = [{"id": "bad", "model": "transcribe-medical", "time": "no time", "output": "a"}] * 3
    server.post("/v1/events", json.dumps(rows), **JSON)
    server.client.post(f"{server.url}/v1/events", content="{}")  # without a key


def _await_scrapes(prometheus: Prometheus, n: int) -> None:
    count = 'count_over_time(up{job="slicewatch"}[1h])'

    def scrapes() -> float:
        result = prometheus.instant(count, time.time())  # noqa: TID251
        return float(result[0]["value"][1]) if result else 0.0

    enough = scrapes() + n
    until(lambda: scrapes() >= enough, 30 * SCRAPE_SECONDS)
