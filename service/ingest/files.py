"""Files: rows of Parquet, CSV, NDJSON or captures, in the order in which they would have arrived.

A row that carries its label with it is two events: the prediction at its `time`, the label at its
`label_time`; without a `label_time` it is both at once. All of them are merged by time, predictions
before labels at the same instant, and handed out as batches.

CSV has no types: `features.*`, `output` and `truth` are numbers where every value of the column is
one, and text otherwise; an empty cell is null, and so are `NA`, `NaN` and `null` among numbers. In
all formats an instant without an offset is UTC, save in NDJSON, which is read as the API reads it.
Captures (`service.ingest.captures`) may hold labels without time, which come with their prediction.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from service.errors import InvalidRequest
from service.ingest.arrow import (
    NO_TIME,
    columns_to_batch,
)
from service.ingest.captures import Read, documents_of_line, reader_of
from service.ingest.documents import accepted_of, nested, renamed
from service.ingest.events import (
    LABEL,
    PREDICTION,
    Bools,
    Categories,
    EventBatch,
    Floats,
    Ints,
    Rejected,
    Value,
)
from service.ingest.halves import join_halves
from service.ingest.json_rows import ROW_ERRORS, Instant, Row, instants, refusal, rows_to_batch
from service.ingest.paths import COMPRESSIONS, kind_of
from service.ingest.rules import ATTRIBUTE, FEATURE, NUMBERS, admit, is_field

CHUNK_ROWS: Final = 5_000
_LINES_AT_ONCE: Final = 20_000
_ANY_TIME: Final = 2**62  # a file may hold the future; the service has its own say
_NULLS: Final = pa.array(["NA", "NaN", "nan", "null"])


@dataclass(frozen=True, slots=True)
class _Read:
    """What a file holds."""

    batch: EventBatch  # positions are rows of the file
    label_time: Ints  # of each row; NO_TIME where the label has no instant of its own
    rejected: list[Rejected]


def read_flat(
    paths: Sequence[Path],
    mapping: Mapping[str, str] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    *,
    default_model: str | None = None,
    on_rejected: Callable[[Rejected], None] | None = None,
) -> Iterator[EventBatch]:
    """The files' predictions and labels in the order of their times, `chunk_rows` at a time.

    `mapping` renames columns to the contract's fields; rows without a model are of `default_model`.
    Rows that break a rule are told to `on_rejected`, with their place in the file, and left out.

    Raises InvalidRequest, naming the file, where it can't be read, lacks a column, has no rows; and
    for a row that breaks a rule where there is no `on_rejected`.
    """
    parts = [_read_one(path, _checked(mapping or {}), default_model) for path in paths]
    rejected = [
        replace(row, reason=f"{path.name}: {row.reason}") if len(paths) > 1 else row
        for path, part in zip(paths, parts, strict=True)
        for row in part.rejected
    ]
    if rejected and on_rejected is None:
        more = f"; {len(rejected)} such rows" if len(rejected) > 1 else ""
        where = "" if len(paths) > 1 else f"{paths[0].name}: "
        raise InvalidRequest(f"{where}row {rejected[0].index}: {rejected[0].reason}{more}")
    events, timeless = _timed(join_halves(_events(_merged(parts))))
    if on_rejected is not None:
        for refused in (*rejected, *timeless):
            on_rejected(refused)
    is_label = events.kind == LABEL
    order = np.lexsort((is_label, events.time))  # stable: else as they stand in the file
    for start in range(0, len(order), chunk_rows):
        yield events.take(order[start : start + chunk_rows])


def count_rows(paths: Sequence[Path]) -> int:
    """How many rows the files have; one that carries its label counts once."""
    return sum(map(_count_rows, paths))


def _count_rows(path: Path) -> int:
    with _reading(path) as kind:
        if kind == "parquet":
            return int(pq.read_metadata(path).num_rows)
        if kind == "csv":
            return sum(part.num_rows for part in pacsv.open_csv(_open(path), **_csv_options()))
        return sum(1 for _ in _lines(path))


def _timed(events: EventBatch) -> tuple[EventBatch, list[Rejected]]:
    """Labels without a time get that of their prediction; those that have none are left out."""
    untimed = np.flatnonzero(events.time == _ANY_TIME)
    if not untimed.size:
        return events, []
    models = events.model.codes.tolist()
    predicted = np.flatnonzero((events.kind & PREDICTION) != 0).tolist()
    at = {(models[row], events.ids[row]): int(events.time[row]) for row in predicted}
    time = events.time.copy()
    time[untimed] = [at.get((models[row], events.ids[row]), NO_TIME) for row in untimed.tolist()]
    lost = np.flatnonzero(time == NO_TIME).tolist()
    rejected = [Rejected(events.position(row), events.ids[row], _TIMELESS) for row in lost]
    kept = np.flatnonzero(time != NO_TIME)
    return replace(events, time=time).take(kept), rejected


_TIMELESS: Final = "time: required where the prediction is in none of the files"


def _events(read: _Read) -> EventBatch:
    """Each row as the events that it stands for."""
    batch, n = read.batch, len(read.batch)
    carries = (batch.kind == PREDICTION | LABEL) & (read.label_time != NO_TIME)
    unlabelled = carries | (batch.kind == PREDICTION)
    predictions = replace(
        batch,
        kind=np.where(carries, PREDICTION, batch.kind).astype(np.uint8),
        truth=_blank(batch.truth, unlabelled),
        stratum=None if batch.stratum is None else _blank_text(batch.stratum, unlabelled),
        loss=_blank_numbers(batch.loss, unlabelled),
        errors=_blank_numbers(batch.errors, unlabelled),
        total=_blank_numbers(batch.total, unlabelled),
        inclusion_probability=_blank_numbers(batch.inclusion_probability, unlabelled),
    )
    labels = replace(
        batch,
        kind=np.full(n, LABEL, np.uint8),
        time=read.label_time,
        version=Categories.absent(n),
        attributes={},
        features={},
        output=Value(),
        cluster=None,
        confidence=None,
    ).take(np.flatnonzero(carries))
    positions = [p.positions for p in (predictions, labels) if p.positions is not None]
    merged = EventBatch.concatenate([predictions, labels])
    return replace(merged, positions=np.concatenate(positions))


def _blank(column: Value, rows: Bools) -> Value:
    return Value(
        _blank_numbers(column.number, rows),
        None if column.text is None else _blank_text(column.text, rows),
    )


def _blank_text(column: Categories, rows: Bools) -> Categories:
    return Categories(np.where(rows, -1, column.codes).astype(np.int32), column.values)


def _blank_numbers(column: Floats | None, rows: Bools) -> Floats | None:
    return None if column is None else np.where(rows, np.nan, column)


# Reading.


def _checked(mapping: Mapping[str, str]) -> Mapping[str, str]:
    for column, field in mapping.items():
        if not is_field(field):
            raise InvalidRequest(f"column {column}: is mapped to what is no field of the flat form")
        if list(mapping.values()).count(field) > 1:
            raise InvalidRequest(f"column {column}: another is mapped to the same field")
    return mapping


@contextmanager
def _reading(path: Path) -> Iterator[str]:
    """The kind of a file by its name; what goes wrong in reading it becomes InvalidRequest."""
    kind = kind_of(path)
    if kind is None:
        raise InvalidRequest(
            "must be .parquet, or .csv, .ndjson, .jsonl, .log with or without .gz, .zst"
        )
    try:
        yield kind
    except FileNotFoundError:
        raise InvalidRequest("no such file") from None
    except (pa.ArrowException, OSError, EOFError) as error:
        place = _PLACE.search(str(error))  # and no more of what it says: it echoes the row
        where = f": {place[0]}" if place else ""
        raise InvalidRequest(f"can't be read as {kind}{where}") from None


_PLACE: Final = re.compile(r"(?:Row #\d+: )?Expected \d+ columns, got \d+")


def _open(path: Path) -> Any:
    return pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix.lower()))


def _read_one(path: Path, mapping: Mapping[str, str], default_model: str | None) -> _Read:
    try:
        return _read(path, mapping, default_model)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path.name}: {error.detail}") from None


def _read(path: Path, mapping: Mapping[str, str], default_model: str | None) -> _Read:
    with _reading(path) as kind:
        if kind == "lines":
            read = _read_lines(path, mapping, default_model)
        else:
            table = pq.read_table(path).flatten() if kind == "parquet" else _read_csv(path)
            read = _read_table(_renamed(table, mapping), default_model, typed=kind == "parquet")
    if not len(read.batch) and not read.rejected:
        raise InvalidRequest("no rows")
    return read


def _read_table(table: Any, default_model: str | None, typed: bool) -> _Read:
    if not typed:
        names = table.column_names
        table = pa.table({name: _guessed(name, table.column(name)) for name in names})
    refused: dict[int, str] = {}
    batch, label_time = columns_to_batch(table, default_model, refused)
    refused |= dict.fromkeys(np.flatnonzero(_is_early(label_time)).tolist(), _EARLY_LABEL) | refused
    batch, rejected = admit(batch, _ANY_TIME, refused)
    kept = np.arange(table.num_rows) if batch.positions is None else batch.positions
    return _Read(replace(batch, positions=kept), label_time[kept], rejected)


_EARLY_LABEL: Final = "label_time: before 1970"


def _is_early(label_time: Ints) -> Bools:
    early: Bools = np.logical_and(label_time < 0, label_time != NO_TIME)
    return early


def _renamed(table: Any, mapping: Mapping[str, str]) -> Any:
    """The columns that mean something, under the contract's names."""
    for column in mapping:
        if column not in table.column_names:
            raise InvalidRequest(f"column {column}: is mapped and not there")
    taken = set(mapping.values())
    columns = [
        (mapping.get(name, name), i)
        for i, name in enumerate(table.column_names)
        if name in mapping or (is_field(name) and name not in taken)
    ]
    names = [name for name, _ in columns]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"column {name}: is there twice")
    return pa.table([table.column(i) for _, i in columns], names)


def _csv_options(names: Sequence[str] = ()) -> dict[str, Any]:
    """As text alone: a guess of types would make 7 of the id 007, and null of the accent NA."""
    return {
        "parse_options": pacsv.ParseOptions(newlines_in_values=True),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    }


def _read_csv(path: Path) -> Any:
    names = pacsv.open_csv(_open(path), **_csv_options()).schema.names
    return pacsv.read_csv(_open(path), **_csv_options(names))


def _guessed(name: str, column: Any) -> Any:
    """A column of CSV with the type that its values have in common."""
    may_be_numbers = name in NUMBERS or name in ("output", "truth") or name.startswith(FEATURE)
    if may_be_numbers:
        try:
            return pc.if_else(pc.is_in(column, _NULLS), None, column).cast(pa.float64())
        except pa.ArrowInvalid:
            pass
    if may_be_numbers or name.startswith(ATTRIBUTE):
        values = pc.unique(column).drop_null()
        if pc.all(pc.is_in(values, pa.array(["True", "False"]))).as_py():
            return pc.equal(column, "True")
    return column


class _FileRow(Row, gc=False):
    label_time: Instant = None


_FILE_ROW: Final = msgspec.json.Decoder(_FileRow)


def _lines(path: Path) -> Iterator[bytes]:
    with _open(path) as stream:
        for line in io.BufferedReader(stream):
            if not line.isspace():
                yield line


def _read_lines(path: Path, mapping: Mapping[str, str], default_model: str | None) -> _Read:
    parts: list[_Read] = []
    lines = enumerate(_lines(path))
    capture: Read | None = None
    while some := list(islice(lines, _LINES_AT_ONCE)):
        if not parts:
            capture = reader_of(path, some[0][1], default_model)
        if capture is not None:
            parts.append(_rows_of_capture(some, capture, mapping))
        else:
            parts.append(_rows_of_lines(some, mapping, default_model))
    if not parts:
        raise InvalidRequest("no rows")
    return _merged(parts)


def _merged(parts: Sequence[_Read]) -> _Read:
    """One part after another."""
    positions = [part.batch.positions for part in parts if part.batch.positions is not None]
    merged = EventBatch.concatenate([part.batch for part in parts])
    return _Read(
        replace(merged, positions=np.concatenate(positions)),
        np.concatenate([part.label_time for part in parts]),
        [refused for part in parts for refused in part.rejected],
    )


def _rows_of_capture(
    lines: Sequence[tuple[int, bytes]], capture: Read, mapping: Mapping[str, str]
) -> _Read:
    """Rows of a capture, at the place of their line; labels may be without a time."""
    documents, at = [], []
    for index, line in lines:
        of_line = documents_of_line(capture, line)
        if mapping:
            of_line = [renamed(document, mapping) for document in of_line]
        documents += of_line
        at += [index] * len(of_line)
    place = np.array(at, np.int64)
    batch, rejected = accepted_of(documents, _ANY_TIME)
    positions = place[batch.positions if batch.positions is not None else []]
    timeless = ((batch.kind & LABEL) == 0) & (batch.time == _ANY_TIME)
    refused = [replace(row, index=int(place[row.index])) for row in rejected] + [
        Rejected(int(positions[row]), batch.ids[row], "time: required")
        for row in np.flatnonzero(timeless).tolist()
    ]
    kept = np.flatnonzero(~timeless)
    batch = replace(batch.take(kept), positions=positions[kept])
    refused.sort(key=lambda row: row.index)
    return _Read(batch, np.full(kept.size, NO_TIME), refused)


def _rows_of_lines(
    lines: Sequence[tuple[int, bytes]], mapping: Mapping[str, str], default_model: str | None
) -> _Read:
    rows, at, undecoded = [], [], []
    for index, line in lines:
        try:
            rows.append(_row(line, mapping, default_model))
            at.append(index)
        except ROW_ERRORS as error:
            undecoded.append(refusal(index, line, error))
    positions = np.array(at, np.int64)
    label_time = instants([row.label_time for row in rows], NO_TIME)
    refused = dict.fromkeys(np.flatnonzero(_is_early(label_time)).tolist(), _EARLY_LABEL)
    refused |= {i: "time: required" for i, row in enumerate(rows) if row.time is None}
    batch, rejected = rows_to_batch(rows, positions, _ANY_TIME, refused)
    assert batch.positions is not None  # noqa: S101 - they were given
    kept = np.searchsorted(positions, batch.positions)
    rejected = sorted(rejected + undecoded, key=lambda row: row.index)
    return _Read(batch, label_time[kept], rejected)


def _row(line: bytes, mapping: Mapping[str, str], default_model: str | None) -> _FileRow:
    """A line in the API's form or in the flat one."""
    if not mapping and default_model is None:
        if b'"attributes.' not in line and b'"features.' not in line:
            return _FILE_ROW.decode(line)
    fields = nested(msgspec.json.decode(line, type=dict[str, Any]), mapping, default_model)
    return _FILE_ROW.decode(msgspec.json.encode(fields))  # the one that says what a value may be
