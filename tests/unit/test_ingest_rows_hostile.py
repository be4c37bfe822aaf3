"""Hostile rows and bodies get a stated answer, quickly, and a reason that never echoes."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, NothingDecoded, TooLarge
from service.ingest import rules
from service.ingest.columns import MAX_CELLS
from service.ingest.events import Rejected
from service.ingest.json_rows import decode_json

NOW = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
GOOD = {"id": "good", "model": "m", "output": 1}
SECRET = "canary-5e1f"
DEADLINE_SECONDS = (
    5.0  # of process time; generous, for what would take minutes if it were quadratic
)


def refusal(row: dict[str, Any] | str | bytes) -> Rejected:
    """What is said of a row that must be refused, beside one that must not."""
    text = json.dumps(row) if isinstance(row, dict) else row
    line = text.encode() if isinstance(text, str) else text
    batch, rejected = decode_json(line + b"\n" + json.dumps(GOOD).encode(), NOW, 10)
    assert batch.ids == ["good"]
    (refused,) = rejected
    assert refused.index == 0
    return refused


def bad(field: str, value: Any) -> dict[str, Any]:
    return {"id": "a", "model": "m", "output": 1, field: value}


OBJECT: dict[str, Any] = {}
ID = "must be 1 to 200 characters, none of them a control character"
ATTRIBUTES = "attributes: must be an object of text, numbers and booleans"
BEYOND = "features: e: a number of the array is not finite in 32 bits"
PROBABILITY = "inclusion_probability: must be more than 0 and at most 1"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (bad("id", ""), f"id: {ID}"),
        (bad("id", "a" * 201), f"id: {ID}"),
        (bad("id", "a\0"), f"id: {ID}"),
        (bad("id", "\x9f"), f"id: {ID}"),
        (bad("id", 7), "id: must be text"),
        (bad("id", None), "id: must be text"),
        ({"model": "m", "output": 1}, "id: required"),
        ({"id": "a", "output": 1}, "model: required"),
        (bad("model", ""), "model: not a well-formed name"),
        (bad("model", "a b"), "model: not a well-formed name"),
        (bad("model", "m\n"), "model: not a well-formed name"),
        (bad("model", "é"), "model: not a well-formed name"),
        (bad("model", "a" * 129), "model: not a well-formed name"),
        (bad("version", "<b>"), "version: not a well-formed name"),
        (bad("version", 1.5), "version: must be text"),
        (bad("kind", "predicted"), "kind: must be prediction or label"),
        (bad("kind", 1), "kind: must be prediction or label"),
        ({"id": "a", "model": "m"}, rules.NEITHER),
        ({"id": "a", "model": "m", "output": None, "truth": None}, rules.NEITHER),
        ({"id": "a", "model": "m", "attributes": {"a": "b"}, "confidence": 1}, rules.NEITHER),
        (bad("kind", "label"), "kind: a label gives truth, loss, or errors and total"),
        (bad("output", []), "output: must be a finite number, text, a boolean or null"),
        (bad("truth", OBJECT), "truth: must be a finite number, text, a boolean or null"),
        (bad("output", "a" * 65_537), "output: longer than 65536 characters"),
        (bad("truth", "a" * 65_537), "truth: longer than 65536 characters"),
        (bad("confidence", 1.01), "confidence: must be between 0 and 1"),
        (bad("confidence", -0.01), "confidence: must be between 0 and 1"),
        (bad("confidence", True), "confidence: must be a finite number"),
        (bad("confidence", "0.5"), "confidence: must be a finite number"),
        (bad("loss", -1), "loss: must be 0 or more"),
        (bad("errors", 1), "errors and total: both or neither"),
        (bad("total", 1), "errors and total: both or neither"),
        (bad("errors", -1) | {"total": 1}, "errors: must be 0 or more"),
        (bad("errors", 1) | {"total": 0}, "total: must be more than 0"),
        *((bad("inclusion_probability", p), PROBABILITY) for p in (0, -0.1, 1.0001)),
        (bad("cluster", ""), f"cluster: {ID}"),
        (bad("cluster", []), "cluster: must be text"),
        (bad("stratum", []), "stratum: must be text"),
        (bad("attributes", []), ATTRIBUTES),
        (bad("attributes", {"a": []}), ATTRIBUTES),
        (bad("attributes", {"": "x"}), "attributes: a name is not well-formed"),
        (bad("attributes", {"a\n": "x"}), "attributes: a name is not well-formed"),
        (bad("attributes", {"a" * 65: "x"}), "attributes: a name is not well-formed"),
        (bad("attributes", {f"a{i}": "x" for i in range(65)}), "attributes: more than 64"),
        (bad("features", {"a\0": None}), "features: a name is not well-formed"),
        (bad("features", {f"f{i}": 1 for i in range(2001)}), "features: more than 2000"),
        (bad("features", {"e": [0, 1e39]}), BEYOND),
        (bad("time", NOW + 86_400_000_001), "time: more than a day in the future"),
        (bad("time", 10**40), "time: more than a day in the future"),
        (bad("time", -1), "time: before 1970"),
        (bad("time", -(10**40)), "time: before 1970"),
        (bad("time", "1969-12-31T23:59:59.9Z"), "time: before 1970"),
        (bad("time", "0001-01-01T00:00:00+10:00"), "time: before 1970"),
        (bad("time", "9999-12-31T23:59:59-10:00"), "time: more than a day in the future"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_a_rule_is_told_which(row: dict[str, Any], reason: str) -> None:
    assert refusal(row).reason == reason


@pytest.mark.parametrize(
    "time",
    [
        *("2026-11-22T10:00:00", "2026-11-22", "2026-12-31T23:59:60Z", "2026-02-30T10:00:00Z"),
        *("now", "NaT", "", "1795341600", "2026-11-22T24:00:00Z", "2026-11-22T10:00:00+25:00"),
        *(True, [], {}),
    ],
)
def test_a_time_that_is_no_instant_is_refused(time: Any) -> None:
    expected = "time: must be RFC 3339 with an offset or Z, or seconds since 1970"
    assert refusal(bad("time", time)).reason == expected


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x1"])
def test_what_json_does_not_know_as_a_number_is_refused(value: str) -> None:
    for field in ('"loss": %s', '"features": {"x": %s}', '"attributes": {"x": %s}', '"time": %s'):
        row = '{"id": "a", "model": "m", "output": 1, %s}' % (field % value)
        assert refusal(row).reason == "not valid JSON"


@pytest.mark.parametrize("value", ["1e400", "-1e400", "9" * 400])
def test_a_number_that_no_double_reaches_is_refused(value: str) -> None:
    for field in ("loss", "features", "output", "confidence"):
        inner = f'{{"x": {value}}}' if field == "features" else value
        row = f'{{"id": "a", "model": "m", "output": 1, "{field}": {inner}}}'
        assert refusal(row).reason.startswith(f"{field}: must be")


def test_an_integer_of_five_thousand_digits_is_refused_in_an_attribute_and_a_time() -> None:
    digits = "9" * 5000
    for field, value in (("attributes", f'{{"x": {digits}}}'), ("time", digits)):
        row = f'{{"id": "a", "model": "m", "output": 1, "{field}": {value}}}'
        assert refusal(row).reason.startswith(f"{field}: must be")


@pytest.mark.parametrize(
    "text",
    [
        *(rb"\ud800", rb"\udfff", rb"\ud800\ud800", b"\xff", b"\xed\xa0\x80", b"\xc0\x80"),
        *(b"a\x00b", b"a\nb"),
    ],
    ids=repr,
)  # fmt: skip
def test_text_that_is_not_unicode_is_refused(text: bytes) -> None:
    for row in (
        b'{"id": "%s", "model": "m", "output": 1}',
        b'{"id": "a", "model": "%s", "output": 1}',
        b'{"id": "a", "model": "m", "output": "%s"}',
        b'{"id": "a", "model": "m", "output": 1, "attributes": {"x": "%s"}}',
        b'{"id": "a", "model": "m", "output": 1, "attributes": {"%s": "x"}}',
        b'{"id": "a", "model": "m", "output": 1, "features": {"%s": 1}}',
    ):
        body = b"[" + row % text + b"," + json.dumps(GOOD).encode() + b"]"
        batch, rejected = decode_json(body, NOW, 10)
        assert batch.ids == ["good"]
        assert rejected[0].reason == "not valid JSON"


def test_of_a_key_given_twice_the_last_one_counts() -> None:
    body = b'{"id": "a", "id": "b", "model": "m", "output": 1, "features": {"x": 1, "x": 2}}'
    batch, _ = decode_json(body, NOW, 10)
    assert batch.ids == ["b"]
    number = batch.features["x"].number
    assert number is not None
    assert number.tolist() == [2.0]


def test_fields_that_are_not_known_are_ignored() -> None:
    row = {**GOOD, "date": 1.5, "kubernetes": {"pod": ["x"]}, "log": "text"}
    batch, rejected = decode_json(json.dumps(row).encode(), NOW, 10)
    assert (len(batch), rejected) == (1, [])


@pytest.mark.parametrize("field", ["unknown", "features", "output"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_nesting_bomb_is_refused_and_the_others_are_not(field: str, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    bomb = opening * 100_000 + "1" + closing * 100_000
    row = f'{{"id": "a", "model": "m", "output": 1, "{field}": {bomb}}}'
    assert refusal(row).index == 0
    batch, rejected = decode_json(f"[{row}, {json.dumps(GOOD)}]".encode(), NOW, 10)
    assert (batch.ids, len(rejected)) == (["good"], 1)


@pytest.mark.parametrize("body", ["[" * 1_000_000, '{"events":' * 100_000, '{"a":' * 1_000_000])
def test_a_body_that_only_opens_is_invalid(body: str) -> None:
    with pytest.raises(InvalidRequest):
        decode_json(body.encode(), NOW, 100_000)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b"1," * 8_000_000 + b"1]", id="numbers"),
        pytest.param(b"{}" * 8_000_000, id="empty objects"),
        pytest.param(b"\n" * 16_000_000, id="blank lines"),
        pytest.param(b" \n" * 8_000_000 + b"x", id="blank lines and garbage"),
        pytest.param(b"{" + b"[]," * 5_000_000 + b"}", id="brackets"),
        pytest.param(b'"' * 16_000_000, id="quotes"),
        pytest.param(b'{"' + b"\\" * 16_000_000, id="backslashes"),
        pytest.param(b'{"a":[' + b'{"events":[' * 1_000_000, id="events in events"),
        pytest.param(b"} {" * 5_000_000, id="closing before opening"),
    ],
)
def test_megabytes_of_nonsense_are_refused_in_linear_time(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest):
        decode_json(body, NOW, 100_000)
    assert time.process_time() - started < DEADLINE_SECONDS


def test_rows_that_each_bring_names_of_their_own_do_not_make_endless_columns() -> None:
    rows = [{**GOOD, "features": {f"f{i}_{k}": 1 for k in range(100)}} for i in range(2000)]
    started = time.process_time()
    batch, rejected = decode_json(json.dumps(rows).encode(), NOW, 100_000)
    assert time.process_time() - started < DEADLINE_SECONDS
    assert len(batch.features) * len(rows) <= MAX_CELLS
    assert len(batch) + len(rejected) == len(rows)
    assert {row.reason for row in rejected} == {"features: too many different names in one request"}


def test_where_every_row_is_refused_they_are_carried_along() -> None:
    with pytest.raises(NothingDecoded) as nothing:
        decode_json(b'{"id": "a"}\n{"id": "b", "model": "m"}', NOW, 10)
    assert nothing.value.status == 422
    assert nothing.value.rejected == (
        Rejected(0, "a", "model: required", None),
        Rejected(1, "b", rules.NEITHER, "m"),
    )


@pytest.mark.parametrize(
    "row",
    [
        bad("kind", SECRET),
        bad("time", SECRET),
        bad("confidence", SECRET),
        bad("attributes", {SECRET + " x": SECRET}),
        bad("features", {SECRET: {SECRET: SECRET}}),
        bad("model", SECRET + " x"),
        bad("output", [SECRET]),
        {"id": "a", "model": "m", SECRET: SECRET},
    ],
)
def test_a_reason_never_echoes(row: dict[str, Any]) -> None:
    assert SECRET not in refusal(row).reason


def test_an_id_that_is_not_well_formed_is_not_repeated() -> None:
    assert refusal(bad("id", "a\x1b[31m")).id is None
    assert refusal(bad("confidence", 7)).id == "a"
    assert refusal(bad("confidence", 7)).model == "m"
    assert refusal(bad("model", "<script>")).model is None


PIECES = [
    *('"id"', '"a"', '"model"', '"m"', '"output"', '"events"', '"features"', '"time"', '"x'),
    *("{", "}", "[", "]", ",", ":", "\n", " ", "1", "-", "1e999", "null", "true", "NaN", "\\"),
    *('{"id": "a", "model": "m", "output": 1}', '\\"', "\x00", "é", "\ud7ff"),
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_jumble_of_json_is_decoded_or_invalid(body: str) -> None:
    try:
        batch, rejected = decode_json(body.encode(), NOW, 20)
    except InvalidRequest:
        return
    assert len(batch) > 0
    indexes = [batch.position(row) for row in range(len(batch))] + [row.index for row in rejected]
    assert sorted(indexes) == list(range(len(indexes)))


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_invalid(body: bytes) -> None:
    try:
        decode_json(body, NOW, 20)
    except InvalidRequest:
        return


def test_any_byte_of_a_body_may_be_flipped() -> None:
    body = json.dumps(
        [GOOD | {"features": {"x": 1.5, "e": [1, 2]}, "time": "2026-11-22T10:00:00Z"}] * 3
    )
    generator = random.Random(7)
    for _ in range(2000):
        flipped = bytearray(body.encode())
        flipped[generator.randrange(len(flipped))] ^= 1 << generator.randrange(8)
        try:
            batch, rejected = decode_json(bytes(flipped), NOW, 20)
        except TooLarge:
            raise
        except InvalidRequest:
            continue
        assert len(batch) + len(rejected) >= 1
