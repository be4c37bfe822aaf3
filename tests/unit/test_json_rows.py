"""Bodies of `POST /v1/events` become columns as the contract says."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, TooLarge
from service.ingest.events import (
    LABEL,
    PREDICTION,
    Categories,
    EventBatch,
    Rejected,
    Value,
    Vectors,
)
from service.ingest.json_rows import decode_json, to_json_rows

NOW = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
PREDICTED = {"id": "utt-1", "model": "m", "output": "yes"}


def decode(*rows: dict[str, Any]) -> EventBatch:
    """The batch of rows none of which is refused."""
    batch, rejected = decode_json("\n".join(map(json.dumps, rows)).encode(), NOW, 1000)
    assert rejected == []
    return batch


def times(*values: Any) -> list[int]:
    return list(decode(*({**PREDICTED, "time": value} for value in values)).time.tolist())


def attribute(*values: Any) -> list[str | None]:
    batch = decode(*({**PREDICTED, "attributes": {"floor": value}} for value in values))
    return batch.attributes["floor"].tolist() if batch.attributes else [None] * len(batch)


def features(batch: EventBatch) -> list[dict[str, Any]]:
    return [row.get("features", {}) for row in to_json_rows(batch)]


# --- bodies


ONE, TWO = json.dumps({**PREDICTED, "id": "a"}), json.dumps({**PREDICTED, "id": "b"}, indent=2)
ONE_LINE = json.dumps(json.loads(TWO))


@pytest.mark.parametrize(
    "body",
    [
        f"[{ONE}, {TWO}]",
        f" \r\n[\n{ONE},\n{TWO}]\n",
        f'{{"events": [{ONE}, {TWO}]}}',
        f'{{"source": {{"x": [1]}}, "events" : [{ONE}, {TWO}], "more": []}}',
        f"{ONE}{ONE_LINE}",
        f"{ONE}\n{ONE_LINE}",
        f"\n\n{ONE}\r\n \r\n{ONE_LINE}\r\n\r\n",
        f"{ONE} {TWO}",
        f"{TWO}\n{TWO}".replace('"b"', '"a"', 1),
        f"\ufeff{ONE}\n{ONE_LINE}",
    ],
    ids=[
        "array",
        "array over lines",
        "events",
        "events among other fields",
        "concatenated",
        "lines",
        "CRLF and blank lines",
        "concatenated over lines",
        "concatenated and indented",
        "byte order mark",
    ],
)
def test_every_form_of_body_gives_the_same_rows(body: str) -> None:
    batch, rejected = decode_json(body.encode(), NOW, 10)
    assert (batch.ids, rejected) == (["a", "b"], [])


@pytest.mark.parametrize("body", [ONE, TWO, f"[{ONE}]", f'{{"events": [{ONE}]}}'])
def test_one_object_is_a_body(body: str) -> None:
    assert len(decode_json(body.encode(), NOW, 1)[0]) == 1


@pytest.mark.parametrize(
    "body",
    ["", " \n ", "[]", '{"events": []}', "hello", "7", "null", "[1, 2]", '"text"', "[[]]", "\x00"],
)
def test_a_body_without_rows_is_invalid(body: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        decode_json(body.encode(), NOW, 10)
    assert type(refusal.value) is InvalidRequest


@pytest.mark.parametrize("separator", ["\n", "", ",\n"], ids=["lines", "concatenated", "array"])
@pytest.mark.parametrize("valid", [True, False])
def test_more_rows_than_the_cap_are_too_large(separator: str, valid: bool) -> None:
    rows = separator.join([ONE] * 10 + ([] if valid else ['{"id": nonsense}']))
    body = f"[{rows}]" if separator == ",\n" else rows
    n = 10 if valid else 11
    assert len(decode_json(body.encode(), NOW, n)[0]) == 10
    with pytest.raises(TooLarge):
        decode_json(body.encode(), NOW, n - 1)


# --- one bad row


@pytest.mark.parametrize("form", ["lines", "array", "events", "concatenated"])
@pytest.mark.parametrize(
    "bad",
    [
        '{"id": "bad", "model": "m", "features": {"x": NaN}}',
        '{"id": "bad", "model": "m", "features": {"x": 1e400}}',
        '{"id": "bad", "model": "m", "output": {"x": [1, "}"]}}',
        '{"id": "bad", "model": "m", "confidence": "high \\" ] }"}',
        '{"id": "bad"}',
        '{"model": "m"}',
        "{}",
        '{"id": "bad", "model": "m"}',
        '{"id": "bad", "model": "m", "output": 1, "confidence": 7}',
        '{"id": "bad", "model": "m", "output": 1, "attributes": {"a b": "c"}}',
        '{"id": "bad", "model": "m", "output": 1,, }',
    ],
)
def test_one_bad_row_never_costs_the_others(form: str, bad: str) -> None:
    rows = [ONE, bad, ONE.replace('"a"', '"b"'), bad]
    body = {
        "lines": "\n".join(rows),
        "array": f"[{', '.join(rows)}]",
        "events": f'{{"events": [{",".join(rows)}]}}',
        "concatenated": "".join(rows),
    }[form]
    batch, rejected = decode_json(body.encode(), NOW, 100)
    assert batch.ids == ["a", "b"]
    assert [row.index for row in rejected] == [1, 3]
    assert [batch.position(row) for row in range(2)] == [0, 2]


def test_a_line_that_is_cut_off_costs_only_itself() -> None:
    body = f'{ONE}\n{ONE[:20]}\n{ONE}\n{{"id": "open\n{ONE}'
    batch, rejected = decode_json(body.encode(), NOW, 100)
    assert len(batch) == 3
    assert [(row.index, row.reason) for row in rejected] == [
        (1, "not valid JSON"),
        (3, "not valid JSON"),
    ]


def test_a_first_line_that_is_cut_off_costs_only_itself() -> None:
    batch, rejected = decode_json(f'{{"id": "open\n{ONE}\n{ONE}'.encode(), NOW, 100)
    assert (len(batch), [row.index for row in rejected]) == (2, [0])


def test_a_line_of_garbage_costs_only_itself() -> None:
    batch, rejected = decode_json(f"hello\n{ONE}".encode(), NOW, 100)
    assert (len(batch), [row.index for row in rejected]) == (1, [0])


def test_a_refused_row_says_what_can_be_known_of_it() -> None:
    body = '{"id": "a", "model": "m", "output": []}\n' + ONE
    _, rejected = decode_json(body.encode(), NOW, 100)
    reason = "output: must be a finite number, text, a boolean or null"
    assert rejected == [Rejected(0, "a", reason, "m")]


# --- kinds


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"output": 1}, PREDICTION),
        ({"output": ""}, PREDICTION),
        ({"features": {"x": 1}}, PREDICTION),
        ({"features": {}}, PREDICTION),
        ({"truth": 1}, LABEL),
        ({"truth": False}, LABEL),
        ({"loss": 0}, LABEL),
        ({"errors": 0, "total": 3}, LABEL),
        ({"output": 1, "truth": 1}, PREDICTION | LABEL),
        ({"features": {"x": 1}, "loss": 0.5}, PREDICTION | LABEL),
        ({"output": "a b", "errors": 1, "total": 2}, PREDICTION | LABEL),
        ({"kind": "prediction"}, PREDICTION),
        ({"kind": "prediction", "truth": 1}, PREDICTION | LABEL),
        ({"kind": "prediction", "output": 1, "loss": 1}, PREDICTION | LABEL),
        ({"kind": "label", "truth": 1}, LABEL),
        ({"kind": "label", "truth": 1, "output": 1}, LABEL),
    ],
)
def test_the_kind_is_stated_or_told_by_what_the_row_gives(row: dict[str, Any], kind: int) -> None:
    assert decode({"id": "a", "model": "m", **row}).kind.tolist() == [kind]


# --- times


def test_times_are_rfc3339_with_any_offset() -> None:
    second = 1_795_341_600_000_000
    assert times(
        "2026-11-22T10:00:00Z",
        "2026-11-22t10:00:00.000001z",
        "2026-11-22T12:00:00.12+02:00",
        "2026-11-22 05:00:00-05:00",
        "2026-11-22T09:59:59.9999996Z",
    ) == [second, second + 1, second + 120_000, second, second]


def test_numeric_times_are_told_apart_by_size() -> None:
    seconds = 1_795_341_600
    assert times(
        seconds,
        seconds + 0.25,
        seconds * 1000 + 7,
        seconds * 1_000_000 + 7,
        seconds * 1_000_000_000 + 7_999,
        0,
    ) == [
        seconds * 1_000_000,
        seconds * 1_000_000 + 250_000,
        seconds * 1_000_000 + 7_000,
        seconds * 1_000_000 + 7,
        seconds * 1_000_000 + 7,
        0,
    ]


def test_a_row_without_a_time_has_the_time_of_receipt() -> None:
    assert times(None, "2026-11-22T10:00:01Z") == [NOW, NOW + 1_000_000]


@given(st.integers(0, NOW))
def test_every_microsecond_survives_the_way_through_rfc3339(micros: int) -> None:
    text = str(np.datetime64(micros, "us")) + "Z"
    assert times(text) == [micros]


# --- attributes


def test_attributes_become_text() -> None:
    assert attribute("7", 7, 7.0, 7.5, True, False, None, 2**70, -0.0) == [
        *("7", "7", "7", "7.5", "true", "false", None, str(2**70), "0")
    ]


def test_spellings_of_an_attribute_are_one_value() -> None:
    assert attribute("caf\u00e9", "cafe\u0301") == ["caf\u00e9", "caf\u00e9"]


def test_attributes_are_cut_at_64_characters_and_rid_of_control_characters() -> None:
    assert attribute("a" * 65, "a" * 64 + "b", "x\ny\x85\x00") == [
        *("a" * 64, "a" * 64, "x\ufffdy\ufffd\ufffd")
    ]


def test_a_megabyte_of_combining_marks_is_cut_before_it_is_normalised() -> None:
    assert len(attribute("a" + "\u0301\u0323" * 500_000)[0] or "") == 64


def test_a_null_attribute_is_not_there() -> None:
    assert decode({**PREDICTED, "attributes": {"floor": None}}).attributes == {}


# --- features


def test_features_of_every_type_keep_it() -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1.5, "b": "opus", "c": True, "d": [0.5, -0.25], "e": None},
        {"a": "1.5", "b": 2, "c": [1.0], "d": False, "f": 0},
        {},
        {"a": -1, "b": None, "c": "true", "d": []},
    ]
    batch = decode(*({"id": "a", "model": "m", "features": row} for row in rows))
    assert features(batch) == [
        {"a": 1.5, "b": "opus", "c": "true", "d": [0.5, -0.25]},
        {"a": "1.5", "b": 2.0, "c": [1.0], "d": "false", "f": 0.0},
        {},
        {"a": -1.0, "c": "true"},
    ]


def test_text_that_looks_like_a_number_stays_text() -> None:
    batch = decode(*({"id": "a", "model": "m", "features": {"x": v}} for v in (1.0, "2.0", 3)))
    assert features(batch) == [{"x": 1.0}, {"x": "2.0"}, {"x": 3.0}]


def test_a_boolean_among_numbers_is_not_a_number() -> None:
    batch = decode(*({"id": "a", "model": "m", "features": {"x": v}} for v in (1.0, True, 0.0)))
    assert features(batch) == [{"x": 1.0}, {"x": "true"}, {"x": 0.0}]


def test_feature_text_is_cut_at_128_characters() -> None:
    batch = decode({"id": "a", "model": "m", "features": {"x": "a" * 129}})
    assert features(batch) == [{"x": "a" * 128}]


def test_rows_may_differ_in_their_names_and_in_the_order_of_these() -> None:
    maps: list[dict[str, float]] = [
        {"x": 1.0, "y": 2.0},
        {"y": 3.0, "x": 4.0},
        {"z": 5.0},
        {"x": 6.0},
    ]
    batch = decode(*({"id": "a", "model": "m", "features": of_row} for of_row in maps))
    assert features(batch) == maps


def test_embeddings_of_different_rows_stay_apart() -> None:
    maps: list[dict[str, Any]] = [
        {"e": [1.0]},
        {"x": 1.0},
        {"x": 2.0, "e": [2.0, 3.0]},
        {"e": [4.0]},
    ]
    batch = decode(*({"id": "a", "model": "m", "features": of_row} for of_row in maps))
    assert features(batch) == maps


def test_an_integer_beyond_53_bits_is_the_nearest_double() -> None:
    batch = decode({"id": "a", "model": "m", "features": {"x": 2**53 + 1, "y": 10**30}})
    assert features(batch) == [{"x": 2.0**53, "y": 1e30}]


# --- the way back


names = st.sampled_from(["floor", "accent", "snr_db", "codec", "e"])
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40)
singles = st.floats(allow_nan=False, allow_infinity=False, width=32)
scalars = numbers | text | st.booleans() | st.none()
parts = st.fixed_dictionaries(
    {
        "id": st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9),
        "model": st.sampled_from(["m", "org/model:1"]),
        "output": scalars.filter(lambda value: value is not None),
    },
    optional={
        "version": st.sampled_from(["1", 2, "2026-10"]),
        "time": st.integers(0, NOW).map(lambda micros: f"{np.datetime64(micros, 'us')}Z"),
        "attributes": st.dictionaries(names, scalars, max_size=3),
        "features": st.dictionaries(names, scalars | st.lists(singles, max_size=3), max_size=4),
        "truth": scalars,
        "confidence": st.floats(0, 1),
        "cluster": st.sampled_from(["round-1", 7, None]),
        "stratum": text,
        "loss": st.floats(0, 1e9),
        "inclusion_probability": st.floats(1e-6, 1),
    },
)
predictions = st.builds(lambda part: {**part, "kind": "prediction"}, parts)
labels = st.builds(
    lambda part, errors: {**part, "kind": "label", "errors": errors, "total": errors + 1},
    parts,
    st.integers(0, 9),
)


def plain(column: Any) -> Any:
    """Any column as a list row by row, with None for NaN, whatever order its values are kept in."""
    if isinstance(column, Categories | list):
        return column if isinstance(column, list) else column.tolist()
    if isinstance(column, Vectors):
        return [row.tolist() for row in np.split(column.values, column.offsets[1:-1])]
    if isinstance(column, Value):
        return [plain(part) for part in (column.number, column.text, column.vector)]
    if isinstance(column, dict):
        return {name: plain(of_name) for name, of_name in column.items()}
    return None if column is None else [None if x != x else x for x in column.tolist()]


def columns(batch: EventBatch) -> dict[str, Any]:
    return {field.name: plain(getattr(batch, field.name)) for field in fields(batch)}


@given(st.lists(predictions | labels | parts, min_size=1, max_size=8))
def test_a_batch_survives_the_way_through_json(rows: list[dict[str, Any]]) -> None:
    batch, rejected = decode_json(json.dumps(rows).encode(), NOW, 100)
    assert rejected == []
    again, rejected = decode_json(msgspec.json.encode(to_json_rows(batch)), NOW + 1, 100)
    assert rejected == []
    assert columns(batch) == columns(again)


@given(st.lists(predictions | labels, min_size=1, max_size=8))
def test_numbers_and_texts_come_back_as_they_were_sent(rows: list[dict[str, Any]]) -> None:
    batch = decode(*rows)
    for sent, got in zip(rows, to_json_rows(batch), strict=True):
        for name in ("id", "kind", "model", "loss", "errors", "total", "confidence"):
            assert got.get(name) == sent.get(name)
        for name in ("output", "truth"):
            value = sent.get(name)
            expected = json.dumps(value) if isinstance(value, bool) else value
            assert got.get(name) == expected
