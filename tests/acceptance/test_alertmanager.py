"""Neighbours: what we send, shown by a real Alertmanager and a real Prometheus of Debian's.

Alertmanager takes our alerts at its API and shows them to `amtool`, and it calls a webhook of its
own: ours has every field that its has, of the same type. Prometheus scrapes the service.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.clock import SystemClock
from service.keys import Scope
from service.monitor.findings import State
from service.settings import Settings
from tests.builders import ManualClock
from tests.house import House, until
from tests.receiver import Receiver, receiving
from tests.server import Server, ended

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "prometheus-alertmanager", "amtool"))),
    reason="Debian's prometheus and prometheus-alertmanager are not installed",
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, ready: str) -> Iterator[str]:
    """A program while the block runs, from when it says that it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                if httpx2.get(f"{url}{ready}", trust_env=False).is_success:
                    break
            except httpx2.TransportError:
                assert process.poll() is None, "it ended"
            threading.Event().wait(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def alertmanager(directory: Path, calls: str) -> Iterator[str]:
    """An Alertmanager that calls a webhook at once."""
    settings = directory / "alertmanager.yml"
    settings.write_text(
        "route: {receiver: hook, group_by: [alertname, slice], group_wait: 0s,"
        " group_interval: 1s, repeat_interval: 1h}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: '{calls}', send_resolved: true}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={settings}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    with running(command, url, "/-/ready") as ready:
        yield ready


def amtool(url: str, *arguments: str) -> list[dict[str, Any]]:
    """What `amtool alert query` shows."""
    command = ["amtool", f"--alertmanager.url={url}", "-o", "json", "alert", "query", *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


def shape(value: Any) -> Any:
    """The types of a document."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value).__name__


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, _Now())
    yield house
    house.database.close()


class _Now(ManualClock):
    """The time as it is, to begin with: Alertmanager has its own clock."""

    def __init__(self) -> None:
        super().__init__(SystemClock().now())


def test_an_alertmanager_takes_our_alerts_and_amtool_shows_them(
    house: House, tmp_path: Path
) -> None:
    with receiving() as hook, alertmanager(tmp_path, hook.url) as url:
        api = Receiver(f"{url}/api/v2/alerts")
        house.endpoint(api, format="alertmanager", filters={"models": ["transcribe-medical"]})
        at = house.clock.now()
        house.happen({"detected_at": at, "at": at, "onset": at - 3_600_000_000})
        assert house.drain() == 1
        assert house.delivery().state == "delivered"
        (shown,) = amtool(url)
        assert shown["labels"]["alertname"] == "SlicewatchDisparity"
        assert shown["labels"]["slice"] == "accent=scottish, floor=7"
        assert shown["annotations"]["description"].startswith("WER on floor 7")
        assert amtool(url, "slice_floor=7", "severity=critical")
        assert amtool(url, "slice_floor=8") == []
        hook.wait_for(1)
        _same_shape_as_ours(house, json.loads(hook.requests[0].body))

        later = at + 1
        house.happen(
            {"type_": "alert.resolved", "state": State.RESOLVED, "revision": 2, "at": later,
             "detected_at": at, "onset": at - 3_600_000_000, "resolved_at": later}
        )  # fmt: skip
        house.clock.advance(1)
        assert house.drain() == 1
        asyncio.run(until(lambda: amtool(url) == [], 20))
        hook.wait_for(2, 20)
        assert json.loads(hook.requests[-1].body)["status"] == "resolved"


def _same_shape_as_ours(house: House, theirs: dict[str, Any]) -> None:
    """Our webhook, of the same alert, has what Alertmanager's has, of the same types."""
    with receiving() as consumer:
        house.endpoint(consumer, format="alertmanager", filters={"models": ["other"]})
        house.happen({"id": "al_2", "model": "other"})
        house.drain()
        ours = json.loads(consumer.requests[0].body)
    for document in (ours, theirs):
        for free in ("groupLabels", "commonLabels", "commonAnnotations"):
            assert all(isinstance(value, str) for value in document.pop(free).values())
        for alert in document["alerts"]:
            for free in ("labels", "annotations"):
                assert all(isinstance(value, str) for value in alert.pop(free).values())
    assert shape(ours) == shape(theirs)
    assert ours["version"] == theirs["version"] == "4"
    assert ours["status"] == theirs["status"] == "firing"
    assert ours["alerts"][0]["endsAt"] == theirs["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"
    assert len(ours["alerts"][0]["fingerprint"]) == len(theirs["alerts"][0]["fingerprint"]) == 16


def test_a_test_event_is_shown_too(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, egress_allow=("127.0.0.0/8",), egress_http=True)
    app = create_app(settings)
    key = app.state.services.keys.create("acme", [Scope.ADMIN])
    with (
        receiving() as hook,
        alertmanager(tmp_path, hook.url) as url,
        TestClient(app, headers={"authorization": f"Bearer {key}"}) as client,
    ):
        stated = {"url": f"{url}/api/v2/alerts", "format": "alertmanager"}
        made = client.post("/v1/endpoints", json=stated).json()
        client.post(f"/v1/endpoints/{made['id']}/test")
        asyncio.run(until(lambda: len(amtool(url)) == 1, 20))
        assert amtool(url)[0]["labels"]["alertname"] == "SlicewatchTest"


def test_a_prometheus_shows_what_became_of_deliveries(tmp_path: Path) -> None:
    server = Server(tmp_path, egress_allow="127.0.0.0/8", egress_http="true")
    with ended(server), receiving() as receiver:
        server.start()
        stated = json.dumps({"url": receiver.url})
        made = server.post("/v1/endpoints", stated, **{"content-type": "application/json"}).json()
        server.post(f"/v1/endpoints/{made['id']}/test", "")
        receiver.wait_for(1)
        target = server.url.removeprefix("http://")
        settings = tmp_path / "prometheus.yml"
        settings.write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n"
            f"- {{job_name: slicewatch, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
        url = f"http://127.0.0.1:{free_port()}"
        command = [
            "prometheus",
            f"--config.file={settings}",
            f"--storage.tsdb.path={tmp_path / 'prometheus'}",
            f"--web.listen-address={url.removeprefix('http://')}",
        ]
        with running(command, url, "/-/ready"):
            query = 'slicewatch_deliveries_total{result="delivered"}'
            asyncio.run(until(lambda: _value(url, query) == "1", 30))
            assert _value(url, "slicewatch_deliveries_waiting") == "0"
            assert _value(url, "slicewatch_endpoints_disabled_total") == "0"


def _value(url: str, query: str) -> str | None:
    """What Prometheus answers, where there is one series."""
    answer = httpx2.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False).json()
    found = answer["data"]["result"]
    return str(found[0]["value"][1]) if found else None
