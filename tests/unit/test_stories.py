"""Stories: of slices that all look hurt, those are told of whose excess it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array

from service.monitor.attribution import Replay, Strength
from service.monitor.findings import Slice, slice_text
from service.monitor.history import HOUR, History
from service.monitor.stories import Teller
from tests.rows import START

FLOORS, ACCENTS = ("7", "8", "9"), ("scottish", "us", "irish", "welsh")
CELLS = list(product(FLOORS, ACCENTS))
NAMES: list[Slice] = [
    (),
    *((("floor", floor),) for floor in FLOORS),
    *((("accent", accent),) for accent in ACCENTS),
    *((("accent", accent), ("floor", floor)) for floor, accent in CELLS),
]
DUE = 40.0  # losses of a cell in an hour
ENOUGH = float(np.log(20 * len(NAMES)))


def a_replay(ratios: dict[tuple[str, str], float], hours: int = 4) -> Replay:
    """Hours in which cells lose so many times what is due of them, and the others what is due."""
    history = History()
    cells = np.arange(len(CELLS))
    lost = np.array([DUE * ratios.get(cell, 1.0) for cell in CELLS])
    ones = np.ones(cells.size)
    for hour in range(hours):
        at = np.full(cells.size, START // HOUR + hour)
        history.add_labels(at, cells, ones, lost, lost, DUE * ones)
    inside: list[list[float]] = [
        [float(set(name) <= {("floor", floor), ("accent", accent)}) for floor, accent in CELLS]
        for name in NAMES
    ]
    membership = csr_array(np.array(inside).reshape(len(NAMES), len(CELLS)))
    return Replay(history, membership, ones, START, np.ones(len(NAMES)), 1.0)


def told(
    replay: Replay,
    crossed: Sequence[str],
    suspects: Sequence[str] = (),
    open_: Sequence[str] = (),
    untold: Sequence[str] = (),
) -> list[tuple[str, str | None]]:
    """What is told of, and under which head."""
    index = {slice_text(name): s for s, name in enumerate(NAMES)}

    def may_be_told(slice_: int, strength: Strength) -> bool:
        return slice_text(NAMES[slice_]) not in untold

    teller = Teller(replay, NAMES, np.ones(len(NAMES)), ENOUGH, may_be_told)
    for name in open_:
        teller.blame(index[name], replay.of_slice(index[name], 1.0))
    stories = teller.tell([index[name] for name in crossed], [index[name] for name in suspects])
    return [
        (slice_text(NAMES[s.slice]), None if s.head is None else slice_text(NAMES[s.head]))
        for s in stories
    ]


PAIR = "accent=scottish, floor=7"
ONE_PAIR = {("7", "scottish"): 2.0}


def test_what_holds_the_culprit_is_told_under_it_and_what_overlaps_it_is_not() -> None:
    crossed = ["floor=7", "accent=scottish", PAIR]
    heads = [(PAIR, None), ("floor=7", PAIR), ("accent=scottish", PAIR)]
    assert told(a_replay(ONE_PAIR), crossed) == heads
    assert told(a_replay(ONE_PAIR), ["floor=7"], open_=[PAIR]) == [("floor=7", PAIR)]


def test_a_suspect_whose_story_it_is_is_named_in_place_of_what_crossed() -> None:
    assert told(a_replay(ONE_PAIR), ["floor=7"], [PAIR]) == [(PAIR, None), ("floor=7", PAIR)]
    assert told(a_replay(ONE_PAIR), ["floor=7"], [PAIR], untold=[PAIR]) == [("floor=7", None)]


def test_a_suspect_that_explains_nothing_is_not_told_of() -> None:
    both = {("7", "scottish"): 2.0, ("9", "irish"): 2.2}
    assert told(a_replay(both), [PAIR], ["accent=irish, floor=9"]) == [(PAIR, None)]


def test_two_pairs_that_share_a_value_are_two_incidents() -> None:
    other = "accent=us, floor=7"
    replay = a_replay({("7", "scottish"): 3.0, ("7", "us"): 2.5})
    assert told(replay, ["floor=7", other, PAIR]) == [
        (PAIR, None),
        (other, None),
        ("floor=7", other),  # of which nothing is left once both are out
    ]
    assert told(replay, ["floor=7", other], open_=[PAIR]) == [(other, None), ("floor=7", other)]


def test_where_a_whole_floor_is_hurt_it_is_the_floors_story() -> None:
    replay = a_replay({("7", accent): 2.0 + k / 4 for k, accent in enumerate(ACCENTS)})
    pairs = [f"accent={accent}, floor=7" for accent in ACCENTS]
    stories = told(replay, [*pairs, "floor=7"])
    assert stories[0] == ("floor=7", None)
    assert set(stories[1:]) == {(pair, "floor=7") for pair in pairs}
    assert told(replay, pairs[:1], open_=["floor=7"]) == [(pairs[0], "floor=7")]


def test_what_speaks_softly_and_is_nobody_elses_is_told_of_all_the_same() -> None:
    faint = a_replay({("9", "irish"): 1.3}, hours=1)
    assert faint.of_slice(NAMES.index((("accent", "irish"), ("floor", "9"))), 1.0).nats < ENOUGH
    assert told(faint, ["accent=irish, floor=9"]) == [("accent=irish, floor=9", None)]


def test_what_speaks_softly_is_not_told_of_while_a_suspect_speaks_louder() -> None:
    replay = a_replay({("9", "irish"): 1.3, ("7", "scottish"): 3.0}, hours=1)
    faint = "accent=irish, floor=9"
    assert told(replay, [faint], [PAIR]) == []
    assert told(replay, [faint]) == [(faint, None)]


@pytest.mark.parametrize("ratio", [1.0, 1.4])
def test_the_strengths_of_many_slices_are_those_of_each(ratio: float) -> None:
    replay = a_replay({("7", "scottish"): 2.0, ("8", "us"): ratio})
    slices = np.arange(1, len(NAMES))
    dispersion = np.linspace(1.0, 2.0, slices.size)
    each = [replay.of_slice(int(s), float(d)).nats for s, d in zip(slices, dispersion, strict=True)]
    assert replay.nats(slices, dispersion).tolist() == pytest.approx(each)
