"""The composed application: health, metrics, problem documents, one server a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Body, FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, SecretStr

from service import problems
from service.app import create_app
from service.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NothingDecoded,
    RateLimited,
    TooLarge,
    TryLater,
    Unauthorized,
    UnsupportedMedia,
)
from service.ingest.events import Rejected
from service.metrics import Metrics
from service.services import Services
from service.settings import Settings


def settings(directory: Path) -> Settings:
    return Settings(data_dir=directory / "data")


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(settings(tmp_path))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_it_is_alive_and_ready_while_it_runs(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_it_is_alive_and_not_ready_before_and_after(app: FastAPI) -> None:
    outside = TestClient(app)
    assert outside.get("/livez").status_code == 200
    before = outside.get("/readyz")
    assert (before.status_code, before.json()["detail"]) == (503, "the service is starting")
    assert int(before.headers["retry-after"]) > 0
    with TestClient(app):
        pass
    assert outside.get("/livez").status_code == 200
    assert outside.get("/readyz").json()["detail"] == "the service is stopped"


def test_it_is_not_ready_while_the_disk_is_full(tmp_path: Path) -> None:
    full = settings(tmp_path).model_copy(update={"min_free_disk_bytes": 2**62})
    app = create_app(full)
    with TestClient(app) as client:
        running: Services = app.state.services

        async def submit() -> None:
            await running.engine.submit_control("configure/1", "acme", b"{}")

        with pytest.raises(TryLater):
            client.portal.call(submit)  # type: ignore[union-attr]
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200


def test_the_directory_is_its_owners_alone(client: TestClient, tmp_path: Path) -> None:
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_second_server_on_the_same_directory_does_not_start(
    client: TestClient, tmp_path: Path
) -> None:
    with (
        pytest.raises(Conflict, match="another server"),
        TestClient(create_app(settings(tmp_path))),
    ):
        pass


def test_the_directory_is_free_again_after_a_stop(app: FastAPI, tmp_path: Path) -> None:
    with TestClient(app):
        pass
    with TestClient(create_app(settings(tmp_path))) as again:
        assert again.get("/readyz").status_code == 200


def test_the_metrics_page_counts_answers_by_route(client: TestClient) -> None:
    client.get("/livez")
    client.get("/nowhere/of/mine")
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'slicewatch_requests_total{method="GET",route="/livez",status="200"} 1.0' in page.text
    assert 'slicewatch_requests_total{method="GET",route="other",status="404"} 1.0' in page.text
    assert "nowhere" not in page.text
    assert "slicewatch_ready 1.0" in page.text


def test_the_metrics_page_is_openmetrics_for_who_asks(client: TestClient) -> None:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    page = client.get("/metrics", headers=accept)
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert page.text.endswith("# EOF\n")


def test_the_metrics_page_asks_for_its_token_where_one_is_set(tmp_path: Path) -> None:
    guarded = settings(tmp_path).model_copy(update={"metrics_token": SecretStr("t0ken")})
    with TestClient(create_app(guarded)) as client:
        assert client.get("/metrics").status_code == 401
        wrong = {"authorization": "Bearer t0kem"}
        assert client.get("/metrics", headers=wrong).status_code == 401
        right = {"authorization": "Bearer t0ken"}
        assert client.get("/metrics", headers=right).status_code == 200


def test_the_api_documents_itself(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "Slicewatch"
    assert {"/livez", "/readyz", "/metrics"} <= set(document["paths"])
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v0/none", 404), ("DELETE", "/livez", 405)]
)
def test_even_the_routers_own_errors_are_problem_documents(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert set(document) == {"type", "title", "status", "detail"}
    assert path not in answer.text
    if status == 405:
        assert answer.headers["allow"] == "GET"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: int


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner | None = None
    by_name: dict[str, int] = {}


router = APIRouter()
RAISED: dict[str, Exception] = {
    "invalid": InvalidRequest("model: unknown"),
    "nothing": NothingDecoded("no row was good", [Rejected(0, "a", "time: not one")] * 150),
    "large": TooLarge("body: over 32 MiB"),
    "media": UnsupportedMedia("content-type: not taken"),
    "unauthorized": Unauthorized("no such key"),
    "forbidden": Forbidden("scope missing"),
    "absent": NotFound("no such alert"),
    "conflict": Conflict("it is there"),
    "later": TryLater("the queue is full", 7),
    "limited": RateLimited("over the rate", 9),
    "bug": ZeroDivisionError("canary-7731"),
}


@router.get("/raise/{name}")
async def raise_(name: str) -> None:
    raise RAISED[name]


@router.post("/checked")
async def checked(
    outer: Annotated[Outer, Body()], limit: Annotated[int, Query(le=1000)] = 1
) -> None:
    return None


@pytest.fixture
def failing() -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router)
    problems.install(app, Metrics())
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "status", "headers"),
    [
        ("invalid", 422, {}),
        ("nothing", 422, {}),
        ("large", 413, {}),
        ("media", 415, {}),
        ("unauthorized", 401, {"www-authenticate": "Bearer"}),
        ("forbidden", 403, {}),
        ("absent", 404, {}),
        ("conflict", 409, {}),
        ("later", 503, {"retry-after": "7"}),
        ("limited", 429, {"retry-after": "9"}),
        ("bug", 503, {"retry-after": "5"}),
    ],
)
def test_each_error_has_its_answer(
    failing: TestClient, name: str, status: int, headers: dict[str, str]
) -> None:
    answer = failing.get(f"/raise/{name}")
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["type"] == "about:blank" and document["title"] and document["detail"]
    assert headers.items() <= dict(answer.headers).items()
    assert "canary" not in answer.text


def test_a_body_of_refused_rows_says_which_and_how_many(failing: TestClient) -> None:
    document = failing.get("/raise/nothing").json()
    assert document["rejected"] == 150
    assert len(document["errors"]) == 100
    assert document["errors"][0] == {"index": 0, "id": "a", "reason": "time: not one"}


CANARY = "canary7731"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"inner": {"rows": CANARY}}, "body.inner.rows: "),
        ({"inner": {"rows": 1, CANARY: 2}}, "body.inner: "),
        ({CANARY: 1}, "body: "),
        ({"by_name": {CANARY: "x"}}, "body.by_name: "),
        ([CANARY], "body: "),
        (f'{{"inner": {CANARY}}}', "body: not JSON"),
    ],
)
def test_a_body_that_does_not_fit_is_told_by_field_and_never_echoed(
    failing: TestClient, body: object, named: str
) -> None:
    as_text = {"content": body, "headers": {"content-type": "application/json"}}
    answer = failing.post("/checked", **as_text if isinstance(body, str) else {"json": body})  # type: ignore[arg-type]
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(named)
    assert CANARY not in answer.text


def test_a_query_that_does_not_fit_is_told_by_name_and_never_echoed(failing: TestClient) -> None:
    answer = failing.post(f"/checked?limit={CANARY}", json={})
    assert answer.json()["detail"].startswith("query.limit: ")
    assert CANARY not in answer.text
