"""Slices against membership by hand: who is in which slice, and what happens at the bounds."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.state_bytes import from_bytes, to_bytes
from service.ingest.events import Categories, EventBatch
from service.monitor import admission
from service.monitor import slices as slices_module
from service.monitor.admission import ABSENT, FIRST, OTHER
from service.monitor.bands import Bands
from service.monitor.findings import Slice, slice_text
from service.monitor.slices import ROOT, Slices
from tests.rows import a_batch, a_prediction

Attributes = dict[str, str]


def with_attributes(*attributes: Attributes) -> EventBatch:
    return a_batch([a_prediction(str(i), attributes=a) for i, a in enumerate(attributes)])


def slices_of(slices: Slices, cell: int) -> set[Slice]:
    """The slices that a cell's rows are in."""
    column = slices.membership()[:, [cell]].toarray().ravel()
    return {slices.names[s] for s in np.flatnonzero(column)}


def by_hand(attributes: Attributes, order: int) -> set[Slice]:
    pairs = sorted(attributes.items())
    return {name for k in range(order + 1) for name in combinations(pairs, k)}


ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(["floor", "accent", "device"]), st.sampled_from("abcd"), max_size=3
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("order", [1, 2, 3])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(requests=st.lists(ROWS, min_size=1, max_size=3))
def test_a_row_is_in_every_slice_that_its_attributes_name(
    order: int, requests: list[list[Attributes]]
) -> None:
    slices = Slices(["floor", "accent", "device"], order)
    for rows in requests:
        for attributes, cell in zip(rows, slices.assign(with_attributes(*rows)), strict=True):
            assert slices_of(slices, int(cell)) == by_hand(attributes, order)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(requests=st.lists(ROWS, min_size=1, max_size=4), cut=st.integers(0, 4))
def test_cells_and_slices_do_not_depend_on_cuts_nor_on_a_restart(
    requests: list[list[Attributes]], cut: int
) -> None:
    rows = [row for request in requests for row in request]
    whole = Slices(["floor", "accent"], 2)
    cells = whole.assign(with_attributes(*rows)).tolist()
    cut_up, found = Slices(["floor", "accent"], 2), []
    for n, request in enumerate(requests):
        if n == cut:
            cut_up = Slices.restore(from_bytes(to_bytes(cut_up.save())))
        found += cut_up.assign(with_attributes(*request)).tolist()
    assert found == cells
    assert cut_up.names == whole.names
    assert (cut_up.membership().toarray() == whole.membership().toarray()).all()


def test_cells_are_told_apart_for_every_combination_of_many_values() -> None:
    slices = Slices(["a", "b", "c"], 1)
    codes = [np.repeat(np.arange(40), 400), np.tile(np.repeat(np.arange(20), 20), 40)]
    codes.append(np.tile(np.arange(20), 800))
    codes.append(np.full(16_000, ABSENT))  # the stratum
    levels = np.stack(codes, axis=1).astype(np.int32)
    for d, n in enumerate((40, 20, 20)):
        for value in range(n):
            slices._values[d].code(str(value), 1)
    cells = slices.cells_of(levels)
    assert np.unique(cells).size == len(levels) == 16_000
    assert (slices.levels[cells] == levels).all()


def test_an_attribute_that_is_absent_fixes_nothing() -> None:
    slices = Slices(["floor", "accent"], 2)
    cells = slices.assign(with_attributes({"floor": "7"}, {}, {"ward": "x"}))
    assert slices.levels[cells].tolist() == [[ABSENT, FIRST, ABSENT], [ABSENT] * 3, [ABSENT] * 3]
    assert slices_of(slices, int(cells[1])) == {()}
    assert cells[1] == cells[2]


def test_a_model_without_dimensions_is_one_slice() -> None:
    slices = Slices([], 2)
    assert slices.assign(with_attributes({"floor": "7"}, {})).tolist() == [0, 0]
    assert slices.names == [()]
    assert slices.membership().toarray().tolist() == [[1.0]]


def test_past_the_budget_no_slice_is_made_and_each_is_counted() -> None:
    slices = Slices(["floor", "accent"], 2, max_slices=4)
    cells = slices.assign(
        with_attributes(
            {"floor": "1", "accent": "us"},  # makes 3
            {"floor": "2", "accent": "us"},  # floor=2 is the fourth, the pair is past
            {"floor": "3", "accent": "us"},  # floor=3 and the pair are past
        )
    )
    assert len(slices) == 1 + 4
    assert slices.n_past_budget == 3
    assert slices_of(slices, int(cells[2])) == {(), (("accent", "us"),)}
    again = Slices.restore(from_bytes(to_bytes(slices.save())))
    assert again.names == slices.names
    assert again.n_past_budget == 3


def test_past_the_cap_on_values_rows_are_other_and_stay_in_their_other_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "FREE_VALUES", 2)
    slices = Slices(["floor", "accent"], 2)
    cells = slices.assign(
        with_attributes(*({"floor": str(floor), "accent": "us"} for floor in range(4)))
    )
    assert slices.levels[cells][:, 1].tolist() == [FIRST, FIRST + 1, OTHER, OTHER]
    assert slices_of(slices, int(cells[3])) == {(), (("accent", "us"),)}


def test_past_the_cap_on_cells_rows_are_in_the_cell_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices_module, "MAX_CELLS", 3)
    slices = Slices(["floor"], 1)
    cells = slices.assign(with_attributes(*({"floor": str(floor)} for floor in range(5))))
    assert cells.tolist() == [1, 2, 0, 0, 0]
    assert slices.n_rows_other == 3
    assert Slices.restore(slices.save()).n_rows_other == 3
    assert slices_of(slices, 0) == {()}
    assert slices.assign(with_attributes({"floor": "1"}, {"floor": "9"})).tolist() == [2, 0]


def test_values_that_other_rows_of_the_request_have_take_no_room() -> None:
    shared = Categories(np.array([0, 0], np.int32), ["7", *(f"other-{i}" for i in range(50))])
    batch = with_attributes({}, {})
    batch.attributes["floor"] = shared
    slices = Slices(["floor"], 1)
    slices.assign(batch)
    assert slices.values == [["7"], []]


def test_slices_are_found_by_name_and_ordered_by_how_much_they_fix() -> None:
    slices = Slices(["floor", "accent"], 2)
    slices.assign(with_attributes({"floor": "7", "accent": "us"}))
    assert slices.find(()) == ROOT
    assert slices.find((("floor", "8"),)) is None
    pair = slices.find((("accent", "us"), ("floor", "7")))
    assert pair is not None
    assert slices.orders()[[ROOT, pair]].tolist() == [0, 2]


def settled(slices: Slices, rows: dict[int, float], *kept: int) -> list[str]:
    """Settle by the rows of cells; the slices that have a place, in the order of their places."""
    by_cell = np.zeros(slices.n_cells)
    for cell, n_rows in rows.items():
        by_cell[cell] = n_rows
    slices.settle(by_cell, np.array(kept, np.intp))
    return [slice_text(name) for name in slices.names[1:]]


def test_where_the_budget_does_not_reach_the_busiest_slices_get_its_places() -> None:
    slices = Slices(["floor"], 1, max_slices=2)
    slices.assign(with_attributes(*({"floor": str(floor)} for floor in range(4))))
    assert [slice_text(name) for name in slices.names[1:]] == ["floor=0", "floor=1"]
    assert settled(slices, {1: 50.0, 2: 1.0, 3: 3.0, 4: 9.0}) == ["floor=0", "floor=3"]
    assert slices_of(slices, 4) == {(), (("floor", "3"),)}
    assert slices_of(slices, 2) == {()}
    assert slices.orders().tolist() == [0, 1, 1]


def test_a_slice_that_something_rests_on_keeps_its_place() -> None:
    slices = Slices(["floor"], 1, max_slices=2)
    slices.assign(with_attributes(*({"floor": str(floor)} for floor in range(4))))
    assert settled(slices, {3: 30.0, 4: 90.0}, 1) == ["floor=0", "floor=3"]


def test_a_slice_with_a_place_gives_it_to_one_with_twice_its_rows() -> None:
    slices = Slices(["floor"], 1, max_slices=1)
    slices.assign(with_attributes({"floor": "0"}, {"floor": "1"}))
    assert settled(slices, {1: 10.0, 2: 19.0}) == ["floor=0"]
    slices.assign(with_attributes({"floor": "1"}, {"floor": "2"}))  # refused again
    assert settled(slices, {1: 10.0, 2: 21.0}) == ["floor=1"]


def test_a_slice_without_rows_is_retired_until_it_has_some() -> None:
    slices = Slices(["floor"], 1)
    slices.assign(with_attributes({"floor": "0"}, {"floor": "1"}))
    settled(slices, {1: 4.0})
    assert slices.live().tolist() == [True, True, False]
    slices.assign(with_attributes({"floor": "2"}))
    assert slices.live().tolist() == [True, True, False, True]
    again = Slices.restore(from_bytes(to_bytes(slices.save())))
    assert again.live().tolist() == slices.live().tolist()
    settled(slices, {2: 1.0})
    assert slices.live().tolist() == [True, False, True, False]


def test_what_settled_is_the_same_after_a_restart() -> None:
    slices = Slices(["floor", "accent"], 2, max_slices=3)
    rows = [{"floor": str(i % 5), "accent": "ab"[i % 2]} for i in range(10)]
    slices.assign(with_attributes(*rows))
    settled(slices, dict.fromkeys(range(1, 11), 2.0) | {4: 40.0})
    again = Slices.restore(from_bytes(to_bytes(slices.save())))
    assert again.names == slices.names
    assert (again.membership().toarray() == slices.membership().toarray()).all()
    assert to_bytes(again.save()) == to_bytes(slices.save())


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    floors=st.lists(st.integers(0, 40), min_size=1, max_size=120),
    cuts=st.lists(st.integers(0, 120), max_size=5),
)
def test_who_is_admitted_does_not_depend_on_cuts_nor_on_a_restart(
    floors: list[int], cuts: list[int]
) -> None:
    rows = [{"floor": str(min(floor, 41 - floor))} for floor in floors]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_ADMISSION.items():
            patch.setattr(admission, name, value)
        whole, cut_up = Slices(["floor"], 1), Slices(["floor"], 1)
        levels = whole.levels_of(with_attributes(*rows)).tolist()
        edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
        found = []
        for start, stop in pairwise(edges):
            found += cut_up.levels_of(with_attributes(*rows[start:stop])).tolist()
            cut_up = Slices.restore(from_bytes(to_bytes(cut_up.save())))
    assert found == levels
    assert to_bytes(cut_up.save()) == to_bytes(whole.save())


SMALL_ADMISSION = {
    "FREE_VALUES": 3,
    "MAX_VALUES": 6,
    "STRETCH_ROWS": 10,
    "FREQUENT": 4,
    "LEAST_ROWS": 3,
    "LEAST_SHARE": 0.01,
    "MEMORY_ROWS": 50,
}


def test_in_a_crowd_a_value_is_admitted_by_its_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL_ADMISSION.items():
        monkeypatch.setattr(admission, name, value)
    slices = Slices(["floor"], 1)
    rare = [{"floor": f"rare-{i}"} for i in range(27)]
    busy = [*rare[:20], *([{"floor": "busy"}] * 4), *rare[20:]]  # 4 of one stretch's ten
    codes = slices.levels_of(with_attributes(*busy, {"floor": "busy"}))[:, 0].tolist()
    assert codes == [FIRST, FIRST + 1, FIRST + 2, *([OTHER] * 28), FIRST + 3]
    assert slices.values[0] == ["rare-0", "rare-1", "rare-2", "busy"]


def test_a_value_with_hostile_characters_is_other() -> None:
    slices = Slices(["floor"], 1)
    levels = slices.levels_of(with_attributes({"floor": "7\ufffd"}, {"floor": "\u202e7"}, {}))
    assert levels[:, 0].tolist() == [OTHER, OTHER, ABSENT]
    assert slices.values == [[], []]


def test_numbers_are_sliced_by_bands_and_what_is_none_is_other() -> None:
    slices = Slices(["age"], 1, bands={"age": Bands((34.0, 51.0))})
    values = ["18", "34", "50.9", "51", "1e3", "unknown", "nan"]
    levels = slices.levels_of(with_attributes(*({"age": value} for value in values)))
    codes = [FIRST, FIRST + 1, FIRST + 1, FIRST + 2, FIRST + 2, OTHER, OTHER]
    assert levels[:, 0].tolist() == codes
    assert slices.values[0] == ["below 34", "34–51", "from 51"]
    again = Slices.restore(from_bytes(to_bytes(slices.save())))
    assert again.levels_of(with_attributes({"age": "40"}))[0, 0] == FIRST + 1


def test_bands_hold_a_quarter_each_of_what_they_were_learnt_from() -> None:
    bands = Bands.of(np.arange(1_000.0))
    assert bands.cuts == (249.8, 499.5, 749.2)
    names = [bands.name(str(number)) for number in range(1_000)]
    assert sorted(names.count(name) for name in set(names)) == [250, 250, 250, 250]
    assert Bands.of(np.array([1.0, 1.0, 1.0, 9.0])).cuts == (3.0,)
    assert Bands.of(np.ones(4)).name("1") == "any"
