"""Who gets in: every route × eight kinds of key, and nothing of one tenant is read by another.

The rows are held against the app's own routes: a route without a row fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.routing import BaseRoute

from service.app import create_app
from service.clock import SystemClock, to_rfc3339
from service.engine.state_store import SqlStateStore
from service.keys import Scope
from service.services import Services
from service.settings import Settings
from service.tenants import Tenants
from tests.builders import a_transition
from tests.figures import Figures

CANARY: Final = "canary7731"
ABSENT: Final = "absent"


class KeyKind(StrEnum):
    """The eight kinds of key that a request may come with."""

    NONE = "none"
    UNKNOWN = "unknown"  # well formed, and nobody's
    REVOKED = "revoked"
    DISABLED = "disabled"  # its tenant is
    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"
    FOREIGN = "foreign"  # another tenant's, with every scope


NOBODYS: Final = {
    KeyKind.NONE: 401,
    KeyKind.UNKNOWN: 401,
    KeyKind.REVOKED: 401,
    KeyKind.DISABLED: 403,
}
WRITES, READS, MANAGES = frozenset({"ingest"}), frozenset({"read", "admin"}), frozenset({"admin"})


MODELS: Final = {"models": ["theirs"]}
ENDS: Final = "2099-01-01T00:00:00Z"
SILENCE: Final = {  # an hour of them, by the clock of whoever runs this
    "matcher": {"models": [f"{CANARY}/model"]},
    "ends_at": to_rfc3339(SystemClock().now() + 3_600_000_000),
    "reason": f"{CANARY} reason",
}
RANGE: Final = {"since": "2020-01-01T00:00:00Z", "until": ENDS}


@dataclass(frozen=True)
class Row:
    """What a route asks for, and how to call it."""

    scopes: frozenset[str]
    body: Any = None
    query: str = ""  # what else the path asks for
    is_whose: str | None = None  # the path names an object of a tenant: alert, endpoint, model


ROWS: Final = {
    ("POST", "/v1/events"): Row(WRITES, [{"id": "r", "model": "m", "output": "y"}]),
    ("POST", "/v1/logs"): Row(WRITES, {"resourceLogs": []}),
    ("POST", "/v1/cloudevents"): Row(WRITES, []),
    ("GET", "/v1/rejected"): Row(READS),
    ("GET", "/v1/models"): Row(READS),
    ("GET", "/v1/models/{model:path}"): Row(READS, is_whose="model"),
    ("GET", "/v1/models/{model:path}/slices"): Row(READS, is_whose="model"),
    ("GET", "/v1/models/{model:path}/label-plan"): Row(READS, is_whose="model", query="?budget=9"),
    ("GET", "/v1/models/{model:path}/compare"): Row(
        READS, is_whose="model", query=f"?versions={CANARY}-v,{CANARY}-w"
    ),
    ("PUT", "/v1/models/{model:path}"): Row(MANAGES, {}),  # makes the caller's own
    ("PUT", "/v1/models/{model:path}/reference"): Row(MANAGES, [{"id": "x", "model": "m"}]),
    ("GET", "/v1/alerts"): Row(READS),
    ("GET", "/v1/alerts/{alert_id}"): Row(READS, is_whose="alert"),
    ("GET", "/v1/alerts/{alert_id}/history"): Row(READS, is_whose="alert"),
    ("GET", "/v1/alerts/{alert_id}/evidence"): Row(READS, is_whose="alert"),
    ("POST", "/v1/alerts/{alert_id}/acknowledge"): Row(MANAGES, {}, is_whose="alert"),
    ("DELETE", "/v1/alerts/{alert_id}/acknowledge"): Row(MANAGES, is_whose="alert"),
    ("POST", "/v1/silences"): Row(MANAGES, {**SILENCE, "reason": "theirs", "matcher": MODELS}),
    ("GET", "/v1/silences"): Row(READS),
    ("GET", "/v1/silences/{silence_id}"): Row(READS, is_whose="silence"),
    ("POST", "/v1/endpoints"): Row(MANAGES, {"url": "https://receiver.example/other"}),
    ("GET", "/v1/endpoints"): Row(READS),
    ("GET", "/v1/endpoints/{endpoint_id}"): Row(READS, is_whose="endpoint"),
    ("PATCH", "/v1/endpoints/{endpoint_id}"): Row(MANAGES, {}, is_whose="endpoint"),
    ("POST", "/v1/endpoints/{endpoint_id}/rotate"): Row(MANAGES, is_whose="endpoint"),
    ("POST", "/v1/endpoints/{endpoint_id}/pause"): Row(MANAGES, is_whose="endpoint"),
    ("POST", "/v1/endpoints/{endpoint_id}/resume"): Row(MANAGES, is_whose="endpoint"),
    ("POST", "/v1/endpoints/{endpoint_id}/test"): Row(MANAGES, is_whose="endpoint"),
    ("GET", "/v1/endpoints/{endpoint_id}/deliveries"): Row(READS, is_whose="endpoint"),
    ("POST", "/v1/endpoints/{endpoint_id}/deliveries/{delivery_id}/replay"): Row(
        MANAGES, is_whose="endpoint"
    ),
    ("POST", "/v1/endpoints/{endpoint_id}/replay"): Row(MANAGES, RANGE, is_whose="endpoint"),
    ("GET", "/v1/audit"): Row(MANAGES),
    ("GET", "/"): Row(READS),  # pages, which take a key's header as well as a cookie
    ("GET", "/models/{model:path}"): Row(READS, is_whose="model"),
    ("GET", "/alerts/{alert_id}"): Row(READS, is_whose="alert"),
    # Last: what it deletes is there for the others.
    ("DELETE", "/v1/silences/{silence_id}"): Row(MANAGES, is_whose="silence"),
    ("DELETE", "/v1/endpoints/{endpoint_id}"): Row(MANAGES, is_whose="endpoint"),
}
OPEN: Final = frozenset({"/livez", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect"})
# A form is taken from our own pages alone, with a session: the pages' tests ask as browsers do.
FORMS: Final = frozenset({"/sign-in", "/sign-out", "/alerts/{alert_id}/acknowledge"})
OPEN_TO_THE_OPERATOR: Final = frozenset({"/metrics"})  # by `metrics_token`, no tenant's key
_HIDDEN: Final = frozenset({"/redoc"})


@dataclass
class House:
    """A service with two tenants, one of which has something in every field."""

    client: TestClient
    running: Services
    keys: dict[KeyKind, str]
    ids: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, row: Row, kind: KeyKind, ids: dict[str, str]) -> Any:
        """The answer to a route, called with a kind of key about an object."""
        headers = {"content-type": "application/json"}
        if kind is not KeyKind.NONE:
            headers["authorization"] = f"Bearer {self.keys[kind]}"
        content = None if row.body is None else json.dumps(row.body)
        return self.client.request(
            method, at(path, ids) + row.query, content=content, headers=headers
        )


def at(path: str, ids: dict[str, str]) -> str:
    """The path with its parameters filled in."""
    for parameter, whose in (
        ("{model:path}", "model"),
        ("{alert_id}", "alert"),
        ("{endpoint_id}", "endpoint"),
        ("{delivery_id}", "delivery"),
        ("{silence_id}", "silence"),
    ):
        path = path.replace(parameter, ids[whose])
    return path


def walked(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Methods and paths of all routes, those of included routers too."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from walked(router.routes)
            continue
        for method in getattr(route, "methods", None) or ():
            if method != "HEAD":
                yield method, route.path  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("service"), metrics_token=SecretStr("operator")
    )
    app = create_app(settings)
    running: Services = app.state.services
    made = {
        KeyKind.UNKNOWN: f"sw_{'0' * 16}_{'A' * 43}",
        KeyKind.REVOKED: running.keys.create("acme", Scope),
        KeyKind.DISABLED: running.keys.create("closed", Scope),
        KeyKind.INGEST: running.keys.create("acme", [Scope.INGEST]),
        KeyKind.READ: running.keys.create("acme", [Scope.READ]),
        KeyKind.ADMIN: running.keys.create("acme", [Scope.ADMIN]),
        KeyKind.FOREIGN: running.keys.create("other", Scope),
    }
    running.keys.revoke(made[KeyKind.REVOKED].split("_")[1])
    Tenants(running.database, running.clock).disable("closed")
    with TestClient(app) as client:
        house = House(client, running, made)
        fill(house)
        yield house


def fill(house: House) -> None:
    """Put the canary into every field that tenant acme has."""
    ingest = {"authorization": f"Bearer {house.keys[KeyKind.INGEST]}"}
    admin = {"authorization": f"Bearer {house.keys[KeyKind.ADMIN]}"}
    row = {
        "id": f"{CANARY}-id",
        "model": f"{CANARY}/model",
        "version": f"{CANARY}-v",
        "attributes": {f"{CANARY}_dimension": f"{CANARY} value"},
        "features": {f"{CANARY}_feature": f"{CANARY} value"},
        "output": f"{CANARY} output",
        "truth": f"{CANARY} truth",
        "cluster": f"{CANARY}-cluster",
    }
    newer = {**row, "id": f"{CANARY}-newer", "version": f"{CANARY}-w"}
    bad = {**row, "id": f"{CANARY}-bad", "time": "yesterday"}
    sent = house.client.post(
        "/v1/events",
        json=[row, newer, bad],
        headers={**ingest, "idempotency-key": f"{CANARY}-batch"},
    )
    assert sent.json()["accepted"] == 2
    endpoint = house.client.post(
        "/v1/endpoints", json={"url": f"https://receiver.example/{CANARY}"}, headers=admin
    ).json()
    store = SqlStateStore(house.running.database, SystemClock(), lambda *_: 0)
    transition = a_transition(tenant="acme", id="al_acme", model=f"{CANARY}/model", summary=CANARY)
    store.commit(house.running.engine._processor._epoch, [transition])
    acknowledged = house.client.post(
        "/v1/alerts/al_acme/acknowledge", json={"comment": CANARY}, headers=admin
    )
    assert acknowledged.status_code == 200
    tested = house.client.post(f"/v1/endpoints/{endpoint['id']}/test", headers=admin).json()
    silenced = house.client.post("/v1/silences", json=SILENCE, headers=admin).json()
    house.ids = {
        "model": f"{CANARY}/model",
        "alert": "al_acme",
        "endpoint": endpoint["id"],
        "delivery": tested["id"],
        "silence": silenced["id"],
    }


def test_every_route_has_a_row_and_every_row_a_route(house: House) -> None:
    app: Any = house.client.app
    there = {(m, p) for m, p in walked(app.routes) if p not in OPEN | OPEN_TO_THE_OPERATOR | FORMS}
    there = {(method, path) for method, path in there if path not in _HIDDEN}
    assert there == set(ROWS)


def test_the_walk_sees_a_new_route() -> None:
    from fastapi import APIRouter, FastAPI

    app, router = FastAPI(), APIRouter()
    router.add_api_route("/v1/new", lambda: None, methods=["POST"])
    app.include_router(router)
    assert ("POST", "/v1/new") in set(walked(app.routes)) - set(ROWS)


def expected(row: Row, kind: KeyKind) -> set[int]:
    """The statuses that a route may answer a kind of key with."""
    if kind in NOBODYS:
        return {NOBODYS[kind]}
    if kind is KeyKind.FOREIGN:
        return {404} if row.is_whose else {200, 201, 202, 204, 422}
    if kind.value not in row.scopes:
        return {403}
    return {200, 201, 202, 204, 409, 422}


def test_each_kind_of_key_opens_what_it_should_and_nothing_else(
    house: House, figures: Figures
) -> None:
    wrong = []
    n = 0
    for kind in KeyKind:
        for (method, path), row in ROWS.items():
            if kind is KeyKind.ADMIN and method == "DELETE":
                continue  # shown below, when all else is
            makes_its_own = kind is KeyKind.FOREIGN and not row.is_whose
            ids = {**house.ids, "model": "theirs"} if makes_its_own else house.ids
            answer = house.call(method, path, row, kind, ids)
            n += 1
            if answer.status_code not in expected(row, kind):
                wrong.append(f"{kind} {method} {path}: {answer.status_code}")
    figures("every route × 8 kinds of key", calls=n, routes=len(ROWS), wrong=len(wrong))
    assert wrong == []


def test_someone_elses_object_answers_exactly_as_one_that_is_not_there(house: House) -> None:
    absent = {whose: f"{ABSENT}{len(id_)}" for whose, id_ in house.ids.items()}
    for (method, path), row in ROWS.items():
        if row.is_whose:
            foreign = house.call(method, path, row, KeyKind.FOREIGN, house.ids)
            nobodys = house.call(method, path, row, KeyKind.FOREIGN, absent)
            assert foreign.status_code == nobodys.status_code == 404, (method, path)
            assert foreign.content == nobodys.content, (method, path)


def everything_read_as(house: House, kind: KeyKind) -> str:
    """All that a key can read: every GET, lists and acme's own objects."""
    answers = [
        house.call(method, path, row, kind, house.ids)
        for (method, path), row in ROWS.items()
        if method == "GET"
    ]
    return "\n".join(f"{dict(answer.headers)} {answer.text}" for answer in answers)


def test_no_canary_of_one_tenant_is_read_by_another(house: House, figures: Figures) -> None:
    others = everything_read_as(house, KeyKind.FOREIGN)
    own = everything_read_as(house, KeyKind.ADMIN)
    figures("canaries", seen_by_owner=own.count(CANARY), seen_by_another=others.count(CANARY))
    assert others.count(CANARY) == 0
    assert own.count(CANARY) > 10  # the control: they are there to be seen


def test_the_metrics_page_is_the_operators(house: House) -> None:
    for kind in (KeyKind.ADMIN, KeyKind.FOREIGN):
        headers = {"authorization": f"Bearer {house.keys[kind]}"}
        assert house.client.get("/metrics", headers=headers).status_code == 401
    assert house.client.get("/metrics").status_code == 401
    operator = {"authorization": "Bearer operator"}
    assert house.client.get("/metrics", headers=operator).status_code == 200


def test_what_is_open_to_all_says_nothing_of_anyone(house: House) -> None:
    for path in sorted(OPEN):
        answer = house.client.get(path)
        assert answer.status_code == 200 and CANARY not in answer.text, path


def test_the_owner_may_delete_what_nobody_else_could(house: House) -> None:
    path = "/v1/endpoints/{endpoint_id}"
    row = ROWS["DELETE", path]
    assert house.call("DELETE", path, row, KeyKind.ADMIN, house.ids).status_code == 204
