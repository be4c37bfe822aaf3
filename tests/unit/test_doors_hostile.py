"""Whatever is sent to a door of another protocol gets a row, a refusal, or a problem of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import SlicewatchError
from service.ingest.captures import documents_of_line, reader_of
from service.ingest.cloudevents import BATCH, STRUCTURED, decode_cloudevents
from service.ingest.documents import Document, documents_to_batch
from service.ingest.frame import from_frame, to_frame
from service.ingest.halves import Halves, join_halves
from service.ingest.otlp import decode_otlp
from tests.doors import otlp_request

NOW: Final = 1_795_341_700_000_000
CANARY: Final = "canary-5e1f"

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
names = st.sampled_from(
    [
        *("instances", "inputs", "predictions", "outputs", "data", "ndarray", "tensor", "names"),
        *("shape", "datatype", "name", "values", "label", "score", "output", "features", "id"),
    ]
)
payloads = st.recursive(
    scalars | st.lists(st.integers(-3, 3) | st.floats(), max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=16,
)
UNHURRIED: Final = settings(deadline=None)  # a machine may be busy
TYPES: Final = (
    "org.kubeflow.serving.inference.request",
    "io.seldon.serving.inference.response",
    "azureml.inference.model_outputs",
    "slicewatch.prediction",
)


def settled(documents: list[Document]) -> None:
    """The documents go all the way to the journal's bytes and back, or are refused."""
    try:
        batch, _ = documents_to_batch(documents, NOW, 1_000)
    except SlicewatchError:
        return
    again, _ = from_frame(to_frame(batch))
    assert again.ids == batch.ids
    join_halves(batch)
    Halves().meet(batch, NOW)


@given(st.sampled_from(TYPES), payloads, st.text(max_size=10))
@UNHURRIED
def test_any_payload_of_an_event(kind: str, payload: Any, id_: str) -> None:
    event = {"type": kind, "id": id_, "inferenceservicename": "m", "data": payload}
    try:
        settled(decode_cloudevents(msgspec.json.encode(event), STRUCTURED, {}))
    except (SlicewatchError, UnicodeEncodeError, msgspec.EncodeError):
        pass  # what JSON cannot hold cannot be sent


@given(st.binary(max_size=200), st.sampled_from(["application/json", STRUCTURED, BATCH]))
@UNHURRIED
def test_any_bytes_as_events(body: bytes, media_type: str) -> None:
    try:
        settled(decode_cloudevents(body, media_type, {"ce-type": TYPES[0], "ce-id": "a"}))
    except SlicewatchError:
        pass


@given(st.binary(max_size=200), st.booleans())
@UNHURRIED
def test_any_bytes_as_logs(body: bytes, is_json: bool) -> None:
    try:
        settled(decode_otlp(body, is_json, {}))
    except SlicewatchError:
        pass


@given(
    st.dictionaries(
        st.sampled_from(["id", "features", "gen_ai.response.id", "loss", "time"]), values
    )
)
def test_any_attributes_of_a_record(attributes: dict[str, Any]) -> None:
    for event in ("slicewatch.prediction", "gen_ai.evaluation.result", ""):
        record = {
            "eventName": event,
            "attributes": [
                {"key": key, "value": {"kvlistValue": value, "intValue": value}}
                for key, value in attributes.items()
            ],
        }
        logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
        try:
            settled(decode_otlp(msgspec.json.encode(logs), True, {}))
        except (SlicewatchError, UnicodeEncodeError, msgspec.EncodeError):
            pass


@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=4))
@UNHURRIED
def test_a_damaged_protobuf(tail: bytes, flips: list[int]) -> None:
    record = {"event": "slicewatch.prediction", "attributes": {"id": "a", "features": {"e": [1.5]}}}
    body = bytearray(otlp_request([record], {"service.name": "m"}).SerializeToString() + tail)
    for flip in flips:
        body[flip % len(body)] ^= 1 << (flip % 8)
    try:
        settled(decode_otlp(bytes(body), False, {}))
    except SlicewatchError:
        pass


@given(st.sampled_from(["captureData", "groundTruthData", "eventMetadata"]), payloads)
@UNHURRIED
def test_any_line_of_a_capture(part: str, payload: Any) -> None:
    line: dict[str, Any] = {
        "captureData": {"endpointInput": {"data": "1,2", "encoding": "CSV"}},
        "eventMetadata": {"eventId": "a"},
    }
    read = reader_of(Path("a.jsonl"), json.dumps(line).encode(), "m")
    assert read is not None
    try:
        body = msgspec.json.encode(line | {part: payload})
    except (UnicodeEncodeError, msgspec.EncodeError):
        return
    settled(documents_of_line(read, body))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_nesting_is_no_trouble(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for body in (deep, b'{"type": "%s", "data": %s}' % (TYPES[0].encode(), deep)):
        try:
            settled(decode_cloudevents(body, STRUCTURED, {}))
        except SlicewatchError:
            pass


def test_a_refusal_never_echoes() -> None:
    event = {"type": CANARY, "id": "a", "data": {CANARY: CANARY}}
    record = {
        "eventName": CANARY,
        "attributes": [{"key": CANARY, "value": {"stringValue": CANARY}}],
    }
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    documents = decode_cloudevents(json.dumps(event).encode(), STRUCTURED, {})
    documents += decode_otlp(json.dumps(logs).encode(), True, {})
    assert all(document.refused and CANARY not in document.refused for document in documents)
