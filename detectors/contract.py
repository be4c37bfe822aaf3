"""What every fleet detector keeps to: `Detector` and its laws, and `Detections`.

A fleet watches all slices at once; its state are arrays of shape (n_slices, ...). The laws, run on
each public detector by `tests/laws`: cutting the stream differently leaves the statistics the same
(but for what the hazard adds between cuts); permuting slices permutes the answer; row k of a fleet
equals a fleet of that row alone; `restore(save())` goes on bit for bit; an empty update changes
nothing; memory depends on slices and settings, not on how long it ran; inputs are not written to
and outputs are not views of state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detectors.summary import Outcomes

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
State = dict[str, npt.NDArray[Any]]


class ShapeError(ValueError):
    """An update has another number of slices than the fleet watches."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Slices that crossed in one update, a row each."""

    slices: Indices  # shape (m,)
    own_reference: Floats  # shape (m,): evidence against the slice's own past; an alarm needs 1
    rest: Floats | None  # shape (m,): evidence against the rest of the model, where it is asked
    streams: Indices | None = None  # shape (m,): which of the slice's signals, where it has several

    def __len__(self) -> int:
        return int(self.slices.size)

    @property
    def left_behind(self) -> npt.NDArray[np.bool_]:
        """Which of slices that are compared with the rest crossed without getting worse."""
        return self.own_reference < 1.0

    @classmethod
    def none(cls) -> Detections:
        """No slice crossed."""
        return cls(np.empty(0, np.intp), np.empty(0), None)


class Detector(Protocol):
    """All slices of a model under one question."""

    def update(self, outcomes: Outcomes, hazard: Floats) -> Detections:
        """Fold one tick in and report the slices that crossed."""

    def save(self) -> State:
        """The state as arrays."""

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
