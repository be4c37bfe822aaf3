"""Held: counts of several streams held against what is due of them, look by look.

Evidence is that of the error detectors over counts divided by how far they scatter, against
`tolerance` times what is due: less than half of it, say, or more than half as much again. A stream
that crossed is open until what comes is within the tolerance again.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors import ErrorRate, Outcomes
from service.ingest.events import Floats, Ints
from service.monitor.rhythm import Rhythm

Bools = npt.NDArray[np.bool_]

ENOUGH_BACK: Final = 10.0  # due, over the dispersion, from which it may be over
# Evidence, times what a look may spend, below which is learnt what is usual and how it scatters:
# chance reaches more seldom, and what leads up to an alarm is not how counts are while all is well.
CALM: Final = 100.0


@dataclass(slots=True)
class Open:
    """A stream that crossed."""

    onset: int
    usual: float  # an hour, as told
    now: float
    back: float = 0.0  # what came since the last time that enough was due to say if it is over
    back_due: float = 0.0
    back_hours: float = 0.0


class Held:
    """A fleet over counts, with its scatter and the streams that are open."""

    def __init__(
        self,
        tolerance: float,
        downwards: bool,
        patience_hours: float = 0.0,
        prior: float = 0.0,
    ) -> None:
        self.tolerance, self.downwards = tolerance, downwards
        self.patience_hours = patience_hours  # within the tolerance, until it is over
        self.prior = prior  # counts that hold a stream to what is due of it, from its beginning
        self.fleet = ErrorRate(tolerance, downwards)
        self.rhythm = Rhythm()
        self.open: dict[int, Open] = {}
        self.off: Floats = np.zeros((0, 3))  # counts, due and hours while beyond the tolerance
        self.well_at: Ints = np.empty(0, np.int64)  # when it was last within

    def __len__(self) -> int:
        return len(self.off)

    def grow(self, n_streams: int, at: int) -> None:
        """Hold more streams."""
        n_new = n_streams - len(self)
        prior = np.full(n_new, self.prior)
        self.fleet.grow(np.ones(n_new), prior, prior)
        self.rhythm.grow(n_streams)
        self.off = np.concatenate([self.off, np.zeros((n_new, 3))])
        self.well_at = np.concatenate([self.well_at, np.full(n_new, at, np.int64)])

    def renew(self, places: npt.NDArray[np.intp], at: int) -> None:
        """Other streams stand in these places: nothing is known of them yet."""
        self.rhythm.renew(places)
        self.fleet.renew(places, 1.0)
        self.off[places], self.well_at[places] = 0.0, at

    def _within(self, counts: Floats, due: Floats) -> Bools:
        limit = self.tolerance * due
        within: Bools = counts >= limit if self.downwards else counts <= limit
        return within

    def crossed(
        self, counts: Floats, due: Floats, judged: Bools, spend: Floats, at: int, span: float
    ) -> list[tuple[int, float]]:
        """Streams whose evidence came to 1 in a look that ends at `at`, and it; most due first.

        `span` is the hours that the look stands for.
        """
        within = self._within(counts, due)
        self.off[within], self.well_at[within] = 0.0, at
        look = np.column_stack([counts, due, np.full(counts.size, span)])
        self.off[~within] += look[~within]
        quiet = ~judged
        quiet[list(self.open)] = True
        scale = self.rhythm.dispersion()
        self.fleet.gather(Outcomes(counts / scale, due / scale), spend, quiet)
        meter = self.fleet.meter
        places = np.flatnonzero(meter >= 1.0)
        self.fleet.reset(places)
        order = sorted(places.tolist(), key=lambda place: (-self.off[place, 1], place))
        return [(place, float(meter[place])) for place in order]

    def begin(self, place: int) -> Open:
        """Open a stream that crossed."""
        counts, due, hours = self.off[place].tolist()
        hours = max(hours, 1e-9)
        self.open[place] = Open(int(self.well_at[place]), due / hours, counts / hours)
        return self.open[place]

    def over(self, counts: Floats, due: Floats, at: int, span: float) -> list[tuple[int, Open]]:
        """Open streams that are within the tolerance again; they are closed."""
        if not self.open:
            return []
        scale = self.rhythm.dispersion()
        found = []
        for place, known in list(self.open.items()):
            known.back += float(counts[place])
            known.back_due += float(due[place])
            known.back_hours += span
            enough = known.back_due >= ENOUGH_BACK * scale[place]
            if enough and known.back_hours >= self.patience_hours:
                if self._within(np.array(known.back), np.array(known.back_due)):
                    found.append((place, self.end(place, at)))
                known.back = known.back_due = known.back_hours = 0.0
        return found

    def end(self, place: int, at: int) -> Open:
        """Close a stream."""
        self.off[place], self.well_at[place] = 0.0, at
        return self.open.pop(place)

    def calm(self, spend: Floats) -> Bools:
        """Streams against which nothing speaks: they may be learnt from."""
        calm: Bools = self.fleet.meter < CALM * np.maximum(spend, 1e-12)
        calm[list(self.open)] = False
        return calm

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "fleet": self.fleet.save(),
            "rhythm": self.rhythm.save(),
            "open": [[place, *astuple(known)] for place, known in self.open.items()],
            "off": self.off.copy(),
            "well_at": self.well_at.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self.fleet.restore(state["fleet"])
        self.rhythm.restore(state["rhythm"])
        self.open = {place: Open(*columns) for place, *columns in state["open"]}
        self.off, self.well_at = np.array(state["off"]), np.array(state["well_at"])
