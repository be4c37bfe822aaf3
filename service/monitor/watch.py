"""Watch: one model's detectors over all its slices, from the moment that its reference is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import logsumexp

from detectors import (
    Budget,
    Calibration,
    CellRates,
    Detections,
    Disparity,
    ErrorRate,
    Everyone,
    Outcomes,
    Recovery,
    Season,
    Summary,
    Units,
    dispersion_own,
    dispersion_share,
    fit_cell_rates,
)
from detectors.confidence import TYPICAL_RATE, WEIGHTS, log_e_own_reference, log_e_share
from detectors.disparity import ratio_of, rest_of
from detectors.error_rate import QUARANTINE
from detectors.multiplicity import WEEK_SECONDS
from detectors.reference import (
    MARGIN,
    least_dispersion,
    raise_for_few_units,
    shrink_dispersion,
    without_margin,
)
from detectors.summary import CAPPED, EXPOSURE, JUDGED, JUDGED_TWICE, LOSS
from service.ingest.events import Floats, Hashes, Ints
from service.monitor.makeup import Makeup
from service.monitor.slices import ROOT, Slices

Indices = npt.NDArray[np.intp]

LARGEST_PART: Final = 0.5  # a slice with more of the model than this *is* the model
# Fewer labels wait for the next tick. What a slice's share f of k labels tells grows as f(1 - f);
# seen k at a time, one part in k of it is lost, and seen one by one all of it.
MIN_TICK_LABELS: Final = 10
# Of a calibrated budget: the other classes' proven hazards, two fifths of it, were not seen to
# bring a false alert for more than one in four that they may.
SPENT_ON_SLICES: Final = 0.9
WATCHING: Final = (
    "everyone",
    "process",
    "slices",
)  # classes of streams that the budget is spent on


_LABELLED_DTYPES: Final = (
    np.intp, np.int64, np.uint64, *[np.float64] * 5, np.int16, np.uint64, np.uint8
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled rows as columns, shape (n_rows,) each."""

    cell: Indices
    hour: Ints  # of the prediction
    cluster: Hashes  # 0: none
    weight: Floats  # 1 / inclusion probability
    loss: Floats  # as published
    capped: Floats  # in [0, 1] or a few edits, as the detectors take it
    exposure: Floats
    evidence_weight: Floats  # as the detectors weigh it: 1 within a named stratum
    version: npt.NDArray[np.int16]  # of the model, by `monitor.versions`
    mask: npt.NDArray[np.uint64]  # discovered slices that it is in, a bit each
    bin: npt.NDArray[np.uint8]  # of the prediction's confidence; 0: it has none

    def __len__(self) -> int:
        return self.cell.size

    @classmethod
    def concatenate(cls, parts: list[Labelled]) -> Labelled:
        """One after another; of none, no rows."""
        if len(parts) == 1:
            return parts[0]
        names = zip(cls.__slots__, _LABELLED_DTYPES, strict=True)
        return cls(
            *(
                np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in parts)])
                for name, dtype in names
            )
        )

    @classmethod
    def of_columns(cls, columns: list[Any]) -> Labelled:
        """The rows whose columns were saved; the last ones were not, once."""
        missing = _LABELLED_DTYPES[len(columns) :]
        return cls(*columns, *(np.zeros(columns[0].size, dtype) for dtype in missing))

    def take(self, rows: Indices) -> Labelled:
        """The rows at these places."""
        return Labelled(*(getattr(self, name)[rows] for name in self.__slots__))

    def between(self, start: int, stop: int) -> Labelled:
        """The rows from `start` on and before `stop`, without a copy."""
        return Labelled(*(getattr(self, name)[start:stop] for name in self.__slots__))

    def summary(self, n_cells: int, season: Floats | None = None) -> Summary:
        """Their sums per cell; `season` is by how much more than usual is due of each."""
        return Summary.of_labels(
            self.cell,
            n_cells,
            self.weight,
            self.loss,
            self.capped,
            self.exposure,
            self.evidence_weight,
            season,
        )


class Watch:
    """The fleets of one model, and what they expect of each cell."""

    def __init__(self, rates: CellRates, tolerance: float, budget: Budget) -> None:
        self.rates = rates
        self.budget = budget
        self.for_others = 0.0  # of the slices' share, at this tick: versions and discovered slices
        self.disparity = Disparity(1.0 + tolerance)
        self.everyone = Everyone(1.0 + tolerance)
        self.improvement = ErrorRate(downwards=True)  # of the streams that `everyone` watches
        self.recovery = Recovery()
        self.season = Season()
        self.makeup = Makeup.of_reference(np.zeros(0))
        self.explained: dict[int, int] = {}  # slices with an alert that another's incident explains
        self.parts: list[int] = []  # slices whose complements `everyone` watches, in stream order
        self.new_dispersion = (1.0, 1.0)  # own, share: of slices seen first after the reference
        self.everyone_dispersion = 1.0
        self.least = np.ones(0), np.ones(0)  # own, share: of independent rows, by the reference
        self.scale = 1.0  # of the labels' weights, so that one of the reference's weighs 1
        self.typical_rate = TYPICAL_RATE  # of the published loss, in the reference
        self.compound: Floats = np.ones(0)  # of each slice's uneven weights in the reference
        self.calibration: Calibration | None = None  # None: hazards are the proven ones
        self._cell_rates: Floats = np.empty(0)  # what `rates` say of each cell, while none is new

    @classmethod
    def fit(
        cls,
        reference: Labelled,
        slices: Slices,
        tolerance: float,
        budget: Budget,
        is_proven: bool = True,
        least: tuple[Floats, Floats] | None = None,
    ) -> Watch:
        """Learn from the reference's labelled rows what is due, and how far it scatters.

        Dispersions of a proven watch are raised, for what two moments and few units don't tell;
        null weeks tell a calibrated one. `least` is what independent rows have, where the
        reference's are summed and don't say.
        """
        scale = 1.0 / float(reference.evidence_weight.mean())
        reference = replace(reference, evidence_weight=reference.evidence_weight * scale)
        membership = slices.membership()
        summary = reference.summary(slices.n_cells)
        capped, exposure = summary.sums[:, CAPPED], summary.sums[:, JUDGED]
        rough = _compound(reference)
        rates = fit_cell_rates(slices.levels, capped, exposure, rough)
        units = _units(reference, rates.predict(slices.levels), membership)
        own, n_units = dispersion_own(units, len(slices))
        rates = fit_cell_rates(slices.levels, capped, exposure, max(rough, float(own[ROOT])))
        expected = rates.predict(slices.levels)
        units = _units(reference, expected, membership)
        total_units = float(units.unit_observed.size)
        own, n_units = dispersion_own(units, len(slices))
        share = dispersion_share(units, len(slices))
        if least is None:
            least = least_dispersion(_row_rates(reference, expected, membership))
        own_least, share_least = least
        units_told = total_units if is_proven else np.inf
        own_shrunk = shrink_dispersion(own, n_units, units_told, is_proven, own_least, rough)
        share_shrunk = shrink_dispersion(share, n_units, units_told, is_proven, share_least, rough)

        watch = cls(rates, tolerance, budget)
        watch.scale, watch.least = scale, least
        _, watch.compound = _due(membership, summary.sums, expected)
        lost, exposed = summary.sums[:, LOSS].sum(), summary.sums[:, EXPOSURE].sum()
        watch.typical_rate = float(lost / exposed) if lost > 0 else TYPICAL_RATE
        counts = np.append(n_units, 0.0)
        of_new = [
            shrink_dispersion(
                np.append(measured, np.nan),
                counts,
                units_told,
                is_proven,
                np.append(of_slices, 1.0),
                rough,
            )[-1]
            for measured, of_slices in ((own, own_least), (share, share_least))
        ]
        watch.new_dispersion = (float(of_new[0]), float(of_new[1]))
        watch.everyone_dispersion = max(  # hours of a day differ: calibrated or not, with margin
            float(shrink_dispersion(own, n_units, total_units, True, own_least, rough)[ROOT]),
            _hourly_dispersion(reference, expected),
        )
        watch.season.dispersion = watch.everyone_dispersion
        watch.learn_season(reference, slices)
        watch.makeup = Makeup.of_reference(exposure * expected)
        seen, due = membership @ capped, membership @ (exposure * expected)
        watch.disparity.grow(own_shrunk, share_shrunk, seen, due)
        watch.recovery.grow(len(slices))
        watch.parts = [
            s
            for s in range(1, len(slices))
            if len(slices.names[s]) == 1 and due[s] <= LARGEST_PART * due[ROOT]
        ]
        everyone = np.full(1 + len(watch.parts), watch.everyone_dispersion)
        others = [ROOT, *watch.parts]
        complement = np.array([0.0, *([1.0] * len(watch.parts))])
        streams = (
            np.where(complement, seen[ROOT] - seen[others], seen[ROOT]),
            np.where(complement, due[ROOT] - due[others], due[ROOT]),
        )
        watch.everyone.grow(everyone, *streams)
        watch.improvement.grow(everyone, *streams)
        return watch

    def take_over(self, before: Watch) -> None:
        """Keep the incidents open that were: what is now normal tells when they are over."""
        n = len(before.disparity)
        self.disparity.open[:n] = before.disparity.open
        self.disparity.left_behind[:n] = before.disparity.left_behind
        self.recovery.midpoint[:n] = before.recovery.midpoint
        self.explained = before.explained
        self.season = before.season
        self.everyone.open = before.everyone.open

    def go_on_from(self, before: Watch) -> None:
        """Take over a watch whose reference this one's goes on from, with all that it gathered."""
        self.take_over(before)
        for fleet, theirs in (
            (self.disparity, before.disparity),
            (self.disparity.own, before.disparity.own),
        ):
            fleet.evidence[: len(theirs)] = np.maximum(
                fleet.evidence[: len(theirs)], theirs.evidence
            )
        self.recovery.evidence[: len(before.recovery)] = before.recovery.evidence
        if self.parts == before.parts:
            self.everyone.own.evidence[:] = before.everyone.own.evidence
            self.improvement.evidence[:] = before.improvement.evidence

    def learnt_from(self, rows: Labelled, slices: Slices) -> Labelled:
        """Those of a tick's rows that are in no slice with an alert, or under suspicion."""
        if self.everyone.open or self.everyone.meter >= QUARANTINE:
            return rows.take(np.empty(0, np.intp))
        suspicion = np.minimum(self.disparity.own.meter, self.disparity.meter)
        held = self.disparity.open | (suspicion >= QUARANTINE)
        if not held.any():
            return rows
        cells = slices.membership()[np.flatnonzero(held), :].sum(axis=0) > 0
        return rows.take(np.flatnonzero(~cells[rows.cell]))

    def grow(self, slices: Slices) -> None:
        """Watch the slices that were seen since; what they may spend comes from the others."""
        n_new = len(slices) - len(self.disparity)
        if n_new > 0:
            own, share = self.new_dispersion
            self.disparity.grow(np.full(n_new, own), np.full(n_new, share))
            self.recovery.grow(n_new)

    def renew(self, places: Indices) -> None:
        """Watch other slices in these places, as ones that are seen first now."""
        places = places[places < len(self.disparity)]
        self.disparity.renew(places, *self.new_dispersion)
        self.recovery.close(places)
        compound = self.compound.copy()
        compound[places[places < compound.size]] = compound[ROOT]
        self.compound = compound

    def in_use(self) -> Indices:
        """Slices whose places something rests on: an open alert, or the model without them."""
        open_ = np.flatnonzero((self.recovery.midpoint > 0) | self.disparity.open)
        return np.union1d(open_, self.parts).astype(np.intp)

    def summary(self, rows: Labelled, slices: Slices) -> Summary:
        """A tick's rows, with what is due of them at their hours of the week."""
        season = self.season.factors(rows.hour) if self.season.is_known else None
        return rows.summary(slices.n_cells, season)

    def learn_season(self, rows: Labelled, slices: Slices) -> None:
        """Take in what everybody lost by the hour, while nothing is held against the model."""
        if self.everyone.open or self.everyone.own.meter[:1].max(initial=0.0) >= QUARANTINE:
            return
        weight = rows.evidence_weight
        expected = weight * rows.exposure * self.rates_of(slices)[rows.cell]
        self.season.learn(rows.hour, weight * rows.capped, expected)

    def rates_of(self, slices: Slices) -> Floats:
        """What each cell lost in the reference, per unit of exposure."""
        if self._cell_rates.size != slices.n_cells:
            self._cell_rates = self.rates.predict(slices.levels)
        return self._cell_rates

    def outcomes(self, summary: Summary, slices: Slices) -> Outcomes:
        """What a tick's labels lost per slice, and what was due."""
        membership, due = slices.membership(), self.scale * self.rates_of(slices)
        expected, compound = _due(membership, summary.sums, due)
        usual = np.full(len(slices), self.compound[ROOT])
        usual[: self.compound.size] = self.compound
        heavier = self.scale * compound / usual
        return Outcomes(
            membership @ (self.scale * summary.sums[:, CAPPED]),
            expected,
            np.where(np.abs(np.log(heavier)) > np.log(MARGIN), heavier, 1.0),  # else it is chance
        )

    def judged(self, rows: Labelled, slices: Slices, seconds: float) -> Outcomes:
        """The outcomes of a tick, which is so long, with the leeway of slices made up otherwise."""
        summary = self.summary(rows, slices)
        due = self.scale * self.rates_of(slices)
        self.makeup.add(
            due * summary.sums[:, JUDGED], due**2 * _squares(rows, slices.n_cells), seconds
        )
        doubt = self.rates.doubt(slices.n_cells, float(self.disparity.own.dispersion[ROOT]))
        leeway = self.makeup.leeway(doubt, slices.membership())
        return replace(self.outcomes(summary, slices), leeway=leeway)

    def detect(
        self,
        outcomes: Outcomes,
        slices: Slices,
        seconds: float,
        watching: tuple[str, ...] = WATCHING,
    ) -> tuple[Detections, Detections]:
        """One tick through the fleets: slices that got worse unevenly, and the model at large."""
        hazard, hazard_rest = self.hazards(slices, seconds, watching)
        spend = np.full(len(self.everyone), hazard[ROOT])
        hazard[ROOT] = hazard_rest[ROOT] = 0.0
        streams = Outcomes(
            complements(outcomes.observed, self.parts),
            complements(outcomes.expected, self.parts),
            *(
                None if of_slices is None else of_slices[np.full(len(self.everyone), ROOT)]
                for of_slices in (outcomes.spread, outcomes.leeway)
            ),
        )
        self.improvement.gather(streams, spend, np.zeros(len(self.everyone), np.bool_))
        uneven = self.disparity.update(
            self._clumped(outcomes), hazard, self.everyone_improved, hazard_rest
        )
        return uneven, self.everyone.update(streams, spend)

    def hazards(
        self, slices: Slices, seconds: float, watching: tuple[str, ...] = WATCHING
    ) -> tuple[Floats, Floats]:
        """What each slice may spend on a tick; row 0 is the model at large.

        Of evidence against its own reference, and of that against the rest. What is retired spends
        nothing, and what it might have is the others'.
        """
        orders, live = slices.orders(), np.flatnonzero(slices.live())[1:]
        own = np.zeros(orders.size)
        own[:1] = self.budget.hazard("everyone", orders[:1], seconds, watching)
        own[live] = self.budget.hazard("slices", orders[live], seconds, watching)
        own[1:] *= 1.0 - self.for_others
        rest = own.copy()
        part = float(own[1:].sum()) * WEEK_SECONDS / seconds
        if self.calibration is not None and part > 0:
            raised_own, raised_rest = self._raised(self.calibration)
            own[1:] *= raised_own / part
            rest[1:] *= raised_rest / part
        return own, rest

    def _raised(self, calibration: Calibration) -> tuple[float, float]:
        """What the slices' hazards come to in a week, for each kind of evidence.

        Null weeks tell of slices alone; the other classes' hazards are proven ones.
        """
        spend = SPENT_ON_SLICES * self.budget.alerts_a_week * (1.0 - self.for_others)
        by_own, by_rest = calibration.factors(spend)
        return spend * by_own, spend * by_rest

    def calibrate(self, calibration: Calibration, own: Floats, rest: Floats) -> None:
        """Spend by what null weeks tell, and begin as after one of them.

        `own` and `rest` are the evidence then, shape (n_slices, K), per false alert a week.
        """
        self.calibration = calibration
        raised_own, raised_rest = self._raised(calibration)
        self.disparity.own.evidence[:] = raised_own * own
        self.disparity.evidence[:] = raised_rest * rest

    def scatter(self, n_slices: int) -> Floats:
        """How far counts scatter, for intervals: without the margin that guards evidence.

        Published labels carry their whole weight, so theirs scatter `heavier` times as far.
        """
        scatter = np.full(n_slices, self.new_dispersion[0])
        scatter[: len(self.disparity)] = self.disparity.own.dispersion
        scatter[ROOT] = max(scatter[ROOT], self.everyone_dispersion)
        if self.calibration is None:
            scatter = without_margin(scatter)
        return scatter / self.scale

    def divisors(self, n_slices: int) -> Floats:
        """What the counts of each slice are divided by, those that are not watched yet included."""
        disparity = self.disparity
        divisors = np.full(n_slices, max(self.new_dispersion))
        divisors[: len(disparity)] = np.maximum(disparity.own.dispersion, disparity.dispersion)
        divisors[ROOT] = self.everyone_dispersion
        return divisors

    @property
    def everyone_improved(self) -> bool:
        """Whether the model at large is better than it was, whichever part is left out.

        It names what crossed and alarms nobody, so its hazard is spent on names alone.
        """
        return len(self.improvement) > 0 and bool(self.improvement.meter.min() >= 1.0)

    @property
    def mode(self) -> str:
        """What the slices' hazards rest on: "calibrated" on null weeks, or "proven"."""
        return "proven" if self.calibration is None else "calibrated"

    def _clumping(self, dispersion: Floats) -> Floats:
        """How much further losses scatter while everyone is worse off, than in the reference.

        Of counts that scatter by D, D - 1 is of clumps, and clumps grow with what multiplies
        losses; the rest is of rows, and does not.
        """
        ratio = max(1.0, float(self.recovery.midpoint[ROOT]) ** 2)
        clumping: Floats = 1.0 + (ratio - 1.0) * np.maximum(1.0 - 1.0 / dispersion, 0.0)
        return clumping

    def _clumped(self, outcomes: Outcomes) -> Outcomes:
        """The same outcomes, scattered as far as they are while everyone is worse off."""
        if self.recovery.midpoint[ROOT] <= 1.0:
            return outcomes
        disparity = self.disparity
        spread = self._clumping(np.maximum(disparity.own.dispersion, disparity.dispersion))
        if outcomes.spread is not None:
            spread = spread * outcomes.spread
        return replace(outcomes, spread=spread)

    def log_evidence(
        self,
        slice_: int,
        lost: float,
        due: float,
        rest_lost: float,
        rest_due: float,
        left_behind: bool = False,
    ) -> float:
        """log e of some hours as the detectors hold them against a slice, with what it is due.

        Against its own reference and against the rest, the lesser of the two: what an alarm needs.
        """
        if due <= 0.0 or (slice_ != ROOT and rest_due <= 0.0):
            return 0.0
        own = self.everyone.own if slice_ == ROOT else self.disparity.own
        one = np.array([0 if slice_ == ROOT else slice_])
        scale = own.dispersion[one]
        if slice_ != ROOT:
            scale = scale * self._clumping(scale)
        x, e = np.array([lost]), own.tolerance * np.array([due])
        alone = log_e_own_reference(
            x / scale, e / scale, own.shape[one], own.rate[one], own.ratios[one]
        )
        if slice_ == ROOT:
            return _mixed(alone)
        share = self.disparity
        scale = share.dispersion[one] * self._clumping(share.dispersion[one])
        y, rest = np.array([rest_lost]), np.array([rest_due])
        beside = log_e_share(
            x / scale,
            e / scale,
            y / scale,
            rest / scale,
            share.shape[one],
            share.rate[one],
            share.ratios[one],
        )
        return _mixed(beside) if left_behind else min(_mixed(alone), _mixed(beside))

    def recovered(self, outcomes: Outcomes, but: Indices | None = None) -> Detections:
        """Slices with an open incident that are back, the common movement of others allowed for.

        Nothing is asked of slices in `but`.
        """
        if not self.recovery.midpoint.any():
            return Detections.none()
        ratio = ratio_of(rest_of(outcomes))
        ratio[ROOT] = 1.0
        dispersion = self.disparity.own.dispersion.copy()
        dispersion[ROOT] = self.everyone_dispersion
        due = outcomes.expected * self.own_ratio()
        behind = np.flatnonzero(self.disparity.left_behind)
        caught_up = self._share_half_way(outcomes, due, behind)
        due *= np.maximum(ratio, 1.0)
        due[behind] = caught_up
        if but is not None:
            due[but] = 0.0
        return self.recovery.update(Outcomes(outcomes.observed, due, outcomes.spread), dispersion)

    def _share_half_way(self, outcomes: Outcomes, due: Floats, slices: Indices) -> Floats:
        """What is due of slices that were left behind, so that `recovery` asks for their share.

        With the slice `middle` times as bad as the rest, its loss is middle e / (middle e + r) of
        all, whatever moves everybody, and scatters less around that than a Poisson count would.
        """
        e, middle = due[slices], self.recovery.midpoint[slices]
        rest = rest_of(outcomes).expected[slices]
        share = np.divide(e, middle * e + rest, out=np.zeros(slices.size), where=e > 0)
        half_way: Floats = outcomes.observed[ROOT] * share
        return half_way

    def lead(self, slice_: int, parts: list[int]) -> None:
        """Make a slice the head of what explained it, and of other heads that are parts of it."""
        del self.explained[slice_]
        below = [s for s, head in self.explained.items() if head in parts]
        for part in (*parts, *below):
            self.explained[part] = slice_

    def promote(self, gone: int) -> None:
        """Give what a head that is back explained a head of its own: the eldest of them."""
        self.explained.pop(gone, None)
        orphans = [part for part, head in self.explained.items() if head == gone]
        for orphan in orphans:
            self.explained[orphan] = orphans[0]
        if orphans:
            del self.explained[orphans[0]]

    def own_ratio(self) -> Floats:
        """What each slice's own past says of it, times what its cells' rates say."""
        ratio: Floats = self.disparity.shape / self.disparity.rate
        ratio[ROOT] = self.everyone.own.shape[0] / self.everyone.own.rate[0]
        return ratio

    def restate(self, tolerance: float, budget: Budget) -> None:
        """Go on with another tolerance and budget: from the next tick on, so still predictable."""
        self.budget = budget
        self.disparity.tolerance = self.disparity.own.tolerance = 1.0 + tolerance
        self.everyone.own.tolerance = 1.0 + tolerance

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "base": self.rates.base,
            "effects": list(self.rates.effects),
            "own": self.rates.own,
            "own_weight": self.rates.own_weight,
            "disparity": self.disparity.save(),
            "everyone": self.everyone.save(),
            "improvement": self.improvement.save(),
            "recovery": self.recovery.save(),
            "season": self.season.save(),
            "makeup": self.makeup.save(),
            "explained": list(self.explained.items()),
            "parts": self.parts,
            "new_dispersion": list(self.new_dispersion),
            "everyone_dispersion": self.everyone_dispersion,
            "scale": self.scale,
            "compound": self.compound,
            "typical_rate": self.typical_rate,
            "calibration": None if self.calibration is None else self.calibration.save(),
        }

    @classmethod
    def restore(cls, state: dict[str, Any], tolerance: float, budget: Budget) -> Watch:
        """The watch that `save` gave."""
        rates = CellRates(state["base"], list(state["effects"]), state["own"], state["own_weight"])
        watch = cls(rates, tolerance, budget)
        watch.disparity.restore(state["disparity"])
        watch.everyone.restore(state["everyone"])
        watch.improvement.restore(state["improvement"])
        watch.recovery.restore(state["recovery"])
        watch.season.restore(state["season"])
        watch.makeup = Makeup.restore(state["makeup"])
        watch.parts = list(state["parts"])
        watch.explained = dict(state["explained"])
        own, share = state["new_dispersion"]
        watch.new_dispersion = (own, share)
        watch.everyone_dispersion = state["everyone_dispersion"]
        watch.scale, watch.compound = state["scale"], state["compound"]
        watch.typical_rate = state["typical_rate"]
        calibration = state["calibration"]
        watch.calibration = None if calibration is None else Calibration.restore(calibration)
        return watch


def _due(membership: csr_array, sums: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """What is due of each slice, and by how much its rows' uneven weights scatter further."""
    due = membership @ (rates * sums[:, JUDGED])
    squared = membership @ (rates * sums[:, JUDGED_TWICE])
    return due, np.divide(squared, due, out=np.ones(due.size), where=due > 0)


def _squares(rows: Labelled, n_cells: int) -> Floats:
    """Of each cell, the sum over its sessions of their exposure's square; a lone row is one."""
    exposure = rows.evidence_weight * rows.exposure
    cell = rows.cell
    if rows.cluster.any():
        lone = np.arange(1, len(rows) + 1, dtype=np.uint64)
        name = np.where(rows.cluster != 0, rows.cluster, lone)
        order = np.lexsort((cell, name))
        name, cell = name[order], cell[order]
        first = np.flatnonzero((np.diff(name) != 0) | (np.diff(cell) != 0)) + 1
        first = np.concatenate([[0], first])[: len(rows)]
        exposure, cell = np.add.reduceat(exposure[order], first), cell[first]
    return np.bincount(cell, exposure**2, minlength=n_cells).astype(np.float64)


def _mixed(log_e: Floats) -> float:
    """log of the mean of e over its alternatives."""
    return float(logsumexp(log_e, b=WEIGHTS))


def heavier(sums: Floats) -> Floats:
    """How much more labels weigh as they are published than as evidence; `sums` a row a slice."""
    judged = sums[:, JUDGED]
    ratio: Floats = np.divide(sums[:, EXPOSURE], judged, out=np.ones(len(sums)), where=judged > 0)
    return ratio


def complements(per_slice: Floats, parts: list[int]) -> Floats:
    """The whole model, then the model without each part."""
    return np.concatenate([per_slice[:1], np.maximum(per_slice[ROOT] - per_slice[parts], 0.0)])


def _compound(reference: Labelled) -> float:
    """Dispersion of independent rows: a label that stands for w rows scatters w times as far."""
    weighted = reference.evidence_weight * np.maximum(reference.capped, 1e-12)
    return max(1.0, float((reference.evidence_weight * weighted).sum() / weighted.sum()))


def _row_rates(reference: Labelled, rates: Floats, membership: csr_array) -> Floats:
    """Mean loss that is due of each slice's rows, where none can lose more than 1; else 0."""
    if reference.capped.max() > 1.0:
        return np.zeros(membership.shape[0])
    due = reference.evidence_weight * reference.exposure * rates[reference.cell]
    rows, lost = (
        membership @ np.bincount(reference.cell, column, minlength=rates.size)
        for column in (reference.evidence_weight, due)
    )
    mean: Floats = np.divide(lost, rows, out=np.zeros(rows.size), where=rows > 0)
    return mean


def _units(reference: Labelled, rates: Floats, membership: csr_array) -> Units:
    """The reference by independent unit: its cluster, and for rows without one its hour."""
    unit_name = np.where(
        reference.cluster != 0, reference.cluster, reference.hour.astype(np.uint64)
    )
    _, first, unit = np.unique(unit_name, return_index=True, return_inverse=True)
    observed = reference.evidence_weight * reference.capped
    expected = reference.evidence_weight * reference.exposure * rates[reference.cell]
    _, period = np.unique(reference.hour[first], return_inverse=True)

    slices_of_cell = membership.T.tocsr()
    counts = np.diff(slices_of_cell.indptr)[reference.cell]
    row = np.repeat(np.arange(len(reference)), counts)
    start = slices_of_cell.indptr[reference.cell]
    within = np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
    slice_ = slices_of_cell.indices[np.repeat(start, counts) + within].astype(np.int64)
    n_units = first.size
    pairs, inverse = np.unique(slice_ * n_units + unit[row], return_inverse=True)
    return Units(
        slices=(pairs // n_units).astype(np.intp),
        units=(pairs % n_units).astype(np.intp),
        observed=np.bincount(inverse, observed[row]).astype(np.float64),
        expected=np.bincount(inverse, expected[row]).astype(np.float64),
        period=period.astype(np.intp),
        unit_observed=np.bincount(unit, observed).astype(np.float64),
        unit_expected=np.bincount(unit, expected).astype(np.float64),
    )


def _hourly_dispersion(reference: Labelled, rates: Floats) -> float:
    """Scatter of the whole model's hours: what moves everybody together, sessions aside."""
    _, hour = np.unique(reference.hour, return_inverse=True)
    weight = reference.evidence_weight
    observed = np.bincount(hour, weight * reference.capped)
    expected = np.bincount(hour, weight * reference.exposure * rates[reference.cell])
    total = float(expected.sum())
    if total <= 0:
        return 1.0
    spread = float(((observed - expected) ** 2).sum() / total)
    return spread * raise_for_few_units(float(observed.size))
