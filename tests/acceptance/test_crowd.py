"""A million values, models, ids; one tenant at ten times its quota: the others feel nothing."""

from __future__ import annotations

import json
import re
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from service.clock import SystemClock
from service.database import Database
from service.keys import Keys, Scope
from service.tenants import Tenants
from tests.figures import Figures
from tests.server import Server, ended

pytestmark = pytest.mark.fault

ROWS_A_REQUEST: Final = 5_000
MAX_SERIES: Final = 50
GROWTH_MB: Final = 50
HORIZON: Final = "15m"  # for which an id is remembered, so that it counts once


def key_of(server: Server, tenant: str) -> dict[str, str]:
    database = Database.in_directory(server.directory / "data")
    made = Keys(database, SystemClock()).create(tenant, Scope)
    database.close()
    return {"authorization": f"Bearer {made}"}


def resident_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def ndjson(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows))


def row(n: int, kind: str) -> dict[str, Any]:
    """Row n, of which one thing is never the same again."""
    return {
        "id": f"{kind}{n}",
        "model": f"model-{n}" if kind == "models" else f"of-{kind}",
        "time": 1_790_000_000 + n // 100,
        "attributes": {"floor": f"value {n}" if kind == "values" else "7"},
        "output": "yes",
        "truth": "yes",
    }


def series(server: Server, tenant: str) -> list[str]:
    page = server.client.get(f"{server.url}/metrics").text
    return re.findall(rf'^slicewatch_slice_rows{{.*tenant="{tenant}".*}} .*$', page, re.M)


def standing(server: Server, headers: dict[str, str]) -> str:
    """All that a tenant can read of how it stands."""
    paths = ("/v1/models", "/v1/models/m/slices", "/v1/alerts", "/v1/rejected")
    return "".join(server.client.get(f"{server.url}{p}", headers=headers).text for p in paths)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, max_slice_series=MAX_SERIES, publish_seconds=1)
    with ended(server):
        server.start()
        yield server


@pytest.mark.parametrize("kind", ["values", "models", "ids"])
def test_a_crowd_of_one_tenant_is_bounded_and_costs_others_nothing(
    server: Server, figures: Figures, is_full: bool, kind: str
) -> None:
    n_rows = 1_000_000 if is_full else 150_000
    other = key_of(server, "other")
    base = [
        row(n, "ids") | {"model": "m", "attributes": {"floor": str(n % 4)}} for n in range(3000)
    ]
    sent = server.client.post(f"{server.url}/v1/events", content=ndjson(base), headers=other)
    assert sent.json()["accepted"] == 3_000
    config = {
        "dimensions": ["floor"],
        "loss": "zero_one",
        "reference": {"rows": 2_000},
        "label_horizon": HORIZON,
    }
    stated = server.client.put(
        f"{server.url}/v1/models/of-{kind}",
        json=config,
        headers={"authorization": f"Bearer {server.key}"},
    )
    assert stated.status_code == 200
    warm = [row(n, "warm") | {"model": f"of-{kind}"} for n in range(20_000)]
    for first in range(0, len(warm), ROWS_A_REQUEST):
        server.post("/v1/events", ndjson(warm[first : first + ROWS_A_REQUEST]))
    before, others_before = resident_mb(server), standing(server, other)
    accepted = refused = 0
    for first in range(0, n_rows, ROWS_A_REQUEST):
        rows = [row(n, kind) for n in range(first, first + ROWS_A_REQUEST)]
        answer = server.post("/v1/events", ndjson(rows))
        assert answer.status_code in (200, 422), answer.text
        accepted += answer.json().get("accepted", 0)
        refused += answer.json()["rejected"]
    threading.Event().wait(2.5)  # until the series were published anew
    growth = resident_mb(server) - before
    shown = series(server, "acme")
    figures(
        f"{n_rows:,} {kind}",
        accepted=accepted,
        refused=refused,
        series=len(shown),
        rss_growth_mb=round(growth, 1),
    )
    per_model: dict[str, int] = {}
    for line in shown:
        model = line.partition('model="')[2].partition('"')[0]
        per_model[model] = per_model.get(model, 0) + 1
    assert accepted + refused == n_rows
    assert max(per_model.values(), default=0) <= MAX_SERIES + 1  # and `other`
    if kind == "values":
        model = server.client.get(
            f"{server.url}/v1/models/of-values",
            headers={"authorization": f"Bearer {server.key}"},
        ).json()
        assert model["rows_other"] > 0.9 * n_rows  # past the budget, counted
    if kind == "models":
        assert refused > 0.9 * n_rows
    assert standing(server, other) == others_before
    assert growth <= GROWTH_MB


# One tenant at ten times its quota


QUOTA_ROWS: Final = 200  # a second
ROUND_SECONDS: Final = 4.0


class Noise(threading.Thread):
    """A tenant that sends ten times its quota, for as long as it is let."""

    def __init__(self, server: Server, headers: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.server, self.headers = server, headers
        self.ends = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        rows = [row(n, "ids") for n in range(100)]
        while not self.ends.wait(100 / (10 * QUOTA_ROWS)):
            answer = self.server.client.post(
                f"{self.server.url}/v1/events", content=ndjson(rows), headers=self.headers
            )
            self.statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.headers["retry-after"].isdigit()


def quiet_round(server: Server, headers: dict[str, str], first: int) -> tuple[float, list[int]]:
    """The p99 of a tenant that sends 50 rows forty times a second."""
    seconds, statuses = [], []
    ends_at, n = time.monotonic() + ROUND_SECONDS, first
    while time.monotonic() < ends_at:
        body = ndjson([row(n + i, "ids") for i in range(50)])
        n += 50
        began = time.perf_counter()
        answer = server.client.post(f"{server.url}/v1/events", content=body, headers=headers)
        seconds.append(time.perf_counter() - began)
        statuses.append(answer.status_code)
        threading.Event().wait(0.025)
    return statistics.quantiles(seconds, n=100)[-1], statuses


def test_a_tenant_at_ten_times_its_quota_costs_another_nothing(
    server: Server, figures: Figures
) -> None:
    noisy, quiet = key_of(server, "noisy"), key_of(server, "quiet")
    database = Database.in_directory(server.directory / "data")
    Tenants(database, SystemClock()).limit("noisy", QUOTA_ROWS, None)
    database.close()
    alone, beside, statuses, shouted = [], [], [], []
    for n in range(3):  # in turn, and the best of each: the machine has other work too
        alone.append(quiet_round(server, quiet, 100_000 * (2 * n))[0])
        noise = Noise(server, noisy)
        noise.start()
        p99, answered = quiet_round(server, quiet, 100_000 * (2 * n + 1))
        noise.ends.set()
        noise.join()
        beside.append(p99)
        statuses += answered
        shouted += noise.statuses
    taken = 100 * shouted.count(200)
    figures(
        "one tenant at 10×",
        p99_alone_ms=round(1000 * min(alone), 1),
        p99_beside_ms=round(1000 * min(beside), 1),
        others_429=statuses.count(429),
        its_429=shouted.count(429),
        its_rows=taken,
    )
    assert set(statuses) == {200}
    assert shouted.count(429) > shouted.count(200) / 2  # the control: it was too much
    assert taken <= QUOTA_ROWS * (10 + 6 * ROUND_SECONDS) + 100
    assert min(beside) <= 2 * min(alone)
