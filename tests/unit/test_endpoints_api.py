"""`/v1/endpoints`: made, changed, tested, replayed and deleted by their tenant's keys alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.app import create_app
from service.keys import Scope
from service.limits import ENDPOINTS
from service.notify import lanes, outbox
from service.notify.lanes import Attempt, Verdict
from service.notify.outbox import DeliveryState
from service.settings import Settings
from tests.api import client, services
from tests.builders import NOW, ManualClock, a_transition

URL = "https://hooks.example/alerts"
PATHS = [
    ("GET", "/v1/endpoints"),
    ("POST", "/v1/endpoints"),
    ("GET", "/v1/endpoints/{id}"),
    ("PATCH", "/v1/endpoints/{id}"),
    ("DELETE", "/v1/endpoints/{id}"),
    ("POST", "/v1/endpoints/{id}/rotate"),
    ("POST", "/v1/endpoints/{id}/pause"),
    ("POST", "/v1/endpoints/{id}/resume"),
    ("POST", "/v1/endpoints/{id}/test"),
    ("GET", "/v1/endpoints/{id}/deliveries"),
    ("POST", "/v1/endpoints/{id}/deliveries/msg_1/replay"),
]
OF_ONE = [(method, path) for method, path in PATHS if "{id}" in path]
BODIES = {"POST": {"url": URL}, "PATCH": {"url": URL}}


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    """The real application; its engine is not started, and these routes do not need it."""
    app = create_app(Settings(data_dir=tmp_path, database_url=database_url), ManualClock())
    yield app
    services(app).database.close()


@pytest.fixture
def admin(app: FastAPI) -> TestClient:
    return client(app, Scope.ADMIN)


def create(admin: TestClient, **fields: object) -> dict[str, Any]:
    answer = admin.post("/v1/endpoints", json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    return cast(dict[str, Any], answer.json())


def enqueue(app: FastAPI, **changes: object) -> None:
    with services(app).database.write() as connection:
        outbox.enqueue(connection, a_transition(**changes), NOW)  # type: ignore[arg-type]


def attempt(app: FastAPI, status: int, verdict: Verdict) -> None:
    with services(app).database.write() as connection:
        (wanted,) = lanes.due(connection, NOW, 10)
        (leased,) = lanes.claim_all(connection, [wanted], NOW, NOW + 1)
        attempt = Attempt(NOW, status, "", 0.25)
        assert lanes.record(connection, leased, attempt, verdict, 10**12) is not None


# Making and reading


def test_a_new_endpoint_shows_its_secret_once(admin: TestClient) -> None:
    made = create(admin, filters={"severities": ["critical"]})
    assert made["secret"].startswith("whsec_")
    secret = made.pop("secret")
    assert made == {
        "id": made["id"],
        "url": URL,
        "format": "standard",
        "filters": {"severities": ["critical"]},
        "group": "incident",
        "also": [],
        "max_per_minute": 600,
        "quiet_hours": None,
        "headers": [],
        "client_certificate": None,
        "state": "active",
        "state_reason": None,
        "created_at": "2026-11-18T11:06:40Z",
    }
    shown = admin.get(f"/v1/endpoints/{made['id']}")
    assert shown.json() == made
    listed = admin.get("/v1/endpoints")
    assert listed.json() == {"endpoints": [made], "next": None}
    assert secret not in shown.text + listed.text


def test_list_is_paged_newest_first(app: FastAPI, admin: TestClient) -> None:
    clock = cast(ManualClock, services(app).clock)
    made = []
    for _ in range(5):
        made.append(create(admin)["id"])
        clock.advance(1)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = admin.get("/v1/endpoints", params={"limit": 2, **cursor}).json()
        seen += [endpoint["id"] for endpoint in page["endpoints"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == made[::-1]


@pytest.mark.parametrize("cursor", ["zz", "17", "1.a b", "1." + "a" * 65, "9" * 30 + ".a", "'--"])
def test_a_cursor_that_no_list_gave_is_refused(admin: TestClient, cursor: str) -> None:
    answer = admin.get("/v1/endpoints", params={"cursor": cursor})
    assert answer.status_code == 422
    assert cursor not in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": 7},
        {"url": "http://hooks.example/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://2130706433/"},
        {"url": "https://[::ffff:169.254.169.254]/"},
        {"url": "https://user:word@hooks.example/"},
        {"url": "https://hooks.example:22/"},
        {"url": "https://hooks.example/" + "a" * 5000},
        {"url": "https://hooks.example/\ud800"},
        {"url": URL, "format": "carrier-pigeon"},
        {"url": URL, "format": "pagerduty"},
        {"format": "slack"},
        {"url": URL, "routing_key": "R0"},
        {"url": URL, "group": "nobody"},
        {"url": URL, "also": ["gossip"]},
        {"format": "pagerduty", "routing_key": "R0", "also": ["digest.daily"]},
        {"url": URL, "max_per_minute": 0},
        {"url": URL, "max_per_minute": 601},
        {"url": URL, "headers": {"host": "elsewhere"}},
        {"url": URL, "headers": {"Webhook-Id": "msg_1"}},
        {"url": URL, "headers": {"x y": "1"}},
        {"url": URL, "headers": {"x": "a\r\nb"}},
        {"url": URL, "headers": {f"x-{i}": "1" for i in range(21)}},
        {"url": URL, "quiet_hours": {"from": "22:00"}},
        {"url": URL, "quiet_hours": {"from": "22:00", "until": "25:00"}},
        {"url": URL, "quiet_hours": {"from": "22:00", "until": "06:00", "timezone": "Mars/Base"}},
        {"url": URL, "client_certificate": {"certificate": "pem", "key": "pem"}},
        {"url": URL, "extra": 1},
        {"url": URL, "filters": {"extra": 1}},
        {"url": URL, "filters": {"kinds": ["sorrow"]}},
        {"url": URL, "filters": {"models": "speech"}},
        {"url": URL, "filters": {"models": [" "]}},
        {"url": URL, "filters": {"slices": [{}]}},
        {"url": URL, "filters": {"slices": [{"floor": 7}]}},
        {"url": URL, "filters": {"slices": [{"flo or": "7"}]}},
        {"url": URL, "filters": {"slices": [{"floor": "7"}] * 101}},
        {"url": URL, "filters": {"slices": [{"floor": "\ud800"}]}},
        [],
        "endpoint",
        None,
    ],
)
def test_a_body_that_breaks_a_rule_is_a_problem_that_echoes_nothing(
    admin: TestClient, body: object
) -> None:
    text = json.dumps(body)
    answer = admin.post("/v1/endpoints", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    for sent in (
        "carrier-pigeon",
        "sorrow",
        "user:word",
        "2130706433",
        "169.254",
        "flo or",
        "gossip",
        "Mars",
    ):
        assert sent not in answer.text
    assert admin.get("/v1/endpoints").json()["endpoints"] == []


def test_a_tenant_has_so_many_endpoints_and_no_more(app: FastAPI, admin: TestClient) -> None:
    for _ in range(ENDPOINTS.limit):
        create(admin)
    answer = admin.post("/v1/endpoints", json={"url": URL})
    assert answer.status_code == 413
    create(client(app, Scope.ADMIN, tenant="other"))


# Changing


def test_patch_changes_what_it_gives_and_leaves_the_rest(admin: TestClient) -> None:
    made = create(admin, filters={"models": ["a"]})
    path = f"/v1/endpoints/{made['id']}"
    changed = admin.patch(path, json={"url": "https://other.example/"}).json()
    assert (changed["url"], changed["filters"]) == ("https://other.example/", {"models": ["a"]})
    changed = admin.patch(path, json={"filters": {}}).json()
    assert (changed["url"], changed["filters"]) == ("https://other.example/", {})
    assert admin.patch(path, json={}).json() == changed


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "http://hooks.example/", "https://a:b@c.d/"])
def test_patch_checks_the_url_as_create_does(admin: TestClient, url: str) -> None:
    path = f"/v1/endpoints/{create(admin)['id']}"
    assert admin.patch(path, json={"url": url}).status_code == 422
    assert admin.get(path).json()["url"] == URL


def test_rotate_shows_a_new_secret(admin: TestClient) -> None:
    made = create(admin)
    rotated = admin.post(f"/v1/endpoints/{made['id']}/rotate").json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]


def test_pause_and_resume(admin: TestClient) -> None:
    path = f"/v1/endpoints/{create(admin)['id']}"
    assert admin.post(path + "/pause").json()["state"] == "paused"
    assert admin.post(path + "/test").status_code == 409
    assert admin.post(path + "/resume").json()["state"] == "active"
    assert admin.post(path + "/test").status_code == 202


def test_a_deleted_endpoint_is_not_found(admin: TestClient) -> None:
    path = f"/v1/endpoints/{create(admin)['id']}"
    assert admin.delete(path).status_code == 204
    assert admin.get(path).status_code == 404
    assert admin.delete(path).status_code == 404


# Deliveries


def test_deliveries_are_listed_with_every_attempt(app: FastAPI, admin: TestClient) -> None:
    path = f"/v1/endpoints/{create(admin)['id']}/deliveries"
    enqueue(app)
    attempt(app, 503, Verdict(DeliveryState.WAITING, NOW))
    attempt(app, 204, Verdict(DeliveryState.DELIVERED, NOW))
    (delivery,) = admin.get(path).json()["deliveries"]
    tried = [(each["number"], each["status"], each["seconds"]) for each in delivery["attempts"]]
    assert tried == [(1, 503, 0.25), (2, 204, 0.25)]
    assert (delivery["type"], delivery["alert"]) == ("alert.firing", "al_1")
    assert (delivery["state"], delivery["next_attempt_at"]) == ("delivered", None)

    replayed = admin.post(f"{path}/{delivery['id']}/replay")
    assert (replayed.status_code, replayed.json()["id"]) == (202, delivery["id"])
    (again,) = admin.get(path).json()["deliveries"]
    assert (again["id"], again["state"]) == (delivery["id"], "waiting")
    assert again["next_attempt_at"] == "2026-11-18T11:06:40Z"
    assert again["attempts"] == delivery["attempts"]


def test_a_test_delivery_is_among_them(admin: TestClient) -> None:
    path = f"/v1/endpoints/{create(admin)['id']}"
    id_ = admin.post(path + "/test").json()["id"]
    (delivery,) = admin.get(path + "/deliveries").json()["deliveries"]
    assert (delivery["id"], delivery["type"]) == (id_, "endpoint.test")
    assert (delivery["alert"], delivery["state"]) == (None, "waiting")


def test_deliveries_are_paged(app: FastAPI, admin: TestClient) -> None:
    path = f"/v1/endpoints/{create(admin)['id']}/deliveries"
    for i in range(5):
        enqueue(app, id=f"al_{i}")
    first = admin.get(path, params={"limit": 3}).json()
    rest = admin.get(path, params={"limit": 3, "cursor": first["next"]}).json()
    assert (len(first["deliveries"]), len(rest["deliveries"]), rest["next"]) == (3, 2, None)
    alerts = {each["alert"] for each in first["deliveries"] + rest["deliveries"]}
    assert alerts == {f"al_{i}" for i in range(5)}


# Who may


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_a_key_nothing_is_answered(app: FastAPI, method: str, path: str) -> None:
    answer = TestClient(app).request(method, path.format(id="ep_1"), json=BODIES.get(method))
    assert answer.status_code == 401


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_reader_may_look_and_an_ingester_may_not(app: FastAPI, method: str, path: str) -> None:
    id_ = create(client(app, Scope.ADMIN))["id"]
    read = client(app, Scope.READ).request(method, path.format(id=id_), json=BODIES.get(method))
    assert read.status_code == (200 if method == "GET" else 403)
    ingest = client(app, Scope.INGEST).request(method, path.format(id=id_), json=BODIES.get(method))
    assert ingest.status_code == 403


@pytest.mark.parametrize(("method", "path"), OF_ONE)
def test_someone_else_s_endpoint_answers_as_one_that_does_not_exist(
    app: FastAPI, admin: TestClient, method: str, path: str
) -> None:
    id_ = create(admin)["id"]
    body = BODIES["PATCH"] if method == "PATCH" else None
    other = client(app, Scope.ADMIN, tenant="other")
    theirs = other.request(method, path.format(id=id_), json=body)
    nobodys = other.request(method, path.format(id="ep_none"), json=body)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content
    assert admin.get(f"/v1/endpoints/{id_}").json()["state"] == "active"
