"""InputWatch: the fleets over one model's inputs, from the moment that its reference is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_array

from detectors import (
    Budget,
    Detections,
    InputsEverywhere,
    InputShift,
    Outcomes,
    Recovery,
    Shares,
    dispersion_of_shares,
)
from detectors.input_shift import TOLERANCE
from detectors.reference import raise_for_few_units, shrink_dispersion
from service.ingest.events import Codes, Floats, Hashes, Ints
from service.monitor.indicators import Indicators, shares_of
from service.monitor.signals import Indices
from service.monitor.slices import ROOT, Slices

MAX_STREAMS: Final = 300_000  # slices times indicators; slices past that are not watched, counted
SMALLEST_PART: Final = 0.02  # a slice with less of the model can't move it by more than tolerance
LARGEST_PART: Final = 0.5  # a slice with more of it is the model
REFERENCE_ROWS: Final = 20_000  # the first ones tell how far counts scatter
INPUTS: Final = "inputs"  # of the budget


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Rows of the reference one by one, to see how far they scatter."""

    cell: Indices
    cluster: Hashes  # 0: none
    hour: Ints
    bins: Codes  # shape (n_signals, n_rows)

    def __len__(self) -> int:
        return self.cell.size

    @classmethod
    def none(cls, n_signals: int) -> ReferenceRows:
        """No rows."""
        empty = np.empty(0, np.intp), np.empty(0, np.uint64), np.empty(0, np.int64)
        return cls(*empty, np.empty((n_signals, 0), np.int32))

    def join(self, more: ReferenceRows) -> ReferenceRows:
        """These and then those."""
        names = self.__slots__
        return ReferenceRows(
            *(np.concatenate([getattr(self, n), getattr(more, n)], axis=-1) for n in names)
        )


@dataclass(frozen=True, slots=True)
class Incident:
    """What is open on one slice."""

    onset: int
    onset_interval: tuple[int, int]
    indicator: int  # the foremost, of all indicators
    rises: bool
    before: float  # its share
    size: float  # by how much that had moved when it was found
    signals: tuple[int, ...]  # that moved
    n_told: int  # how many of them the alert names
    signature: str = ""


class InputWatch:
    """The fleets of one model's inputs."""

    def __init__(self, indicators: Indicators) -> None:
        self.indicators = indicators
        self.shift = InputShift(indicators.signals)
        self.everywhere = InputsEverywhere(indicators.signals)
        self.recovery = Recovery()
        self.parts: list[int] = []  # slices whose complements `everywhere` watches
        self.new_dispersion: tuple[Floats, Floats] = (np.ones(0), np.ones(0))  # own, rest
        self.incidents: dict[int, Incident] = {}  # by slice, in the order in which they opened

    @classmethod
    def fit(
        cls, indicators: Indicators, counts: Ints, rows: ReferenceRows, slices: Slices
    ) -> InputWatch:
        """Learn from the reference what shares were and how far they scatter.

        `counts` are of slices, shape (n_slices, n_bins).
        """
        watch = cls(indicators)
        found = scatter_of(indicators, rows, slices.membership())
        n = min(len(slices), watch.most_slices)
        shares = indicators.shares(counts[:n])
        watch.new_dispersion = found.own_new, found.rest_new
        watch.shift.grow(found.own[:n], found.rest[:n], shares)
        watch.recovery.grow(n)
        total = counts.sum(axis=1) / max(len(indicators.all), 1)
        watch.parts = [
            s
            for s in range(1, n)
            if len(slices.names[s]) == 1
            and SMALLEST_PART * total[ROOT] <= total[s] <= LARGEST_PART * total[ROOT]
        ]
        watch.everywhere.grow(
            np.repeat(found.own[:1], 1 + len(watch.parts), axis=0), watch.without_parts(shares)
        )
        return watch

    @property
    def most_slices(self) -> int:
        """How many slices are watched at most."""
        return MAX_STREAMS // max(self.indicators.signals.size, 1)

    def __len__(self) -> int:
        return len(self.shift)

    def without_parts(self, shares: Shares) -> Shares:
        """The whole model, then the model without each part."""
        return Shares(
            *(
                np.concatenate([of[:1], np.maximum(of[ROOT] - of[self.parts], 0.0)])
                for of in (shares.hits, shares.rows)
            )
        )

    def grow(self, slices: Slices) -> int:
        """Watch the slices that were seen since; say how many there is no room for."""
        n_new = min(len(slices), self.most_slices) - len(self)
        if n_new > 0:
            own, rest = (np.repeat(of[None], n_new, axis=0) for of in self.new_dispersion)
            self.shift.grow(own, rest)
            self.recovery.grow(n_new)
        return len(slices) - len(self)

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: nothing is known of their inputs yet."""
        places = places[places < len(self)]
        self.shift.renew(places, *self.new_dispersion)
        self.recovery.close(places)

    def detect(
        self,
        shares: Shares,
        orders: Indices,
        seconds: float,
        budget: Budget,
        watching: tuple[str, ...],
    ) -> tuple[Detections, Detections]:
        """One stretch through the fleets: what moved unevenly, and what moved everywhere."""
        hazard = budget.hazard(INPUTS, orders, seconds, watching)
        spend = np.full(len(self.everywhere), hazard[ROOT])
        hazard[ROOT] = 0.0
        everywhere = self.everywhere.update(self.without_parts(shares), spend)
        return self.shift.update(shares, hazard), everywhere

    def open(self, slice_: int, incident: Incident, after: float) -> None:
        """An incident begins, or has more signals than before."""
        streams = np.array(incident.signals, np.intp)
        if slice_ == ROOT:
            self.everywhere.hold(streams)
        else:
            self.shift.hold(np.full(streams.size, slice_), streams)
        if slice_ not in self.incidents:
            before, now = incident.before, after
            if not incident.rises:
                before, now = 1.0 - before, 1.0 - now
            self.recovery.open(np.array([slice_]), np.array([now / (before + TOLERANCE)]))
        self.incidents[slice_] = incident

    def recovered(self, shares: Shares) -> list[int]:
        """Slices with an open incident whose foremost share is back within the tolerance."""
        if not self.incidents:
            return []
        observed, expected, dispersion = (
            np.zeros(len(self)),
            np.zeros(len(self)),
            np.ones(len(self)),
        )
        for slice_, incident in self.incidents.items():
            j = incident.indicator
            hits, rows = shares.hits[slice_, j], shares.rows[slice_, j]
            before = incident.before if incident.rises else 1.0 - incident.before
            observed[slice_] = hits if incident.rises else rows - hits
            expected[slice_] = rows * (before + TOLERANCE)
            dispersion[slice_] = self.shift.own.dispersion[slice_, self.indicators.signals[j]]
        back: list[int] = self.recovery.update(
            Outcomes(observed, expected), dispersion
        ).slices.tolist()
        for slice_ in back:
            if slice_ == ROOT:
                self.everywhere.release()
            else:
                self.shift.release(np.array([slice_]))
        return back

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "shift": self.shift.save(),
            "everywhere": self.everywhere.save(),
            "recovery": self.recovery.save(),
            "parts": self.parts,
            "new_dispersion": list(self.new_dispersion),
            "incidents": [
                [slice_, *(getattr(incident, name) for name in Incident.__slots__)]
                for slice_, incident in self.incidents.items()
            ],
        }

    @classmethod
    def restore(cls, indicators: Indicators, state: dict[str, Any]) -> InputWatch:
        """The watch that `save` gave."""
        watch = cls(indicators)
        watch.shift.restore(state["shift"])
        watch.everywhere.restore(state["everywhere"])
        watch.recovery.restore(state["recovery"])
        watch.parts = list(state["parts"])
        own, rest = state["new_dispersion"]
        watch.new_dispersion = own, rest
        for slice_, onset, interval, indicator, rises, *sizes, signals, n_told, sound in state[
            "incidents"
        ]:
            first, last = interval
            before, size = sizes
            watch.incidents[slice_] = Incident(
                onset, (first, last), indicator, rises, before, size, tuple(signals), n_told, sound
            )
        return watch


@dataclass(frozen=True, slots=True)
class Scatter:
    """How far each slice's counts scatter, by signal, beyond those of independent rows."""

    own: Floats  # shape (n_slices, n_signals); the model's is the first
    rest: Floats  # the same, beside everyone else
    own_new: Floats  # shape (n_signals,), of a slice that the reference does not know
    rest_new: Floats


def scatter_of(indicators: Indicators, rows: ReferenceRows, membership: csr_array) -> Scatter:
    """What the reference's rows tell of it; `membership` has the whole model first."""
    n_slices, n_signals = membership.shape[0], len(indicators.all)
    own, rest, own_new, rest_new, root = (np.ones((1, n_signals)) for _ in range(5))
    for units in _units_of(rows, membership):
        found = [
            _dispersions(units, rows, signal, s, n_slices)
            for s, signal in enumerate(indicators.all)
        ]
        o, r, on, rn, of_root = (np.stack(of, axis=-1) for of in zip(*found, strict=True))
        own, rest = np.maximum(own, o), np.maximum(rest, r)
        own_new, rest_new = np.maximum(own_new, on), np.maximum(rest_new, rn)
        root = np.maximum(root, of_root)
    own = np.array(np.broadcast_to(own, (n_slices, n_signals)))
    own[ROOT] = root[0]
    rest = np.array(np.broadcast_to(rest, (n_slices, n_signals)))
    return Scatter(own, rest, own_new[0], rest_new[0])


@dataclass(frozen=True, slots=True)
class _Units:
    """Which slice and unit each row counts for; a row comes as often as it has slices."""

    row: Indices  # of the reference
    pair: Indices  # of (slice, unit)
    slices: Indices  # of each pair
    units: Indices
    period: Indices  # of each unit


def _units_of(rows: ReferenceRows, membership: csr_array) -> list[_Units]:
    """By hour, and by cluster where there are any: what moves both is seen in either."""
    if not len(rows):
        return []
    slices_of_cell = membership.T.tocsr()
    counts = np.diff(slices_of_cell.indptr)[rows.cell]
    row = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
    slice_ = slices_of_cell.indices[
        np.repeat(slices_of_cell.indptr[rows.cell], counts) + within
    ].astype(np.int64)
    names: list[Hashes] = [rows.hour.astype(np.uint64)]
    if rows.cluster.any():
        names.append(np.where(rows.cluster != 0, rows.cluster, names[0]))
    return [_units(name, rows.hour, row, slice_) for name in names]


def _units(name: Hashes, hour: Ints, row: Indices, slice_: Ints) -> _Units:
    _, first, unit = np.unique(name, return_index=True, return_inverse=True)
    _, period = np.unique(hour[first], return_inverse=True)
    pairs, pair = np.unique(slice_ * first.size + unit[row], return_inverse=True)
    return _Units(
        row,
        pair,
        (pairs // first.size).astype(np.intp),
        (pairs % first.size).astype(np.intp),
        period,
    )


def _dispersions(
    units: _Units, rows: ReferenceRows, signal: Any, s: int, n_slices: int
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Of one signal: each slice's own and against the rest, those of new slices, and the root's."""
    n_bins = signal.n_bins
    counts = np.bincount(
        units.pair * n_bins + rows.bins[s][units.row], minlength=units.slices.size * n_bins
    ).reshape(-1, n_bins)
    shares = shares_of(signal, counts)
    own, rest, n_units = dispersion_of_shares(
        units.slices, units.units, units.period, shares, n_slices
    )
    total = float(units.period.size)
    unknown = np.append(n_units, 0.0)
    shrunk_own, shrunk_rest = (
        shrink_dispersion(np.append(of, np.nan), unknown, total) for of in (own, rest)
    )
    whole = own[ROOT] * raise_for_few_units(total)
    root = max(float(shrunk_own[ROOT]), float(np.nan_to_num(whole)), 1.0)
    return shrunk_own[:-1], shrunk_rest[:-1], shrunk_own[-1:], shrunk_rest[-1:], np.array([root])
