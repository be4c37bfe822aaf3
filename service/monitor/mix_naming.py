"""MixNamer: what is told of a slice in which others are: who, since when, and what is expected.

Each cell is expected to lose what it lost in the reference, so the words are about who is in a
slice. Once labels show a change they tell how much of it that explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec.structs import replace

from detectors.summary import EXPOSURE, LABELS, LOSS
from service.ingest.events import Codes
from service.monitor.admission import FIRST
from service.monitor.by_cell import padded
from service.monitor.findings import Effect, Finding, Kind, Severity, State, slice_text
from service.monitor.input_naming import percent
from service.monitor.mix import Crossing, Incident, Mixes, MixWatch, members
from service.monitor.naming import METRICS, gap_interval, shown
from service.monitor.process import a_finding, rates
from service.monitor.severity import severity_of
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.composition import Composition
    from service.monitor.monitor import Monitor
    from service.monitor.watch import Watch

LEAST_CHANGE: Final = 0.1  # of the expected loss, relative: by less it is not worth a word
FEW_LABELS: Final = 30  # since the onset; with fewer, what is expected is told in their place
MANY_LABELS: Final = 200  # from which they tell how much of the change the mix explains


@dataclass(frozen=True, slots=True)
class Labelled:
    """What labels show of a slice and of the rest, before the onset and since."""

    losses: tuple[float, float, float, float]  # of the slice, then of the rest
    labels: int  # of the slice, since
    change: tuple[float, float] | None  # interval of the slice's since less before


class MixNamer:
    """Names the mixes of one stretch, which is the last of `composition.stretches`."""

    def __init__(
        self, monitor: Monitor, watch: Watch, composition: Composition, mix: MixWatch, at: int
    ) -> None:
        self.monitor, self.watch, self.mix, self.at = monitor, watch, mix, at
        self.slices, self.open = monitor.slices, composition.open
        self.reference = padded(composition.reference, self.slices.n_cells)
        self.stretches = composition.stretches
        self.rates = monitor.loss_unit * watch.rates_of(monitor.slices)
        self.metric = monitor.schema.loss
        self.least = max(LEAST_CHANGE, monitor.config.tolerance)

    def told(self, crossed: list[Crossing]) -> list[Finding]:
        """Slices that crossed and of which more is to be expected; what that costs most first."""
        found = []
        for crossing in crossed:
            window = self.mix.window(self.slices, crossing, self.reference, self.stretches)
            mixes = self.mixes(crossing.slice, window.onset)
            before, since = mixes.expected
            costs = (since - before) * float(mixes.since.sum())
            found.append((-costs, crossing.slice, crossing.meter, window, mixes))
        findings = []
        for _, slice_, meter, window, mixes in sorted(found, key=lambda one: one[:2]):
            if self._is_told(slice_, mixes):
                before = mixes.expected[0]
                self.open[slice_] = Incident(
                    window.onset, *window.onset_interval, before, meter, self.at
                )
                self.mix.hold(slice_)
                findings.append(self._finding(slice_, mixes))
        return findings

    def confirmed(self) -> list[Finding]:
        """Open incidents of which enough labels came since to tell how much they explain."""
        findings = []
        for slice_, incident in self.open.items():
            if not incident.is_confirmed:
                mixes = self.mixes(slice_, incident.onset)
                explained = _explained(mixes, self._labelled(slice_, incident.onset))
                if explained is not None and mixes.change >= self.least:
                    findings.append(self._finding(slice_, mixes))
        return findings

    def over(self, slice_: int, now: float) -> Finding:
        """The end of an incident: so much is expected of its rows by now."""
        incident, name = self.open.pop(slice_), self.slices.names[slice_]
        self.mix.release(slice_)
        return a_finding(
            self.monitor,
            Kind.COMPOSITION,
            name,
            State.RESOLVED,
            Severity.INFO,
            onset=incident.onset,
            onset_from=incident.first,
            onset_until=incident.last,
            at=self.at,
            effect=rates(self.metric, incident.before, now, 0),
            meter=0.0,
            summary=f"{METRICS[self.metric]} expected for {slice_text(name)} is back at "
            f"{shown(now, self.metric)}: who is in it is as before.",
            reason="the mix is back",
        )

    def mixes(self, slice_: int, onset: int, is_rest: bool = False) -> Mixes:
        """The rows of a slice, or of everyone else, in the reference and since."""
        inside = members(self.slices, slice_) != is_rest
        since = self.stretches.since(onset, self.slices.n_cells, 1)[:, 0].astype(np.float64)
        before = np.where(inside, self.reference, 0.0)
        return Mixes(before, np.where(inside, since, 0.0), self.rates)

    def _is_told(self, slice_: int, mixes: Mixes) -> bool:
        """Whether enough rows have come, it is material, and no other slice's story."""
        enough = self.monitor.config.publish_min_rows
        if mixes.since.sum() < enough or mixes.change < self.least:
            return False
        if slice_ == ROOT:
            return self._is_of_everyone(mixes)
        held = [members(self.slices, other) for other in self.open if other != ROOT]
        return not held or mixes.without(np.any(held, axis=0)).change >= self.least

    def _is_of_everyone(self, mixes: Mixes) -> bool:
        """Whether it stays material whichever slice of another dimension is left out."""
        dimension = mixes.foremost(self._values)[0]
        parts = self.mix.streams[(self.mix.streams > ROOT) & ~self.mix.own[:, dimension]]
        left = (mixes.without(members(self.slices, part)).change for part in parts.tolist())
        return all(change >= self.least for change in left)

    @property
    def _values(self) -> Codes:
        """The codes of each cell's values, without the stratum."""
        return self.slices.levels[:, : len(self.slices.dimensions)]

    def _finding(self, slice_: int, mixes: Mixes) -> Finding:
        incident, name = self.open[slice_], self.slices.names[slice_]
        before, since = mixes.expected
        labelled = self._labelled(slice_, incident.onset)
        explained = _explained(mixes, labelled)
        incident.is_confirmed = explained is not None
        severity = severity_of(since / before, int(mixes.since.sum()), self.at - incident.onset)
        return a_finding(
            self.monitor,
            Kind.COMPOSITION,
            name,
            State.FIRING,
            Severity.WARNING if severity is Severity.CRITICAL else severity,
            onset=incident.onset,
            onset_from=incident.first,
            onset_until=incident.last,
            at=self.at,
            effect=self._effect(slice_, mixes, labelled),
            meter=incident.meter,
            summary=self._summary(slice_, mixes, explained),
            reason="who is in it changed" if explained is None else "labels tell what it explains",
        )

    def _summary(self, slice_: int, mixes: Mixes, explained: float | None) -> str:
        was, now = (shown(loss, self.metric) for loss in mixes.expected)
        told = f"{METRICS[self.metric]} for {slice_text(self.slices.names[slice_])} is expected to "
        told += (
            f"rise from {was} to {now} because who is in it changed ({self._moved(mixes)[1]} of "
        )
        told += "its rows)"
        if explained is None:
            return f"{told}, each served as before."
        return f"{told}; that explains {percent(explained)} of the change."

    def _moved(self, mixes: Mixes) -> tuple[str, str]:
        """The dimension whose values changed it most, and the foremost of them in words."""
        d, code, was, now = mixes.foremost(self._values)
        value = self.slices.values[d][code - FIRST] if code >= FIRST else ("none", "other")[code]
        dimension = self.slices.dimensions[d]
        return dimension, f"{dimension}={value}: {percent(was)} → {percent(now)}"

    def _effect(self, slice_: int, mixes: Mixes, labelled: Labelled) -> Effect:
        """The loss before and since as labels show it; while they are few, as it is expected."""
        of_rest = self.mixes(slice_, self.open[slice_].onset, is_rest=True)
        is_shown = labelled.labels >= FEW_LABELS
        losses = labelled.losses if is_shown else (*mixes.expected, *of_rest.expected)
        before, after, rest_before, rest_after = losses
        alone = slice_ == ROOT
        feature, moved = self._moved(mixes)
        return replace(
            rates(self.metric, before, after, float(mixes.since.sum()), labelled.labels),
            rest_before=None if alone else rest_before,
            rest_after=None if alone else rest_after,
            gap_widened_by=None if alone else after - before - (rest_after - rest_before),
            feature=feature,
            moved=moved,
        )

    def _labelled(self, slice_: int, onset: int) -> Labelled:
        """What labels show of the loss, before the onset and since."""
        history, n_cells = self.monitor.history, self.slices.n_cells
        pair = self.slices.membership()[[ROOT, slice_], :]
        before = pair @ history.cells_between(n_cells, until=onset)
        since = pair @ history.cells_between(n_cells, since=onset)
        own, rest = (before[1], since[1]), (before[0] - before[1], since[0] - since[1])
        lost = [float(sums[LOSS] / max(sums[EXPOSURE], 1e-12)) for sums in (*own, *rest)]
        change = gap_interval(self.watch, len(self.slices), slice_, np.stack(own[::-1]))
        labels = int(since[1][LABELS]) if before[1][EXPOSURE] > 0 else 0
        return Labelled((lost[0], lost[1], lost[2], lost[3]), labels, change)


def _explained(mixes: Mixes, labelled: Labelled) -> float | None:
    """The share of the labelled loss's change that is expected of the mix; None: not known."""
    if labelled.labels < MANY_LABELS or labelled.change is None or labelled.change[0] <= 0:
        return None
    before, since = mixes.expected
    return min((since - before) / (labelled.losses[1] - labelled.losses[0]), 1.0)
