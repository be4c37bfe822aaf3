"""Arrow: a table in the contract's flat form as an `EventBatch`, a column at a time.

Columns are the contract's field names, `attributes.<dimension>`, `features.<name>` and
`label_time`; others are ignored. Each value becomes what its JSON would have become: an integer and
a 32-bit float their double, a boolean its text, a null nothing. An instant without a time zone is
UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.errors import InvalidRequest
from service.ingest.columns import clean_feature, is_empty, label_text, well_formed_field
from service.ingest.events import Bools, Categories, EventBatch, Floats, Ints, Value, Vectors
from service.ingest.rules import (
    ATTRIBUTE,
    FEATURE,
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_FEATURES,
    MAX_VECTOR,
    clean_text,
    instant_of_number,
    kinds,
)

NO_TIME: Final = np.iinfo(np.int64).min  # the instant of what never was

_MICROS_A_UNIT: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_FINITE: Final = "must be a finite number"
_INSTANT: Final = "must be RFC 3339, or seconds since 1970"


def columns_to_batch(
    table: Any,
    default_model: str | None,
    refused: dict[int, str],
    received_at: int | None = None,
) -> tuple[EventBatch, Ints]:
    """The rows of a `pyarrow.Table`, and when each one's label came, NO_TIME where that is unsaid.

    A row without a time is of `received_at`, and refused where that is None. Rows with a value
    that can't be read are added to `refused`; the rules are for the caller to apply. Raises
    InvalidRequest for a column that is missing or of a type that no field has.
    """
    return _Columns(table, refused).batch(default_model, received_at)


class _Columns:
    """The columns of a table by name, and the rows that were found wanting."""

    def __init__(self, table: Any, refused: dict[int, str]) -> None:
        self._table = table
        self._n = int(table.num_rows)
        self._refused = refused

    def batch(self, default_model: str | None, received_at: int | None) -> tuple[EventBatch, Ints]:
        needed = {"id": True, "time": received_at is None, "model": default_model is None}
        for name, is_needed in needed.items():
            if is_needed and self._column(name) is None:
                raise InvalidRequest(f"column {name}: required")
        ids, time = self._text("id"), self._instants("time")
        self._refuse(~ids.present, "id: required")
        if received_at is None:
            self._refuse(time == NO_TIME, "time: required")
        else:
            time = np.where(time == NO_TIME, received_at, time)
        features = self._features()
        batch = EventBatch(
            ids=[value or "" for value in ids.tolist()],
            kind=np.zeros(self._n, np.uint8),
            time=time,
            model=_filled(self._text("model"), default_model),
            version=self._text("version"),
            attributes=self._attributes(),
            features=features,
            output=self._value("output"),
            truth=self._value("truth"),
            cluster=self._optional_text("cluster"),
            stratum=self._optional_text("stratum"),
            confidence=self._numbers("confidence"),
            loss=self._numbers("loss"),
            errors=self._numbers("errors"),
            total=self._numbers("total"),
            inclusion_probability=self._numbers("inclusion_probability"),
        )
        batch.kind[:] = self._kinds(batch)
        return batch, self._instants("label_time")

    def _kinds(self, batch: EventBatch) -> npt.NDArray[np.uint8]:
        n = self._n
        stated = self._text("kind")
        unknown = [value not in ("prediction", "label") for value in stated.values]
        self._refuse(np.array([*unknown, False])[stated.codes], "kind: must be prediction or label")
        is_prediction = batch.output.present(n)
        for feature in batch.features.values():
            is_prediction |= feature.present(n)
        return kinds(stated, is_prediction, batch.has_label())

    def _column(self, name: str) -> Any | None:
        """A column as one array without a dictionary, or None where it is missing or all null."""
        if name not in self._table.column_names:
            return None
        column = self._table.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column

    def _refuse(self, wrong: Bools, reason: str) -> None:
        if wrong.any():
            for row in np.flatnonzero(wrong).tolist():
                self._refused.setdefault(row, reason)

    def _text(self, name: str) -> Categories:
        """A column of text; numbers and booleans become theirs."""
        column = self._column(name)
        if column is None or pa.types.is_null(column.type):
            return Categories.absent(self._n)
        if not is_text(column.type) and not is_number(column.type):
            if not pa.types.is_boolean(column.type):
                raise InvalidRequest(f"column {name}: must be text, numbers or booleans")
        if is_number(column.type):
            self._refuse(~np.isfinite(_floats(column, 0.0)), f"{name}: {_FINITE}")
        encoded = column.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        values = _to_python(name, encoded.dictionary)
        if _is_text(column.type):
            return Categories(codes.astype(np.int32), values)
        texts = [label_text(value) for value in values]
        index: dict[str, int] = {}
        lookup = [index.setdefault(cast(str, text), len(index)) for text in texts]
        return Categories(np.array([*lookup, -1], np.int32)[codes], list(index))

    def _optional_text(self, name: str) -> Categories | None:
        column = self._text(name)
        return clean_text(column, MAX_ATTRIBUTE_CHARS) if column.values else None

    def _attributes(self) -> dict[str, Categories]:
        names = self._names(ATTRIBUTE, MAX_ATTRIBUTES)
        columns = {name: self._text(ATTRIBUTE + name) for name in names}
        return {
            name: clean_text(column, MAX_ATTRIBUTE_CHARS)
            for name, column in columns.items()
            if column.values
        }

    def _features(self) -> dict[str, Value]:
        names = self._names(FEATURE, MAX_FEATURES)
        columns = {name: clean_feature(self._value(FEATURE + name)) for name in names}
        return {name: column for name, column in columns.items() if not is_empty(column)}

    def _names(self, prefix: str, most: int) -> list[str]:
        columns = [name for name in self._table.column_names if name.startswith(prefix)]
        names = [name.removeprefix(prefix) for name in columns]
        if len(names) > most:
            raise InvalidRequest(f"columns {prefix}…: more than {most}")
        if not all(map(well_formed_field, names)):
            raise InvalidRequest(f"columns {prefix}…: a name is not well-formed")
        return names

    def _numbers(self, name: str) -> Floats | None:
        column = self._column(name)
        if column is None or column.null_count == self._n:
            return None
        if is_text(column.type):
            column = pa.array([_number(text) for text in _to_python(name, column)], pa.float64())
        if not is_number(column.type):
            raise InvalidRequest(f"column {name}: must be numbers")
        self._refuse(~np.isfinite(_floats(column, 0.0)), f"{name}: {_FINITE}")
        return _floats(column, np.nan)

    def _value(self, name: str) -> Value:
        """A column of whatever type an output, a truth or a feature may have."""
        column = self._column(name)
        if column is None or column.null_count == self._n:
            return Value()
        if is_number(column.type):
            return Value(number=self._numbers(name))
        if is_text(column.type) or pa.types.is_boolean(column.type):
            return Value(text=self._text(name))
        if is_list(column.type) and name.startswith(FEATURE):
            return Value(vector=self._vectors(name, column))
        raise InvalidRequest(f"column {name}: {column.type} is not a type of this field")

    def _vectors(self, name: str, column: Any) -> Vectors | None:
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        lengths = lengths.astype(np.int64)
        flat = column.flatten()
        if not is_number(flat.type):
            raise InvalidRequest(f"column {name}: must be arrays of numbers")
        self._refuse(lengths > MAX_VECTOR, f"{name}: more than {MAX_VECTOR} numbers")
        with np.errstate(over="ignore"):
            values = _floats(flat, np.nan).astype(np.float32)
        return Vectors(np.concatenate(([0], np.cumsum(lengths))), values) if len(values) else None

    def _instants(self, name: str) -> Ints:
        """Microseconds since 1970, NO_TIME where there is none."""
        column = self._column(name)
        if column is None or column.null_count == self._n:
            return np.full(self._n, NO_TIME)
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("us"))
        if pa.types.is_timestamp(column.type):
            ticks = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            unit = column.type.unit
            micros = (ticks + 500) // 1000 if unit == "ns" else ticks * _MICROS_A_UNIT[unit]
            return np.where(column.is_null().to_numpy(zero_copy_only=False), NO_TIME, micros)
        if not is_text(column.type) and not is_number(column.type):
            raise InvalidRequest(f"column {name}: must be instants")
        instants = [_instant(value) for value in _to_python(name, column)]
        self._refuse(np.array([instant is None for instant in instants]), f"{name}: {_INSTANT}")
        return np.array([0 if instant is None else instant for instant in instants], np.int64)


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind)) or bool(
        pa.types.is_string_view(kind)
    )


def is_number(kind: Any) -> bool:
    """Whether a column of this type holds numbers."""
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(is_kind(kind) for is_kind in numbers)


def is_list(kind: Any) -> bool:
    """Whether a column of this type holds arrays."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists)


def _floats(column: Any, null: float) -> Floats:
    """The doubles of a column of numbers, `null` where there is none."""
    doubles = pc.cast(column, pa.float64(), safe=False).fill_null(null)
    return cast(Floats, doubles.to_numpy(zero_copy_only=False))


def _to_python(name: str, column: Any) -> list[Any]:
    try:
        return cast(list[Any], column.to_pylist())
    except UnicodeDecodeError:
        raise InvalidRequest(f"column {name}: is not UTF-8") from None


def _filled(column: Categories, default: str | None) -> Categories:
    if default is None or column.present.all():
        return column
    return Categories.of([value or default for value in column.tolist()])


def _number(text: str | None) -> float | None:
    """The number that a text is; NaN, for the rules to refuse, where it is none."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _instant(value: Any) -> int | None:
    """Microseconds since 1970; NO_TIME of nothing, None of what is no instant."""
    if value is None:
        return NO_TIME
    if isinstance(value, str):
        try:
            at = msgspec.convert(value, datetime)
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)
        except msgspec.ValidationError:
            pass
    try:
        return instant_of_number(int(value) if float(value).is_integer() else float(value))
    except (ValueError, OverflowError):
        return None
