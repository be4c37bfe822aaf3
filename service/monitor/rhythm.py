"""Rhythm: what counts usually are at an hour of the week, and how far they scatter around it.

No more is usual than came at the same hours of the day before and of the week before, as far as
those are known: whoever closes by night, or over the weekend, is not missed then from the second
night and the second weekend on.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.reference import MARGIN, raise_for_few_units
from service.ingest.events import Floats, Ints

HOURS_A_WEEK: Final = 168
AROUND: Final = np.arange(-2, 3)  # hours beside the same one: one hour alone says little
_FEW: Final = 3  # of those five must be known
_BLOCKS: Final = (1, 4)  # looks over which scatter is measured: what lasts scatters more over four


class Rhythm:
    """Counts of several streams by hour, the last week of them, and their scatter."""

    def __init__(self) -> None:
        self.counts: Floats = np.zeros((0, HOURS_A_WEEK))
        self.hours: Ints = np.full(HOURS_A_WEEK, -1, np.int64)  # of the epoch; -1: none yet
        self.gathered: Floats = np.zeros((0, 2 * len(_BLOCKS)))  # residual and due of each block
        self.squares: Floats = np.zeros((0, len(_BLOCKS)))
        self.due: Floats = np.zeros((0, len(_BLOCKS)))
        self.n_looks = 0
        self.n_blocks = [0 for _ in _BLOCKS]

    def __len__(self) -> int:
        return len(self.counts)

    def grow(self, n_streams: int) -> None:
        """Make room for more streams, which had nothing until now."""
        n_new = n_streams - len(self)
        for name in ("counts", "gathered", "squares", "due"):
            before = getattr(self, name)
            setattr(self, name, np.concatenate([before, np.zeros((n_new, before.shape[1]))]))

    def renew(self, streams: npt.NDArray[np.intp]) -> None:
        """Watch others in the places of these streams, of whom nothing is known yet."""
        for name in ("counts", "gathered", "squares", "due"):
            getattr(self, name)[streams] = 0.0

    def note(self, hour: int, counts: Floats) -> None:
        """Add what came in an hour."""
        slot = hour % HOURS_A_WEEK
        if self.hours[slot] != hour:
            self.hours[slot], self.counts[:, slot] = hour, 0.0
        self.counts[:, slot] += counts

    def note_nothing(self, since: int, until: int) -> None:
        """Of the hours [since, until) those that nothing is known of had nothing."""
        for hour in range(max(since, until - HOURS_A_WEEK), until):
            if self.hours[hour % HOURS_A_WEEK] != hour:
                self.note(hour, np.zeros(len(self)))

    def least_before(self, hour: int, stream: int) -> float:
        """The least of one stream within an hour of this one, the day before and the week before.

        Of the day before, the last that is known; 0 where none is.
        """
        least: list[float] = []
        for days in (*range(1, 8), 7):
            if least and days < 7:
                continue
            beside = hour - 24 * days + np.arange(-1, 2)
            if (self.hours[beside % HOURS_A_WEEK] == beside).all():
                least.append(float(self.counts[stream, beside % HOURS_A_WEEK].min()))
        return min(least, default=0.0)

    def before(self, hour: int) -> list[Floats]:
        """Mean counts around this hour of the last day that is known, and of the week before."""
        means = (self._around(hour - 24 * days) for days in range(1, 8))
        last = next((mean for mean in means if mean is not None), None)
        return [mean for mean in (last, self._around(hour - 24 * 7)) if mean is not None]

    def _around(self, hour: int) -> Floats | None:
        slots = (hour + AROUND) % HOURS_A_WEEK
        slots = slots[self.hours[slots] == hour + AROUND]
        if slots.size < _FEW:
            return None
        mean: Floats = self.counts[:, slots].mean(axis=1)
        return mean

    def learn(self, observed: Floats, due: Floats, calm: npt.NDArray[np.bool_]) -> None:
        """Take in how far counts were from what was due of them, where nothing is suspected."""
        self.n_looks += 1
        self.gathered[calm, 0::2] += (observed - due)[calm, None]
        self.gathered[calm, 1::2] += due[calm, None]
        for place, length in enumerate(_BLOCKS):
            if self.n_looks % length == 0:
                self.n_blocks[place] += 1
                self.squares[:, place] += self.gathered[:, 2 * place] ** 2
                self.due[:, place] += self.gathered[:, 2 * place + 1]
                self.gathered[:, 2 * place : 2 * place + 2] = 0.0

    def dispersion(self) -> Floats:
        """Variance of the counts over their mean, at least 1; raised where few looks were seen."""
        raised = np.array([raise_for_few_units(n_blocks) for n_blocks in self.n_blocks])
        ratio = np.divide(self.squares, self.due, out=np.ones(self.due.shape), where=self.due > 0)
        found: Floats = (MARGIN * ratio * raised).max(axis=1, initial=1.0)
        return found

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "counts": self.counts,
            "hours": self.hours.copy(),
            "gathered": self.gathered.copy(),
            "squares": self.squares.copy(),
            "due": self.due.copy(),
            "n": [self.n_looks, *self.n_blocks],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        for name in ("counts", "hours", "gathered", "squares", "due"):
            setattr(self, name, np.array(state[name]))
        self.n_looks, *self.n_blocks = state["n"]
