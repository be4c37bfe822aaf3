"""Inference: what model servers are asked and what they answer, row by row.

KServe's V1 (`instances`, `predictions`), the Open Inference Protocol V2 (`inputs`, `outputs`:
tensors), Seldon's own (`data.ndarray`, `data.tensor`), and bare JSON as other servers log it. Of
what went in, each row's values become features: a number or a text by its name, a few numbers a
feature each, many an embedding, more than an embedding may have their mean and spread. Of what came
out, a value is the output; probabilities of classes are the likeliest class and its confidence;
other numbers are an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.rules import MAX_FEATURES, MAX_VECTOR

MAX_SEPARATE: Final = 256  # numbers of a row that are a feature each; more are an embedding
OUTPUT_NAMES: Final = ("output", "prediction", "predicted_label", "label", "class", "predict", "0")
CONFIDENCE_NAMES: Final = ("confidence", "score", "probability", "prob")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.:/-]")
_SUM_SLACK: Final = 1e-3  # how far from 1 probabilities in 16 bits may sum


class PayloadError(ValueError):
    """A payload that is none of the protocols; the message names the field and the problem."""


def asked(payload: Any) -> list[dict[str, Any]]:
    """The features of each row that a model was given. Raises PayloadError."""
    return [_features(row) for row in _rows(payload, "instances", "inputs")]


def answered(payload: Any) -> list[dict[str, Any]]:
    """The output of each row, its confidence, and features where it is a vector. Raises
    PayloadError."""
    return [_answer(row) for row in _rows(payload, "predictions", "outputs")]


def _rows(payload: Any, v1: str, v2: str) -> Sequence[Any]:
    """One value a row: a scalar, a list, or a map by name."""
    if isinstance(payload, list):
        return payload
    if not isinstance(payload, dict):
        return [payload]
    if isinstance(payload.get(v1), list):
        return _checked(payload[v1], v1)
    if isinstance(payload.get(v2), list) and _are_tensors(payload[v2]):
        return _tensor_rows(payload[v2], v2)
    if isinstance(payload.get(v2), dict):  # V1 in columns
        return _by_row({name: _items(values) for name, values in payload[v2].items()}, v2)
    if isinstance(payload.get(v2), list):
        return _checked(payload[v2], v2)
    if isinstance(payload.get("data"), dict):
        return _seldon_rows(payload["data"])
    for name in ("strData", "jsonData"):
        if name in payload:
            return [payload[name]]
    if "error" in payload or not payload:
        raise PayloadError(f"{v1}, {v2} or data: required")
    return [payload]


def _checked(rows: list[Any], name: str) -> list[Any]:
    if not rows:
        raise PayloadError(f"{name}: holds no rows")
    return rows


def _are_tensors(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(v, dict) and "datatype" in v for v in values)


def _tensor_rows(tensors: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Tensors with a common first dimension, cut along it."""
    return _by_row(
        {str(tensor.get("name", place)): _cut(tensor) for place, tensor in enumerate(tensors)}, name
    )


def _cut(tensor: dict[str, Any]) -> list[Any]:
    """A tensor's rows, each a scalar or a flat list."""
    shape, data = tensor.get("shape"), tensor.get("data")
    if not isinstance(data, list):
        raise PayloadError("data: must be a tensor's values, in JSON")
    flat = _flat(data)
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise PayloadError("shape: must be whole numbers above 0")
    n_rows = shape[0] if shape else 1
    if len(flat) % n_rows or n_rows > len(flat):
        raise PayloadError("shape: is not that of the data")
    width = len(flat) // n_rows
    if width == 1:
        return flat
    return [flat[at : at + width] for at in range(0, len(flat), width)]


def _by_row(columns: dict[str, list[Any]], name: str) -> list[dict[str, Any]]:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise PayloadError(f"{name}: differ in how many rows they have")
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _seldon_rows(data: dict[str, Any]) -> list[Any]:
    names, tensor = data.get("names"), data.get("tensor")
    if isinstance(tensor, dict):
        rows = _cut({"shape": tensor.get("shape"), "data": tensor.get("values")})
    elif isinstance(data.get("ndarray"), list):
        rows = data["ndarray"]
        if rows and not any(isinstance(row, list) for row in rows):
            rows = [rows]  # one row, not in a list of its own
    else:
        raise PayloadError("data: must have an ndarray or a tensor")
    if not rows:
        raise PayloadError("data: holds no rows")
    return [_named(row, names) for row in rows]


def _named(row: Any, names: Any) -> Any:
    """A row by the names of its columns, where each has one; of classes, the row itself."""
    if not isinstance(row, list) or not isinstance(names, list) or len(row) != len(names):
        return row
    if all(isinstance(name, str) and not name.startswith("t:") for name in names):
        return dict(zip(names, row, strict=True))
    return row


def _features(row: Any) -> dict[str, Any]:
    values = row if isinstance(row, dict) else {"input": row}
    features: dict[str, Any] = {}
    for name, value in values.items():
        features |= _feature(field_name(name), value)
    if len(features) > MAX_FEATURES:
        raise PayloadError(f"features: more than {MAX_FEATURES}")
    return features


def _feature(name: str, value: Any) -> dict[str, Any]:
    """One input as features; what has no place among them gives none."""
    items = _items(value)
    if not isinstance(value, list):
        return {} if isinstance(value, dict) else {name: value}
    if len(items) == 1:
        return {name: items[0]}
    numbers = _numbers(items)
    if numbers is None or len(items) <= MAX_SEPARATE:
        if len(items) > MAX_SEPARATE:
            return {}
        return {f"{name}_{place}": item for place, item in enumerate(items)}
    if len(items) <= MAX_VECTOR:
        return {name: items}
    return {f"{name}.mean": float(numbers.mean()), f"{name}.std": float(numbers.std())}


def _answer(row: Any) -> dict[str, Any]:
    values = row if isinstance(row, dict) else {"output": row}
    scalars = {name: v for name, v in values.items() if not isinstance(v, list | dict | None)}
    vectors = {name: _items(v) for name, v in values.items() if isinstance(v, list)}
    answer: dict[str, Any] = {}
    output = next((n for n in OUTPUT_NAMES if n in scalars), None)
    confidence = next((n for n in CONFIDENCE_NAMES if n in scalars), None)
    if output is None:
        output = next((n for n in scalars if n != confidence), None)
    if output is None and confidence is not None and len(scalars) == 1 and not vectors:
        output, confidence = confidence, None  # a score and nothing else is the output
    if output is not None:
        answer["output"] = scalars[output]
    if confidence is not None and _is_probability(scalars[confidence]):
        answer["confidence"] = scalars[confidence]
    for name, items in vectors.items():
        _add_vector(answer, name, items)
    return answer


def _add_vector(answer: dict[str, Any], name: str, items: list[Any]) -> None:
    if len(items) == 1:
        answer.setdefault("output", items[0])
        return
    numbers = _numbers(items)
    if numbers is None:
        return
    if _is_distribution(numbers):
        best = int(np.argmax(numbers))
        answer.setdefault("output", str(best))  # a class, not a number to be near to
        answer.setdefault("confidence", min(float(numbers[best]), 1.0))
    elif len(items) <= MAX_VECTOR:
        answer.setdefault("features", {})[field_name(name)] = items


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_distribution(numbers: npt.NDArray[np.float64]) -> bool:
    inside = bool((numbers >= 0).all() and (numbers <= 1 + _SUM_SLACK).all())
    return inside and abs(float(numbers.sum()) - 1) <= _SUM_SLACK * len(numbers)


def _numbers(items: list[Any]) -> npt.NDArray[np.float64] | None:
    """The items as finite doubles; None where one is not."""
    if not all(type(item) in (int, float) for item in items):
        return None
    try:
        numbers = np.array(items, np.float64)
    except OverflowError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _items(value: Any) -> list[Any]:
    return _flat(value) if isinstance(value, list) else [value]


def _flat(values: list[Any]) -> list[Any]:
    """Nested lists as one, in order; no deeper than JSON can nest."""
    while any(isinstance(value, list) for value in values):
        values = [*chain.from_iterable(v if isinstance(v, list) else [v] for v in values)]
    return values


def field_name(name: str) -> str:
    """A name that a feature may have: of a column's, without spaces and signs."""
    plain = _NOT_IN_NAMES.sub("_", name)[:48]
    return plain if plain[:1].isalpha() or plain.startswith("_") else f"f_{plain}"


def row_ids(id_: str, n: int) -> list[str]:
    """What the rows of one request are called: one has its id, of several each has a number too."""
    return [id_] if n == 1 else [f"{id_}-{row}" for row in range(n)]
