"""OTLP: log records of OpenTelemetry, protobuf or JSON, as documents; and its answers.

A record is a row of the contract if it is called `slicewatch.prediction` or `slicewatch.label`, or
not called anything: its attributes and its body are the contract's fields, flat, as in
`attributes.floor`, or nested. OpenTelemetry's own events of generative models are read by `GEN_AI`,
and others by what the settings say of them, as `{event name: {attribute: field}}`. What a record
does not say, its resource (`service.name`, `service.version`) and its trace do.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as WireRecord

from service.errors import InvalidRequest
from service.ingest.documents import Document, nested, refused
from service.ingest.json_rows import ROW_ERRORS
from service.ingest.rules import is_field

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

Mappings = Mapping[str, Mapping[str, str]]  # event name: attribute: field of the contract

OURS: Final = {"slicewatch.prediction": "prediction", "slicewatch.label": "label"}
EVALUATION: Final = "gen_ai.evaluation.result"
SCORE: Final = "gen_ai.evaluation.score.value"
SCORE_LABEL: Final = "gen_ai.evaluation.score.label"
GEN_AI: Final[Mappings] = {
    "gen_ai.client.inference.operation.details": {
        "gen_ai.response.id": "id",
        "gen_ai.request.model": "model",
        "gen_ai.response.model": "version",
        "gen_ai.conversation.id": "cluster",
        "gen_ai.output.messages": "output",
        "gen_ai.provider.name": "attributes.provider",
        "gen_ai.operation.name": "attributes.operation",
        "gen_ai.output.type": "attributes.output_type",
        "error.type": "attributes.error_type",
        "gen_ai.usage.input_tokens": "features.input_tokens",
        "gen_ai.usage.output_tokens": "features.output_tokens",
        "gen_ai.request.temperature": "features.temperature",
        "gen_ai.request.top_p": "features.top_p",
        "gen_ai.request.max_tokens": "features.max_tokens",
        "gen_ai.response.finish_reasons": "features.finish_reason",
    },
    EVALUATION: {
        "gen_ai.response.id": "id",
        "gen_ai.request.model": "model",
        SCORE: "loss",
        "gen_ai.evaluation.name": "stratum",
    },
}
# An evaluation says how good an answer was, a loss how bad: a score of 1 is a loss of 0.
_GOOD: Final = frozenset({"pass", "passed", "correct", "true", "yes"})
_BAD: Final = frozenset({"fail", "failed", "incorrect", "false", "no"})

_NO_EVENT: Final = (
    "eventName: must be slicewatch.prediction, slicewatch.label, an event of generative models, or"
    " one that otlp_events maps"
)
_HEX: Final = re.compile(r"[0-9a-fA-F]*\Z")
_FIRST: Final = frozenset({"gen_ai.response.finish_reasons"})  # a list of which the first counts
_GROUPS: Final = frozenset({"attributes", "features"})  # given nested
MAX_DEPTH: Final = 32  # of values inside values


@dataclass(frozen=True, slots=True)
class Record:
    """A log record, however it was encoded."""

    event: str  # its name; "" where it has none
    time: int  # nanoseconds since 1970; 0 where it has none
    attributes: dict[str, Any]
    body: Any
    trace_id: str  # 32 hex digits, or ""
    span_id: str  # 16 hex digits, or ""
    resource: Mapping[str, Any]


def decode_otlp(body: bytes, is_json: bool, mappings: Mappings) -> list[Document]:
    """A document for each log record of an `ExportLogsServiceRequest`, in order.

    Raises InvalidRequest where the body is not one.
    """
    records = _json_records(body) if is_json else _wire_records(body)
    known = {**GEN_AI, **mappings}
    return [
        refused(record) if isinstance(record, str) else _document(record, known)
        for record in records
    ]


def _document(record: Record, mappings: Mappings) -> Document:
    """What a record says in the contract's words."""
    name = record.event or str(record.attributes.get("event.name", ""))
    mapping = {} if name in OURS or not name else mappings.get(name)
    given = _given(record)
    if mapping is None:
        return refused(_NO_EVENT, {"id": given.get("id"), "model": given.get("model")})
    wanted = {
        key: value
        for key, value in given.items()
        if key in mapping or key in _GROUPS or is_field(key)
    }
    fields = nested(_unpacked(wanted), {k: v for k, v in mapping.items() if k in wanted})
    if name in OURS:
        fields["kind"] = OURS[name]
    if name == EVALUATION and mapping is GEN_AI[EVALUATION]:
        if (reason := _judge(fields, given)) is not None:
            return refused(reason, fields)
    _stand_in(fields, record)
    return Document(fields)


def _given(record: Record) -> dict[str, Any]:
    """Everything that a mapping may name."""
    given: dict[str, Any] = {f"resource.{key}": value for key, value in record.resource.items()}
    given |= {"trace_id": record.trace_id or None, "span_id": record.span_id or None}
    given |= record.body if isinstance(record.body, dict) else {"body": record.body}
    given |= record.attributes
    return given


def _unpacked(given: dict[str, Any]) -> dict[str, Any]:
    """What the conventions for generative models write as structures, as plain values."""
    for key in _FIRST & given.keys():
        value = given[key]
        given[key] = value[0] if isinstance(value, list) and value else None
    if "gen_ai.output.messages" in given:
        given["gen_ai.output.messages"] = _text_of(given["gen_ai.output.messages"])
    return given


def _text_of(messages: Any) -> str | None:
    """The text parts of a model's messages; they may come as JSON in a string."""
    if isinstance(messages, str):
        try:
            messages = msgspec.json.decode(messages)
        except ROW_ERRORS:
            return None
    parts = [
        part["content"]
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, dict)
        for part in (message["parts"] if isinstance(message.get("parts"), list) else ())
        if isinstance(part, dict) and part.get("type") == "text"
        if isinstance(part.get("content"), str)
    ]
    return "\n".join(parts) or None


def _judge(fields: dict[str, Any], given: Mapping[str, Any]) -> str | None:
    """Turn an evaluation's score or verdict into a loss; say why that can't be done."""
    fields["kind"] = "label"
    score, verdict = fields.get("loss"), str(given.get(SCORE_LABEL, "")).lower()
    if isinstance(score, int | float) and not isinstance(score, bool):
        if not 0 <= score <= 1:
            return f"{SCORE}: must be between 0 and 1, or otlp_events must map it"
        fields["loss"] = 1 - score
    elif verdict in _GOOD | _BAD:
        fields["loss"] = 0 if verdict in _GOOD else 1
    else:
        return f"{SCORE}: required, or a {SCORE_LABEL} of pass or fail"
    return None


def _stand_in(fields: dict[str, Any], record: Record) -> None:
    """Fill what the record does not say from its time, its trace and its resource."""
    if record.time:
        fields.setdefault("time", record.time)
    if record.trace_id:
        fields.setdefault("id", "-".join(filter(None, (record.trace_id, record.span_id))))
    for field, key in (("model", "service.name"), ("version", "service.version")):
        if record.resource.get(key):
            fields.setdefault(field, record.resource[key])


# Protobuf.


def _wire_records(body: bytes) -> Iterator[Record | str]:
    request = ExportLogsServiceRequest()
    try:
        request.ParseFromString(body)
    except (DecodeError, RecursionError):
        raise InvalidRequest("the body is not an ExportLogsServiceRequest") from None
    for of_resource in request.resource_logs:
        resource = _wire_map(of_resource.resource.attributes)
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                yield _wire_record(record, resource)


def _wire_record(record: WireRecord, resource: Mapping[str, Any]) -> Record:
    return Record(
        event=record.event_name,
        time=record.time_unix_nano or record.observed_time_unix_nano,
        attributes=_wire_map(record.attributes),
        body=_wire_value(record.body),
        trace_id=record.trace_id.hex() if any(record.trace_id) else "",
        span_id=record.span_id.hex() if any(record.span_id) else "",
        resource=resource,
    )


def _wire_map(pairs: Iterable[Any], depth: int = 0) -> dict[str, Any]:
    return {pair.key: _wire_value(pair.value, depth) for pair in pairs}


def _wire_value(value: AnyValue, depth: int = 0) -> Any:
    kind = value.WhichOneof("value")
    if kind is None or depth > MAX_DEPTH:
        return None
    if kind == "array_value":
        return [_wire_value(each, depth + 1) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _wire_map(value.kvlist_value.values, depth + 1)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind)


# JSON: by hand, as the specification departs from protobuf's own mapping (ids are hex, not base64).


class _Pair(msgspec.Struct, gc=False):
    key: str = ""
    value: dict[str, Any] | None = None


class _JsonRecord(msgspec.Struct, rename="camel", gc=False):
    time_unix_nano: int | str | None = None
    observed_time_unix_nano: int | str | None = None
    body: dict[str, Any] | None = None
    attributes: list[_Pair] | None = None
    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None


class _Resource(msgspec.Struct, gc=False):
    attributes: list[_Pair] | None = None


class _ScopeLogs(msgspec.Struct, rename="camel", gc=False):
    log_records: list[msgspec.Raw] | None = None


class _ResourceLogs(msgspec.Struct, rename="camel", gc=False):
    resource: _Resource | None = None
    scope_logs: list[_ScopeLogs] | None = None


class _JsonRequest(msgspec.Struct, rename="camel", gc=False):
    resource_logs: list[_ResourceLogs] | None = None


_JSON_REQUEST: Final = msgspec.json.Decoder(_JsonRequest)
_JSON_RECORD: Final = msgspec.json.Decoder(_JsonRecord)


def _json_records(body: bytes) -> Iterator[Record | str]:
    try:
        request = _JSON_REQUEST.decode(body)
    except ROW_ERRORS:
        raise InvalidRequest("the body is not an ExportLogsServiceRequest in JSON") from None
    for of_resource in request.resource_logs or ():
        attributes = of_resource.resource and of_resource.resource.attributes
        resource = _json_map(attributes or ())
        for of_scope in of_resource.scope_logs or ():
            for record in of_scope.log_records or ():
                yield _json_record(record, resource)


def _json_record(raw: msgspec.Raw, resource: Mapping[str, Any]) -> Record | str:
    """A record, or what is wrong with it."""
    try:
        record = _JSON_RECORD.decode(raw)
        return Record(
            event=record.event_name or "",
            time=int(record.time_unix_nano or 0) or int(record.observed_time_unix_nano or 0),
            attributes=_json_map(record.attributes or ()),
            body=_json_value(record.body),
            trace_id=_hex(record.trace_id, 32),
            span_id=_hex(record.span_id, 16),
            resource=resource,
        )
    except ROW_ERRORS:
        return "not a LogRecord"
    except (ValueError, TypeError, AttributeError, binascii.Error):
        return "a field of the LogRecord is not as OTLP/JSON has it"


def _hex(text: str | None, n_digits: int) -> str:
    text = (text or "").lower()
    if _HEX.match(text) is None or len(text) not in (0, n_digits):
        raise ValueError
    return text if text.strip("0") else ""


def _json_map(pairs: Iterable[_Pair], depth: int = 0) -> dict[str, Any]:
    return {pair.key: _json_value(pair.value, depth) for pair in pairs}


def _json_value(value: dict[str, Any] | None, depth: int = 0) -> Any:
    if not value or depth > MAX_DEPTH:
        return None
    kind, inner = next(((k, v) for k, v in value.items() if k in _JSON_KINDS), ("", None))
    if inner is None:
        return None
    if kind == "intValue":
        return int(inner)
    if kind == "doubleValue":
        return _finite(float(inner))
    if kind == "arrayValue":
        return [_json_value(each, depth + 1) for each in inner.get("values") or ()]
    if kind == "kvlistValue":
        pairs = msgspec.convert(inner.get("values") or [], list[_Pair])
        return _json_map(pairs, depth + 1)
    expected = bool if kind == "boolValue" else str
    if not isinstance(inner, expected):
        raise TypeError
    return inner


_JSON_KINDS: Final = frozenset(
    {
        *("stringValue", "boolValue", "intValue", "doubleValue"),
        *("arrayValue", "kvlistValue", "bytesValue"),
    }
)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


# Answers.


def accepted(n_rejected: int, message: str, is_json: bool) -> bytes:
    """The body of a 200: empty where all went well, else how many records were refused, and why."""
    response = ExportLogsServiceResponse()
    if n_rejected:
        response.partial_success.rejected_log_records = n_rejected
        response.partial_success.error_message = message
    return _encoded(response, is_json)


def problem(code: int, message: str, is_json: bool) -> bytes:
    """The body of any other answer: a `google.rpc.Status`."""
    return _encoded(Status(code=code, message=message), is_json)


def _encoded(message: Message, is_json: bool) -> bytes:
    if is_json:
        return json_format.MessageToJson(message, indent=None).encode()
    return message.SerializeToString()
