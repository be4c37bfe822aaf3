"""InputWatch: the fleets over one model's inputs, from the moment that its reference is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_array

from detectors import (
    Budget,
    Detections,
    Dispersion,
    InputsEverywhere,
    InputShift,
    Outcomes,
    Recovery,
    Shares,
    dispersion_of_shares,
    rows_a_unit,
    two_components,
)
from detectors.input_shift import TOLERANCE
from detectors.scatter import HOURS_A_DAY
from detectors.shares import moved
from service.ingest.events import Codes, Floats, Hashes, Ints
from service.monitor.history import HOUR
from service.monitor.indicators import Indicators, cuts_outside, shares_of
from service.monitor.observer import LOOK_SECONDS
from service.monitor.signals import Indices
from service.monitor.slices import ROOT, Slices

MAX_STREAMS: Final = 300_000  # slices times indicators; slices past that are not watched, counted
SMALLEST_PART: Final = 0.02  # a slice with less of the model can't move it by more than tolerance
LARGEST_PART: Final = 0.5  # a slice with more of it is the model
REFERENCE_ROWS: Final = 20_000  # of all of it at most so many tell how far counts scatter
MINUTE: Final = 60 * 1_000_000  # microseconds
INPUTS: Final = "inputs"  # of the budget


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Rows of the reference one by one, to see how far they scatter.

    Of many, half of the clusters are kept, or of the minutes where rows have none, then half of
    those: by their hashes, so it is the same ones wherever requests were cut. What rows of one
    cluster or minute have in common is kept with them, and what rows of an hour have in common
    adds as much to the scatter with each row as before.
    """

    cell: Indices
    cluster: Hashes  # 0: none
    hour: Ints
    drawn: Hashes  # of the cluster or the minute
    bins: Codes  # shape (n_signals, n_rows)
    halvings: int = 0

    def __len__(self) -> int:
        return self.cell.size

    @classmethod
    def none(cls, n_signals: int) -> ReferenceRows:
        """No rows."""
        hashes, hours = np.empty(0, np.uint64), np.empty(0, np.int64)
        bins = np.empty((n_signals, 0), np.int32)
        return cls(np.empty(0, np.intp), hashes, hours, hashes, bins)

    @classmethod
    def of(
        cls, cell: Indices, cluster: Hashes, time: Ints, bins: Codes, unit: int = HOUR
    ) -> ReferenceRows:
        """These rows; `unit` is how many microseconds an hour has here."""
        drawn = np.where(cluster != 0, cluster, (time // MINUTE).astype(np.uint64))
        return cls(cell, cluster, time // unit, _mixed(drawn), bins)

    def join(self, more: ReferenceRows) -> ReferenceRows:
        """These and then those, halved until they are no more than `REFERENCE_ROWS`."""
        more = more.kept(self.halvings)
        if not len(more):
            return self
        rows = ReferenceRows(
            np.concatenate([self.cell, more.cell]),
            np.concatenate([self.cluster, more.cluster]),
            np.concatenate([self.hour, more.hour]),
            np.concatenate([self.drawn, more.drawn]),
            np.concatenate([self.bins, more.bins], axis=1),
            self.halvings,
        )
        while len(rows) > REFERENCE_ROWS:
            rows = rows.kept(rows.halvings + 1)
        return rows

    def kept(self, halvings: int) -> ReferenceRows:
        """Those that are kept after so many halvings."""
        last = np.uint64((1 << halvings) - 1)
        kept = np.flatnonzero((self.drawn & last) == 0)
        return ReferenceRows(
            self.cell[kept],
            self.cluster[kept],
            self.hour[kept],
            self.drawn[kept],
            self.bins[:, kept],
            halvings,
        )

    def save(self) -> list[Any]:
        """The rows as plain values."""
        return [getattr(self, name) for name in self.__slots__]


def _mixed(values: Hashes) -> Hashes:
    """A hash of each, by the finaliser of MurmurHash3 (Appleby), whose low bits are even."""
    mixed = values ^ (values >> np.uint64(33))
    mixed = mixed * np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed = mixed * np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed


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
        self.shift = InputShift(indicators.signals, outside=indicators.outside)
        self.everywhere = InputsEverywhere(indicators.signals, outside=indicators.outside)
        self.recovery = Recovery()
        self.parts: list[int] = []  # slices whose complements `everywhere` watches
        n_signals = len(indicators.all)
        self.new_dispersion = (Dispersion.none(n_signals), Dispersion.none(n_signals))  # own, rest
        self.season: Floats = np.zeros((HOURS_A_DAY, indicators.signals.size))  # in log odds
        self.incidents: dict[int, Incident] = {}  # by slice, in the order in which they opened

    @classmethod
    def fit(
        cls,
        indicators: Indicators,
        counts: Ints,
        rows: ReferenceRows,
        slices: Slices,
        season: tuple[Floats, float],
    ) -> InputWatch:
        """Learn from the reference what shares were and how far they scatter.

        `counts` are of slices, shape (n_slices, n_bins); `season` is of everyone.
        """
        watch = cls(indicators)
        watch.season = season[0]
        found = scatter_of(indicators, rows, slices.membership(), season)
        n = min(len(slices), watch.most_slices)
        shares = indicators.shares(counts[:n])
        watch.new_dispersion = found.own_new, found.rest_new
        watch.shift.grow(found.own.take(slice(n)), found.rest.take(slice(n)), shares)
        watch.recovery.grow(n)
        total = counts.sum(axis=1) / max(len(indicators.all), 1)
        watch.parts = [
            s
            for s in range(1, n)
            if len(slices.names[s]) == 1
            and SMALLEST_PART * total[ROOT] <= total[s] <= LARGEST_PART * total[ROOT]
        ]
        watch.everywhere.grow(found.own.repeated(1 + len(watch.parts)), watch.without_parts(shares))
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
            own, rest = (of.repeated(n_new) for of in self.new_dispersion)
            self.shift.grow(own, rest)
            self.recovery.grow(n_new)
        return len(slices) - len(self)

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: nothing is known of their inputs yet."""
        places = places[places < len(self)]
        self.shift.renew(places, *self.new_dispersion)
        self.recovery.close(places)

    def usual(self, start: int, end: int) -> Floats:
        """What is usual in a span of time, in log odds, shape (n_indicators,)."""
        last = max((end - 1) // HOUR, start // HOUR)
        hours = np.arange(max(start // HOUR, last - HOURS_A_DAY + 1), last + 1)
        usual: Floats = self.season[hours % HOURS_A_DAY].mean(axis=0)
        return usual

    def detect(
        self,
        shares: Shares,
        orders: Indices,
        seconds: float,
        budget: Budget,
        watching: tuple[str, ...],
        usual: Floats,
    ) -> tuple[Detections, Detections]:
        """One stretch through the fleets: what moved unevenly, and what moved everywhere."""
        hours = seconds / LOOK_SECONDS
        hazard = budget.hazard(INPUTS, orders, seconds, watching)
        spend = np.full(len(self.everywhere), hazard[ROOT])
        hazard[ROOT] = 0.0
        everywhere = self.everywhere.update(self.without_parts(shares), spend, hours, usual)
        return self.shift.update(shares, hazard, hours, usual), everywhere

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

    def recovered(self, shares: Shares, seconds: float, usual: Floats) -> list[int]:
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
            before = float(moved(np.array(incident.before), float(usual[j])))
            observed[slice_] = hits if incident.rises else rows - hits
            due = before if incident.rises else 1.0 - before
            expected[slice_] = rows * (due + TOLERANCE)
            scatter = self.shift.own.dispersion.at(rows * LOOK_SECONDS / seconds)
            dispersion[slice_] = scatter[slice_, self.indicators.signals[j]]
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
            "new_dispersion": [of.save("new") for of in self.new_dispersion],
            "season": self.season,
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
        own, rest = (Dispersion.restore(of, "new") for of in state["new_dispersion"])
        watch.new_dispersion = own, rest
        watch.season = np.array(state["season"])
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

    own: Dispersion  # shape (n_slices, n_signals); the model's is the first
    rest: Dispersion  # the same, beside everyone else
    own_new: Dispersion  # shape (1, n_signals), of a slice that the reference does not know
    rest_new: Dispersion


def scatter_of(
    indicators: Indicators,
    rows: ReferenceRows,
    membership: csr_array,
    season: tuple[Floats, float] | None = None,
) -> Scatter:
    """What the reference's rows tell of it; `membership` has the whole model first.

    `season` is what `season_of_shares` found, where the rows' hours are of the epoch.
    """
    n_slices, n_signals = membership.shape[0], len(indicators.all)
    shape = (n_slices + 1, n_signals)  # the last is of a slice that the reference does not know
    own, rest = (Dispersion(np.ones(shape), np.zeros(shape)) for _ in range(2))
    for units in _units_of(rows, membership):
        for s in range(n_signals):
            found = _dispersions(indicators, units, rows, s, n_slices, season)
            for of, (within, between) in zip((own, rest), found, strict=True):
                np.maximum(of.within[:, s], within, out=of.within[:, s])
                np.maximum(of.between[:, s], between, out=of.between[:, s])
    known, new = slice(n_slices), slice(n_slices, None)
    return Scatter(own.take(known), rest.take(known), own.take(new), rest.take(new))


@dataclass(frozen=True, slots=True)
class _Units:
    """Which slice and unit each row counts for; a row comes as often as it has slices."""

    row: Indices  # of the reference
    pair: Indices  # of (slice, unit)
    slices: Indices  # of each pair
    units: Indices
    period: Indices  # of each unit
    hour: Ints  # the same, as rows have it
    are_hours: bool


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
    by_hour = rows.hour.astype(np.uint64)
    found = [_units(by_hour, rows.hour, row, slice_, are_hours=True)]
    if rows.cluster.any():
        by_cluster = np.where(rows.cluster != 0, rows.cluster, by_hour)
        found.append(_units(by_cluster, rows.hour, row, slice_, are_hours=False))
    return found


def _units(name: Hashes, hour: Ints, row: Indices, slice_: Ints, are_hours: bool) -> _Units:
    _, first, unit = np.unique(name, return_index=True, return_inverse=True)
    _, period = np.unique(hour[first], return_inverse=True)
    pairs, pair = np.unique(slice_ * first.size + unit[row], return_inverse=True)
    return _Units(
        row,
        pair,
        (pairs // first.size).astype(np.intp),
        (pairs % first.size).astype(np.intp),
        period,
        hour[first],
        are_hours,
    )


def _dispersions(
    indicators: Indicators,
    units: _Units,
    rows: ReferenceRows,
    s: int,
    n_slices: int,
    season: tuple[Floats, float] | None,
) -> list[tuple[Floats, Floats]]:
    """Of one signal, own and beside the rest: what is within and between units, of each slice."""
    signal = indicators.all[s]
    counts = np.bincount(
        units.pair * signal.n_bins + rows.bins[s][units.row],
        minlength=units.slices.size * signal.n_bins,
    ).reshape(-1, signal.n_bins)
    usual, raised = (None, 1.0) if season is None else season
    if usual is not None:
        of_signal = slice(indicators.starts[s], indicators.starts[s + 1])
        usual = usual[units.hour % HOURS_A_DAY, of_signal]
    *both, n_units = dispersion_of_shares(
        units.slices,
        units.units,
        units.period,
        shares_of(signal, counts),
        n_slices,
        usual,
        cuts_outside(signal),
    )
    typical = rows_a_unit(units.slices, counts.sum(axis=1).astype(np.float64), n_slices)
    total = float(units.period.size)
    return [
        two_components(
            np.append(of, np.nan),
            np.append(typical, 0.0),
            np.append(n_units, 0.0),
            total,
            units.are_hours,
            raised,
        )
        for of in both
    ]
