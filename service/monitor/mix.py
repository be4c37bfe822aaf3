"""Mix: who is in each slice, as shares of its rows by the values of the other dimensions.

The fleets are those over inputs: a dimension is a signal, and each of its frequent values asks a
row whether it has it. What a mix is worth is told by the reference alone: the loss that is expected
of a slice's rows, each cell's as it was then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from detectors import InputsEverywhere, InputShift, Shares
from detectors.shares import PRIOR, Due
from service.ingest.events import Bools, Codes, Floats
from service.monitor.admission import ABSENT, FIRST
from service.monitor.attribution import ONSET_NATS
from service.monitor.history import HOUR
from service.monitor.indicators import Indicators
from service.monitor.input_naming import beyond_tolerance
from service.monitor.input_watch import MAX_STREAMS, ReferenceRows, scatter_of
from service.monitor.process import Indices
from service.monitor.signals import TOP_VALUES, Signal
from service.monitor.slices import ROOT, Slices
from service.monitor.stretches import Stretches

BLOCK: Final = 6 * HOUR  # who is there at night is others: over so long, mixes scatter further
FEWEST_ROWS: Final = 50  # of a slice in the reference; of one with fewer there is no mix to change


@dataclass(frozen=True, slots=True)
class Crossing:
    """A slice that is made up otherwise than it was, and than the rest is by now."""

    place: int  # among the slices that are watched
    slice: int
    dimensions: Indices  # whose values' shares moved
    meter: float


@dataclass(slots=True)
class Incident:
    """A slice whose mix is another one."""

    onset: int
    first: int  # of the onset's interval
    last: int
    before: float  # the loss expected of a row, of those who were in it
    meter: float
    looked_at: int  # whether it is over
    n_back: float = 0.0  # rows since then, and what is expected of them
    lost_back: float = 0.0
    is_confirmed: bool = False  # it was told how much of what labels show this explains


@dataclass(frozen=True, slots=True)
class Window:
    """The stretches up to now in which a mix differs most from what it was."""

    onset: int  # microseconds
    onset_interval: tuple[int, int]


class MixWatch:
    """The fleets over the mix of each slice of at most one dimension."""

    def __init__(self, codes: list[list[int]], streams: list[int]) -> None:
        self.codes = codes  # of each dimension's frequent values
        signals = tuple(
            Signal(str(d), "categorical", values=tuple(map(str, values)))
            for d, values in enumerate(codes)
        )
        self.indicators = Indicators(signals)
        self.streams = np.array(streams, np.intp)  # slices, everyone first; -1: its place is gone
        self.shift = InputShift(self.indicators.signals)
        self.everyone = InputsEverywhere(self.indicators.signals)
        # the dimension that each slice is a value of
        self.own: Bools = np.zeros((len(streams), len(signals)), np.bool_)
        self._bin_of_code = [_bins_of_codes(values) for values in codes]

    @classmethod
    def fit(cls, slices: Slices, by_cell: Floats, rows: ReferenceRows) -> MixWatch | None:
        """Learn from the reference's rows, by cell and one by one; None of no dimension."""
        if not slices.dimensions:
            return None
        n_dimensions = len(slices.dimensions)
        codes = [_frequent(slices.levels[: by_cell.size, d], by_cell) for d in range(n_dimensions)]
        of_slices = slices.membership()[:, : by_cell.size] @ by_cell
        some = np.flatnonzero((slices.orders() <= 1) & (of_slices >= FEWEST_ROWS))
        others = some[some != ROOT]
        most = MAX_STREAMS // (n_dimensions * (TOP_VALUES + 2))
        busiest = others[np.argsort(-of_slices[others], kind="stable")][:most]
        watch = cls(codes, [ROOT, *busiest.tolist()])
        shares = watch.shares(slices, by_cell)
        bins = watch._bins(slices.levels[rows.cell]).astype(np.int32)
        alike = replace(rows, bins=bins)
        found = scatter_of(watch.indicators, alike, slices.membership()[watch.streams, :])
        watch.shift.grow(found.own, found.rest, shares)
        watch.everyone.grow(found.own.take(slice(1)), Shares(shares.hits[:1], shares.rows[:1]))
        for place, slice_ in enumerate(watch.streams.tolist()):
            for dimension, _ in slices.names[slice_]:
                watch.own[place, slices.dimensions.index(dimension)] = True
        watch.shift.open = watch.own.copy()
        return watch

    def __len__(self) -> int:
        return self.streams.size

    def shares(self, slices: Slices, by_cell: Floats) -> Shares:
        """How many rows of each slice have which value."""
        cells = np.flatnonzero(by_cell)
        bins = self._bins(slices.levels[cells]) + self.indicators.bins[:-1, None]
        spread = np.zeros((cells.size, self.indicators.n_bins))
        spread[np.arange(cells.size), bins] = by_cell[cells]
        counts = slices.membership()[np.maximum(self.streams, ROOT), :][:, cells] @ spread
        counts[self.streams < ROOT] = 0.0
        return self.indicators.shares(counts.astype(np.int64))

    def _bins(self, levels: Codes) -> Indices:
        """The bins of these value codes, shape (n_dimensions, n)."""
        bins = np.empty((len(self.codes), len(levels)), np.intp)
        for d, of_code in enumerate(self._bin_of_code):
            codes, another = levels[:, d], len(self.codes[d])
            known = codes < of_code.size
            bins[d] = np.where(known, of_code[np.where(known, codes, 0)], another)
        return bins

    def crossed(self, shares: Shares, hazard: Floats, blocks: float) -> list[Crossing]:
        """One stretch, of so many of the reference's blocks: whose mix is not what it was."""
        hazard = np.where(self.streams < ROOT, 0.0, hazard)
        whole = Shares(shares.hits[:1], shares.rows[:1])
        of_all = self.everyone.update(whole, hazard[:1], blocks)
        uneven = self.shift.update(shares, np.where(self.streams == ROOT, 0.0, hazard), blocks)
        found: dict[int, list[tuple[int, float]]] = {}
        for each in (of_all, uneven):
            streams = np.empty(0, np.intp) if each.streams is None else each.streams
            columns = each.slices.tolist(), streams.tolist(), each.own_reference.tolist()
            for place, dimension, meter in zip(*columns, strict=True):
                found.setdefault(place, []).append((dimension, meter))
        return [
            Crossing(
                place,
                int(self.streams[place]),
                np.array([dimension for dimension, _ in pairs]),
                max(meter for _, meter in pairs),
            )
            for place, pairs in sorted(found.items())
        ]

    def hold(self, slice_: int) -> None:
        """An alert opens: this slice is neither tested nor learnt from until `release`."""
        places, dimensions = np.meshgrid(
            np.flatnonzero(self.streams == slice_), np.arange(len(self.codes))
        )
        self.shift.hold(places.ravel(), dimensions.ravel())
        if slice_ == ROOT:
            self.everyone.hold(dimensions.ravel())

    def release(self, slice_: int) -> None:
        """The alert is over."""
        places = np.flatnonzero(self.streams == slice_)
        self.shift.open[places] = self.own[places]
        if slice_ == ROOT:
            self.everyone.release()

    def renew(self, slices: Indices) -> None:
        """Other slices stand in these places: the reference knows no mix of theirs."""
        self.streams[np.isin(self.streams, slices)] = -1

    def window(
        self, slices: Slices, crossing: Crossing, reference: Floats, since: Stretches
    ) -> Window:
        """Since when the mix is another one, by the share that moved furthest."""
        inside = members(slices, crossing.slice)
        by_cell = [reference, *(part.of_bins(0, 1, slices.n_cells)[:, 0] for part in since.parts)]
        bins = self._bins(slices.levels) + self.indicators.bins[:-1, None]
        counts = np.stack(
            [
                np.bincount(
                    bins.ravel(),
                    np.tile(np.where(inside, rows, 0.0), len(bins)),
                    self.indicators.n_bins,
                )
                for rows in by_cell
            ]
        )
        shares = self.indicators.shares(counts)
        asked = np.isin(self.indicators.signals, crossing.dimensions)
        hits, rows = shares.hits[:, asked], shares.rows[:, asked]
        fleet = self.everyone.own if crossing.place == ROOT else self.shift
        share = (hits[0] + 0.5) / (rows[0] + 1.0)
        x, n = (np.cumsum(of[:0:-1], axis=0)[::-1] for of in (hits, rows))
        spans = [max(part.end - part.start, 1) / BLOCK for part in since.parts]
        blocks = np.cumsum(spans[::-1])[::-1, None]
        place = slice(crossing.place, crossing.place + 1)
        scatter = fleet.dispersion.take(place, self.indicators.signals[asked]).at(n / blocks)
        due = Due.of_slice(share, rows[0] + PRIOR * scatter, n)
        nats, _ = beyond_tolerance(Shares(x, n), due, scatter)
        t, j = divmod(int(np.argmax(nats)), nats.shape[1])
        near = np.flatnonzero(nats[:, j] >= nats[t, j] - ONSET_NATS) if nats[t, j] > 0 else [t]
        first, last = since.parts[int(near[0])], since.parts[int(near[-1])]
        return Window(since.parts[t].start, (first.start, last.end))

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "codes": self.codes,
            "streams": self.streams.copy(),
            "own": self.own.copy(),
            "shift": self.shift.save(),
            "everyone": self.everyone.save(),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> MixWatch:
        """The watch that `save` gave."""
        watch = cls([list(codes) for codes in state["codes"]], state["streams"].tolist())
        watch.own = np.array(state["own"])
        watch.shift.restore(state["shift"])
        watch.everyone.restore(state["everyone"])
        return watch


@dataclass(frozen=True, slots=True)
class Mixes:
    """The rows of one slice, by cell: in the reference, and since its mix is another one."""

    before: Floats
    since: Floats
    rates: Floats  # what each cell lost in the reference, per unit of exposure

    def without(self, cells: Bools) -> Mixes:
        """The same, had nobody been in these cells."""
        return Mixes(
            np.where(cells, 0.0, self.before), np.where(cells, 0.0, self.since), self.rates
        )

    @property
    def expected(self) -> tuple[float, float]:
        """The loss that is expected of a row, by who was and who is in the slice."""
        return expected_loss(self.before, self.rates), expected_loss(self.since, self.rates)

    @property
    def change(self) -> float:
        """How much greater what is expected has become, of what it was; 0 without rows."""
        before, since = self.expected
        return since / before - 1.0 if before > 0 and since > 0 else 0.0

    def foremost(self, levels: Codes) -> tuple[int, int, float, float]:
        """The dimension, and the code of its value, that change it most; its shares, both times.

        A dimension changes it by what its values' shares have moved, times what is lost by those
        rows of the slice; a value by the same, beyond what the slice loses. Named is one of which
        there is more now, where there is one that loses more.
        """
        was, now = (rows / max(rows.sum(), 1.0) for rows in (self.before, self.since))
        typical = expected_loss(was + now, self.rates)
        found = []
        for d, codes in enumerate(levels.T):
            each = np.bincount(codes, was), np.bincount(codes, now)
            of_code = np.bincount(codes, (was + now) * self.rates)
            rows = each[0] + each[1]
            rate = np.divide(of_code, rows, out=np.full(rows.size, typical), where=rows > 0)
            gains = (each[1] - each[0]) * (rate - typical)
            more = np.where(each[1] > each[0], gains, 0.0)
            code = int(np.argmax(more if more.max() > 0 else gains))
            found.append((float(gains.sum()), d, code, float(each[0][code]), float(each[1][code])))
        _, d, code, before, since = max(found, key=lambda one: (one[0], -one[1]))
        return d, code, before, since


def expected_loss(rows: Floats, rates: Floats) -> float:
    """The mean of what is expected of these rows; a row counts as much as each other."""
    whole = float(rows.sum())
    return float(rows @ rates) / whole if whole > 0 else 0.0


def members(slices: Slices, slice_: int) -> Bools:
    """Which cells a slice holds, shape (n_cells,)."""
    held = np.zeros(slices.n_cells, np.bool_)
    held[slices.membership()[[slice_], :].indices] = True
    return held


def _frequent(codes: Codes, rows: Floats) -> list[int]:
    """A dimension's values with most rows."""
    counts = np.bincount(codes, rows)
    order = np.argsort(-counts, kind="stable")
    return [code for code in order.tolist() if code >= FIRST and counts[code] > 0][:TOP_VALUES]


def _bins_of_codes(codes: list[int]) -> Indices:
    """The bin of each code: one a frequent value, one for others, the last for none."""
    bins = np.full(max([FIRST, *codes]) + 1, len(codes), np.intp)
    bins[codes] = np.arange(len(codes))
    bins[ABSENT] = len(codes) + 1
    return bins
