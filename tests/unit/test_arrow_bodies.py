"""Arrow and Parquet bodies give what JSON gives, and no more than their bounds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest, NothingDecoded, SlicewatchError, TooLarge
from service.ingest.arrow_bodies import decode_arrow, decode_parquet
from service.ingest.json_rows import decode_json, to_json_rows

NOW = 1_795_341_700_000_000
CAP = 1 << 20
AT = 1_795_341_600_000_000

FLAT: dict[str, Any] = {
    "id": ["a", "b", "c"],
    "model": ["m", "m", "m"],
    "time": pa.array([AT, AT + 1, None], pa.timestamp("us", "UTC")),
    "version": ["1", None, "2"],
    "attributes.floor": pa.array([7, 8, None], pa.int16()),
    "attributes.vip": [True, None, False],
    "features.snr_db": pa.array([11.5, None, -3.25], pa.float32()),
    "features.count": pa.array([1, None, 3], pa.uint8()),
    "features.codec": pa.array(["opus", None, "pcm"]).dictionary_encode(),
    "features.embedding": pa.array([[0.5, 1.5], None, [2.0]], pa.list_(pa.float32())),
    "output": ["x", "y", None],
    "confidence": [0.5, None, 1.0],
    "loss": pa.array([None, None, 2.0]),
    "cluster": ["k", "k", None],
    "ignored": [1, 2, 3],
}
JSON = [
    {
        "id": "a",
        "model": "m",
        "time": AT,
        "version": "1",
        "attributes": {"floor": 7, "vip": True},
        "features": {"snr_db": 11.5, "count": 1, "codec": "opus", "embedding": [0.5, 1.5]},
        "output": "x",
        "confidence": 0.5,
        "cluster": "k",
    },
    {
        "id": "b",
        "model": "m",
        "time": AT + 1,
        "attributes": {"floor": 8},
        "output": "y",
        "cluster": "k",
    },
    {
        "id": "c",
        "model": "m",
        "version": "2",
        "attributes": {"vip": False},
        "features": {"snr_db": -3.25, "count": 3, "codec": "pcm", "embedding": [2.0]},
        "confidence": 1.0,
        "loss": 2.0,
    },
]


def stream(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def parquet(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def nested(columns: dict[str, Any]) -> Any:
    """The same table with attributes and features as structs."""
    flat = {name: column for name, column in columns.items() if "." not in name}
    for group in ("attributes", "features"):
        inner = {
            n.partition(".")[2]: pa.array(c) if isinstance(c, list) else c
            for n, c in columns.items()
            if n.startswith(group)
        }
        flat[group] = pa.StructArray.from_arrays(list(inner.values()), list(inner))
    return pa.table(flat)


@pytest.mark.parametrize("shape", [pa.table, nested])
@pytest.mark.parametrize(("write", "decode"), [(stream, decode_arrow), (parquet, decode_parquet)])
def test_columns_give_what_json_gives(shape: Any, write: Any, decode: Any) -> None:
    batch, rejected = decode(write(shape(FLAT)), NOW, 10, CAP)
    expected, _ = decode_json(json.dumps(JSON).encode(), NOW, 10)
    assert not rejected
    assert to_json_rows(batch.canonical()) == to_json_rows(expected.canonical())


def test_several_batches_and_changing_dictionaries_are_one_table() -> None:
    parts = [
        pa.table(
            {"id": [f"{i}"], "model": ["m"], "output": pa.array([f"o{i}"]).dictionary_encode()}
        )
        for i in range(3)
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, parts[0].schema) as out:
        for part in parts:
            out.write_table(part)
    batch, _ = decode_arrow(sink.getvalue().to_pybytes(), NOW, 10, CAP)
    assert batch.ids == ["0", "1", "2"]
    assert batch.output.text is not None and batch.output.text.tolist() == ["o0", "o1", "o2"]
    assert batch.time.tolist() == [NOW] * 3


def test_one_bad_row_costs_no_other() -> None:
    table = pa.table(
        {
            "id": ["a", "b", None, "d", "e"],
            "model": ["m", "m", "m", None, "m"],
            "output": pa.array([1.0, float("nan"), 2.0, 3.0, 4.0]),
            "confidence": [0.5, 0.5, 0.5, 0.5, 7.0],
        }
    )
    batch, rejected = decode_arrow(stream(table), NOW, 10, CAP)
    assert batch.ids == ["a"]
    assert [(row.index, row.reason.partition(":")[0]) for row in rejected] == [
        *((1, "output"), (2, "id"), (3, "model"), (4, "confidence"))
    ]


def test_rows_that_are_all_refused_are_told_of() -> None:
    with pytest.raises(NothingDecoded) as error:
        decode_arrow(stream(pa.table({"id": ["a"], "model": ["m"]})), NOW, 10, CAP)
    assert len(error.value.rejected) == 1


GOOD = {"id": ["a", "b"], "model": ["m", "m"], "output": ["x", "y"]}


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["x", "y"], pa.string_view()),
        ([b"x", b"y"], pa.binary()),
        ([["x"], ["y"]], pa.list_(pa.string())),
        ([[[1.0]], [[2.0]]], pa.list_(pa.list_(pa.float64()))),
        ([{"a": {"b": 1}}] * 2, None),
        ([1, 2], pa.duration("s")),
    ],
)
def test_a_type_that_no_field_has_is_refused_before_it_is_read(column: Any, kind: Any) -> None:
    table = pa.table({**GOOD, "features.x": pa.array(column, kind)})
    with pytest.raises(InvalidRequest, match=r"a type|arrays of numbers"):
        decode_arrow(stream(table), NOW, 10, CAP)


def test_run_ends_and_compressed_buffers_are_refused() -> None:
    runs = pa.RunEndEncodedArray.from_arrays([2], ["x"])
    with pytest.raises(InvalidRequest, match="type"):
        decode_arrow(stream(pa.table({**GOOD, "version": runs})), NOW, 10, CAP)
    for coding in ("lz4", "zstd"):
        with pytest.raises(InvalidRequest, match="compressed buffers"):
            decode_arrow(stream(pa.table(GOOD), compression=coding), NOW, 10, CAP)


@pytest.mark.parametrize(("write", "decode"), [(stream, decode_arrow), (parquet, decode_parquet)])
def test_too_many_rows_are_413_though_they_cost_nothing(write: Any, decode: Any) -> None:
    rows = {name: [column[0]] * 11 for name, column in GOOD.items()}
    with pytest.raises(TooLarge):
        decode(write(pa.table(rows)), NOW, 10, CAP)


def test_a_text_that_all_rows_share_is_kept_once() -> None:
    """A page of 100 kB that 10,000 rows point to would be a gigabyte of text."""
    n = 10_000
    table = pa.table(
        {"id": [f"{i}" for i in range(n)], "model": ["m"] * n, "output": ["x" * 60_000] * n}
    )
    for body, decode in ((parquet(table), decode_parquet),):
        assert len(body) < CAP
        batch, _ = decode(body, NOW, n, CAP)
        assert batch.output.text is not None and len(batch.output.text.values) == 1


def test_a_parquet_bomb_stops_at_the_cap_whatever_its_footer_says() -> None:
    zeros = np.zeros(4 * CAP // 8)
    table = pa.table({"id": ["a"] * zeros.size, "model": ["m"] * zeros.size, "output": zeros})
    body = parquet(table, compression="zstd", use_dictionary=False)
    assert len(body) < CAP // 2
    with pytest.raises(TooLarge):
        decode_parquet(body, NOW, zeros.size, CAP)


@pytest.mark.parametrize(
    ("write", "decode", "n_tries"), [(stream, decode_arrow, 2_000), (parquet, decode_parquet, 10)]
)
def test_every_truncation_and_flip_gets_an_answer(write: Any, decode: Any, n_tries: int) -> None:
    """Parquet is read in a process of its own, which may end as it likes: a few tries do."""
    body = write(pa.table(FLAT))
    draw = np.random.default_rng(11)
    for _ in range(n_tries):
        damaged = bytearray(body[: draw.integers(0, len(body))] if draw.random() < 0.3 else body)
        for at in draw.integers(0, max(len(damaged), 1), draw.integers(1, 6)):
            if at < len(damaged):
                damaged[at] ^= 1 << int(draw.integers(0, 8))
        answered(decode, bytes(damaged))


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_get_an_answer(body: bytes) -> None:
    answered(decode_arrow, body)


def answered(decode: Any, body: bytes) -> None:
    try:
        decode(body, NOW, 10, CAP)
    except SlicewatchError:
        pass
