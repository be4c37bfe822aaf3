"""StreamClock: how far rows have come in their own time.

The clock is the running maximum of the median of the last nine rows' times, so no single row can
move it, and it is never ahead of the wall clock at receipt. It depends on the order of the rows
and not on how they were cut into requests.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import Ints

WINDOW: Final = 9


class StreamClock:
    """Says at which rows a tick is due, `tick` microseconds of stream time apart."""

    def __init__(self, tick: int) -> None:
        self.tick = tick
        self.now = 0  # start of the current stretch, microseconds since 1970; 0 before enough rows
        self._last: Ints = np.empty(0, np.int64)

    def advance(self, times: Ints, received_at: int) -> list[tuple[int, int]]:
        """Move on by these rows; ticks that fall due: (after how many of the rows, tick's time).

        A tick's time is the end of the stretch that it closes; stretches without rows close with
        the one before them.
        """
        started = self.now
        readings = self.readings(times, received_at)
        return [(int(row) + 1, int(readings[row])) for row in crossings(started, readings)]

    def readings(self, times: Ints, received_at: int) -> Ints:
        """Move on by these rows; `now` after each of them, shape (n_rows,)."""
        seen = np.concatenate([self._last, times])
        self._last = seen[-(WINDOW - 1) :]
        readings = np.full(times.size, self.now, np.int64)
        if seen.size < WINDOW or not times.size:
            return readings
        ceiling = min(int(seen.max()), received_at)
        if self.now and ceiling < self.now + self.tick:
            return readings  # no median of these rows can reach the next tick
        windows = np.lib.stride_tricks.sliding_window_view(seen, WINDOW)
        median = np.partition(windows, WINDOW // 2, axis=1)[:, WINDOW // 2]
        reached = np.minimum(np.maximum.accumulate(median), received_at)
        complete = times.size - reached.size  # the first row with enough before it
        readings[complete:] = np.maximum(reached // self.tick * self.tick, self.now)
        self.now = int(readings[-1])
        return readings

    def save(self) -> dict[str, Any]:
        """The state."""
        return {"tick": self.tick, "now": self.now, "last": self._last.copy()}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> StreamClock:
        """The clock that `save` gave."""
        clock = cls(state["tick"])
        clock.now, clock._last = state["now"], state["last"].copy()
        return clock


def crossings(before: int, readings: Ints) -> npt.NDArray[np.intp]:
    """The rows with which a clock that read `before`, then these, has moved on to a next tick."""
    previous = np.concatenate(([before], readings[:-1]))
    return np.flatnonzero((readings > previous) & (previous > 0))
