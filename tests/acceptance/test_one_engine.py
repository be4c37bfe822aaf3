"""One engine, one answer: a backtest of a file and its replay through the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from service.backtest import backtest
from service.clock import SystemClock
from service.database import Database
from service.demo.server import serving
from service.keys import Keys, Scope
from service.replay import Replayed, Sender, Source, replay

HOSPITAL = Source((Path(__file__).parents[2] / "service" / "demo" / "hospital.parquet",))
BATCH_ROWS = 777  # not what backtest cuts by


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A service that runs, and a key to its tenant "default", of which backtests speak too."""
    directory = tmp_path_factory.mktemp("service")
    with serving(directory) as service:
        database = Database.in_directory(directory)
        key = Keys(database, SystemClock()).create("default", Scope)
        database.close()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=service.url, headers=headers, trust_env=False) as client:
            yield client


def send(api: httpx2.Client, source: Source) -> Replayed:
    """Replay a file through a running service."""
    key = api.headers["Authorization"].removeprefix("Bearer ")
    with Sender(str(api.base_url), key) as sender:
        return replay(source, sender, batch_rows=BATCH_ROWS)


def test_a_replay_raises_the_alerts_of_a_backtest(api: httpx2.Client) -> None:
    judged = backtest(HOSPITAL, SystemClock())
    sent = send(api, HOSPITAL)
    assert sent.accepted == judged.rows + judged.labels
    expected: list[dict[str, Any]] = msgspec.json.decode(judged.to_json())["alerts"]
    given = api.get("/v1/alerts", params={"limit": 1000}).raise_for_status().json()["alerts"]
    assert expected
    assert {alert["id"]: alert for alert in given} == {alert["id"]: alert for alert in expected}


def test_a_replay_that_is_repeated_changes_nothing(api: httpx2.Client) -> None:
    first = send(api, HOSPITAL)
    before = api.get("/v1/alerts").json()
    again = send(api, HOSPITAL)
    assert (again.accepted, again.duplicates) == (first.accepted, first.duplicates)
    assert api.get("/v1/alerts").json() == before
