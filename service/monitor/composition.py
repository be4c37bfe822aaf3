"""Composition: who is in a slice changed, and with it the loss that is expected of its rows.

Nobody is served worse by it: what is expected of a row is what its cell lost in the reference, so
no disparity comes of it. Told is a mix that moved otherwise than the rest's, if by the reference's
rates the slice's loss is materially greater for it; and how much of what labels show it explains.
An easier mix is not told: it hurts no one, and hides no degradation, which is held to leaf rates.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from service.ingest.events import EventBatch, Floats
from service.monitor.by_cell import grown, padded
from service.monitor.config import ReferenceWindow
from service.monitor.findings import Finding
from service.monitor.history import HOUR
from service.monitor.input_watch import ReferenceRows
from service.monitor.mix import BLOCK, Incident, MixWatch, members
from service.monitor.mix_naming import MixNamer
from service.monitor.observer import LOOK_SECONDS, SECOND, Look
from service.monitor.pending import cluster_hashes
from service.monitor.process import Indices, hazard, used
from service.monitor.stretches import Stretches

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

ROWS_A_SLICE: Final = 15  # of a stretch, as of inputs
FEWEST_ROWS: Final = 100  # of a stretch, and for an alert to be over
BACK_AFTER: Final = 24 * HOUR  # of rows that tell whether it is over: a day has all its hours


class Composition:
    """The slices of at most one dimension, and everyone, by who is in them."""

    name = "composition"

    def __init__(self) -> None:
        self.reference: Floats = np.zeros(0)  # rows, by cell
        self.mix: MixWatch | None = None  # once the reference is over
        self.open: dict[int, Incident] = {}  # by slice
        self.stretches = Stretches()  # rows by cell, since the reference
        self._rows = ReferenceRows.none(0)  # of the reference, one by one
        self._now: Floats = np.zeros(0)  # rows since the last stretch, by cell
        self._began_at = 0  # the present stretch, microseconds
        self._seconds = 0.0  # that it stands for

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count predictions."""
        n_cells = int(cells.max(initial=-1)) + 1
        if self.mix is not None:
            self._now = grown(self._now, n_cells)
            np.add.at(self._now, cells, 1.0)
            return
        self.reference = grown(self.reference, n_cells)
        np.add.at(self.reference, cells, 1.0)
        more = ReferenceRows.of(
            cells,
            cluster_hashes(batch)[rows],
            batch.time[rows],
            np.empty((0, rows.size), np.int32),
            BLOCK,
        )
        self._rows = self._rows.join(more)

    def forget(self) -> None:
        """Another reference is about to be told; what is open goes on, and ends by the new one."""
        self.mix, self.reference = None, np.zeros(0)
        self.stretches, self._now = Stretches(), np.zeros(0)
        self._rows = ReferenceRows.none(0)

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """Whose mix is another one, or is back."""
        watch, stated = monitor.watch, monitor.config.reference
        if watch is None or self.mix is None:
            if isinstance(stated, ReferenceWindow) and watch is None:
                if look.at <= int(stated.from_.timestamp()) * SECOND:
                    self.forget()
            self.begin(monitor, look.at)
            return []
        self._seconds += look.seconds
        n_rows = self._now.sum()
        is_late = look.at - self._began_at >= LOOK_SECONDS * SECOND and n_rows >= FEWEST_ROWS
        if not is_late and n_rows < ROWS_A_SLICE * len(self.mix):
            return []
        rows = padded(self._now, monitor.slices.n_cells)
        self.stretches.add(self._began_at, look.at, rows[:, None].astype(np.int64))
        self._now, self._began_at = np.zeros(0), look.at
        seconds, self._seconds = self._seconds, 0.0
        namer = MixNamer(monitor, watch, self, self.mix, look.at)
        findings = [namer.over(slice_, now) for slice_, now in self._back(namer, rows)]
        if monitor.config.is_within_budget:
            spend = hazard(monitor, len(self.mix), seconds)
            blocks = seconds * SECOND / BLOCK
            crossed = self.mix.crossed(self.mix.shares(monitor.slices, rows), spend, blocks)
            findings += namer.confirmed() + namer.told(crossed)
        return findings

    def begin(self, monitor: Monitor, at: int) -> None:
        """Watch from now on, if it is known what each cell loses; what came is the reference."""
        self._began_at = at
        if monitor.watch is None:
            return
        self.reference = padded(self.reference, monitor.slices.n_cells)
        self.mix = MixWatch.fit(monitor.slices, self.reference, self._rows)
        self._rows = ReferenceRows.none(0)
        if self.mix is not None:
            namer = MixNamer(monitor, monitor.watch, self, self.mix, at)
            for slice_, incident in self.open.items():
                incident.before = namer.mixes(slice_, at).expected[0] or incident.before
                self.mix.hold(slice_)

    def _back(self, namer: MixNamer, rows: Floats) -> list[tuple[int, float]]:
        """Incidents whose rows of a day are expected to lose about what they did; and how much."""
        found = []
        for slice_, incident in self.open.items():
            inside = members(namer.slices, slice_)
            incident.n_back += float(rows[inside].sum())
            incident.lost_back += float((rows * namer.rates)[inside].sum())
            if namer.at - incident.looked_at < BACK_AFTER or incident.n_back < FEWEST_ROWS:
                continue
            now = incident.lost_back / incident.n_back
            incident.looked_at, incident.n_back, incident.lost_back = namer.at, 0.0, 0.0
            if now < incident.before * (1.0 + namer.least / 2):
                found.append((slice_, now))
        return found

    def in_use(self) -> list[int]:
        """Slices whose mix is another one."""
        return list(self.open)

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: the reference knows no mix of theirs."""
        if self.mix is not None:
            self.mix.renew(places)

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "reference": used(self.reference),
            "mix": None if self.mix is None else self.mix.save(),
            "open": [[slice_, *astuple(incident)] for slice_, incident in self.open.items()],
            "stretches": self.stretches.save(),
            "rows": self._rows.save(),
            "now": used(self._now),
            "numbers": [self._began_at, self._seconds],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self.reference = np.array(state["reference"])
        self.mix = None if state["mix"] is None else MixWatch.restore(state["mix"])
        self.open = {slice_: Incident(*columns) for slice_, *columns in state["open"]}
        self.stretches.restore(state["stretches"])
        self._rows = ReferenceRows(*state["rows"])
        self._now = np.array(state["now"])
        self._began_at, self._seconds = state["numbers"]
