"""Looks: once an hour of the predictions' own time, sooner where rows are many."""

from __future__ import annotations

import numpy as np
import pytest

from service.monitor.observer import LOOK_ROWS, LOOK_SECONDS, SECOND, Looks
from service.monitor.stream_clock import StreamClock

TICK = 600
START = 1_760_000_400 * SECOND  # the start of an hour


def looks_of(
    times: np.ndarray[tuple[int], np.dtype[np.int64]], cuts: list[int]
) -> list[tuple[int, int, float]]:
    """(row, at, seconds) of every look, the rows coming in requests cut at these places."""
    clock, looks, told = StreamClock(TICK * SECOND), Looks(TICK), []
    start = 0
    for stop in [*cuts, times.size]:
        before = clock.now
        places, due = looks.due(before, clock.readings(times[start:stop], int(times.max())))
        told += [
            (start + place, look.at, look.seconds) for place, look in zip(places, due, strict=True)
        ]
        start = stop
        saved = looks.save()
        looks = Looks(TICK)
        looks.restore(saved)
    return told


def test_few_rows_are_looked_at_once_an_hour() -> None:
    times = START + np.arange(0, 6 * 3_600, 30) * SECOND
    told = looks_of(times, [])
    assert len(told) == 5
    assert {seconds for _, _, seconds in told} == {float(LOOK_SECONDS)} | {told[0][2]}


def test_many_rows_are_looked_at_at_the_next_tick() -> None:
    times = START + np.linspace(0, 3_600 * SECOND, 8 * LOOK_ROWS).astype(np.int64)
    told = looks_of(times, [])
    assert [seconds for _, _, seconds in told[1:]] == [float(TICK)] * (len(told) - 1)
    assert len(told) >= 4


def test_a_gap_without_rows_counts_as_one_tick() -> None:
    times = (
        START + np.concatenate([np.arange(0, 1_200, 30), 90_000 + np.arange(0, 600, 30)]) * SECOND
    )
    assert [seconds for _, _, seconds in looks_of(times, [])] == [2.0 * TICK]


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_looks_fall_behind_the_same_rows_however_requests_are_cut(size: int) -> None:
    times = START + np.sort(np.random.default_rng(3).integers(0, 40_000, 5_000)) * SECOND
    assert looks_of(times, []) == looks_of(times, list(range(size, times.size, size)))
