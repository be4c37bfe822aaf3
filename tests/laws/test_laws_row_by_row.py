"""The laws of fleets, for the one that is fed rows: river's detectors, one a slice."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors import Detections, Rows, ShapeError, SingleStream
from detectors.contract import State
from detectors.single_stream import PARAMETERS

# Each with parameters by which it speaks within a few hundred rows.
QUICK: dict[str, dict[str, Any]] = {
    "ADWIN": {"delta": 0.05, "clock": 4},
    "PageHinkley": {"threshold": 5.0},
    "KSWIN": {"alpha": 0.05, "window_size": 40, "stat_size": 20},
    "DDM": {"drift_threshold": 2.0},
    "EDDM": {"beta": 0.9},
    "FHDDM": {"sliding_window_size": 50, "confidence_level": 0.05, "short_window_size": 20},
    "HDDMA": {"drift_confidence": 0.05},
    "HDDMW": {"drift_confidence": 0.01},
}
N_SLICES = 4
every_detector = pytest.mark.parametrize("name", QUICK)


@cache
def a_stream(name: str) -> Rows:
    """Rows of four slices, in two of which errors come and go; KSWIN is slow, so it gets fewer."""
    rng = np.random.default_rng(5)
    n = 500 if name == "KSWIN" else 6_000
    slices = rng.integers(N_SLICES, size=n)
    is_bad = (np.arange(n) * 8 // n % 2 == 1) & (slices < 2)
    losses = (rng.random(n) < np.where(is_bad, 0.6, 0.1)).astype(np.float64)
    for array in (slices, losses):
        array.flags.writeable = False  # a write would raise
    return Rows(slices.astype(np.intp), losses)


def take(rows: Rows, which: Any) -> Rows:
    return Rows(rows.slices[which], rows.losses[which])


def a_fleet(name: str) -> SingleStream:
    return SingleStream(name, **QUICK[name])


def cut(rows: Rows, size: int) -> list[Rows]:
    return [take(rows, slice(at, at + size)) for at in range(0, rows.slices.size, size)]


def feed(fleet: SingleStream, parts: list[Rows]) -> list[list[int]]:
    return [fleet.update(part).slices.tolist() for part in parts]


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def test_every_detector_that_can_be_stated_is_under_the_laws() -> None:
    assert QUICK.keys() == PARAMETERS.keys()


@every_detector
def test_the_stream_of_these_laws_makes_each_detector_speak(name: str) -> None:
    assert any(feed(a_fleet(name), cut(a_stream(name), 50)))


@every_detector
def test_where_the_stream_is_cut_changes_nothing(name: str) -> None:
    fleets, rows = [a_fleet(name) for _ in range(3)], a_stream(name)
    told = [
        {s for found in feed(fleet, cut(rows, size)) for s in found}
        for fleet, size in zip(fleets, (1, 37, 10_000), strict=True)
    ]
    assert told[0] == told[1] == told[2]
    assert same(fleets[0].save(), fleets[1].save())
    assert same(fleets[0].save(), fleets[2].save())


@every_detector
def test_permuting_slices_permutes_the_answer(name: str) -> None:
    rows, other = a_stream(name), np.array([2, 0, 3, 1])
    permuted = Rows(other[rows.slices], rows.losses)
    straight = feed(a_fleet(name), cut(rows, 50))
    moved = feed(a_fleet(name), cut(permuted, 50))
    assert [sorted(other[found].tolist()) for found in straight] == moved


@every_detector
def test_a_slice_of_a_fleet_equals_a_fleet_of_that_slice_alone(name: str) -> None:
    rows = a_stream(name)
    together = feed(a_fleet(name), cut(rows, 50))
    for slice_ in range(N_SLICES):
        parts = [take(part, part.slices == slice_) for part in cut(rows, 50)]
        alone = feed(a_fleet(name), parts)
        assert alone == [[s for s in found if s == slice_] for found in together]


@every_detector
def test_a_restored_fleet_goes_on_bit_for_bit(name: str) -> None:
    parts, whole, again = cut(a_stream(name), 50), a_fleet(name), a_fleet(name)
    for n, part in enumerate(parts):
        if n % 7 == 3:
            saved = again.save()
            again = a_fleet(name)
            again.restore(saved)
            assert same(again.save(), saved)
        assert_array_equal(again.update(part).slices, whole.update(part).slices)
        assert same(again.save(), whole.save())


@every_detector
def test_an_update_without_rows_changes_nothing(name: str) -> None:
    fleet, rows = a_fleet(name), a_stream(name)
    feed(fleet, cut(rows, 50)[:9])
    before = fleet.save()
    assert not len(fleet.update(take(rows, slice(0, 0))))
    assert same(before, fleet.save())


@every_detector
def test_memory_does_not_grow_with_the_stream(name: str) -> None:
    """But for ADWIN's histogram, whose rows double from bucket to bucket: one more each time."""
    fleet, rows = a_fleet(name), a_stream(name)
    sizes = []
    for _ in range(4):
        feed(fleet, [rows, take(rows, np.repeat(np.flatnonzero(rows.slices == 3), 5))])
        sizes.append(int(fleet.save()["sizes"].max()))
    assert len(fleet) == N_SLICES
    if name == "ADWIN":
        assert sizes[-1] <= 3_000
    else:
        assert sizes[0] == sizes[-1]


@every_detector
def test_inputs_are_not_written_to_and_outputs_are_no_views_of_state(name: str) -> None:
    fleet, rows = a_fleet(name), a_stream(name)  # whose arrays are read-only
    answers = [fleet.update(part) for part in cut(rows, 50)]
    first, second = fleet.save(), fleet.save()
    for key in first:
        assert first[key].flags.writeable
        assert not np.shares_memory(first[key], second[key])
    first["bodies"][:] = 0
    assert same(fleet.save(), second)
    assert all(isinstance(answer, Detections) for answer in answers)


@every_detector
def test_rows_that_are_not_pairs_are_refused_and_nothing_is_fed(name: str) -> None:
    fleet = a_fleet(name)
    with pytest.raises(ShapeError):
        fleet.update(Rows(np.zeros(2, np.intp), np.zeros(3)))
    for loss in (-0.1, 1.1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"losses: must be in \[0, 1\]"):
            fleet.update(Rows(np.zeros(2, np.intp), np.array([0.0, loss])))
    assert len(fleet) == 0
