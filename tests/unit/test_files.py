"""Files in the flat form become the events they stand for, in time order, exactly."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import zstandard

from service.errors import InvalidRequest
from service.ingest.events import LABEL, PREDICTION, EventBatch, Rejected
from service.ingest.files import count_rows, read_flat
from service.ingest.json_rows import decode_json, to_json_rows

START = datetime(2026, 3, 2, 10, tzinfo=UTC)
MICROS = 1_772_445_600_000_000  # START


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def parquet(path: Path, columns: dict[str, Any], **types: Any) -> Path:
    file = path / "rows.parquet"
    arrays = {}
    for name, values in columns.items():
        arrays[name] = pa.array(values, types.get(name.replace(".", "_")))
    pq.write_table(pa.table(arrays), file)
    return file


def text(path: Path, name: str, content: str) -> Path:
    file = path / name
    file.write_text(content)
    return file


def ndjson(path: Path, *rows: dict[str, Any]) -> Path:
    return text(path, "rows.ndjson", "\n".join(map(json.dumps, rows)))


def read(file: Path, *args: Any, **kwargs: Any) -> EventBatch:
    return EventBatch.concatenate(list(read_flat([file], *args, **kwargs)))


def rows(file: Path, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
    return to_json_rows(read(file, *args, **kwargs))


def refused(file: Path, **kwargs: Any) -> tuple[list[str], list[Rejected]]:
    """The ids that went on, and the rows that did not."""
    told: list[Rejected] = []
    batches = list(read_flat([file], on_rejected=told.append, **kwargs))
    return [i for batch in batches for i in batch.ids], told


LABELLED: dict[str, list[Any]] = {
    "id": ["a", "b", "c", "d"],
    "time": [at(0), at(1), at(2), at(3)],
    "model": ["m"] * 4,
    "output": ["yes", "no", "yes", "no"],
    "truth": ["yes", "yes", None, "no"],
    "label_time": [at(2), at(1.5), at(2), None],
    "inclusion_probability": [0.5, 0.5, 0.5, 0.25],
    "attributes.floor": ["7", "7", "6", None],
    "features.snr_db": [1.5, None, 2.5, 3.5],
}
LABELLED_EVENTS = [
    {"kind": "prediction", "id": "a", "output": "yes", "features": {"snr_db": 1.5}},
    {"kind": "prediction", "id": "b", "output": "no"},
    {"kind": "label", "id": "b", "truth": "yes", "inclusion_probability": 0.5},
    {"kind": "prediction", "id": "c", "output": "yes", "features": {"snr_db": 2.5}},
    {"kind": "label", "id": "a", "truth": "yes", "inclusion_probability": 0.5},
    {
        "kind": "prediction",
        "id": "d",
        "output": "no",
        "truth": "no",
        "inclusion_probability": 0.25,
        "features": {"snr_db": 3.5},
    },
]


def without(events: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in names} for event in events]


def written(path: Path, form: str) -> Path:
    """The same four rows in any form."""
    if form == "parquet":
        return parquet(path, LABELLED)
    by_row = zip(*LABELLED.values(), strict=True)
    flat = [dict(zip(LABELLED, values, strict=True)) for values in by_row]
    if form.startswith("csv"):
        file = path / "rows.csv"
        pacsv.write_csv(pa.table(LABELLED), file)
        content = file.read_bytes()
    else:
        lines = [_nested(row) if "nested" in form else row for row in flat]
        content = "\n".join(json.dumps(line, default=str) for line in lines).encode()
    name = {"csv": "rows.csv", "lines": "rows.ndjson", "nested": "rows.jsonl"}[form.split(".")[0]]
    if form.endswith(".gz"):
        name, content = name + ".gz", gzip.compress(content)
    if form.endswith(".zst"):
        name, content = name + ".zst", zstandard.ZstdCompressor().compress(content)
    (path / name).write_bytes(content)
    return path / name


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {"attributes": {}, "features": {}}
    for name, value in row.items():
        group, dot, key = name.partition(".")
        if dot:
            nested[group][key] = value
        else:
            nested[name] = value
    return nested


FORMS = ["parquet", "csv", "csv.gz", "csv.zst", "lines", "lines.gz", "nested", "nested.zst"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_events_in_time_order(tmp_path: Path, form: str) -> None:
    file = written(tmp_path, form)
    events = rows(file)
    assert without(events, "time", "model", "attributes") == LABELLED_EVENTS
    minutes = [event["time"][14:19] for event in events]
    assert minutes == ["00:00", "01:00", "01:30", "02:00", "02:00", "03:00"]
    floors = [e.get("attributes") for e in events if e["kind"] == "prediction"]
    assert floors == [{"floor": "7"}, {"floor": "7"}, {"floor": "6"}, None]
    assert count_rows([file]) == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_rows", [1, 4, 6, 100])
def test_chunks_are_cut_from_one_order(tmp_path: Path, form: str, chunk_rows: int) -> None:
    file = written(tmp_path, form)
    batches = list(read_flat([file], {}, chunk_rows))
    assert [len(batch) for batch in batches[:-1]] == [chunk_rows] * (len(batches) - 1)
    assert [row for batch in batches for row in to_json_rows(batch)] == rows(file)


def test_positions_are_rows_of_the_file(tmp_path: Path) -> None:
    (batch,) = read_flat([written(tmp_path, "parquet")])
    assert [batch.position(row) for row in range(len(batch))] == [0, 1, 1, 2, 0, 3]


def test_rows_in_any_order_come_out_by_time_and_else_as_they_stand(tmp_path: Path) -> None:
    file = parquet(
        tmp_path,
        {
            "id": ["late", "first", "second", "early"],
            "time": [at(5), at(1), at(1), at(0)],
            "model": ["m"] * 4,
            "output": [1, 2, 3, 4],
        },
    )
    assert read(file).ids == ["early", "first", "second", "late"]


def test_an_event_of_the_api_goes_through_a_file_unchanged(tmp_path: Path) -> None:
    label_time = "2026-03-02T10:00:00.000001Z"
    events: list[dict[str, Any]] = [
        {"kind": "label", "id": "a", "model": "m", "time": label_time, "loss": 0.5},
        {"id": "a", "model": "m", "time": "2026-03-02T11:00:00Z", "features": {"e": [0.5, 1]}},
        {"id": "b", "model": "m", "time": 1_772_450_000, "output": True, "stratum": 7, "truth": 1},
    ]
    sent, _ = decode_json(json.dumps(events).encode(), 2**60, 10)
    assert rows(ndjson(tmp_path, *events)) == to_json_rows(sent)


# --- types of Parquet


def base(n: int) -> dict[str, Any]:
    return {
        "id": [f"r{i}" for i in range(n)],
        "time": [at(i) for i in range(n)],
        "model": ["m"] * n,
    }


@pytest.mark.parametrize(
    "kind", [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ("UTC", None)]
)
def test_timestamps_of_every_unit_are_microseconds(tmp_path: Path, kind: Any) -> None:
    naive = [at(1).replace(tzinfo=None) if kind.tz is None else at(1)]
    file = parquet(tmp_path, {**base(1), "time": naive, "output": [1]}, time=kind)
    assert read(file).time.tolist() == [MICROS + 60_000_000]


def test_nanoseconds_are_rounded_as_those_of_json_are(tmp_path: Path) -> None:
    nanos = [MICROS * 1000 + 123_456_499, MICROS * 1000 + 123_456_500]
    file = parquet(
        tmp_path, {**base(2), "time": nanos, "output": [1, 1]}, time=pa.timestamp("ns", "UTC")
    )
    assert read(file).time.tolist() == [MICROS + 123_456, MICROS + 123_457]


@pytest.mark.parametrize(
    ("value", "micros"),
    [
        ("2026-03-02T11:00:00+01:00", MICROS),
        ("2026-03-02 10:00:00+00:00", MICROS),
        ("2026-03-02 10:00:00", MICROS),
        ("1772445600", MICROS),
        ("1772445600.25", MICROS + 250_000),
        (1_772_445_600_000, MICROS),
        (float(MICROS), MICROS),
        (date(2026, 3, 2), MICROS - 36_000_000_000),
    ],
)
def test_instants_may_be_text_numbers_or_dates(tmp_path: Path, value: Any, micros: int) -> None:
    file = parquet(tmp_path, {**base(1), "time": [value], "output": [1]})
    assert read(file).time.tolist() == [micros]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.int8(), [1, -2, None], [1.0, -2.0, None]),
        (pa.uint64(), [2**63, 0, 1], [2.0**63, 0.0, 1.0]),
        (pa.float32(), [0.1, None, -3.5], [float(np.float32(0.1)), None, -3.5]),
        (pa.float64(), [0.1, 1e300, 5e-324], [0.1, 1e300, 5e-324]),
        (pa.float16(), [np.float16(0.5)] * 3, [0.5] * 3),
        (pa.decimal128(9, 2), [Decimal("1.25"), None, Decimal(2)], [1.25, None, 2.0]),
        (pa.bool_(), [True, False, None], ["true", "false", None]),
        (pa.string(), ["a", None, ""], ["a", None, ""]),
        (pa.large_string(), ["a", "b", "a"], ["a", "b", "a"]),
        (pa.string_view(), ["a", None, "a"], ["a", None, "a"]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", None, "b"], ["a", None, "b"]),
        (pa.null(), [None, None, None], [None, None, None]),
    ],
    ids=str,
)
def test_values_of_every_type_are_what_json_would_give(
    tmp_path: Path, kind: Any, values: list[Any], expected: list[Any]
) -> None:
    columns = {
        **base(3),
        "output": values,
        "features.x": values,
        "truth": values,
        "loss": [0.5] * 3,
    }
    read_back = rows(parquet(tmp_path, columns, output=kind, features_x=kind, truth=kind), {}, 2)
    assert [row.get("output") for row in read_back] == expected
    assert [row.get("features", {}).get("x") for row in read_back] == expected
    assert [row.get("truth") for row in read_back] == expected


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int64())]
)
def test_lists_are_embeddings(tmp_path: Path, kind: Any) -> None:
    values = [[1, 2], None, [], [3]]
    file = parquet(tmp_path, {**base(4), "output": [1] * 4, "features.e": values}, features_e=kind)
    got = [row.get("features", {}).get("e") for row in rows(file, {}, 3)]
    assert got == [[1.0, 2.0], None, None, [3.0]]


def test_fixed_size_lists_are_embeddings(tmp_path: Path) -> None:
    kind = pa.list_(pa.float32(), 2)
    values = [[1, 2], None, [3, 4]]
    file = parquet(tmp_path, {**base(3), "output": [1] * 3, "features.e": values}, features_e=kind)
    got = [row.get("features", {}).get("e") for row in rows(file)]
    assert got == [[1.0, 2.0], None, [3.0, 4.0]]


def test_attributes_of_every_type_are_text(tmp_path: Path) -> None:
    columns = {
        **base(2),
        "output": [1, 1],
        "attributes.a": [7, None],
        "attributes.b": [7.0, 7.5],
        "attributes.c": [True, None],
        "attributes.d": ["cafe\u0301", "x" * 70],
        "attributes.e": [None, None],
    }
    assert [row["attributes"] for row in rows(parquet(tmp_path, columns))] == [
        {"a": "7", "b": "7", "c": "true", "d": "caf\u00e9"},
        {"b": "7.5", "d": "x" * 64},
    ]


def test_struct_columns_are_read_as_their_fields(tmp_path: Path) -> None:
    columns = {**base(1), "features": [{"x": 1.5}], "attributes": [{"floor": "7"}]}
    (row,) = rows(parquet(tmp_path, columns))
    assert (row["features"], row["attributes"]) == ({"x": 1.5}, {"floor": "7"})


# --- CSV has no types


def test_csv_keeps_the_digits_of_ids_and_the_letters_of_na(tmp_path: Path) -> None:
    content = (
        "id,time,model,output,attributes.country,attributes.floor,features.x,features.codec,extra\n"
        "007,2026-03-02T10:00:00Z,m,1,NA,07,NA,opus,?\n"
        '008,1772445601,m,2.5,"de, at",7,3,NA,?\n'
        "009,2026-03-02 10:00:02+00:00,m,,NA,,nan,,?\n"
    )
    file = text(tmp_path, "rows.csv", content)
    first, second = rows(file, on_rejected=lambda row: None)
    assert (first["id"], first["output"]) == ("007", 1.0)
    assert first["attributes"] == {"country": "NA", "floor": "07"}
    assert first["features"] == {"codec": "opus"}
    assert second["attributes"] == {"country": "de, at", "floor": "7"}
    assert second["features"] == {"x": 3.0, "codec": "NA"}


def test_csv_booleans_are_those_of_json(tmp_path: Path) -> None:
    content = "id,time,model,output,truth\na,1772445600,m,True,False\nb,1772445601,m,False,\n"
    outputs = [(row["output"], row.get("truth")) for row in rows(text(tmp_path, "r.csv", content))]
    assert outputs == [("true", "false"), ("false", None)]


def test_a_quoted_empty_cell_is_an_empty_text(tmp_path: Path) -> None:
    content = 'id,time,model,output,truth\na,1772445600,m,"","x"\nb,1772445601,m,y,\n'
    got = [(row.get("output"), row.get("truth")) for row in rows(text(tmp_path, "r.csv", content))]
    assert got == [("", "x"), ("y", None)]


# --- renaming


@pytest.mark.parametrize("form", ["parquet", "csv", "lines"])
def test_columns_are_renamed(tmp_path: Path, form: str) -> None:
    mapping = {"id": "id", "output": "features.said", "truth": "output"}
    file = written(tmp_path, form)
    first = rows(file, mapping)[0]
    assert (first["output"], first["features"]["said"], "truth" in first) == ("yes", "yes", False)


@pytest.mark.parametrize("form", ["parquet", "csv", "lines", "nested"])
def test_rows_without_a_model_are_of_the_default_one(tmp_path: Path, form: str) -> None:
    columns = {**base(2), "model": [None, "other"], "output": [1, 1]}
    if form == "parquet":
        file = parquet(tmp_path, columns)
    elif form == "csv":
        file = text(tmp_path, "r.csv", "id,time,output\na,1772445600,1\n")
    else:
        file = ndjson(tmp_path, {"id": "a", "time": 1_772_445_600, "output": 1})
    assert rows(file, default_model="mine")[0]["model"] == "mine"
    if form == "parquet":
        assert [row["model"] for row in rows(file, default_model="mine")] == ["mine", "other"]


# --- what is refused


BAD_COLUMNS: dict[str, list[Any]] = {
    "id": ["good", "", None, "p", "c", "n", "inf", "k", "e", "lt", "t", "l", "x"],
    "time": [*[at(1)] * 10, None, at(1), at(1)],
    "model": [*["m"] * 12, "a b"],
    "kind": [*[None] * 7, "predicted", *[None] * 3, "label", None],
    "output": [*[1.0] * 5, float("nan"), *[1.0] * 5, None, 1.0],
    "inclusion_probability": [*[None] * 3, 1.5, *[None] * 9],
    "confidence": [*[None] * 4, -0.5, *[None] * 8],
    "features.x": [*[None] * 6, float("inf"), *[None] * 6],
    "errors": [*[None] * 8, 1, *[None] * 4],
    "truth": [*[None] * 9, 1.0, *[None] * 3],
    "label_time": [*[None] * 9, datetime(1969, 1, 1, tzinfo=UTC), *[None] * 3],
}
BAD_REASONS = [
    (1, None, "id: must be 1 to 200 characters, none of them a control character"),
    (2, None, "id: required"),
    (3, "p", "inclusion_probability: must be more than 0 and at most 1"),
    (4, "c", "confidence: must be between 0 and 1"),
    (5, "n", "output: must be a finite number"),
    (6, "inf", "features.x: must be a finite number"),
    (7, "k", "kind: must be prediction or label"),
    (8, "e", "errors and total: both or neither"),
    (9, "lt", "label_time: before 1970"),
    (10, "t", "time: required"),
    (11, "l", "kind: a label gives truth, loss, or errors and total"),
    (12, "x", "model: not a well-formed name"),
]


def test_a_row_that_breaks_a_rule_is_told_and_left_out(tmp_path: Path) -> None:
    ids, told = refused(parquet(tmp_path, BAD_COLUMNS))
    assert ids == ["good"]
    assert [(row.index, row.id, row.reason) for row in told] == BAD_REASONS


def test_lines_that_break_a_rule_are_told_and_left_out(tmp_path: Path) -> None:
    good = {"id": "good", "model": "m", "time": 1_772_445_600, "output": 1}
    content = [
        json.dumps(good),
        "",
        "{nonsense",
        json.dumps({**good, "id": "t", "time": None}),
        json.dumps({**good, "id": "lt", "truth": 1, "label_time": -1}),
        json.dumps({**good, "id": "c", "confidence": "high"}),
        "[" * 100_000,
        json.dumps({**good, "id": "too"}),
    ]
    ids, told = refused(text(tmp_path, "rows.ndjson", "\n".join(content)))
    assert ids == ["good", "too"]
    assert [(row.index, row.id, row.reason) for row in told] == [
        (1, None, "not valid JSON"),
        (2, "t", "time: required"),
        (3, "lt", "label_time: before 1970"),
        (4, "c", "confidence: must be a finite number"),
        (5, None, "must be a JSON object"),
    ]


def test_a_csv_cell_that_is_no_number_costs_its_row_only(tmp_path: Path) -> None:
    content = (
        "id,time,model,output,confidence\na,1772445600,m,1,high\nb,yesterday,m,1,0.5\nc,0,m,1,1\n"
    )
    ids, told = refused(text(tmp_path, "r.csv", content))
    assert ids == ["c"]
    assert [row.reason for row in told] == [
        "confidence: must be a finite number",
        "time: must be RFC 3339, or seconds since 1970",
    ]


def test_bad_rows_are_an_error_where_nobody_is_told_of_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        next(read_flat([parquet(tmp_path, BAD_COLUMNS)]))
    assert refusal.value.detail.startswith("rows.parquet: row 1: id: must be")


@pytest.mark.parametrize("missing", ["id", "time", "model"])
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_missing_column_is_named(tmp_path: Path, missing: str, form: str) -> None:
    table = pa.table({k: v for k, v in {**base(1), "output": [1]}.items() if k != missing})
    file = tmp_path / f"rows.{form}"
    write = {"parquet": pq.write_table, "csv": pacsv.write_csv}[form]
    write(table, file)
    with pytest.raises(InvalidRequest, match=f"rows.{form}: column {missing}: required"):
        next(read_flat([file]))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.parquet", "hello", "can't be read as parquet"),
        ("rows.csv", "", "can't be read as csv"),
        ("rows.csv", "id,time,model\na,b\n", "can't be read as csv: .*Expected 3 columns, got 2"),
        ("rows.csv", "id,time,model,output\n", "no rows"),
        ("rows.csv", "id,time,model,output,output\na,0,m,1,2\n", "column output: is there twice"),
        ("rows.csv", "id,time,model,features.a b\na,0,m,1\n", "a name is not well-formed"),
        ("rows.csv.gz", "hello", "can't be read as csv"),
        ("rows.ndjson", "\n \n", "no rows"),
        ("rows.xlsx", "hello", "must be .parquet"),
        ("rows.parquet.gz", "hello", "must be .parquet"),
        ("rows", "hello", "must be .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_problem(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: .*{problem}"):
        next(read_flat([text(tmp_path, name, content)]))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("rows.parquet", "rows.csv", "rows.ndjson"):
        with pytest.raises(InvalidRequest, match=f"{name}: no such file"):
            next(read_flat([tmp_path / name]))
        with pytest.raises(InvalidRequest, match="no such file"):
            count_rows([tmp_path / name])


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"output": "outcome"}, "column output: is mapped to what is no field"),
        ({"nothing": "output"}, "column nothing: is mapped and not there"),
        ({"id": "output", "time": "output"}, "another is mapped to the same field"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(
    tmp_path: Path, mapping: dict[str, str], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        next(read_flat([written(tmp_path, "parquet")], mapping))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("output", [[1.0]]),
        ("output", [at(0)]),
        ("features.x", [["a"]]),
        ("attributes.x", [[1]]),
        ("confidence", [True]),
        ("time", [True]),
    ],
)
def test_a_column_of_a_type_that_no_field_has_is_named(
    tmp_path: Path, column: str, values: list[Any]
) -> None:
    file = parquet(tmp_path, {**base(1), "output": [1], **{column: values}})
    with pytest.raises(InvalidRequest):
        next(read_flat([file]))


def test_kinds_of_a_file(tmp_path: Path) -> None:
    columns = {
        **base(3),
        "kind": [None, "label", "prediction"],
        "output": [1.0, None, None],
        "truth": [None, 1.0, None],
    }
    assert read(parquet(tmp_path, columns)).kind.tolist() == [PREDICTION, LABEL, PREDICTION]
