"""CloudEvents: events of inference loggers and of our own types, as documents.

Over HTTP an event comes binary (its attributes in `ce-*` headers), structured, or with others in a
batch; in a file, structured on a line. KServe and Seldon log what a model was asked and what it
answered as two events, and so does Azure ML's collector; each is one half of a prediction.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from service.errors import InvalidRequest
from service.ingest.documents import Document, nested, refused
from service.ingest.events import INPUT, OUTPUT
from service.ingest.inference import PayloadError, answered, asked, row_ids
from service.ingest.json_rows import ROW_ERRORS

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
_HEADER: Final = "ce-"


@dataclass(frozen=True, slots=True)
class Event:
    """An event, however it came."""

    attributes: Mapping[str, Any]  # type, id, time and extensions
    data: Any  # what its JSON says

    def text(self, *names: str) -> str | None:
        """The first of these attributes that it has."""
        for name in names:
            value = self.attributes.get(name)
            if isinstance(value, str) and value:
                return value
        return None


def decode_cloudevents(body: bytes, media_type: str, headers: Mapping[str, str]) -> list[Document]:
    """The documents of a request: of one event, or of a batch of them, in order.

    Raises InvalidRequest where the request holds no event.
    """
    try:
        if media_type == BATCH:
            events = msgspec.json.decode(body, type=list[Any])
        elif media_type == STRUCTURED:
            events = [msgspec.json.decode(body)]
        elif "ce-type" in headers:
            attributes = {
                name.removeprefix(_HEADER): unquote(value)
                for name, value in headers.items()
                if name.startswith(_HEADER)
            }
            return documents_of(Event(attributes, msgspec.json.decode(body)))
        else:
            raise InvalidRequest("the request has neither ce- headers nor a CloudEvents type")
    except ROW_ERRORS:
        raise InvalidRequest("the body is not JSON") from None
    if not events:
        raise InvalidRequest("the batch holds no events")
    return [document for event in events for document in structured(event)]


def structured(event: Any) -> list[Document]:
    """The documents of an event that is one JSON object."""
    if not isinstance(event, dict):
        return [refused("must be a CloudEvent")]
    data = event.get("data")
    if "data_base64" in event:
        try:
            data = msgspec.json.decode(base64.b64decode(str(event["data_base64"]), validate=True))
        except (*ROW_ERRORS, binascii.Error, ValueError):
            return [refused("data_base64: must be JSON in base64")]
    return documents_of(Event(event, data))


def documents_of(event: Event) -> list[Document]:
    """The rows of one event."""
    kind = event.text("type")
    read = None if kind is None else _READERS.get(kind)
    if read is None:
        return [refused("type: not one that is taken", {"id": event.text("id")})]
    try:
        return read(event)
    except PayloadError as error:
        return [refused(str(error), {"id": event.text("requestid", "id")})]
    except RecursionError:
        return [refused("nested too deeply")]


def _ours(kind: str) -> Callable[[Event], list[Document]]:
    """An event whose data are a row of the contract; what they lack, its attributes give."""

    def read(event: Event) -> list[Document]:
        if not isinstance(event.data, dict):
            raise PayloadError("data: must be a row")
        fields = nested(event.data, {}) | {"kind": kind}
        for name in ("id", "time"):
            if event.text(name) is not None:
                fields.setdefault(name, event.text(name))
        return [Document(fields)]

    return read


def _request(event: Event) -> list[Document]:
    halves = [{"features": features} for features in asked(event.data)]
    return _halves(event, halves, INPUT)


def _response(event: Event) -> list[Document]:
    return _halves(event, answered(event.data), OUTPUT)


def _halves(event: Event, halves: list[dict[str, Any]], side: int) -> list[Document]:
    id_ = event.text("requestid", "correlationid", "id")
    if id_ is None:
        raise PayloadError("id: required")
    common = _about(event)
    return [
        Document({**common, **half, "id": name, "kind": "prediction"}, half=side)
        for name, half in zip(row_ids(id_, len(halves)), halves, strict=True)
    ]


def _about(event: Event) -> dict[str, Any]:
    """Model, version, time and attributes that an event gives of its rows."""
    attributes = {
        name: event.text(name)
        for name in ("namespace", "inferenceservicename", "component", "endpoint")
    }
    about = {
        "model": event.text("modelid", "inferenceservicename") or _deployment(event),
        "version": event.text("modelversion"),
        "time": event.text("time"),
        "attributes": {name: value for name, value in attributes.items() if value},
    }
    return {name: value for name, value in about.items() if value}


def _deployment(event: Event) -> str | None:
    """The endpoint that an Azure ML collector's source names."""
    _, _, tail = (event.text("source") or "").partition("/onlineEndpoints/")
    return tail.partition("/")[0] or None


_READERS: Final[Mapping[str, Callable[[Event], list[Document]]]] = {
    "slicewatch.prediction": _ours("prediction"),
    "slicewatch.label": _ours("label"),
    "org.kubeflow.serving.inference.request": _request,
    "org.kubeflow.serving.inference.response": _response,
    "io.seldon.serving.inference.request": _request,
    "io.seldon.serving.inference.response": _response,
    "azureml.inference.inputs": _request,
    "azureml.inference.model_inputs": _request,
    "azureml.inference.outputs": _response,
    "azureml.inference.model_outputs": _response,
}
