"""IdTable against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ingest.events import Hashes, hash_ids
from service.monitor.id_table import IdTable


def hashes(values: list[int]) -> Hashes:
    return np.array(values, np.uint64)


# Few distinct low bits: hashes that want the same slots of the table.
CROWDED = st.builds(lambda high, low: high << 32 | low, st.integers(1, 2**31), st.integers(0, 3))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.lists(CROWDED, max_size=60, unique=True), max_size=5), st.lists(CROWDED))
def test_it_finds_what_a_dict_finds(batches: list[list[int]], others: list[int]) -> None:
    table, rows = IdTable(), dict[int, int]()
    for batch in batches:
        new = [h for h in batch if h not in rows]
        start = len(rows)
        table.add(hashes(new), np.arange(start, start + len(new)))
        rows.update(zip(new, range(start, start + len(new)), strict=True))
        wanted = [*rows, *others]
        assert table.find(hashes(wanted)).tolist() == [rows.get(h, -1) for h in wanted]
        assert len(table) == len(rows)


def test_it_grows_and_still_finds_each_of_ten_thousand() -> None:
    all_hashes = hash_ids([f"utt-{i}" for i in range(10_000)])
    table = IdTable()
    for start in range(0, 10_000, 700):
        part = all_hashes[start : start + 700]
        table.add(part, np.arange(start, start + part.size))
    assert (table.find(all_hashes) == np.arange(10_000)).all()
    assert (table.find(hash_ids([f"other-{i}" for i in range(10_000)])) == -1).all()


def test_the_hash_zero_is_an_id_and_not_a_free_slot() -> None:
    table = IdTable()
    table.add(hashes([5]), np.array([0]))
    assert table.find(hashes([0])).tolist() == [-1]
    table.add(hashes([0]), np.array([1]))
    assert table.find(hashes([0, 5, 6])).tolist() == [1, 0, -1]


def test_hashes_come_in_the_order_of_rows_however_the_table_grew() -> None:
    all_hashes = hash_ids([f"utt-{i}" for i in range(3_000)])
    at_once, in_parts = IdTable(3_000), IdTable()
    at_once.add(all_hashes, np.arange(3_000))
    for start in range(0, 3_000, 300):
        in_parts.add(all_hashes[start : start + 300], np.arange(start, start + 300))
    assert (at_once.hashes() == all_hashes).all()
    assert (in_parts.hashes() == all_hashes).all()
