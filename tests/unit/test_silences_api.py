"""`/v1/silences`: made, listed and ended by their tenant's keys; seen in the alerts they mute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.state_store import SqlStateStore
from service.keys import Scope
from service.notify.outbox import enqueue
from service.settings import Settings
from tests.api import client, services
from tests.builders import ManualClock, a_transition

SILENCE: dict[str, Any] = {
    "matcher": {"slices": [{"floor": "7"}]},
    "ends_at": "2026-11-18T12:06:40Z",  # it is 11:06:40
    "reason": "painters",
}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    """The real application; its engine is not started, and these routes do not need it."""
    app = create_app(Settings(data_dir=tmp_path), ManualClock())
    yield app
    services(app).database.close()


@pytest.fixture
def admin(app: FastAPI) -> TestClient:
    return client(app, Scope.ADMIN)


def create(admin: TestClient, **changes: Any) -> dict[str, Any]:
    answer = admin.post("/v1/silences", json={**SILENCE, **changes})
    assert answer.status_code == 201, answer.text
    return cast(dict[str, Any], answer.json())


def happen(app: FastAPI, **changes: Any) -> None:
    running = services(app)
    store = SqlStateStore(running.database, running.clock, enqueue)
    store.commit(store.claim(), [a_transition(**changes)])


def test_a_silence_says_what_when_who_and_why(app: FastAPI, admin: TestClient) -> None:
    made = create(admin)
    key_id = admin.headers["authorization"].split("_")[1]
    assert made == {
        "id": made["id"],
        "matcher": {"slices": [{"floor": "7"}]},
        "starts_at": "2026-11-18T11:06:40Z",
        "ends_at": "2026-11-18T12:06:40Z",
        "hours": None,
        "state": "active",
        "author": key_id,
        "reason": "painters",
        "created_at": "2026-11-18T11:06:40Z",
    }
    assert admin.get(f"/v1/silences/{made['id']}").json() == made
    assert admin.get("/v1/silences").json() == {"silences": [made], "next": None}
    assert admin.get("/v1/silences", params={"state": "expired"}).json()["silences"] == []


def test_a_silenced_alert_is_listed_and_says_by_what(app: FastAPI, admin: TestClient) -> None:
    happen(app)
    happen(app, id="al_2", slice=())
    made = create(admin, author="ann")
    listed = {each["id"]: each for each in admin.get("/v1/alerts").json()["alerts"]}
    assert listed["al_1"]["silenced_by"] == made["id"]
    assert listed["al_1"]["state"] == "firing"
    assert listed["al_2"]["silenced_by"] is None
    assert admin.get("/v1/alerts/al_1").json()["silenced_by"] == made["id"]
    assert admin.delete(f"/v1/silences/{made['id']}").status_code == 204
    assert admin.get("/v1/alerts/al_1").json()["silenced_by"] is None
    assert admin.get(f"/v1/silences/{made['id']}").json()["state"] == "expired"
    assert admin.delete(f"/v1/silences/{made['id']}").status_code == 204


def test_a_maintenance_window_holds_in_its_hours(app: FastAPI, admin: TestClient) -> None:
    happen(app)
    hours = {"days": ["wed"], "from": "12:00", "until": "13:00", "timezone": "UTC"}
    made = create(admin, hours=hours, ends_at="2027-01-01T00:00:00Z")
    assert made["hours"] == hours
    assert admin.get("/v1/alerts/al_1").json()["silenced_by"] is None
    cast(ManualClock, services(app).clock).advance(3600)
    assert admin.get("/v1/alerts/al_1").json()["silenced_by"] == made["id"]


@pytest.mark.parametrize(
    "changes",
    [
        {"matcher": {}},
        {"matcher": {"kinds": ["sorrow"]}},
        {"matcher": {"slices": [{"floor": "\ud800"}]}},
        {"ends_at": "2026-11-18T11:06:40Z"},
        {"ends_at": "2027-12-18T11:06:40Z"},
        {"ends_at": "2026-11-18T12:06:40"},
        {"ends_at": "soon"},
        {"starts_at": "2026-11-19T00:00:00Z"},
        {"reason": ""},
        {"reason": "a\x00b"},
        {"author": "x" * 201},
        {"hours": {"from": "12:00"}},
        {"extra": 1},
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(
    admin: TestClient, changes: dict[str, Any]
) -> None:
    answer = admin.post(
        "/v1/silences",
        content=json.dumps({**SILENCE, **changes}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422
    assert "sorrow" not in answer.text
    assert admin.get("/v1/silences").json()["silences"] == []


def test_an_acknowledgement_can_be_taken_back(app: FastAPI, admin: TestClient) -> None:
    happen(app)
    path = "/v1/alerts/al_1/acknowledge"
    assert admin.post(path, json={"comment": "on it"}).json()["acknowledged"]["comment"] == "on it"
    assert admin.delete(path).status_code == 204
    assert admin.get("/v1/alerts/al_1").json()["acknowledged"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/silences"),
        ("POST", "/v1/silences"),
        ("GET", "/v1/silences/{id}"),
        ("DELETE", "/v1/silences/{id}"),
    ],
)
def test_who_may(app: FastAPI, admin: TestClient, method: str, path: str) -> None:
    body = SILENCE if method == "POST" else None
    at = path.format(id=create(admin)["id"])
    assert TestClient(app).request(method, at, json=body).status_code == 401
    assert client(app, Scope.INGEST).request(method, at, json=body).status_code == 403
    reading = client(app, Scope.READ).request(method, at, json=body).status_code
    assert reading == (200 if method == "GET" else 403)
    if "{id}" in path:
        other = client(app, Scope.ADMIN, tenant="other").request(method, at)
        nobody = client(app, Scope.ADMIN, tenant="other").request(method, "/v1/silences/si_none")
        assert (other.status_code, other.content) == (404, nobody.content)
