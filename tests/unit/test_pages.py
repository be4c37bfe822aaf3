"""The pages: who may see them, what they show, and that they show it literally."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.alerts.alert import Transition
from service.app import create_app
from service.engine.state_store import SqlStateStore
from service.evidence.answers import path_of_ours
from service.evidence.sign_in import COOKIE, MAX_FORM_BYTES
from service.keys import Scope
from service.monitor.findings import State
from service.notify.outbox import enqueue
from service.services import Services
from service.settings import Settings
from tests.builders import ManualClock, a_transition
from tests.rows import LATER, START

HTML = {"accept": "text/html,application/xhtml+xml;q=0.9"}
HOSTILE = "<script>alert(1)</script>"
HOUR_SECONDS = 3600
PAGES = ["/", "/models/m", "/alerts/al_1", "/v1/alerts/al_1/evidence"]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    """The real application; a test that needs the engine enters a client of it."""
    app = create_app(Settings(data_dir=tmp_path), ManualClock(LATER))
    yield app
    services(app).database.close()


def services(app: FastAPI) -> Services:
    return cast(Services, app.state.services)


def commit(app: FastAPI, *transitions: Transition) -> None:
    running = services(app)
    store = SqlStateStore(running.database, running.clock, enqueue)
    store.commit(store.claim(), transitions)


def a_key(app: FastAPI, *scopes: Scope, tenant: str = "acme") -> str:
    return services(app).keys.create(tenant, scopes or list(Scope))


def browser(app: FastAPI, key: str | None = None) -> TestClient:
    """A client that asks for pages and keeps cookies, signed in where it has a key."""
    client = TestClient(app, headers=HTML, follow_redirects=False, raise_server_exceptions=False)
    if key is not None:
        assert client.post("/sign-in", data={"key": key}).status_code == 303
    return client


def an_alert_of_running_rows(client: TestClient, key: str) -> str:
    """The id of an alert that the engine raised itself: floor 2 gets worse half-way."""
    draw = random.Random(3)
    rows = (
        {
            "id": f"r{i}",
            "model": "m",
            "time": START / 1e6 + i * 60,
            "output": "a",
            "truth": "b" if draw.random() < (0.9 if i > 2_000 and i % 4 == 2 else 0.1) else "a",
            "attributes": {"floor": str(i % 4), "wing": HOSTILE if i % 3 else "x"},
            "features": {"level": (i % 97) + (90 if i > 2_000 and i % 4 == 2 else 0)},
        }
        for i in range(4_000)
    )
    bearer = {"authorization": f"Bearer {key}", "accept": "application/json"}
    config = {"dimensions": ["floor", "wing"], "loss": "zero_one", "reference": {"rows": 1000}}
    client.put("/v1/models/m", json=config, headers=bearer).raise_for_status()
    body = "\n".join(json.dumps(row) for row in rows)
    client.post("/v1/events", content=body, headers=bearer).raise_for_status()
    alerts = client.get("/v1/alerts", headers=bearer).json()["alerts"]
    return next(str(a["id"]) for a in alerts if a["slice"] == {"floor": "2"})


def test_whoever_is_not_signed_in_is_sent_to_sign_in_and_back(app: FastAPI) -> None:
    client = browser(app)
    asked = client.get("/alerts/al_1?x=1")
    assert (asked.status_code, asked.headers["location"]) == (
        303,
        "/sign-in?next=%2Falerts%2Fal_1%3Fx%3D1",
    )
    page = client.get(asked.headers["location"])
    assert page.status_code == 200
    assert '<input type="hidden" name="next" value="/alerts/al_1?x=1">' in page.text
    answer = client.post("/sign-in", data={"key": a_key(app), "next": "/alerts/al_1?x=1"})
    assert answer.headers["location"] == "/alerts/al_1?x=1"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: FastAPI) -> None:
    key = a_key(app)
    cookie = browser(app).post("/sign-in", data={"key": key}).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert key.split("_")[2] not in cookie


def test_the_cookie_is_for_https_alone_where_people_come_by_https(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, public_url="https://watch.example"))
    cookie = browser(app).post("/sign-in", data={"key": a_key(app)}).headers["set-cookie"]
    assert "Secure" in cookie
    services(app).database.close()


@pytest.mark.parametrize("path", PAGES)
def test_who_does_not_ask_for_a_page_gets_a_problem_document(app: FastAPI, path: str) -> None:
    answer = TestClient(app).get(path, follow_redirects=False)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", PAGES)
def test_a_key_that_may_not_read_sees_nothing(app: FastAPI, path: str) -> None:
    answer = browser(app, a_key(app, Scope.INGEST)).get(path)
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")


def test_someone_else_s_alert_is_a_page_that_does_not_exist(app: FastAPI) -> None:
    commit(app, a_transition())
    theirs = browser(app, a_key(app, tenant="other"))
    for path in ("/alerts/al_1", "/v1/alerts/al_1/evidence"):
        assert theirs.get(path).status_code == 404
    assert "scottish" not in theirs.get("/").text


def test_signing_out_ends_the_session_and_not_only_the_cookie(app: FastAPI) -> None:
    client = browser(app, a_key(app))
    token = client.cookies[COOKIE]
    assert client.get("/").status_code == 200
    assert client.post("/sign-out").headers["location"] == "/sign-in"
    assert COOKIE not in client.cookies
    client.cookies.set(COOKIE, token)
    assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "http://testserver"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/alerts/al_1/acknowledge"])
def test_a_form_from_elsewhere_is_refused(app: FastAPI, path: str, headers: dict[str, str]) -> None:
    commit(app, a_transition())
    key = a_key(app)
    client = browser(app, key)
    assert client.post(path, data={"key": key}, headers=headers).status_code == 403
    shown = client.get("/v1/alerts/al_1", headers={"authorization": f"Bearer {key}"}).json()
    assert shown["acknowledged"] is None
    ours = client.post(path, data={"key": key}, headers={"origin": "http://testserver"})
    assert ours.status_code == 303  # the control


def test_a_form_too_large_or_odd_is_refused(app: FastAPI) -> None:
    client = browser(app)
    assert client.post("/sign-in", data={"key": "x" * MAX_FORM_BYTES}).status_code == 413
    assert client.post("/sign-in", content=b"\xff\xfe").status_code == 422
    assert client.post("/sign-in", content=b"&".join([b"a=b"] * 99)).status_code == 422


def test_a_wrong_key_is_told_so_without_being_shown_again(app: FastAPI) -> None:
    wrong = f"sw_{'0' * 16}_{'a' * 43}"
    answer = browser(app).post("/sign-in", data={"key": wrong, "next": "/alerts/al_1"})
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text and 'value="/alerts/al_1"' in answer.text
    assert wrong not in answer.text


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "", "/sign-out", "/a\nb"],
)
def test_nobody_is_led_away_after_signing_in(path: str) -> None:
    assert path_of_ours(path) == "/"


@pytest.mark.parametrize("path", ["/", "/alerts/al_1", "/models/a/b?days=7&show=all"])
def test_pages_of_ours_are_led_to(path: str) -> None:
    assert path_of_ours(path) == path


def test_a_link_of_another_site_comes_again_from_here(app: FastAPI) -> None:
    answer = browser(app).get("/alerts/al_1", headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, answer.headers["refresh"]) == (200, "0; url=/alerts/al_1")


def test_every_page_forbids_what_it_does_not_need(app: FastAPI) -> None:
    key = a_key(app)
    with browser(app, key) as client:
        alert = an_alert_of_running_rows(client, key)
        for path in ["/", "/models/m", f"/alerts/{alert}", "/sign-in", "/alerts/al_none"]:
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self'; ") and "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<script|<style|\sstyle=|\son\w+=", answer.text), path
            assert set(re.findall(r'(?:src|href)="(?!/|#)([^"]*)', answer.text)) == set()


def test_the_first_page_names_who_is_hurt_worst_first_and_what_it_explains(app: FastAPI) -> None:
    commit(
        app,
        a_transition(id="al_a", slice=(("floor", "3"),), fingerprint="a" * 32),
        a_transition(id="al_b", slice=(("floor", "9"),), fingerprint="b" * 32, explains=("al_c",)),
        a_transition(
            id="al_c", slice=(("floor", "9x"),), fingerprint="c" * 32, explained_by="al_b"
        ),
        a_transition(
            id="al_d", slice=(("floor", "0"),), state=State.RESOLVED, fingerprint="d" * 32
        ),
    )
    page = browser(app, a_key(app)).get("/").text
    heads = re.findall(r'<h2 class="name"><a href="/alerts/(\w+)"', page)
    assert sorted(heads) == ["al_a", "al_b"]
    assert "2 open incidents, worst first" in page
    assert "/alerts/al_c" in page and "/alerts/al_d" in page


def test_the_first_page_says_when_nobody_is_hurt(app: FastAPI) -> None:
    with browser(app, a_key(app)) as client:
        assert "Nobody is getting worse than the others" in client.get("/").text


def test_an_alert_is_shown_while_the_engine_starts(app: FastAPI) -> None:
    commit(app, a_transition())
    client = browser(app, a_key(app))  # nobody started the engine
    page = client.get("/alerts/al_1")
    assert page.status_code == 200
    assert "scottish" in page.text and "The service is starting" in page.text
    assert client.get("/models/m").status_code == 503


def test_evidence_is_json_unless_a_page_is_asked_for(app: FastAPI) -> None:
    key = a_key(app)
    with browser(app, key) as client:
        alert = an_alert_of_running_rows(client, key)
        path, bearer = f"/v1/alerts/{alert}/evidence", {"authorization": f"Bearer {key}"}
        assert client.get(path).text.startswith("<!doctype html>")
        for accept in ("*/*", "application/json", "application/json, text/html"):
            answer = client.get(path, headers={"accept": accept, **bearer})
            assert answer.headers["content-type"] == "application/json"
        evidence: dict[str, Any] = answer.json()
        told = client.get(f"/v1/alerts/{alert}", headers=bearer).json()
    assert {name: evidence[name] for name in told} == told
    course = evidence["course"]
    assert sum(course["slice"]["rows"]) + sum(course["rest"]["rows"]) == 4_000
    assert len(course["at"]) == len(course["slice"]["loss"]) == len(course["rest"]["due"])
    assert evidence["gap"]["since"]["gap"] > evidence["gap"]["before"]["gap"] + 0.3
    assert evidence["inputs"][0]["feature"] == "level"
    assert evidence["inputs"][0]["distance"] > 0.3 > evidence["inputs"][0]["rest_distance"]
    labelling = evidence["labelling"]
    assert labelling["since"]["rows"] == labelling["since"]["labels"] > 0
    assert evidence["history"][0]["type"] == "alert.firing"


def test_names_are_shown_literally(app: FastAPI) -> None:
    key = a_key(app)
    with browser(app, key) as client:
        alert = an_alert_of_running_rows(client, key)
        for path in ("/models/m?show=all", f"/alerts/{alert}"):
            assert HOSTILE not in client.get(path).text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in client.get("/models/m?show=all").text


def test_a_hostile_slice_and_summary_are_shown_literally(app: FastAPI) -> None:
    commit(app, a_transition(slice=(("wing", HOSTILE),), summary=f"It rose for {HOSTILE}."))
    client = browser(app, a_key(app))
    for path in ("/", "/alerts/al_1"):
        page = client.get(path).text
        assert HOSTILE not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_heat_map_shows_who_is_worse_than_due_and_links_to_the_alert(app: FastAPI) -> None:
    key = a_key(app)
    with browser(app, key) as client:
        alert = an_alert_of_running_rows(client, key)
        page = client.get("/models/m").text
        rows = re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", page, re.DOTALL)
        floor = {n: next(r for r in rows if re.search(rf">{n}(</a>)?</th>", r)) for n in "0123"}
        assert f"/alerts/{alert}" in floor["2"]
        worse = {n: len(re.findall(r'<rect class="worse-4"', floor[n])) for n in "0123"}
        # 16 spans since the onset: of 30 rows each 27 are wrong there, and 3 elsewhere
        assert worse["2"] > 10 > 5 > max(worse[n] for n in "013")
        for query in ("days=1", "dimension=floor", "show=all&start=10", "down=floor&across=wing"):
            assert client.get(f"/models/m?{query}").status_code == 200
        for query in ("days=0", "days=x", "dimension=none", "start=-1", "show=some"):
            answer = client.get(f"/models/m?{query}")
            assert answer.status_code in (404, 422)
            assert "none" not in re.sub(r"<head>.*</head>", "", answer.text, flags=re.DOTALL)


def test_small_slices_are_for_the_tenant_s_admins_alone(app: FastAPI) -> None:
    key, reader = a_key(app), a_key(app, Scope.READ)
    with browser(app, key) as admin:
        rows = "\n".join(
            json.dumps(
                {
                    "id": f"s{i}",
                    "model": "m",
                    "time": START / 1e6 + i * 60,
                    "output": "a",
                    "truth": "a",
                    "attributes": {"floor": "rare" if i < 5 else "usual"},
                }
            )
            for i in range(200)
        )
        bearer = {"authorization": f"Bearer {key}"}
        admin.put("/v1/models/m", json={"dimensions": ["floor"]}, headers=bearer)
        admin.post("/v1/events", content=rows, headers=bearer).raise_for_status()
        assert "rare" in admin.get("/models/m").text
        shown = browser(app, reader).get("/models/m").text
        assert "usual" in shown and "rare" not in shown


def test_taking_in_hand_needs_a_key_that_may_and_is_seen_at_once(app: FastAPI) -> None:
    commit(app, a_transition())
    reader, admin = browser(app, a_key(app, Scope.READ)), browser(app, a_key(app))
    path, note = "/alerts/al_1/acknowledge", {"comment": f"mine {HOSTILE}"}
    assert "Take it in hand" not in reader.get("/alerts/al_1").text
    assert reader.post(path, data=note).status_code == 403
    assert admin.post(path, data=note).headers["location"] == "/alerts/al_1"
    page = reader.get("/alerts/al_1").text
    assert "mine &lt;script&gt;" in page and HOSTILE not in page


def test_the_style_sheet_and_the_icon_are_ours(app: FastAPI) -> None:
    client = browser(app)
    style = client.get("/static/slicewatch.css")
    assert style.headers["content-type"].startswith("text/css")
    assert not re.search(r"@import|url\(", style.text)
    assert client.get("/static/icon.svg").headers["content-type"] == "image/svg+xml"
    assert client.get("/static/../answers.py").status_code == 404
