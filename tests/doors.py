"""Doors: a running application to knock at, and requests as each sender makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from service.app import create_app
from service.keys import Scope
from service.services import Services
from service.settings import Settings


@contextmanager
def an_app(directory: Path, **settings: Any) -> Iterator[FastAPI]:
    """The whole application on a data directory of its own."""
    app = create_app(Settings(data_dir=directory, **settings))
    with TestClient(app):
        yield app


def a_client(app: FastAPI, tenant: str = "acme") -> TestClient:
    """A sender of this tenant; the application runs already."""
    running = cast(Services, app.state.services)
    key = running.keys.create(tenant, (Scope.INGEST, Scope.READ, Scope.ADMIN))
    return TestClient(
        app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False
    )


def kept(client: TestClient) -> list[dict[str, Any]]:
    """The rows that were refused, the newest request first."""
    return cast(list[dict[str, Any]], client.get("/v1/rejected").json()["rejected"])


def n_rows(client: TestClient, model: str) -> int:
    """How many predictions of a model count."""
    answer = client.get(f"/v1/models/{model}/slices", params={"order": 0})
    slices = answer.json().get("slices", [])
    return int(slices[0]["rows"]) if slices else 0


def otlp_value(value: Any) -> AnyValue:
    """A Python value as OTLP has it."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    whole = AnyValue()
    if isinstance(value, Mapping):
        whole.kvlist_value.values.extend(otlp_pairs(value))
    else:
        whole.array_value.values.extend(map(otlp_value, value))
    return whole


def otlp_pairs(values: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=otlp_value(value)) for key, value in values.items()]


def otlp_request(
    records: list[dict[str, Any]], resource: Mapping[str, Any] | None = None
) -> ExportLogsServiceRequest:
    """Records given as {event, attributes, body, time, trace_id, span_id}."""
    request = ExportLogsServiceRequest()
    of_resource = request.resource_logs.add()
    of_resource.resource.attributes.extend(otlp_pairs(resource or {}))
    scope = of_resource.scope_logs.add()
    for record in records:
        wire = scope.log_records.add(
            event_name=record.get("event", ""),
            time_unix_nano=record.get("time", 0),
            trace_id=bytes.fromhex(record.get("trace_id", "")),
            span_id=bytes.fromhex(record.get("span_id", "")),
        )
        wire.attributes.extend(otlp_pairs(record.get("attributes", {})))
        if "body" in record:
            wire.body.CopyFrom(otlp_value(record["body"]))
    return request
