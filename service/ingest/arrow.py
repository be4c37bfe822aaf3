"""Arrow: a table in the contract's flat form as an `EventBatch`, a column at a time.

Columns are the contract's field names, `attributes.<dimension>`, `features.<name>` and
`label_time`; others are ignored. Each value becomes what its JSON would have become: an integer and
a 32-bit float their double, a boolean its text, a null nothing. An instant without a time zone is
UTC.
"""

from __future__ import annotations

import math
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
    is_field,
    kinds,
)

NO_TIME: Final = np.iinfo(np.int64).min  # the instant of what never was

_MICROS_A_UNIT: Final = {"s": 1_000_000, "ms": 1_000}
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
        self._n = int(table.num_rows)
        self._refused = refused
        # One array a column; what is null throughout is as good as not there.
        self._columns = {
            name: array
            for name, column in zip(table.column_names, table.columns, strict=True)
            if is_field(name) and ((array := _one(column)).null_count < self._n or not self._n)
        }

    def batch(self, default_model: str | None, received_at: int | None) -> tuple[EventBatch, Ints]:
        needed = {"id": True, "time": received_at is None, "model": default_model is None}
        for name, is_needed in needed.items():
            if is_needed and name not in self._columns:
                raise InvalidRequest(f"column {name}: required")
        ids, time = self._ids(), self._instants("time")
        if received_at is None:
            self._refuse(time == NO_TIME, "time: required")
        else:
            time = np.where(time == NO_TIME, received_at, time)
        features = self._features()
        batch = EventBatch(
            ids=ids,
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
        if not stated.present.all():
            for feature in batch.features.values():
                is_prediction |= feature.present(n)
        return kinds(stated, is_prediction, batch.has_label())

    def _refuse(self, wrong: Bools, reason: str) -> None:
        if wrong.any():
            for row in np.flatnonzero(wrong).tolist():
                self._refused.setdefault(row, reason)

    def _ids(self) -> list[str]:
        """An id a row, empty where there is none: as a rule no two are alike."""
        column = self._columns["id"]
        if not is_text(column.type):
            return [value or "" for value in self._text("id").tolist()]
        ids = _to_python("id", column)
        if column.null_count:
            self._refuse(np.array([value is None for value in ids]), "id: required")
            ids = [value or "" for value in ids]
        return ids

    def _text(self, name: str) -> Categories:
        """A column of text; numbers and booleans become theirs."""
        column = self._columns.get(name)
        if column is None:
            return Categories.absent(self._n)
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        kind = encoded.type.value_type
        if not is_text(kind) and not is_number(kind) and not pa.types.is_boolean(kind):
            raise InvalidRequest(f"column {name}: must be text, numbers or booleans")
        codes = _codes(encoded.indices)
        values = _to_python(name, encoded.dictionary)
        if is_number(kind):
            finite = [value is None or math.isfinite(value) for value in values]
            self._refuse(~np.array([*finite, True])[codes], f"{name}: {_FINITE}")
        if is_text(kind) and len(set(values)) == len(values) and None not in values:
            return Categories(codes, values)
        index: dict[str | None, int] = {None: -1}
        lookup = [index.setdefault(label_text(value), len(index) - 1) for value in values]
        return Categories(np.array([*lookup, -1], np.int32)[codes], list(index)[1:])  # type: ignore[arg-type]

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
        names = [name.removeprefix(prefix) for name in self._columns if name.startswith(prefix)]
        if len(names) > most:
            raise InvalidRequest(f"columns {prefix}…: more than {most}")
        if not all(map(well_formed_field, names)):
            raise InvalidRequest(f"columns {prefix}…: a name is not well-formed")
        return names

    def _numbers(self, name: str) -> Floats | None:
        column = self._columns.get(name)
        if column is None:
            return None
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if is_text(column.type):
            column = pa.array([_number(text) for text in _to_python(name, column)], pa.float64())
        if not is_number(column.type):
            raise InvalidRequest(f"column {name}: must be numbers")
        numbers = _floats(column)
        wrong = ~np.isfinite(numbers)
        if np.count_nonzero(wrong) > column.null_count:
            wrong &= column.is_valid().to_numpy(zero_copy_only=False)
            self._refuse(wrong, f"{name}: {_FINITE}")
        return numbers

    def _value(self, name: str) -> Value:
        """A column of whatever type an output, a truth or a feature may have."""
        column = self._columns.get(name)
        if column is None:
            return Value()
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if is_number(kind):
            return Value(number=self._numbers(name))
        if is_text(kind) or pa.types.is_boolean(kind):
            return Value(text=self._text(name))
        if is_list(kind) and name.startswith(FEATURE):
            return Value(vector=self._vectors(name, column))
        raise InvalidRequest(f"column {name}: {kind} is not a type of this field")

    def _vectors(self, name: str, column: Any) -> Vectors | None:
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        lengths = lengths.astype(np.int64)
        flat = column.flatten()
        if not is_number(flat.type):
            raise InvalidRequest(f"column {name}: must be arrays of numbers")
        self._refuse(lengths > MAX_VECTOR, f"{name}: more than {MAX_VECTOR} numbers")
        with np.errstate(over="ignore"):
            values = _floats(flat).astype(np.float32)
        return Vectors(np.concatenate(([0], np.cumsum(lengths))), values) if len(values) else None

    def _instants(self, name: str) -> Ints:
        """Microseconds since 1970, NO_TIME where there is none."""
        column = self._columns.get(name)
        if column is None:
            return np.full(self._n, NO_TIME)
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("us"))
        if pa.types.is_timestamp(column.type):
            ticks = column.view(pa.int64())
            if column.null_count:
                ticks = ticks.fill_null(0)
            micros = _micros(ticks.to_numpy(zero_copy_only=False), column.type.unit)
            if not column.null_count:
                return micros
            return np.where(column.is_null().to_numpy(zero_copy_only=False), NO_TIME, micros)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not is_text(column.type) and not is_number(column.type):
            raise InvalidRequest(f"column {name}: must be instants")
        instants = [_instant(value) for value in _to_python(name, column)]
        self._refuse(np.array([instant is None for instant in instants]), f"{name}: {_INSTANT}")
        return np.array([0 if instant is None else instant for instant in instants], np.int64)


_TEXT_IDS: Final = frozenset(kind.id for kind in (pa.string(), pa.large_string(), pa.string_view()))
_INTEGERS: Final = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_NATURALS: Final = (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
_FLOATS: Final = (pa.float16(), pa.float32(), pa.float64())
_DECIMALS: Final = (pa.decimal32(1), pa.decimal64(1), pa.decimal128(1), pa.decimal256(1))
_NUMBER_IDS: Final = frozenset(kind.id for kind in (*_INTEGERS, *_NATURALS, *_FLOATS, *_DECIMALS))
_LISTS: Final = (pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.list_(pa.int8(), 1))
_LIST_IDS: Final = frozenset(kind.id for kind in _LISTS)


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds text."""
    return kind.id in _TEXT_IDS


def is_number(kind: Any) -> bool:
    """Whether a column of this type holds numbers."""
    return kind.id in _NUMBER_IDS


def is_list(kind: Any) -> bool:
    """Whether a column of this type holds arrays."""
    return kind.id in _LIST_IDS


def _one(column: Any) -> Any:
    """A column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _codes(indices: Any) -> npt.NDArray[np.int32]:
    """The indices of a dictionary, -1 where there is none."""
    codes = indices.to_numpy(zero_copy_only=False)
    if indices.null_count:  # then they are doubles, NaN where there is none
        codes = np.where(np.isnan(codes), -1.0, codes)
    return cast(npt.NDArray[np.int32], codes.astype(np.int32))


def _floats(column: Any) -> Floats:
    """The doubles of a column of numbers, NaN where there is none."""
    if column.type.id not in _PLAIN_IDS:
        column = pc.cast(column, pa.float64(), safe=False)
    return cast(Floats, column.to_numpy(zero_copy_only=False).astype(np.float64))


_PLAIN_IDS: Final = _NUMBER_IDS - {kind.id for kind in _DECIMALS}


def _micros(ticks: Ints, unit: str) -> Ints:
    """Microseconds of instants in this unit."""
    if unit == "us":
        return ticks
    return (ticks + 500) // 1000 if unit == "ns" else ticks * _MICROS_A_UNIT[unit]


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
