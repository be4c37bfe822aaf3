"""`POST /v1/logs` answer by answer, as the OTLP specification and its senders have it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from service.ingest.documents import documents_to_batch
from service.ingest.json_rows import to_json_rows
from service.ingest.otlp import decode_otlp
from tests.doors import a_client, an_app, kept, n_rows, otlp_request

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
NOW = 1_795_341_700_000_000
TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
GOOD = {"event": "slicewatch.prediction", "attributes": {"id": "a", "model": "m", "output": "x"}}
BAD = {"event": "slicewatch.prediction", "attributes": {"id": "b", "model": "m", "confidence": 7}}
OTHER = {"event": "http.request", "attributes": {"id": "c", "model": "m", "output": "x"}}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    mappings = {"checkout.scored": {"request": "id", "score": "output", "trace_id": "cluster"}}
    with an_app(tmp_path, otlp_events=mappings, max_body_bytes=1 << 20) as app:
        yield app


@pytest.fixture
def acme(app: FastAPI) -> TestClient:
    return a_client(app)


def post(client: TestClient, records: list[dict[str, Any]], **headers: str) -> Any:
    body = otlp_request(records, {"service.name": "m"}).SerializeToString()
    return client.post("/v1/logs", content=body, headers={"content-type": PROTOBUF, **headers})


def decoded(records: list[dict[str, Any]], **resource: str) -> list[dict[str, Any]]:
    named = {name.replace("_", "."): value for name, value in resource.items()}
    documents = decode_otlp(otlp_request(records, named).SerializeToString(), False, {})
    return to_json_rows(documents_to_batch(documents, NOW, 100)[0])


def test_a_whole_success_is_an_empty_response_of_the_requests_type(acme: TestClient) -> None:
    answer = post(acme, [GOOD])
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == PROTOBUF
    answer = acme.post("/v1/logs", json={})
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == JSON


def test_gzip_is_taken(acme: TestClient) -> None:
    body = gzip.compress(otlp_request([GOOD]).SerializeToString())
    headers = {"content-type": PROTOBUF, "content-encoding": "gzip"}
    assert acme.post("/v1/logs", content=body, headers=headers).status_code == 200
    assert n_rows(acme, "m") == 1


def test_a_bad_record_is_a_partial_success_and_is_kept(acme: TestClient) -> None:
    answer = post(acme, [GOOD, BAD, OTHER])
    assert answer.status_code == 200
    partial = ExportLogsServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_log_records == 2
    assert "record 1: confidence: must be between 0 and 1" in partial.error_message
    assert [(row["index"], row["id"]) for row in kept(acme)] == [(1, "b"), (2, "c")]
    assert n_rows(acme, "m") == 1


def test_a_partial_success_in_json_has_its_number_as_text(acme: TestClient) -> None:
    record = {"eventName": "slicewatch.label", "attributes": [pair("id", "a"), pair("truth", "x")]}
    answer = acme.post("/v1/logs", json=logs([record, {"traceId": "not hex"}], "m"))
    assert answer.status_code == 200
    assert answer.json()["partialSuccess"]["rejectedLogRecords"] == "1"


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_what_cannot_be_decoded_is_400_with_a_status(acme: TestClient, kind: str) -> None:
    answer = acme.post("/v1/logs", content=b"\xff\xff", headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == kind
    assert status_of(answer).code == 3


def test_nothing_but_bad_records_is_400_and_they_are_kept(acme: TestClient) -> None:
    assert post(acme, [BAD]).status_code == 400
    assert [row["id"] for row in kept(acme)] == ["b"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": "Bearer sw_no_such"}, 401, 16),
        ({"content-encoding": "br"}, 415, 3),
    ],
)
def test_errors_are_in_the_requests_type(
    acme: TestClient, headers: dict[str, str], status: int, code: int
) -> None:
    answer = post(acme, [GOOD], **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROTOBUF)
    assert status_of(answer).code == code


def test_a_body_over_the_limit_is_413(acme: TestClient) -> None:
    long = {**GOOD, "body": "x" * (1 << 20)}
    assert post(acme, [long]).status_code == 413


def test_a_service_that_is_not_ready_says_when_to_come_again(
    acme: TestClient, app: FastAPI
) -> None:
    app.state.services.engine.stop()
    answer = post(acme, [GOOD])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert status_of(answer).code == 14


def test_a_mapped_event_is_read_by_its_mapping(acme: TestClient) -> None:
    record = {
        "event": "checkout.scored",
        "trace_id": TRACE,
        "attributes": {"request": "r", "score": 0.5, "attributes.store": "7", "other": "x"},
    }
    assert post(acme, [record]).content == b""
    assert n_rows(acme, "m") == 1


def test_trace_ids_survive_in_both_encodings() -> None:
    """Protobuf's own JSON would read the hex digits as base64."""
    (wire,) = decoded(
        [{**GOOD, "trace_id": TRACE, "span_id": SPAN, "attributes": {"output": 1}}],
        service_name="m",
    )
    record = {"traceId": TRACE.upper(), "spanId": SPAN, "attributes": [pair("output", 1)]}
    (document,) = decode_otlp(json.dumps(logs([record], "m")).encode(), True, {})
    assert wire["id"] == document.fields["id"] == f"{TRACE}-{SPAN}"


def test_what_a_record_says_goes_before_its_resource() -> None:
    rows = decoded(
        [
            {"attributes": {"id": "a", "output": 1, "model": "own", "version": "2"}},
            {"attributes": {"id": "b", "output": 1}},
        ],
        service_name="m",
        service_version="1",
    )
    assert [(row["model"], row["version"]) for row in rows] == [("own", "2"), ("m", "1")]


def test_an_answer_of_a_generative_model_is_a_prediction_and_its_evaluation_a_label() -> None:
    messages = [{"role": "assistant", "parts": [{"type": "text", "content": "yes"}]}]
    prediction, scored, judged = decoded(
        [
            {
                "event": "gen_ai.client.inference.operation.details",
                "attributes": {
                    "gen_ai.response.id": "r1",
                    "gen_ai.request.model": "gpt",
                    "gen_ai.response.model": "gpt-2026-10",
                    "gen_ai.provider.name": "openai",
                    "gen_ai.usage.input_tokens": 12,
                    "gen_ai.response.finish_reasons": ["stop"],
                    "gen_ai.output.messages": messages,
                    "attributes.region": "north",
                },
            },
            evaluation("r1", **{"gen_ai.evaluation.score.value": 0.75}),
            evaluation("r2", **{"gen_ai.evaluation.score.label": "fail"}),
        ]
    )
    assert prediction["kind"] == "prediction"
    assert (prediction["id"], prediction["model"], prediction["version"]) == (
        *("r1", "gpt"),
        "gpt-2026-10",
    )
    assert prediction["output"] == "yes"
    assert prediction["features"] == {"input_tokens": 12, "finish_reason": "stop"}
    assert prediction["attributes"] == {"provider": "openai", "region": "north"}
    assert (scored["kind"], scored["id"], scored["loss"]) == ("label", "r1", 0.25)
    assert (judged["kind"], judged["loss"]) == ("label", 1)


@pytest.mark.parametrize("score", [-0.1, 4.0])
def test_a_score_that_is_no_share_must_be_mapped(score: float) -> None:
    record = evaluation("r1", **{"gen_ai.evaluation.score.value": score})
    (document,) = decode_otlp(otlp_request([record]).SerializeToString(), False, {})
    assert document.refused is not None and "between 0 and 1" in document.refused
    mapping = {"gen_ai.evaluation.result": {"gen_ai.evaluation.score.value": "loss"}}
    (document,) = decode_otlp(otlp_request([record]).SerializeToString(), False, mapping)
    assert document.fields["loss"] == score


def test_unknown_fields_are_ignored_and_numbers_may_be_text(acme: TestClient) -> None:
    record = {
        "severityNumber": "SEVERITY_NUMBER_INFO",
        "somethingNew": {"a": [1]},
        "timeUnixNano": 1795341600000000000,
        "attributes": [pair("id", "a"), pair("output", 1), {"key": "empty"}],
    }
    assert acme.post("/v1/logs", json=logs([record], "m")).json() == {}


def evaluation(id_: str, **attributes: Any) -> dict[str, Any]:
    named = {"gen_ai.response.id": id_, "gen_ai.request.model": "gpt", **attributes}
    return {"event": "gen_ai.evaluation.result", "attributes": named}


def pair(key: str, value: str | int) -> dict[str, Any]:
    kind = "stringValue" if isinstance(value, str) else "intValue"
    return {"key": key, "value": {kind: str(value)}}


def logs(records: list[dict[str, Any]], service: str) -> dict[str, Any]:
    resource = {"attributes": [pair("service.name", service)]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}


def status_of(answer: Any) -> Status:
    if answer.headers["content-type"] == PROTOBUF:
        return Status.FromString(answer.content)
    return Status(**answer.json())
