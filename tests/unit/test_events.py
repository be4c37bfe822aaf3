"""Columns are taken, joined and framed without a change."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ingest.events import (
    Categories,
    EventBatch,
    Rejected,
    Value,
    Vectors,
    hash_ids,
)
from service.ingest.frame import FrameError, from_frame, to_frame
from service.ingest.json_rows import decode_json, to_json_rows

NOW = 1_795_341_600_000_000

texts = st.lists(st.none() | st.sampled_from(["", "a", "b", "é"]), max_size=12)
columns = st.lists(texts, min_size=1, max_size=4)


def batch_of(*rows: dict[str, Any]) -> EventBatch:
    head = {"model": "m"}
    whole = [{**head, "id": f"r{i}", "time": i, "output": i, **row} for i, row in enumerate(rows)]
    batch, rejected = decode_json(json.dumps(whole).encode(), NOW, 100)
    assert rejected == []
    return batch


EVERYTHING = batch_of(
    {"features": {"x": 1.5, "codec": "opus", "e": [0.5, -0.25]}, "attributes": {"floor": "7"}},
    {"output": "text", "truth": True, "version": "v1", "cluster": "c", "confidence": 0.5},
    {"kind": "label", "errors": 1, "total": 4, "stratum": "high", "inclusion_probability": 0.05},
    {"features": {"x": "mixed", "e": [1.0]}, "loss": 0.25, "model": "other"},
)


@given(texts)
def test_categories_give_back_their_column(column: list[str | None]) -> None:
    coded = Categories.of(column)
    assert coded.tolist() == column
    assert coded.values == list(dict.fromkeys(value for value in column if value is not None))
    assert coded.present.tolist() == [value is not None for value in column]


@given(texts, st.data())
def test_taken_categories_are_those_rows(column: list[str | None], data: Any) -> None:
    rows = data.draw(st.lists(st.integers(0, len(column) - 1)) if column else st.just([]))
    taken = Categories.of(column).take(np.array(rows, np.intp))
    assert taken.tolist() == [column[row] for row in rows]
    assert set(taken.used()) == {column[row] for row in rows} - {None}


def test_of_many_values_taken_categories_keep_those_in_use() -> None:
    column = Categories.of([None, *(str(i) for i in range(1000))])
    assert column.take(np.array([0, 7, 3, 7])).values == ["2", "6"]


@given(columns)
def test_concatenated_categories_follow_each_other(parts: list[list[str | None]]) -> None:
    whole = Categories.concatenate([Categories.of(part) for part in parts])
    assert whole.tolist() == [value for part in parts for value in part]
    assert len(set(whole.values)) == len(whole.values)


def test_no_categories_concatenate_to_none() -> None:
    assert Categories.concatenate([]).tolist() == []


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=3), min_size=1), st.data())
def test_taken_vectors_are_those_rows(rows: list[list[float]], data: Any) -> None:
    column = Vectors(
        np.cumsum([0, *map(len, rows)]), np.array([x for row in rows for x in row], np.float32)
    )
    places = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    taken = column.take(np.array(places, np.intp))
    got = [part.tolist() for part in np.split(taken.values, taken.offsets[1:-1])] if places else []
    assert got == [rows[place] for place in places]


def test_a_value_is_present_in_whatever_type_it_comes() -> None:
    value = Value(
        np.array([1.0, np.nan, np.nan, np.nan]),
        Categories.of([None, "a", None, None]),
        Vectors(np.array([0, 0, 0, 1, 1]), np.ones(1, np.float32)),
    )
    assert value.present(4).tolist() == [True, True, True, False]
    assert Value().present(2).tolist() == [False, False]


@given(st.permutations(range(4)), st.integers(0, 4))
def test_taken_rows_are_those_rows(order: list[int], n: int) -> None:
    rows = order[:n]
    taken = EVERYTHING.take(np.array(rows, np.intp))
    everything = to_json_rows(EVERYTHING)
    assert to_json_rows(taken) == [everything[row] for row in rows]
    assert [taken.position(row) for row in range(n)] == rows


def test_a_row_taken_twice_still_knows_its_place() -> None:
    again = EVERYTHING.take(np.array([3, 1])).take(np.array([1]))
    assert (again.ids, again.position(0)) == (["r1"], 1)


@given(st.integers(0, 4), st.integers(0, 4))
def test_batches_that_lack_each_others_columns_concatenate(first: int, second: int) -> None:
    cuts = [0, *sorted((first, second)), 4]
    parts = [EVERYTHING.take(np.arange(i, j)) for i, j in pairwise(cuts)]
    plain = [_stripped(part) for part in parts]
    assert to_json_rows(EventBatch.concatenate(plain)) == to_json_rows(EVERYTHING)


def _stripped(batch: EventBatch) -> EventBatch:
    """The batch without the columns in which it has nothing."""
    n = len(batch)
    columns = ("confidence", "loss", "errors", "total", "inclusion_probability")
    empty = {name: None for name in columns if np.isnan(getattr(batch, name)).all()}
    return replace(
        batch,
        **empty,  # type: ignore[arg-type]
        attributes={k: c for k, c in batch.attributes.items() if c.present.any()},
        features={k: v for k, v in batch.features.items() if v.present(n).any()},
        positions=None,
    )


def test_labels_are_rows_with_a_truth_a_loss_or_errors() -> None:
    assert EVERYTHING.has_label().tolist() == [False, True, True, True]


def test_a_hash_of_an_id_is_that_of_the_published_algorithm() -> None:
    # XXH3_64bits with seed 0: of "" as in xxhsum's own sanity check, of "a" as other
    # implementations state it of the C reference.
    assert hash_ids(["", "a"]).tolist() == [0x2D06800538D394C2, 0xE6C632B61E964E1F]


# --- frames


REJECTED = [Rejected(3, "id", "time: before 1970", "m"), Rejected(7, None, "not valid JSON")]


def test_a_frame_gives_back_the_batch_and_what_was_refused() -> None:
    batch, rejected = from_frame(to_frame(EVERYTHING, REJECTED))
    assert to_json_rows(batch) == to_json_rows(EVERYTHING)
    assert batch.kind.tolist() == EVERYTHING.kind.tolist()
    assert rejected == REJECTED
    assert to_frame(batch, rejected) == to_frame(EVERYTHING, REJECTED)


def test_a_frame_keeps_the_places_of_its_rows() -> None:
    batch, _ = from_frame(to_frame(EVERYTHING.take(np.array([2, 0]))))
    assert [batch.position(0), batch.position(1)] == [2, 0]


def test_a_frame_of_no_rows_is_a_frame() -> None:
    empty = EVERYTHING.take(np.empty(0, np.intp))
    batch, rejected = from_frame(to_frame(empty, REJECTED))
    assert (len(batch), rejected) == (0, REJECTED)


def test_a_frame_whose_refusals_name_no_model_is_read() -> None:
    content = msgspec.msgpack.decode(to_frame(EVERYTHING))
    content["rejected"] = [[1, "a", "time: before 1970"]]
    _, rejected = from_frame(msgspec.msgpack.encode(content))
    assert rejected == [Rejected(1, "a", "time: before 1970")]


def test_a_frame_of_another_version_is_refused() -> None:
    content = msgspec.msgpack.decode(to_frame(EVERYTHING)) | {"frame": 2}
    with pytest.raises(FrameError, match="version"):
        from_frame(msgspec.msgpack.encode(content))


def test_a_frame_with_objects_in_its_arrays_is_refused() -> None:
    content = msgspec.msgpack.decode(to_frame(EVERYTHING))
    content["time"][0] = "|O"
    with pytest.raises(FrameError, match="dtype"):
        from_frame(msgspec.msgpack.encode(content))


def test_a_frame_that_is_cut_off_is_refused_wherever_the_cut() -> None:
    frame = to_frame(EVERYTHING, REJECTED)
    for end in range(len(frame)):
        with pytest.raises(FrameError):
            from_frame(frame[:end])


def test_a_damaged_frame_is_refused_or_read_and_never_crashes() -> None:
    frame, generator = to_frame(EVERYTHING, REJECTED), random.Random(3)
    n_refused = 0
    for _ in range(3000):
        damaged = bytearray(frame)
        damaged[generator.randrange(len(frame))] ^= 1 << generator.randrange(8)
        try:
            from_frame(bytes(damaged))
        except FrameError:
            n_refused += 1
    assert n_refused > 0


@given(st.binary(max_size=60))
def test_what_is_no_frame_is_refused(content: bytes) -> None:
    with pytest.raises(FrameError):
        from_frame(content)
