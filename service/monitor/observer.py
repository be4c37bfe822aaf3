"""Observer: whatever watches a model's predictions, labelled or not, beside the error fleets.

The walk gives each observer all predictions, in their order, and lets it look once an hour of
their own time, sooner where rows are many. Looks fall after a certain row, wherever requests were
cut, so the same rows give the same findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from service.ingest.events import EventBatch, Ints
from service.monitor.findings import Finding
from service.monitor.stream_clock import crossings

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Indices = npt.NDArray[np.intp]

SECOND: Final = 1_000_000  # microseconds
LOOK_SECONDS: Final = 3_600  # of the predictions' own time, after which a look is due
LOOK_ROWS: Final = 5_000  # by which one is due sooner, at the next tick


@dataclass(frozen=True, slots=True)
class Look:
    """The end of a stretch of predictions."""

    at: int  # its time, microseconds
    seconds: float  # of stream time that it stands for; a gap without rows counts as one tick


class Looks:
    """Says behind which predictions a look is due."""

    def __init__(self, tick_seconds: int) -> None:
        self.tick_seconds = tick_seconds
        self._looked_at = 0  # microseconds, of stream time; 0 before the first tick
        self._n_rows = 0  # predictions since then
        self._n_ticks = 0

    def due(self, before: int, readings: Ints) -> tuple[list[int], list[Look]]:
        """Looks, and the predictions behind which they fall.

        The predictions' clock read `before`, and `readings` after each of them.
        """
        places, looks, counted = [], [], 0
        for place in crossings(before, readings).tolist():
            at = int(readings[place])
            self._n_rows += place + 1 - counted
            self._n_ticks += 1
            counted = place + 1
            self._looked_at = self._looked_at or at
            if at - self._looked_at >= LOOK_SECONDS * SECOND or self._n_rows >= LOOK_ROWS:
                places.append(place)
                looks.append(Look(at, float(self._n_ticks * self.tick_seconds)))
                self._looked_at, self._n_rows, self._n_ticks = at, 0, 0
        self._n_rows += readings.size - counted
        return places, looks

    def save(self) -> list[int]:
        """The state."""
        return [self._looked_at, self._n_rows, self._n_ticks]

    def restore(self, state: list[int]) -> None:
        """Take up the state that `save` gave."""
        self._looked_at, self._n_rows, self._n_ticks = state


class Observer(Protocol):
    """One question asked of a model's predictions."""

    @property
    def name(self) -> str:
        """Under which its state is kept."""

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Take in the predictions at `rows` of the batch; `cells` has one for each of them."""

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """What the predictions since the last look say, all of which were added."""

    def in_use(self) -> list[int]:
        """Slices whose places something rests on: an open alert."""

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places from now on."""

    def save(self) -> dict[str, Any]:
        """The state."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
