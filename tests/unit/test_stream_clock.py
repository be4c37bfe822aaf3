"""StreamClock: no row alone moves it, the wall holds it back, and cuts leave no trace."""

from __future__ import annotations

from statistics import median

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.state_bytes import from_bytes, to_bytes
from service.monitor.stream_clock import WINDOW, StreamClock

TICK = 600


def feed(
    clock: StreamClock, times: list[int], size: int, received_at: int
) -> list[tuple[int, int]]:
    """Ticks as (after how many rows in all, tick's time)."""
    ticks = []
    for start in range(0, len(times), size):
        part = np.array(times[start : start + size], np.int64)
        ticks += [(start + row, at) for row, at in clock.advance(part, received_at)]
    return ticks


def by_hand(times: list[int], received_at: int) -> list[tuple[int, int]]:
    """The running maximum of the median of the last nine, in whole ticks, row by row."""
    ticks, now = [], 0
    for row in range(WINDOW, len(times) + 1):
        reached = min(int(median(times[row - WINDOW : row])), received_at)
        stretch = max(now, reached // TICK * TICK)
        if now and stretch > now:
            ticks.append((row, stretch))
        now = stretch
    return ticks


TIMES = st.lists(st.integers(TICK, 20 * TICK), max_size=60)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(TIMES, st.integers(1, 25), st.integers(5 * TICK, 25 * TICK))
def test_ticks_fall_after_the_same_rows_however_they_are_cut(
    times: list[int], size: int, received_at: int
) -> None:
    assert feed(StreamClock(TICK), times, size, received_at) == by_hand(times, received_at)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(TIMES, st.integers(5 * TICK, 25 * TICK))
def test_it_is_never_ahead_of_the_wall_and_never_goes_back(
    times: list[int], received_at: int
) -> None:
    readings = StreamClock(TICK).readings(np.array(times, np.int64), received_at)
    assert (readings <= received_at).all()
    assert (np.diff(readings) >= 0).all()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(WINDOW, 40), st.integers(0, 40), st.integers(0, 10**15))
def test_no_single_row_can_move_it(n: int, place: int, outlier: int) -> None:
    steady = [TICK + 5] * n
    steady.insert(min(place, n), outlier)
    clock = StreamClock(TICK)
    assert feed(clock, steady, 7, 10**16) == []
    assert clock.now == TICK


def test_four_rows_of_nine_do_not_move_it_and_five_do() -> None:
    steady = [TICK] * 5
    assert feed(StreamClock(TICK), [*steady, TICK, *[9 * TICK] * 4], 100, 10**6) == []
    assert feed(StreamClock(TICK), [*steady, *[9 * TICK] * 5], 100, 10**6) == [(10, 9 * TICK)]


def test_a_gap_closes_with_one_tick() -> None:
    times = [TICK] * 9 + [500 * TICK] * 9
    assert feed(StreamClock(TICK), times, 100, 10**9) == [(14, 500 * TICK)]


def test_rows_from_the_future_tick_once_the_wall_has_come_so_far() -> None:
    clock = StreamClock(TICK)
    assert feed(clock, [TICK] * 9 + [9 * TICK] * 9, 100, 2 * TICK) == [(14, 2 * TICK)]
    # the median is there already: one more row, whatever its time, is enough
    assert feed(clock, [TICK], 1, 5 * TICK) == [(1, 5 * TICK)]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(TIMES, st.integers(0, 60))
def test_it_goes_on_from_where_it_was_saved(times: list[int], at: int) -> None:
    whole, parted = StreamClock(TICK), StreamClock(TICK)
    expected = feed(whole, times, 100, 10**6)
    found = feed(parted, times[:at], 100, 10**6)
    parted = StreamClock.restore(from_bytes(to_bytes(parted.save())))
    found += [(row + len(times[:at]), t) for row, t in feed(parted, times[at:], 100, 10**6)]
    assert found == expected
    assert to_bytes(parted.save()) == to_bytes(whole.save())
