"""Captures: lines that SageMaker, Azure ML and BentoML write of a model's use, as documents.

A file is known by its first line, or by where it lies. SageMaker's data capture has what went in
and what came out on one line, and its ground truth the truth of one inference, without a time of
its own. Azure ML's collector writes CloudEvents, a half of a prediction each. BentoML's monitors
write a line a prediction, and beside it what role each column has.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from service.errors import InvalidRequest
from service.ingest.cloudevents import structured
from service.ingest.documents import Document, refused
from service.ingest.inference import PayloadError, answered, asked, field_name, row_ids
from service.ingest.json_rows import ROW_ERRORS

Read = Callable[[Any], list[Document]]  # of one line's JSON

# {endpoint}/{variant}/yyyy/mm/dd/hh/file, as SageMaker lays captures out.
_CAPTURE_PATH: Final = re.compile(r"([^/]+)/([^/]+)/\d{4}/\d\d/\d\d/\d\d/[^/]+\Z")


def reader_of(path: Path, first_line: bytes, default_model: str | None) -> Read | None:
    """What reads the lines of a capture file; None where its lines are rows of the contract."""
    if path.parent.name == "data" and (schemas := _bento_schemas(path)):
        return _Bento(path, schemas, default_model)
    try:
        first = msgspec.json.decode(first_line)
    except ROW_ERRORS:
        return None
    if not isinstance(first, dict):
        return None
    if "captureData" in first or "groundTruthData" in first:
        return _SageMaker(path, default_model)
    if "specversion" in first:
        return _with_model(structured, default_model)
    return None


def documents_of_line(read: Read, line: bytes) -> list[Document]:
    """The rows of a line, or the refusal of it."""
    try:
        return read(msgspec.json.decode(line))
    except ROW_ERRORS:
        return [refused("not valid JSON")]
    except PayloadError as error:
        return [refused(str(error))]


def _with_model(read: Read, default_model: str | None) -> Read:
    """Rows that name no model are of the default one."""
    if default_model is None:
        return read

    def filled(line: Any) -> list[Document]:
        return [
            Document({"model": default_model, **d.fields}, d.refused, d.half) for d in read(line)
        ]

    return filled


class _SageMaker:
    """Lines of data capture, and of the ground truth that belongs to it."""

    def __init__(self, path: Path, default_model: str | None) -> None:
        match = _CAPTURE_PATH.search(path.as_posix())
        self._model = default_model or (match[1] if match else None)
        self._attributes = {"variant": match[2]} if match else {}

    def __call__(self, line: Any) -> list[Document]:
        if not isinstance(line, dict) or not isinstance(line.get("eventMetadata"), dict):
            raise PayloadError("eventMetadata: required")
        about = line["eventMetadata"]
        id_ = about.get("inferenceId") or about.get("eventId")
        if not isinstance(id_, str):
            raise PayloadError("eventMetadata.eventId: required")
        if isinstance(line.get("groundTruthData"), dict):
            truths = [row.get("output") for row in _answers(line["groundTruthData"])]
            return self._named(id_, [{"kind": "label", "truth": truth} for truth in truths])
        return self._named(id_, self._captured(line.get("captureData"), about))

    def _captured(self, capture: Any, about: dict[str, Any]) -> list[dict[str, Any]]:
        if not isinstance(capture, dict):
            raise PayloadError("captureData: required")
        given, said = capture.get("endpointInput"), capture.get("endpointOutput")
        inputs = asked(_payload(given)) if isinstance(given, dict) else []
        outputs = _answers(said) if isinstance(said, dict) else []
        if inputs and outputs and len(inputs) != len(outputs):
            raise PayloadError("endpointOutput: has another number of rows than endpointInput")
        common = {
            "kind": "prediction",
            "time": about.get("inferenceTime"),
            "attributes": self._attributes,
        }
        return [
            {
                **common,
                **(outputs[row] if outputs else {}),
                "features": {
                    **(inputs[row] if inputs else {}),
                    **(outputs[row].get("features", {}) if outputs else {}),
                },
            }
            for row in range(len(inputs) or len(outputs))
        ]

    def _named(self, id_: str, rows: list[dict[str, Any]]) -> list[Document]:
        return [
            Document({"model": self._model, "id": name, **row})
            for name, row in zip(row_ids(id_, len(rows)), rows, strict=True)
        ]


def _answers(part: dict[str, Any]) -> list[dict[str, Any]]:
    """What a model said, row by row; of CSV, a class and its score are just that."""
    payload = _payload(part)
    answers = answered(payload)
    if _encoding(part) == "CSV":
        for row, answer in zip(payload, answers, strict=True):
            if len(row) == 2 and not answer.get("output") and isinstance(row[1], float):
                if 0 <= row[1] <= 1:
                    answer.clear()
                    answer |= {"output": row[0], "confidence": row[1]}
    return answers


def _encoding(part: dict[str, Any]) -> str:
    """CSV or JSON: what the data are, whatever they are wrapped in."""
    if part.get("encoding") in ("CSV", "JSON"):
        return str(part["encoding"])
    return "CSV" if "csv" in str(part.get("observedContentType", "")) else "JSON"


def _payload(part: dict[str, Any]) -> Any:
    """The data of a captured request or answer: of CSV a list of rows, else what its JSON says."""
    data = part.get("data")
    if part.get("encoding") == "BASE64":
        try:
            data = base64.b64decode(str(data), validate=True).decode()
        except (binascii.Error, ValueError):
            raise PayloadError("data: must be text in base64") from None
    if _encoding(part) == "CSV":
        rows = csv.reader(str(data).splitlines())
        return [[_cell(cell) for cell in row] for row in rows if row]
    if not isinstance(data, str):
        return data
    try:
        return msgspec.json.decode(data)
    except ROW_ERRORS:
        raise PayloadError("data: not valid JSON") from None


def _cell(text: str) -> float | str | None:
    """A cell of CSV: a number where it is one, nothing where it is empty."""
    with suppress(ValueError):
        return float(text)
    return text.strip() or None


def _bento_schemas(path: Path) -> list[Path]:
    return sorted(path.parent.parent.glob("schema/*.log"))


class _Bento:
    """Lines of a BentoML monitor: a value a column, and when and in which request."""

    def __init__(self, path: Path, schemas: list[Path], default_model: str | None) -> None:
        try:
            schema = msgspec.json.decode(schemas[-1].read_bytes().strip().splitlines()[-1])
            self._roles = {column["name"]: column["role"] for column in schema["columns"]}
            version = schema["meta_data"]["bento_version"]
        except (*ROW_ERRORS, OSError, IndexError, KeyError, TypeError):
            raise InvalidRequest("the schema beside it can't be read") from None
        self._common = {
            "model": default_model or path.parent.parent.name,
            "version": version or None,
            "kind": "prediction",
        }
        self._n_rows: Counter[str] = Counter()  # of each request so far

    def __call__(self, line: Any) -> list[Document]:
        if not isinstance(line, dict) or not isinstance(line.get("request_id"), str):
            raise PayloadError("request_id: required")
        request, time = line["request_id"], line.get("timestamp")
        row = self._n_rows[request]
        self._n_rows[request] += 1
        by_role: dict[str, dict[str, Any]] = {"feature": {}, "prediction": {}, "target": {}}
        for name, role in self._roles.items():
            by_role.get(role, {})[name] = line.get(name)
        answer = answered([by_role["prediction"]])[0]
        truth = answered([by_role["target"]])[0].get("output") if by_role["target"] else None
        features = {
            field_name(name): value
            for name, value in (by_role["feature"] | answer.pop("features", {})).items()
        }
        fields = {
            **self._common,
            **answer,
            "id": request if row == 0 else f"{request}-{row}",
            "time": f"{time}Z" if isinstance(time, str) and _has_no_zone(time) else time,
            "features": features,
            "truth": truth,
        }
        return [Document(fields)]


def _has_no_zone(time: str) -> bool:
    """Whether a time says no offset; it is UTC then, as in all files."""
    clock = time.partition("T")[2]
    return not clock.endswith("Z") and "+" not in clock and "-" not in clock
