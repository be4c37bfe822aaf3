"""Outside: river's detectors over a model's slices, beside ours and outside the budget of alerts.

Only where a model's owner asks for them is there a loop over rows. They see each labelled row as a
loss in [0, 1], whatever the chance was with which it was sampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from detectors.single_stream import Rows, SingleStream
from detectors.summary import ROWS
from service.monitor.config import MonitorConfig
from service.monitor.history import History
from service.monitor.slices import ROOT, Slices

if TYPE_CHECKING:
    from service.monitor.watch import Labelled

WARM_UP_ROWS: Final = 5_000  # the reference's last: from them the detectors know what is normal


class Outside:
    """The detectors of one model, a fleet each, and the slices that they have an alert open on.

    The model at large is theirs only where ours do not watch it: its alert is one kind of ours too.
    """

    def __init__(self, config: MonitorConfig) -> None:
        self.fleets = [SingleStream(d.river, **d.parameters) for d in config.outside_budget]
        self.open: dict[int, str] = {}  # slice, and the detector whose alert it is
        self.untold: dict[int, str] = {}  # the same of what was found and can't be shown yet
        self._has_root = not config.is_within_budget
        self._min_rows = config.publish_min_rows

    def restate(self, config: MonitorConfig) -> None:
        """Watch as stated from now on: detectors that stay go on, others begin with the next row.

        What is open stays open, until it has recovered.
        """
        before = self.fleets
        self.fleets = [
            next((known for known in before if _is_alike(known, fleet)), fleet)
            for fleet in Outside(config).fleets
        ]
        self._has_root = not config.is_within_budget
        self._min_rows = config.publish_min_rows

    def begin(self, reference: Labelled, slices: Slices) -> None:
        """Begin anew, knowing the reference; what is open stays open."""
        self.untold = {}
        self.fleets = [SingleStream(fleet.name, **fleet.parameters) for fleet in self.fleets]
        first = max(0, len(reference) - WARM_UP_ROWS)
        last = reference.take(np.arange(first, len(reference)))
        for fleet in self.fleets:
            fleet.warm_up(self._pairs(last, slices))

    def in_use(self, n_slices: int) -> npt.NDArray[np.intp]:
        """Slices whose places these detectors rest on: all, where there are any."""
        return np.arange(n_slices if self.fleets or self.open else 0)

    def update(self, rows: Labelled, slices: Slices, history: History) -> dict[int, str]:
        """Feed a tick's rows; open the slices whose loss rose, and give which detector says so.

        Parents come before their parts. A slice whose alert is open is not given again, and one
        with too few rows to be shown is given when it has them: a detector says a thing once.
        Where several speak of a slice, it is the first that was stated.
        """
        for fleet in self.fleets:
            for slice_ in fleet.update(self._pairs(rows, slices)).slices.tolist():
                if slice_ not in self.open:
                    self.untold.setdefault(slice_, fleet.name)
        if not self.untold:
            return {}
        n_rows = slices.membership() @ history.cells_between(slices.n_cells)[:, ROWS]
        shown = sorted(
            (s for s in self.untold if n_rows[s] >= self._min_rows),
            key=lambda s: (len(slices.names[s]), s),
        )
        told = {slice_: self.untold.pop(slice_) for slice_ in shown}
        self.open |= told
        return told

    def _pairs(self, rows: Labelled, slices: Slices) -> Rows:
        """Each row once for each slice that it is in, rows in order."""
        members = slices.membership().T.tocsr()
        n_slices = np.diff(members.indptr)[rows.cell]
        row = np.repeat(np.arange(len(rows)), n_slices)
        place = np.arange(row.size) - np.repeat(np.cumsum(n_slices) - n_slices, n_slices)
        slice_ = members.indices[members.indptr[rows.cell[row]] + place].astype(np.intp)
        losses = np.clip(rows.capped / rows.exposure, 0.0, 1.0)
        kept = slice_ != ROOT if not self._has_root else np.ones(row.size, np.bool_)
        return Rows(slice_[kept], losses[row[kept]])

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "fleets": [fleet.save() for fleet in self.fleets],
            "open": [list(pair) for pair in self.open.items()],
            "untold": [list(pair) for pair in self.untold.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave, of the same detectors."""
        for fleet, saved in zip(self.fleets, state["fleets"], strict=True):
            fleet.restore(saved)
        self.open = dict(state["open"])
        self.untold = dict(state["untold"])


def _is_alike(left: SingleStream, right: SingleStream) -> bool:
    return left.name == right.name and left.parameters == right.parameters
