"""Columns: lists of decoded values as `Categories` and `Value`, attributes and features included.

Rows carry their attributes and features as small maps. Rows whose maps have the same names are
taken together: their values are zipped into columns, and no row is looked at on its own.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from service.ingest.events import FIELD_NAME, Categories, Floats, Value, Vectors
from service.ingest.rules import (
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_FEATURE_CHARS,
    MAX_FEATURES,
    clean_text,
)

T = TypeVar("T")
Rows = npt.NDArray[np.intp]
Label = str | int | float | bool | None  # of an attribute; becomes text
Scalar = float | str | bool | None  # of an output or a truth
Feature = float | str | bool | None | list[float]

# Names × rows of one request. Rows that each bring names of their own would make columns of
# nothing: a body of 32 MiB that is not built for it stays below this, one that is hits the cap.
MAX_CELLS: Final = 8_000_000

_FIELD_NAME: Final = re.compile(FIELD_NAME, re.ASCII)
_EXACT: Final = 2.0**53  # integers up to here are exact in a double


def label_text(value: Label) -> str | None:
    """The text of an attribute: 7, 7.0 and "7" are one value, and so are true and "true"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else repr(value)
    return value if value is None or isinstance(value, str) else str(value)


def text_column(column: Sequence[Label]) -> Categories:
    """A column of text; what is a number or a boolean becomes its text."""
    categories = Categories.of(column)  # type: ignore[arg-type]
    if all(type(value) is str for value in categories.values):
        return categories
    # Again from the start: 1, 1.0 and True were one key.
    return Categories.of([label_text(value) for value in column])


def value_column(column: Sequence[Feature]) -> Value:
    """Numbers, texts and arrays of a column, each kind in its own; without any, `Value()`."""
    found = set(map(type, column))
    if found == {float}:  # three times as fast as np.array
        return Value(np.frombuffer(struct.pack(f"{len(column)}d", *column)))
    if found == {str} or found == {str, NoneType}:
        return Value(text=Categories.of(column))  # type: ignore[arg-type]
    return Value(
        _numbers(column) if float in found else None,
        _texts(column) if not found.isdisjoint((str, bool)) else None,
        vector_column(column) if list in found else None,
    )


def _numbers(column: Sequence[Feature]) -> Floats:
    return np.array([value if type(value) is float else math.nan for value in column])


def _texts(column: Sequence[Feature]) -> Categories:
    return Categories.of([label_text(v) if isinstance(v, str | bool) else None for v in column])


def vector_column(column: Sequence[object]) -> Vectors | None:
    """A ragged column; a number beyond 32 bits becomes infinite, for the rules to refuse."""
    rows = [value if isinstance(value, list) else [] for value in column]
    with np.errstate(over="ignore"):
        values = np.array([*chain.from_iterable(rows)], np.float64).astype(np.float32)
    return Vectors(np.cumsum([0, *map(len, rows)]), values) if values.size else None


def clean_feature(value: Value) -> Value:
    """The column with its text brought to one spelling."""
    if value.text is None:
        return value
    return replace(value, text=clean_text(value.text, MAX_FEATURE_CHARS))


def attribute_columns(
    maps: Sequence[Mapping[str, Label] | None], refused: dict[int, str]
) -> dict[str, Categories]:
    """A column an attribute; rows whose names are not allowed are added to `refused`."""
    columns = {}
    for name, rows, values in _by_name(maps, "attributes", MAX_ATTRIBUTES, refused):
        column = clean_text(text_column(values), MAX_ATTRIBUTE_CHARS)
        if column.values:
            columns[name] = _spread_text(column, rows, len(maps))
    return columns


def feature_columns(
    maps: Sequence[Mapping[str, Feature] | None], refused: dict[int, str]
) -> dict[str, Value]:
    """A column a feature; rows whose names are not allowed are added to `refused`."""
    columns = {}
    for name, rows, values in _by_name(maps, "features", MAX_FEATURES, refused):
        column = clean_feature(value_column(values))
        if not is_empty(column):
            columns[name] = _spread(column, rows, len(maps))
    return columns


def is_empty(value: Value) -> bool:
    """Whether no row has anything."""
    return value.number is None and value.text is None and value.vector is None


def well_formed_field(name: str) -> bool:
    """Whether an attribute or a feature may be called this."""
    return _FIELD_NAME.fullmatch(name) is not None


def _by_name(
    maps: Sequence[Mapping[str, T] | None], what: str, max_names: int, refused: dict[int, str]
) -> Iterator[tuple[str, Rows, Sequence[T]]]:
    """Each name, the rows that have it, and their values."""
    parts: dict[str, list[tuple[Rows, Sequence[T]]]] = {}
    for names, rows, columns in _alike(maps):
        new = [name for name in names if name not in parts]
        if problem := _bad_names(names, new, max_names, (len(parts) + len(new)) * len(maps)):
            refused.update(dict.fromkeys(rows, f"{what}: {problem}"))
            continue
        at = np.fromiter(rows, np.intp, len(rows))
        for name, column in zip(names, columns, strict=True):
            parts.setdefault(name, []).append((at, column))
    for name, of_name in parts.items():
        if len(of_name) == 1:
            yield name, *of_name[0]
        else:
            values = [*chain.from_iterable(column for _, column in of_name)]
            yield name, np.concatenate([at for at, _ in of_name]), values


def _alike(
    maps: Sequence[Mapping[str, T] | None],
) -> Iterator[tuple[Sequence[str], Sequence[int], Iterable[Sequence[T]]]]:
    """Names, the rows whose maps have just these, and a column a name."""
    rows: Sequence[int] = range(len(maps))
    held = [of_row for of_row in maps if of_row]
    if not held:
        return
    if len(held) < len(maps):
        rows = [row for row, of_row in enumerate(maps) if of_row]
    if len(set(map(len, held))) == 1:
        with suppress(KeyError):
            yield [*held[0]], rows, _columns(held)
            return
    groups: dict[tuple[str, ...], tuple[list[int], list[Mapping[str, T]]]] = {}
    for row, of_row in zip(rows, held, strict=True):
        at, group = groups.setdefault(tuple(of_row), ([], []))
        at.append(row)
        group.append(of_row)
    for names, (at, group) in groups.items():
        yield names, at, _columns(group)


def _columns(maps: Sequence[Mapping[str, T]]) -> Iterable[Sequence[T]]:
    """A column for each name of the first; KeyError where another lacks it."""
    if len(maps[0]) == 1:  # of one name, itemgetter gives no tuple
        return [[of_row[name] for of_row in maps] for name in maps[0]]
    return zip(*map(itemgetter(*maps[0]), maps), strict=True)


def _bad_names(
    names: Sequence[str], new: Sequence[str], max_names: int, n_cells: int
) -> str | None:
    """What is wrong with a row's names, if anything; names seen before are known to be good."""
    if len(names) > max_names:
        return f"more than {max_names}"
    if not all(map(well_formed_field, new)):
        return "a name is not well-formed"
    if new and n_cells > MAX_CELLS:
        return "too many different names in one request"
    return None


def _spread(value: Value, rows: Rows, n: int) -> Value:
    """A column of `rows` as a column of all."""
    if len(rows) == n and (np.diff(rows) > 0).all():
        return value
    number = None
    if value.number is not None:
        number = np.full(n, np.nan)
        number[rows] = value.number
    return Value(
        number,
        None if value.text is None else _spread_text(value.text, rows, n),
        None if value.vector is None else _spread_vectors(value.vector, rows, n),
    )


def _spread_text(column: Categories, rows: Rows, n: int) -> Categories:
    codes = np.full(n, -1, np.int32)
    codes[rows] = column.codes
    return Categories(codes, column.values)


def _spread_vectors(column: Vectors, rows: Rows, n: int) -> Vectors:
    ordered = column.take(np.argsort(rows))
    lengths = np.zeros(n, np.int64)
    lengths[rows] = np.diff(column.offsets)
    return Vectors(np.concatenate(([0], np.cumsum(lengths))), ordered.values)
