"""Estimate: what slices lose by the model's own confidence, before labels come. Never an alert.

All predictions are counted by day, cell and bin of their confidence; a loss map, learnt in the
reference, says what such rows lose. Once a day of the labels' time the map is held against what the
labels that came then say: of each slice of one dimension, was the labelled loss in the interval?
How often it was of late is what the estimate is worth. It raises the label plan, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from detectors.summary import ROWS
from service.ingest.events import EventBatch, Floats, Ints
from service.monitor.config import LossName
from service.monitor.findings import slice_text
from service.monitor.history import HOUR
from service.monitor.loss_map import ROOM, LossMap, learn_map, singles, sums_by_bin
from service.monitor.scores import NO_SCORE, Bins, Scores
from service.monitor.slices import ROOT, Slices
from service.monitor.watch import Labelled, Watch

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Indices = npt.NDArray[np.intp]
Counts = npt.NDArray[np.int32]

DAY: Final = 24 * HOUR
RETAINED_DAYS: Final = 14  # of counts, by the predictions' time; older ones are dropped
N_AUDITS: Final = 7  # of a slice, that its coverage is of
MIN_AUDITS: Final = 3  # of fewer none is told
MIN_AUDIT_LABELS: Final = 30  # that a slice is held against; fewer wait for the next day
DISTRUSTED: Final = 0.8  # coverage below which it is said that the estimate is not to be trusted
QUANTILE: Final = 1.96  # of the normal: intervals are of 95 %
RECENT: Final = 2 * DAY  # rows by which the label plan is raised
RAISED: Final = 0.25  # suspicion that an estimate lends a slice, at most
RAISED_AT: Final = 2.0  # times what is due, by the interval's lower end, where it lends that much
N_NAMED: Final = 3  # slices that words name
_NONE: Final = -1  # no audit
_ONE: Final = np.int32(1)  # of the counts' own type: another is added thirty times as slowly
# Columns of what audits sum: labels, what they lost, what was expected of them, and its variance.
# Half of an audit's sums is left for the next: a day's labels are too few to show what lasts.
_N, _LOST, _EXPECTED, _SCATTER = range(4)
_LEFT: Final = np.array([0.5, 0.5, 0.5, 0.25])


@dataclass(frozen=True, slots=True)
class Estimated:
    """One row a slice; NaN where there is nothing to say."""

    loss: Floats  # as published, per exposure
    lower: Floats
    upper: Floats
    coverage: Floats  # share of the last audits that the interval passed; of those that hold it

    @classmethod
    def none(cls, n: int) -> Estimated:
        """Nothing is known of so many slices."""
        return cls(*(np.full(n, np.nan) for _ in cls.__slots__))


class Estimate:
    """What one model's confidence says of its slices, and how often that was right."""

    def __init__(self, scores: Scores | None) -> None:
        self.scores = scores
        self.map: LossMap | None = None  # None: no reference, or no confidence in it
        self.days: dict[int, Counts] = {}  # since 1970: rows by cell and bin, flat
        self.audited: npt.NDArray[np.int8] = np.zeros((0, N_AUDITS), np.int8)  # by slice, 1 covered
        self.owed: Floats = np.zeros((0, 4))  # by slice, what the next audit adds to
        self._day = 0  # of the labels' time, since 1970
        self._by_cell: Floats = np.zeros((0, 4))  # of that day
        self._by_bin: Floats = np.zeros((ROOM, 4))

    def bins_of(self, loss: LossName, batch: EventBatch) -> Bins | None:
        """The bin of each row's confidence; None where the model's rows have none."""
        return None if self.scores is None else self.scores.bins_of(loss, batch)

    def count(self, times: Ints, cells: Indices, bins: Bins) -> None:
        """Count predictions; those of days that are no longer retained are left out."""
        if not times.size:
            return
        days = times // DAY
        first, last = int(days.min()), int(days.max())
        for day in [first] if first == last else np.unique(days).tolist():
            rows = slice(None) if first == last else np.flatnonzero(days == day)
            places = cells[rows] * ROOM + bins[rows]
            np.add.at(self._counts(day, int(places.max())), places, _ONE)
        oldest = max(self.days) - RETAINED_DAYS
        for day in [day for day in self.days if day <= oldest]:
            del self.days[day]

    def _counts(self, day: int, place: int) -> Counts:
        """The counts of a day, with room for this place."""
        counts = self.days.get(day)
        if counts is None or counts.size <= place:
            n_cells = place // ROOM + 1
            grown = np.zeros((n_cells + n_cells // 4) * ROOM, np.int32)
            if counts is not None:
                grown[: counts.size] = counts
            counts = self.days[day] = grown
        return counts

    def begin(self, reference: Labelled, slices: Slices, unit: float) -> None:
        """Learn the map by a new reference; what audits said was of the one before."""
        scores = self.scores
        stated = None if scores is None or scores.stated is None else scores.stated / unit
        self.map = None if scores is None else learn_map(reference, slices, stated)
        self.audited, self.owed = np.zeros((0, N_AUDITS), np.int8), np.zeros((0, 4))
        self._by_cell, self._by_bin, self._day = np.zeros((0, 4)), np.zeros((ROOM, 4)), 0

    def tick(self, rows: Labelled, slices: Slices, at: int) -> None:
        """Sum what a tick's labels say; behind the last of a day hold the map against it."""
        if self.map is None:
            return
        rows = rows.take(np.flatnonzero((rows.bin != NO_SCORE) & (rows.evidence_weight > 0)))
        ratios = self.map.ratios(slices)
        w, due = rows.evidence_weight, self.map.due(rows, ratios)
        scatter = w**2 * self.map.squared[rows.bin]
        columns = (np.ones(len(rows)), w * rows.capped, w * due, scatter)
        came = [np.bincount(rows.cell, column, slices.n_cells) for column in columns]
        self._by_cell = _grown(self._by_cell, slices.n_cells) + np.stack(came, axis=1)
        self._by_bin += sums_by_bin(rows, ratios)
        day = at // DAY
        if day > self._day > 0:
            self._audit(self.map, slices)
            self.map.learn(self._by_bin)
            self._by_cell, self._by_bin = np.zeros((0, 4)), np.zeros((ROOM, 4))
        self._day = max(self._day, day)

    def _audit(self, map_: LossMap, slices: Slices) -> None:
        """Of each slice with labels enough: was what they say in the interval?"""
        few, members = singles(slices)
        self.owed = _grown(self.owed, len(slices))
        self.owed[few] += members @ self._by_cell
        judged = np.flatnonzero(self.owed[:, _N] >= MIN_AUDIT_LABELS)
        _, lost, expected, scatter = self.owed[judged].T
        doubt = map_.doubt(slices.membership()[judged, :], slices) * expected**2
        spread = np.sqrt(map_.dispersion * scatter + doubt)
        covered = np.abs(lost - expected) <= QUANTILE * spread
        missing = np.full((len(slices) - len(self.audited), N_AUDITS), _NONE, np.int8)
        self.audited = np.concatenate([self.audited, missing])
        self.audited[judged] = np.roll(self.audited[judged], -1, axis=1)
        self.audited[judged, -1] = covered
        self.owed[judged] *= _LEFT

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places from now on."""
        self.audited[places[places < len(self.audited)]] = _NONE
        self.owed[places[places < len(self.owed)]] = 0.0

    def estimated(
        self, slices: Slices, unit: float, since: int | None = None, until: int | None = None
    ) -> Estimated:
        """What the predictions of these days lost, as far as their confidence tells.

        A day counts if any of it is in the window.
        """
        if self.map is None:
            return Estimated.none(len(slices))
        membership, map_ = slices.membership(), self.map
        by_cell = self._sums(map_, slices, since, until)
        lost, exposure, scatter = (membership @ each for each in by_cell)
        loss = np.divide(lost, exposure, out=np.full(lost.size, np.nan), where=exposure > 0)
        spread = np.divide(scatter, exposure**2, out=np.zeros(lost.size), where=exposure > 0)
        half = QUANTILE * np.sqrt(
            map_.dispersion * spread + map_.doubt(membership, slices) * loss**2
        )
        lower, upper = np.maximum(loss - half, 0.0), loss + half
        return Estimated(loss * unit, lower * unit, upper * unit, self.coverage(slices))

    def _sums(
        self, map_: LossMap, slices: Slices, since: int | None, until: int | None
    ) -> tuple[Floats, Floats, Floats]:
        """What is lost by cell, its exposure, and how far rows scatter, shape (n_cells,) each."""
        counts = np.zeros(slices.n_cells * ROOM, np.int64)
        for day, of_day in self.days.items():
            if (since is None or (day + 1) * DAY > since) and (until is None or day * DAY < until):
                n = min(counts.size, of_day.size)
                counts[:n] += of_day[:n]
        by_bin = counts.reshape(slices.n_cells, ROOM)[:, NO_SCORE + 1 :]
        exposures, rates = (each[NO_SCORE + 1 :] for each in (map_.exposures, map_.rates))
        lost = map_.ratios(slices) * (by_bin @ (exposures * rates))
        return lost, by_bin @ exposures, by_bin @ map_.squared[NO_SCORE + 1 :]

    def coverage(self, slices: Slices) -> Floats:
        """Of each slice's last audits the share that its interval passed.

        A slice of more dimensions has that of the worst slice of one that holds it.
        """
        n = np.count_nonzero(self.audited != _NONE, axis=1)
        share = np.count_nonzero(self.audited == 1, axis=1) / np.maximum(n, 1)
        own = np.full(len(slices), np.nan)
        own[: n.size] = np.where(n >= MIN_AUDITS, share, np.nan)
        coverage = own.copy()
        for index, name in enumerate(slices.names):
            if len(name) > 1:
                around = (slices.find((part,)) for part in name)
                known = [float(own[s]) for s in around if s is not None and own[s] >= 0]
                coverage[index] = min(known, default=np.nan)
        return coverage

    def raised(self, watch: Watch, slices: Slices, now: int) -> Floats:
        """Suspicion of slices whose estimate rose beyond its interval over what is due of them.

        It follows from rows that came before, so a plan made of it is predictable.
        """
        raised = np.zeros(len(slices))
        if self.map is None:
            return raised
        since = now - RECENT
        _, exposure, _ = self._sums(self.map, slices, since, None)
        membership = slices.membership()
        due, whole = (
            membership @ each for each in (exposure * watch.rates.predict(slices.levels), exposure)
        )
        due = np.divide(due, whole, out=np.full(due.size, np.nan), where=whole > 0)
        now_ = self.estimated(slices, 1.0, since)
        rose = np.flatnonzero((now_.lower > due) & (due > 0))
        times = now_.lower[rose] / due[rose]
        raised[rose] = RAISED * np.minimum(np.log(times) / np.log(RAISED_AT), 1.0)
        raised[ROOT] = 0.0
        return raised

    def save(self) -> dict[str, Any]:
        """The state: counts as the places that have any."""
        places = {day: np.flatnonzero(counts) for day, counts in self.days.items()}
        return {
            "map": None if self.map is None else self.map.save(),
            "days": [[day, at, self.days[day][at]] for day, at in sorted(places.items())],
            "audited": self.audited.copy(),
            "owed": self.owed.copy(),
            "day": self._day,
            "by_cell": self._by_cell.copy(),
            "by_bin": self._by_bin.copy(),
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take up the state that `save` gave."""
        if state is None:
            return
        self.map = None if state["map"] is None else LossMap.restore(state["map"])
        for day, at, counts in state["days"]:
            if at.size:
                self._counts(day, int(at[-1]))[at] = counts
        self.audited, self.owed = np.array(state["audited"]), np.array(state["owed"])
        self._day = state["day"]
        self._by_cell, self._by_bin = np.array(state["by_cell"]), np.array(state["by_bin"])


def _grown(sums: Floats, n: int) -> Floats:
    """The same, with rows of zeros up to so many."""
    return np.concatenate([sums, np.zeros((n - len(sums), sums.shape[1]))])


def estimate_json(monitor: Monitor) -> dict[str, Any] | None:
    """How a model's slices are estimated, and what that is worth; None where they are not.

    Slices that are too small to be shown to everyone are not named.
    """
    estimate, slices = monitor.estimate, monitor.slices
    if estimate.map is None:
        return None
    method, coverage = estimate.map.method, estimate.coverage(slices)
    rows = slices.membership() @ monitor.history.cells_between(slices.n_cells)
    told = singles(slices)[0] & (rows[:, ROWS] >= monitor.config.publish_min_rows)
    worst = [
        int(s)
        for s in np.argsort(coverage, kind="stable")
        if told[s] and s != ROOT and coverage[s] < DISTRUSTED
    ]
    everyone = _share(estimate.audited)
    return {
        "method": method,
        "coverage": everyone,
        "distrusted": [dict(slices.names[s]) for s in worst],
        "summary": _said(
            method, everyone, [(slice_text(slices.names[s]), float(coverage[s])) for s in worst]
        ),
    }


def _share(audited: npt.NDArray[np.int8]) -> float | None:
    """Of all that is remembered the share that intervals passed; None where it is too little."""
    n, n_covered = int((audited != _NONE).sum()), int((audited == 1).sum())
    return round(n_covered / n, 3) if n >= MIN_AUDITS else None


def _said(method: str, everyone: float | None, worst: list[tuple[str, float]]) -> str:
    """In words what the estimates are, and what they are worth."""
    how = {
        "cbpe": "by the confidence itself, which the reference's labels bear out",
        "dle": "by what the reference's rows of like confidence lost",
    }
    said = f"Estimated without labels {how[method]}; never an alert."
    if everyone is None:
        return f"{said} Not held against labels often enough yet."
    said += f" Its intervals covered {everyone:.0%} of what labels said lately"
    said += ": distrust it." if everyone < DISTRUSTED else "."
    named = [f"{name} ({share:.0%})" for name, share in worst[:N_NAMED]]
    if len(worst) > len(named):
        named.append(f"{len(worst) - len(named)} more")
    if named:
        said += f" Distrust it of {', '.join(named)}."
    return said.replace("%", " %")
