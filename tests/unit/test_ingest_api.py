"""`POST /v1/events` and `GET /v1/rejected` of the whole application, answer by answer."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.ingest.bodies import IN_LOOP_BYTES
from service.ingest.routes import ERRORS_SHOWN
from service.keys import Scope
from service.services import Services
from service.settings import Settings

GOOD = {"id": "a", "model": "m", "output": 1, "time": "2026-03-02T10:00:00Z"}
BAD = {"id": "b", "model": "m", "output": 1, "confidence": 7}
CANARY = "canary-5e1f"


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    settings = Settings(data_dir=tmp_path, database_url=database_url)
    limits = {"max_body_bytes": 1 << 20, "max_rows_per_request": 2000}
    app = create_app(settings.model_copy(update=limits))
    with TestClient(app):
        yield app


def client(app: FastAPI, *scopes: Scope, tenant: str = "acme") -> TestClient:
    running = cast(Services, app.state.services)
    key = running.keys.create(tenant, scopes or (Scope.INGEST, Scope.READ))
    # Not entered: the application runs already.
    return TestClient(
        app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False
    )


@pytest.fixture
def acme(app: FastAPI) -> TestClient:
    return client(app)


def good(n: int, prefix: str = "row") -> list[dict[str, Any]]:
    return [{**GOOD, "id": f"{prefix}-{i}"} for i in range(n)]


def kept(client: TestClient, **params: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/rejected", params=params)
    assert answer.status_code == 200, answer.text
    return cast(list[dict[str, Any]], answer.json()["rejected"])


def test_rows_are_accepted_once_and_bad_ones_named(acme: TestClient) -> None:
    answer = acme.post("/v1/events", json=[GOOD, BAD, GOOD])
    assert answer.status_code == 200
    assert answer.json() == {
        "accepted": 1,
        "duplicates": 1,
        "rejected": 1,
        "errors": [{"index": 1, "id": "b", "reason": "confidence: must be between 0 and 1"}],
    }


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("identity", bytes),
        ("gzip, zstd", lambda body: zstandard.ZstdCompressor().compress(gzip.compress(body))),
    ],
)
def test_every_content_coding_is_taken(acme: TestClient, encoding: str, compress: Any) -> None:
    body = compress("\n".join(map(json.dumps, good(3))).encode())
    answer = acme.post("/v1/events", content=body, headers={"content-encoding": encoding})
    assert answer.json()["accepted"] == 3


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "application/json; charset=utf-8", "application/x-ndjson"),
        *("application/ndjson", "text/plain", "", "application/vnd.acme+json", "APPLICATION/JSON"),
    ],
)
def test_every_json_content_type_is_taken(acme: TestClient, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = acme.post("/v1/events", content=json.dumps(GOOD).encode(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/vnd.apache.arrow.file"},
        {"content-type": "multipart/form-data"},
        {"content-encoding": "br"},
        {"content-encoding": "gzip, gzip, gzip"},
    ],
)
def test_other_types_and_codings_are_415(acme: TestClient, headers: dict[str, str]) -> None:
    answer = acme.post("/v1/events", content=json.dumps(GOOD).encode(), headers=headers)
    assert (answer.status_code, problem(answer)["status"]) == (415, 415)


def problem(answer: Any) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    return cast(dict[str, Any], answer.json())


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b"[1, 2]", b"\xff\xfe{\x00}\x00"])
def test_a_body_without_rows_is_422(acme: TestClient, body: bytes) -> None:
    assert problem(acme.post("/v1/events", content=body))["status"] == 422
    assert kept(acme) == []


def test_a_body_of_bad_rows_is_422_and_names_and_keeps_them(acme: TestClient) -> None:
    answer = acme.post("/v1/events", json=[BAD] * (ERRORS_SHOWN + 1))
    document = problem(answer)
    assert (document["status"], document["rejected"]) == (422, ERRORS_SHOWN + 1)
    assert len(document["errors"]) == ERRORS_SHOWN
    assert len(kept(acme, limit=1000)) == ERRORS_SHOWN + 1


def test_damaged_compression_is_422(acme: TestClient) -> None:
    answer = acme.post("/v1/events", content=b"{}", headers={"content-encoding": "gzip"})
    assert problem(answer)["status"] == 422


def test_the_number_of_rejected_rows_is_exact_beyond_those_shown(acme: TestClient) -> None:
    answer = acme.post("/v1/events", json=[GOOD, *[BAD] * 150]).json()
    assert (answer["rejected"], len(answer["errors"])) == (150, ERRORS_SHOWN)


def test_a_body_over_the_limit_is_413_before_and_after_decompression(acme: TestClient) -> None:
    plain = b" " * ((1 << 20) + 1)
    assert problem(acme.post("/v1/events", content=plain))["status"] == 413
    bomb = acme.post(
        "/v1/events", content=gzip.compress(plain), headers={"content-encoding": "gzip"}
    )
    assert problem(bomb)["status"] == 413


def test_a_streamed_body_over_the_limit_is_413(acme: TestClient) -> None:
    endless = (b" " * 65_536 for _ in range(1000))
    assert problem(acme.post("/v1/events", content=endless))["status"] == 413


def test_too_many_rows_are_413(acme: TestClient) -> None:
    assert acme.post("/v1/events", json=good(2000)).status_code == 200
    assert problem(acme.post("/v1/events", json=good(2001)))["status"] == 413


def test_a_large_body_is_decoded_like_a_small_one(acme: TestClient) -> None:
    rows = [{**row, "output": "x" * 400} for row in good(1500)]
    body = json.dumps(rows).encode()
    assert len(body) > IN_LOOP_BYTES
    assert acme.post("/v1/events", content=body).json()["accepted"] == 1500


def test_without_a_key_it_is_401_and_without_the_scope_403(app: FastAPI, acme: TestClient) -> None:
    for method, path, scope in (("POST", "/v1/events", "read"), ("GET", "/v1/rejected", "ingest")):
        assert problem(TestClient(app).request(method, path))["status"] == 401
        assert problem(client(app, Scope(scope)).request(method, path))["status"] == 403


def test_a_retry_under_the_same_key_is_answered_alike(acme: TestClient) -> None:
    headers = {"idempotency-key": "batch-1"}
    first = acme.post("/v1/events", json=[GOOD, BAD], headers=headers)
    again = acme.post("/v1/events", json=[GOOD, BAD], headers=headers)
    quoted = acme.post("/v1/events", json=[GOOD, BAD], headers={"idempotency-key": '"batch-1"'})
    assert first.json()["accepted"] == 1
    assert first.json() == again.json() == quoted.json()
    assert len(kept(acme)) == 1


def test_a_retry_of_bad_rows_is_answered_alike_and_kept_once(acme: TestClient) -> None:
    answers = [
        acme.post("/v1/events", json=[BAD], headers={"idempotency-key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].json() == answers[1].json()
    assert len(kept(acme)) == 1


def test_a_key_used_for_another_body_is_422(acme: TestClient) -> None:
    headers = {"idempotency-key": "batch-1"}
    acme.post("/v1/events", json=[GOOD], headers=headers)
    answer = acme.post("/v1/events", json=[{**GOOD, "id": "other"}], headers=headers)
    assert problem(answer)["status"] == 422


@pytest.mark.parametrize("key", ["", " ", "a b", "a" * 201, '""', "caf\u00e9".encode()])
def test_a_key_that_is_not_visible_ascii_is_422(acme: TestClient, key: str | bytes) -> None:
    value = key.encode() if isinstance(key, str) else key
    answer = acme.post("/v1/events", json=[GOOD], headers=[(b"idempotency-key", value)])
    assert problem(answer)["status"] == 422


def test_an_application_that_does_not_run_yet_is_503(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    answer = client(app).post("/v1/events", json=[GOOD])
    assert problem(answer)["status"] == 503
    assert int(answer.headers["retry-after"]) > 0
    cast(Services, app.state.services).database.close()


def test_rejected_rows_are_listed_newest_request_first_and_paged(acme: TestClient) -> None:
    for request in range(3):
        rows = [{**BAD, "id": f"{request}-{row}"} for row in range(3)]
        acme.post("/v1/events", json=[{**GOOD, "id": f"good-{request}"}, *rows])
    page = acme.get("/v1/rejected", params={"limit": 2}).json()
    seen = page["rejected"]
    while page["next"]:
        params = {"limit": 2, "cursor": page["next"]}
        page = acme.get("/v1/rejected", params=params).json()
        seen += page["rejected"]
    expected = [f"{request}-{row}" for request in (2, 1, 0) for row in range(3)]
    assert [row["id"] for row in seen] == expected


def test_rejected_rows_can_be_asked_for_by_model(acme: TestClient) -> None:
    other = {**BAD, "id": "of-n", "model": "n"}
    nameless = {**BAD, "id": "nameless", "model": "<script>"}
    acme.post("/v1/events", json=[GOOD, BAD, other, nameless])
    assert [row["id"] for row in kept(acme, model="n")] == ["of-n"]
    assert [row["model"] for row in kept(acme)] == ["m", "n", None]


@pytest.mark.parametrize("cursor", ["x", "1", "1.x", "9" * 30 + ".1", "\u0661.\u0661"])
def test_a_cursor_that_no_list_gave_is_422(acme: TestClient, cursor: str) -> None:
    assert problem(acme.get("/v1/rejected", params={"cursor": cursor}))["status"] == 422


def test_a_tenant_sees_only_its_own_rejected_rows(app: FastAPI, acme: TestClient) -> None:
    acme.post("/v1/events", json=[GOOD, BAD])
    other = client(app, tenant="other")
    assert kept(other) == []
    assert other.post("/v1/events", json=[GOOD]).json()["accepted"] == 1  # ids are a tenant's own


@pytest.mark.parametrize(
    "body",
    [
        f"{CANARY}",
        f'{{"{CANARY}": "{CANARY}"}}',
        f'[{{"id": "{CANARY}\\u0000", "model": "{CANARY} x", "output": 1}}]',
        f'[{{"id": "a", "model": "m", "output": 1, "kind": "{CANARY}"}}]',
        f'[{{"id": "a", "model": "m", "output": 1, "features": {{"{CANARY} ": {{}}}}}}]',
    ],
)
def test_an_answer_never_echoes(acme: TestClient, body: str) -> None:
    headers = {"idempotency-key": "k", "content-type": "application/json"}
    answer = acme.post("/v1/events", content=body.encode(), headers=headers)
    assert answer.status_code == 422
    assert CANARY not in answer.text
    assert CANARY not in acme.get("/v1/rejected").text


def test_the_route_is_documented_with_its_fields_and_answers(app: FastAPI) -> None:
    operation = app.openapi()["paths"]["/v1/events"]["post"]
    content = operation["requestBody"]["content"]
    assert {"application/json", "application/x-ndjson"} <= set(content)
    row = content["application/json"]["schema"]["anyOf"][0]
    assert set(row["required"]) == {"id", "model"}
    assert {"features", "inclusion_probability", "stratum"} <= set(row["properties"])
    assert "200" in operation["responses"]


def test_a_row_from_before_the_horizon_is_refused_and_kept_like_any_other(
    acme: TestClient,
) -> None:
    rows = good(1_100)  # past learning, so that the model has a horizon to be before
    assert acme.post("/v1/events", json=rows).json()["accepted"] == 1_100
    old = {**GOOD, "id": "old", "time": "2025-03-02T10:00:00Z"}
    answer = acme.post("/v1/events", json=[{**GOOD, "id": "new"}, old]).json()
    reason = "time: before the label horizon of this model"
    assert (answer["accepted"], answer["rejected"]) == (1, 1)
    assert answer["errors"] == [{"index": 1, "id": "old", "reason": reason}]
    first = kept(acme, model="m")[0]
    assert (first["index"], first["id"], first["reason"]) == (1, "old", reason)
