"""`/v1/alerts`: what the store holds, filtered, paged, with its history and who took it in hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.alerts.alert import Transition
from service.alerts.public import public_alert
from service.app import create_app
from service.engine.state_store import SqlStateStore
from service.keys import Scope
from service.monitor.findings import Kind, State
from service.notify.outbox import enqueue
from service.services import Services
from service.settings import Settings
from tests.builders import NOW, ManualClock, a_transition, an_alert

SECOND = 1_000_000


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    """The real application; its engine is not started, and these routes do not need it."""
    app = create_app(Settings(data_dir=tmp_path, database_url=database_url), ManualClock())
    yield app
    services(app).database.close()


def services(app: FastAPI) -> Services:
    return cast(Services, app.state.services)


def commit(app: FastAPI, *transitions: Transition) -> None:
    running = services(app)
    store = SqlStateStore(running.database, running.clock, enqueue)
    store.commit(store.claim(), transitions)


def client(app: FastAPI, *scopes: Scope, tenant: str = "acme") -> TestClient:
    key = services(app).keys.create(tenant, scopes)
    return TestClient(
        app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False
    )


@pytest.fixture
def reader(app: FastAPI) -> TestClient:
    return client(app, Scope.READ)


def ids(client: TestClient, params: Any = None) -> list[str]:
    answer = client.get("/v1/alerts", params=params)
    assert answer.status_code == 200, answer.text
    return [alert["id"] for alert in answer.json()["alerts"]]


def test_an_alert_reads_as_the_contract_has_it(app: FastAPI, reader: TestClient) -> None:
    commit(app, a_transition())
    shown = public_alert(an_alert())
    assert reader.get("/v1/alerts/al_1").json() == shown
    assert reader.get("/v1/alerts").json() == {"alerts": [shown], "next": None}


def test_alerts_are_listed_newest_first_a_page_at_a_time(app: FastAPI, reader: TestClient) -> None:
    # Two of one instant: the id decides, and neither is shown twice or skipped.
    at = {"al_a": 1, "al_b": 3, "al_c": 2, "al_d": 2, "al_e": 0}
    commit(app, *(a_transition(id=i, detected_at=NOW + s * SECOND) for i, s in at.items()))
    assert ids(reader) == ["al_b", "al_d", "al_c", "al_a", "al_e"]
    seen, cursor = [], None
    for _ in range(5):
        page = reader.get(
            "/v1/alerts", params={"limit": 1} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [alert["id"] for alert in page["alerts"]]
        cursor = page["next"]
    assert (seen, cursor) == (["al_b", "al_d", "al_c", "al_a", "al_e"], None)


def test_alerts_that_arrive_meanwhile_shift_no_page(app: FastAPI, reader: TestClient) -> None:
    commit(app, *(a_transition(id=f"al_{i}", detected_at=NOW + i) for i in range(4)))
    first = reader.get("/v1/alerts", params={"limit": 2}).json()
    commit(app, a_transition(id="al_new", detected_at=NOW + 100))
    assert ids(reader, {"limit": 2, "cursor": first["next"]}) == ["al_1", "al_0"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"state": "firing"}, ["al_2", "al_1"]),
        ({"state": "resolved"}, ["al_3"]),
        ([("state", "firing"), ("state", "resolved")], ["al_3", "al_2", "al_1"]),
        ({"model": "other"}, ["al_2"]),
        ({"kind": "error_rate"}, ["al_3"]),
        ({"kind": "silence"}, []),
        ({"since": "2026-11-18T11:06:42Z"}, ["al_3", "al_2"]),
        ({"since": "2026-11-18T12:06:42.000001+01:00"}, ["al_3"]),
        ({"since": "1795000003"}, ["al_3"]),
        ({"since": "9999-12-31T23:59:59Z"}, []),
        ({"since": "0001-01-01T00:00:00+23:59"}, ["al_3", "al_2", "al_1"]),
        ({"state": "firing", "model": "transcribe-medical"}, ["al_1"]),
    ],
)
def test_filters(app: FastAPI, reader: TestClient, params: Any, expected: Sequence[str]) -> None:
    commit(
        app,
        a_transition(id="al_1", detected_at=NOW + 1 * SECOND),
        a_transition(id="al_2", detected_at=NOW + 2 * SECOND, model="other"),
        a_transition(
            id="al_3",
            detected_at=NOW + 3 * SECOND,
            kind=Kind.ERROR_RATE,
            state=State.RESOLVED,
            resolved_at=NOW + 3 * SECOND,
        ),
    )
    assert ids(reader, params) == expected


@pytest.mark.parametrize(
    "params",
    [
        {"state": "muted"},
        {"kind": "sorrow"},
        {"model": "no\x00model"},
        {"since": "yesterday"},
        {"since": "2026-11-18T11:06:42"},
        {"limit": "0"},
        {"limit": "1001"},
        {"cursor": "sorrow"},
    ],
)
def test_a_filter_that_means_nothing_is_a_problem_that_echoes_nothing(
    reader: TestClient, params: dict[str, str]
) -> None:
    answer = reader.get("/v1/alerts", params=params)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    for sent in ("muted", "sorrow", "no\x00model", "yesterday", "11:06:42"):
        assert sent not in answer.json()["detail"]


def test_history_is_every_change_oldest_first(app: FastAPI, reader: TestClient) -> None:
    commit(
        app,
        a_transition("alert.firing", reason="it widened"),
        a_transition("alert.revised", at=NOW + SECOND, reason="more labels", revision=2),
        a_transition("alert.resolved", at=NOW + 2 * SECOND, revision=3, state=State.RESOLVED),
    )
    answer = reader.get("/v1/alerts/al_1/history").json()
    assert answer["next"] is None
    told = [(each["revision"], each["type"], each["at"]) for each in answer["history"]]
    assert told == [
        (1, "alert.firing", "2026-11-18T11:06:40Z"),
        (2, "alert.revised", "2026-11-18T11:06:41Z"),
        (3, "alert.resolved", "2026-11-18T11:06:42Z"),
    ]
    assert answer["history"][0]["reason"] == "it widened"
    assert answer["history"][0]["alert"] == public_alert(an_alert())
    assert [each["alert"]["state"] for each in answer["history"]][2] == "resolved"
    second = reader.get("/v1/alerts/al_1/history", params={"limit": 1, "cursor": "1.al_1"}).json()
    assert [each["revision"] for each in second["history"]] == [2]


def test_evidence_is_the_figures_and_how_they_came_to_be(app: FastAPI, reader: TestClient) -> None:
    commit(app, a_transition(), a_transition("alert.revised", revision=2))
    shown = public_alert(an_alert())
    answer = reader.get("/v1/alerts/al_1/evidence").json()
    assert (answer["effect"], answer["evidence"]) == (shown["effect"], shown["evidence"])
    assert [each["revision"] for each in answer["history"]] == [1, 2]
    assert answer["history"][0]["effect"] == shown["effect"]


def test_an_acknowledgement_says_who_and_outlives_the_alert_s_changes(
    app: FastAPI, reader: TestClient
) -> None:
    commit(app, a_transition())
    admin = client(app, Scope.ADMIN)
    key = next(key for key in services(app).keys.list("acme") if Scope.ADMIN in key.scopes)
    answer = admin.post("/v1/alerts/al_1/acknowledge", json={"comment": "on my way"})
    taken = {"by": key.id, "at": "2026-11-18T11:06:40Z", "comment": "on my way"}
    assert answer.json() == {**public_alert(an_alert()), "acknowledged": taken}
    commit(app, a_transition("alert.revised", revision=2))
    now = reader.get("/v1/alerts/al_1").json()
    assert (now["revision"], now["state"], now["acknowledged"]) == (2, "firing", taken)


def test_the_newest_acknowledgement_stands_and_needs_no_body(app: FastAPI) -> None:
    commit(app, a_transition())
    admin = client(app, Scope.ADMIN)
    admin.post("/v1/alerts/al_1/acknowledge", json={"comment": "on my way"})
    again = admin.post("/v1/alerts/al_1/acknowledge")
    assert again.json()["acknowledged"]["comment"] == ""


@pytest.mark.parametrize("body", [{"comment": "a" * 2001}, {"comment": 7}, {"by": "me"}, [], 7])
def test_an_acknowledgement_is_a_comment_and_nothing_else(app: FastAPI, body: object) -> None:
    commit(app, a_transition())
    admin = client(app, Scope.ADMIN)
    assert admin.post("/v1/alerts/al_1/acknowledge", json=body).status_code == 422
    assert admin.get("/v1/alerts/al_1").json()["acknowledged"] is None


ROUTES = [
    ("GET", "/v1/alerts/{id}"),
    ("GET", "/v1/alerts/{id}/history"),
    ("GET", "/v1/alerts/{id}/evidence"),
    ("POST", "/v1/alerts/{id}/acknowledge"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_someone_else_s_alert_answers_as_one_that_does_not_exist(
    app: FastAPI, method: str, path: str
) -> None:
    commit(app, a_transition())
    other = client(app, Scope.ADMIN, tenant="other")
    theirs = other.request(method, path.format(id="al_1"))
    nobodys = other.request(method, path.format(id="al_none"))
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content
    assert ids(other) == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/alerts"), *ROUTES])
def test_scopes(app: FastAPI, method: str, path: str) -> None:
    commit(app, a_transition())
    path = path.format(id="al_1")
    assert TestClient(app).request(method, path).status_code == 401
    assert client(app, Scope.INGEST).request(method, path).status_code == 403
    read = client(app, Scope.READ).request(method, path)
    assert read.status_code == (200 if method == "GET" else 403)
    assert client(app, Scope.ADMIN).request(method, path).status_code == 200
