"""JSON rows: the bodies of `POST /v1/events` as an `EventBatch`, and back.

A body is one object, an array, `{"events": [...]}`, concatenated objects, or lines. It is decoded
at once by a typed decoder, into rows that live as long as it takes to turn them into columns. Where
that fails the body is split (`service.ingest.split`) and decoded row by row, and the rows that fail
again are refused, each with its index and reason; the others go on.

What unusual input gets:

- NaN, Infinity, 1e400, an integer that no double reaches: the row is refused. An integer beyond 53
  bits becomes the nearest double where a number is expected, and keeps its digits in an attribute.
- A lone surrogate, invalid UTF-8, a raw control character in a string: the row is refused.
- An escaped control character: refused in an id, a cluster, a name; U+FFFD in an attribute or
  a feature; kept in an output or a truth.
- A key given twice: the last one counts. A field that is not known: ignored, as shippers add
  their own.
- A body that nests beyond the interpreter's depth: that row is refused.
- Null, anywhere: the same as leaving the field out. An empty array as a feature: likewise.
- A number as text where a number is expected, a boolean where a number is: the row is refused.
- Text longer than an attribute (64) or a feature (128) may be is cut; a longer output or truth
  than 65,536 characters is refused.
- A time without an offset or Z, on a leap second, before 1970 or more than a day ahead of its
  receipt: the row is refused. Digits beyond microseconds are rounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from service.errors import InvalidRequest, NothingDecoded, TooLarge
from service.ingest.columns import (
    Label,
    Scalar,
    attribute_columns,
    feature_columns,
    text_column,
    value_column,
)
from service.ingest.events import (
    PREDICTION,
    Categories,
    EventBatch,
    Floats,
    Ints,
    Rejected,
    Value,
)
from service.ingest.rules import (
    MAX_ATTRIBUTE_CHARS,
    MAX_VECTOR,
    NUMBERS,
    admit,
    clean_text,
    instant_of_number,
    instants_of_numbers,
    kinds,
    well_formed_id,
    well_formed_name,
)
from service.ingest.split import split_rows

Instant = Annotated[datetime, Meta(tz=True)] | int | float | None
FeatureField = float | str | bool | Annotated[list[float], Meta(max_length=MAX_VECTOR)] | None


class Row(msgspec.Struct, gc=False):
    """A prediction, a label, or both at once."""

    id: str
    model: str
    kind: Literal["prediction", "label"] | None = None
    version: str | int | None = None
    time: Instant = None
    attributes: dict[str, Label] | None = None
    features: dict[str, FeatureField] | None = None
    output: Scalar = None
    confidence: float | None = None
    cluster: str | int | None = None
    truth: Scalar = None
    loss: float | None = None
    errors: float | None = None
    total: float | None = None
    inclusion_probability: float | None = None
    stratum: Label = None
    # Where shippers put a record's time; it counts where there is no `time`.
    timestamp: Any = None  # Vector
    date: Any = None  # Fluent Bit
    at_timestamp: Any = msgspec.field(default=None, name="@timestamp")  # Fluentd, Elastic's way


class _Envelope(msgspec.Struct, gc=False):
    events: list[Row]


class _Name(msgspec.Struct, gc=False):
    """What can be said of a row that was refused."""

    id: Any = None
    model: Any = None


_ROW: Final = msgspec.json.Decoder(Row)
_ROWS: Final = msgspec.json.Decoder(list[Row])
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_NAMES: Final = msgspec.json.Decoder(_Name)

NO_ROW_ACCEPTED: Final = "no row of the body could be accepted"

_BOM: Final = b"\xef\xbb\xbf"
_OPENS_ENVELOPE: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"events"[ \t\r\n]*:')
_OPENS_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")
ROW_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FIELD: Final = re.compile(r"`\$(?:\.(\w+))?|required field `(\w+)`")

# What a field must be; a reason is made of this and never of what the decoder says, which echoes.
_MUST_BE: Final = {
    "id": "must be text",
    "model": "must be text",
    "kind": "must be prediction or label",
    "version": "must be text",
    "time": "must be RFC 3339 with an offset or Z, or seconds since 1970",
    "attributes": "must be an object of text, numbers and booleans",
    "features": "must be an object of finite numbers, text, booleans, null and flat arrays of up"
    f" to {MAX_VECTOR} finite numbers",
    "output": "must be a finite number, text, a boolean or null",
    "truth": "must be a finite number, text, a boolean or null",
    "confidence": "must be a finite number",
    "cluster": "must be text",
    "loss": "must be a finite number",
    "errors": "must be a finite number",
    "total": "must be a finite number",
    "inclusion_probability": "must be a finite number",
    "stratum": "must be text",
}


def decode_json(body: bytes, received_at: int, max_rows: int) -> tuple[EventBatch, list[Rejected]]:
    """The rows of a body as columns, and those that were refused.

    Raises InvalidRequest where it holds no rows, NothingDecoded where each was refused, TooLarge
    where there are more than `max_rows`.
    """
    rows, positions, undecoded = _decode(body.removeprefix(_BOM), max_rows)
    if not rows:
        raise NothingDecoded("no row of the body could be decoded", undecoded)
    batch, rejected = rows_to_batch(rows, positions, received_at)
    if undecoded:
        rejected = sorted(rejected + undecoded, key=lambda row: row.index)
    if not len(batch):
        raise NothingDecoded(NO_ROW_ACCEPTED, rejected)
    return batch, rejected


def _decode(body: bytes, max_rows: int) -> tuple[list[Row], Ints | None, list[Rejected]]:
    """Rows, their places in the body where some are missing, and those that are missing."""
    try:
        if _may_hold_more(body, max_rows):
            split_rows(body, max_rows)  # refuses millions of rows before they are made
        if _OPENS_ARRAY.match(body):
            rows = _ROWS.decode(body)
        elif _OPENS_ENVELOPE.match(body):
            rows = _ENVELOPE.decode(body).events
        else:
            rows = _ROW.decode_lines(body)
    except ROW_ERRORS:
        return _decode_each(split_rows(body, max_rows))
    if not rows:
        raise InvalidRequest("the body holds no rows")
    if len(rows) > max_rows:
        raise TooLarge(f"more than {max_rows} rows in one request")
    return rows, None, []


def _may_hold_more(body: bytes, max_rows: int) -> bool:
    """Whether it is worth counting: a row takes 20 bytes, an id, and seldom more than 4 braces."""
    return len(body) > 20 * max_rows and (
        body.count(b'"id"') > max_rows or body.count(b"{") > 4 * max_rows
    )


def _decode_each(pieces: Sequence[bytes]) -> tuple[list[Row], Ints | None, list[Rejected]]:
    if not any(piece.startswith(b"{") for piece in pieces):
        raise InvalidRequest("the body holds no rows: it must be JSON objects")
    rows, positions, rejected = [], [], []
    for index, piece in enumerate(pieces):
        try:
            rows.append(_ROW.decode(piece))
            positions.append(index)
        except ROW_ERRORS as error:
            rejected.append(refusal(index, piece, error))
    return rows, np.array(positions, np.int64) if rejected else None, rejected


def refusal(index: int, piece: bytes, error: Exception) -> Rejected:
    """What is said of a row that the decoder refused, with one of ROW_ERRORS."""
    try:
        named = _NAMES.decode(piece)
    except ROW_ERRORS:
        named = _Name()
    return Rejected(
        index,
        named.id if isinstance(named.id, str) and well_formed_id(named.id) else None,
        _reason(error),
        named.model if isinstance(named.model, str) and well_formed_name(named.model) else None,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, msgspec.ValidationError):
        return "not valid JSON"
    match = _FIELD.search(str(error))
    field, missing = match.groups() if match else (None, None)
    if missing is not None:
        return f"{missing}: required"
    return f"{field}: {_MUST_BE[field]}" if field in _MUST_BE else "must be a JSON object"


def rows_to_batch(
    rows: Sequence[Row],
    positions: Ints | None,
    received_at: int,
    refused: dict[int, str] | None = None,
) -> tuple[EventBatch, list[Rejected]]:
    """The rows as columns, and those that break a rule, beside those `refused` already."""
    refused = {} if refused is None else refused
    batch = EventBatch(
        ids=[row.id for row in rows],
        kind=np.zeros(len(rows), np.uint8),
        time=instants(_times(rows, refused), received_at),
        model=Categories.of([row.model for row in rows]),
        version=text_column([row.version for row in rows]),
        attributes=attribute_columns([row.attributes for row in rows], refused),
        features=feature_columns([row.features for row in rows], refused),
        output=value_column([row.output for row in rows]),
        truth=value_column([row.truth for row in rows]),
        cluster=_texts([row.cluster for row in rows]),
        stratum=_cleaned(_texts([row.stratum for row in rows])),
        confidence=_floats([row.confidence for row in rows]),
        loss=_floats([row.loss for row in rows]),
        errors=_floats([row.errors for row in rows]),
        total=_floats([row.total for row in rows]),
        inclusion_probability=_floats([row.inclusion_probability for row in rows]),
        positions=positions,
    )
    has_features = np.array([row.features is not None for row in rows])
    is_prediction = has_features | batch.output.present(len(rows))
    stated = Categories.of([row.kind for row in rows])
    batch.kind[:] = kinds(stated, is_prediction, batch.has_label())
    return admit(batch, received_at, refused)


def _floats(column: Sequence[float | None]) -> Floats | None:
    return None if column.count(None) == len(column) else np.array(column, np.float64)


def _texts(column: Sequence[Label]) -> Categories | None:
    return None if column.count(None) == len(column) else text_column(column)


def _cleaned(column: Categories | None) -> Categories | None:
    return None if column is None else clean_text(column, MAX_ATTRIBUTE_CHARS)


def _times(rows: Sequence[Row], refused: dict[int, str]) -> list[Instant]:
    """Each row's time, where it has none that of its shipper."""
    times = [row.time for row in rows]
    if None in times:
        for index, row in enumerate(rows):
            if row.time is None:
                times[index] = _shipped_at(index, row, refused)
    return times


def _shipped_at(index: int, row: Row, refused: dict[int, str]) -> Instant:
    for name, value in (("timestamp", row.timestamp), ("date", row.date)):
        if value is not None:
            return _converted(index, name, value, refused)
    return _converted(index, "@timestamp", row.at_timestamp, refused)


def _converted(index: int, name: str, value: Any, refused: dict[int, str]) -> Instant:
    try:
        return msgspec.convert(value, Instant)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        refused[index] = f"{name}: {_MUST_BE['time']}"
        return None


def instants(column: Sequence[Instant], received_at: int) -> Ints:
    """Microseconds since 1970 of each time; of receipt where there is none."""
    try:
        seconds = np.fromiter(map(datetime.timestamp, column), np.float64, len(column))  # type: ignore[arg-type]
    except TypeError:
        if all(type(value) is float for value in column):
            return instants_of_numbers(np.array(column, np.float64))
        return np.array([_instant(value, received_at) for value in column], np.int64)
    return np.rint(seconds * 1e6).astype(np.int64)


def _instant(value: Instant, received_at: int) -> int:
    if value is None:
        return received_at
    if isinstance(value, datetime):
        return round(value.timestamp() * 1e6)
    return instant_of_number(value)


def to_json_rows(batch: EventBatch) -> list[dict[str, Any]]:
    """Each row in the contract's JSON form; `decode_json` makes the same batch of them."""
    rows: list[dict[str, Any]] = [
        {"kind": "prediction" if kind & PREDICTION else "label", "id": id_}
        for kind, id_ in zip(batch.kind.tolist(), batch.ids, strict=True)
    ]
    times = np.datetime_as_string(batch.time.astype("datetime64[us]"), unit="us", timezone="UTC")
    columns: list[tuple[str, Sequence[Any] | None]] = [
        ("model", batch.model.tolist()),
        ("version", batch.version.tolist()),
        ("time", times.tolist()),
        ("attributes", _maps({name: c.tolist() for name, c in batch.attributes.items()})),
        ("features", _maps({name: _plain(v) for name, v in batch.features.items()})),
        ("output", _plain(batch.output)),
        ("truth", _plain(batch.truth)),
        ("cluster", None if batch.cluster is None else batch.cluster.tolist()),
        ("stratum", None if batch.stratum is None else batch.stratum.tolist()),
        *((name, _plain(Value(getattr(batch, name)))) for name in NUMBERS),
    ]
    for name, column in columns:
        for row, value in zip(rows, column or (), strict=False):
            if value is not None:
                row[name] = value
    return rows


def _maps(columns: dict[str, list[Any]]) -> list[dict[str, Any] | None]:
    """Each row's map of the columns in which it has a value; None where that is none."""
    names = list(columns)
    return [
        {name: v for name, v in zip(names, values, strict=True) if v is not None} or None
        for values in zip(*columns.values(), strict=True)
    ]


def _plain(value: Value) -> list[Any]:
    """The values row by row as JSON has them; empty where no row has any."""
    rows: list[Any] = []
    if value.number is not None:
        rows = [None if number != number else number for number in value.number.tolist()]
    if value.text is not None:
        texts = value.text.tolist()
        rows = texts if not rows else _either(texts, rows)
    if value.vector is not None:
        ends = value.vector.offsets.tolist()
        numbers = value.vector.values.tolist()
        vectors = [numbers[i:j] or None for i, j in pairwise(ends)]
        rows = vectors if not rows else _either(vectors, rows)
    return rows


def _either(first: list[Any], second: list[Any]) -> list[Any]:
    return [b if a is None else a for a, b in zip(first, second, strict=True)]
