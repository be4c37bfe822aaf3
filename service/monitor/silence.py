"""Silence: who stopped sending. A slice is missed by the stream's clock, everyone by the wall's.

Of a slice as many rows are due as its share beside those of the others, so what moves all (the
night, a quiet week) is missed of no one, and no more than it sent at the same hours of the day and
of the week before. Its counts are held against half of that by the same e-detector that errors are
held by, downwards. Of everyone the usual rows of each hour are due, while no row comes.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from detectors import ErrorRate, Outcomes
from service.clock import to_rfc3339
from service.ingest.events import EventBatch, Floats, Ints
from service.monitor.findings import Finding, Kind, Severity, State, slice_text
from service.monitor.history import HOUR
from service.monitor.observer import Look
from service.monitor.process import (
    CALM,
    HOURS_TO_KNOW,
    Indices,
    a_finding,
    by_slice,
    grown,
    hazard,
    rates,
    share_inside,
)
from service.monitor.rhythm import Rhythm
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor
    from service.monitor.slices import Slices

FAR_BELOW: Final = 0.5  # times what is due: a slice that sends more is not silent
LARGEST_SHARE: Final = 0.9  # of all rows; who sends more is missed as everyone is
ENOUGH_BACK: Final = 10.0  # rows that were due, over the dispersion, from which it may be back
STEPS_AN_HOUR: Final = 6  # at which everyone's silence is looked at
STEP: Final = HOUR // STEPS_AN_HOUR
LONGEST: Final = 8 * 24  # hours; who is not missed by then never sent enough to be
LIVE: Final = HOUR  # rows older than that when they came are a replay: no wall clock is theirs
# log e of an hour without a row, a row that was due: half of them against a tenth of them
_NATS_A_ROW: Final = FAR_BELOW - 0.1


@dataclass(slots=True)
class Stopped:
    """A slice that is silent."""

    onset: int
    due_an_hour: float  # as told
    back_rows: float = 0.0  # since the last time that enough were due to say if it is back
    back_due: float = 0.0


class Silence:
    """The slices of one dimension, and everyone, by whether they still send."""

    name = "silence"

    def __init__(self) -> None:
        self.streams: list[int] = []  # slices, everyone first
        self.rhythm = Rhythm()
        self.fleet = ErrorRate(FAR_BELOW, downwards=True)
        self.open: dict[int, Stopped] = {}  # by place in `streams`
        self.cell_rows: Floats = np.zeros(0)  # all that came, by cell
        self.lag = 0  # how old rows were when they came last, microseconds
        self.looked_at = 0
        self._since_look: Floats = np.zeros(0)  # rows, by cell
        self._first_hour: Ints = np.empty(0, np.int64)  # in which each stream had a row
        self._seen: Floats = np.zeros((0, 2))  # rows of each, and everybody's since its first
        self._low: Floats = np.zeros((0, 3))  # rows, due and hours while it sends too little
        self._well_at: Ints = np.empty(0, np.int64)  # when it last sent enough

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count predictions."""
        n_cells = int(cells.max(initial=-1)) + 1
        self._since_look = grown(self._since_look, n_cells)
        np.add.at(self._since_look, cells, 1.0)

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """Who was silent since the last look, or is back."""
        findings = self.of_everyone(monitor, look.at)
        if ROOT in self.open:
            findings.append(self._is_back(monitor, ROOT, look.at))
        elif self.looked_at:  # who is not missed in hours without a row usually sends none then
            self.rhythm.note_nothing(self.looked_at // HOUR + 1, (look.at - 1) // HOUR)
        self._grow(monitor.slices)
        rows = by_slice(monitor.slices, self.streams, self._since_look)
        self.cell_rows = grown(self.cell_rows, self._since_look.size)
        self.cell_rows[: self._since_look.size] += self._since_look
        self._since_look[:] = 0.0
        hour = (look.at - 1) // HOUR
        self._first_hour[(self._first_hour < 0) & (rows > 0)] = hour
        before, self.looked_at = self.looked_at or look.at - HOUR, look.at
        span = min((look.at - before) / HOUR, 1.0)
        due = self._due(hour, rows, span)
        findings += self._back(monitor, rows, due, look.at)
        findings += self._gone(monitor, rows, due, span, look)
        self._learn(hour, rows, due, CALM * hazard(monitor, len(self.streams), look.seconds))
        return findings

    def in_use(self) -> list[int]:
        """Slices that are silent."""
        return [self.streams[place] for place in self.open]

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: of each stream there nothing is known yet."""
        streams = np.flatnonzero(np.isin(self.streams, places))
        self.rhythm.renew(streams)
        self.fleet.renew(streams, 1.0)
        self._first_hour[streams], self._well_at[streams] = -1, self.looked_at
        self._seen[streams] = self._low[streams] = 0.0

    def _grow(self, slices: Slices) -> None:
        orders = slices.orders()
        known = set(self.streams)
        new = [s for s in range(len(slices)) if orders[s] <= 1 and s not in known]
        self.streams += new
        n = len(new)
        self.rhythm.grow(len(self.streams))
        self.fleet.grow(np.ones(n))
        self._first_hour = np.concatenate([self._first_hour, np.full(n, -1, np.int64)])
        self._well_at = np.concatenate([self._well_at, np.full(n, self.looked_at, np.int64)])
        self._seen = np.concatenate([self._seen, np.zeros((n, 2))])
        self._low = np.concatenate([self._low, np.zeros((n, 3))])

    def _due(self, hour: int, rows: Floats, span: float) -> Floats:
        """Rows that each stream owes to a look in which the others sent so many."""
        whole = self._seen[:, 1]
        share = np.divide(self._seen[:, 0], whole, out=np.zeros(whole.size), where=whole > 0)
        for mean in self.rhythm.before(hour):
            if mean[ROOT] > 0:
                share = np.minimum(share, mean / mean[ROOT])
        share = np.minimum(share, LARGEST_SHARE)
        due: Floats = (rows[ROOT] - rows) * share / (1.0 - share)
        due[ROOT] = self.rhythm.least_before(hour, ROOT) * span
        return due

    def _judged(self, hour: int) -> Any:
        known = (self._first_hour >= 0) & (hour - self._first_hour >= HOURS_TO_KNOW)
        known[ROOT] = False  # whose silence is told by the hours in which no row came
        return known

    def _gone(
        self, monitor: Monitor, rows: Floats, due: Floats, span: float, look: Look
    ) -> list[Finding]:
        """Streams that crossed, unless another one's silence explains them: the largest first."""
        judged = self._judged((look.at - 1) // HOUR)
        enough = rows >= FAR_BELOW * due
        self._low[enough], self._well_at[enough] = 0.0, look.at
        self._low[~enough] += np.column_stack([rows, due, np.full(rows.size, span)])[~enough]
        scale = self.rhythm.dispersion()
        quiet = ~judged
        quiet[list(self.open)] = True
        spend = hazard(monitor, len(self.streams), look.seconds)
        self.fleet.gather(Outcomes(rows / scale, due / scale), spend, quiet)
        meter = self.fleet.meter
        crossed = np.flatnonzero(meter >= 1.0)
        self.fleet.reset(crossed)
        findings = []
        for place in sorted(crossed.tolist(), key=lambda p: (-self._low[p, 1], p)):
            told = self._seen[place, 0] >= monitor.config.publish_min_rows
            if told and not self._is_explained(monitor.slices, place):
                findings.append(self._has_gone(monitor, place, float(meter[place]), look.at))
        return findings

    def _is_explained(self, slices: Slices, place: int) -> bool:
        """Whether it sends what it owes but for rows of a slice that is silent already."""
        rows, due, _ = self._low[place]
        return any(
            rows >= FAR_BELOW * due * (1.0 - share_inside(slices, slice_, other, self.cell_rows))
            for slice_ in [self.streams[place]]
            for other in (self.streams[head] for head in self.open)
        )

    def _has_gone(self, monitor: Monitor, place: int, meter: float, at: int) -> Finding:
        rows, due, hours = self._low[place].tolist()
        onset = int(self._well_at[place])
        stopped = self.open[place] = Stopped(onset, due / max(hours, 1e-9))
        name = monitor.slices.names[self.streams[place]]
        now = rows / max(hours, 1e-9)
        told = "stopped sending" if now < 0.1 * stopped.due_an_hour else "sends far less than usual"
        return a_finding(
            monitor,
            Kind.SILENCE,
            name,
            State.FIRING,
            Severity.WARNING,
            onset=onset,
            onset_until=onset + HOUR,
            at=at,
            effect=rates("rows_an_hour", stopped.due_an_hour, now, rows),
            meter=meter,
            summary=f"{slice_text(name)} {told}: {now:.3g} rows an hour since "
            f"{to_rfc3339(onset)}, {stopped.due_an_hour:.3g} are usual.",
            reason="evidence of too few rows at 1",
        )

    def _back(self, monitor: Monitor, rows: Floats, due: Floats, at: int) -> list[Finding]:
        """Slices that were silent and send at least half of what they owe again."""
        findings = []
        dispersion = self.rhythm.dispersion()
        for place, stopped in list(self.open.items()):
            stopped.back_rows += float(rows[place])
            stopped.back_due += float(due[place])
            if stopped.back_due >= ENOUGH_BACK * dispersion[place]:
                if stopped.back_rows >= FAR_BELOW * stopped.back_due:
                    findings.append(self._is_back(monitor, place, at))
                stopped.back_rows = stopped.back_due = 0.0
        return findings

    def _is_back(self, monitor: Monitor, place: int, at: int) -> Finding:
        stopped = self.open.pop(place)
        self._low[place], self._well_at[place] = 0.0, at
        name = monitor.slices.names[self.streams[place]]
        return a_finding(
            monitor,
            Kind.SILENCE,
            name,
            State.RESOLVED,
            Severity.WARNING,
            onset=stopped.onset,
            onset_until=stopped.onset + HOUR,
            at=at,
            effect=rates("rows_an_hour", stopped.due_an_hour, stopped.due_an_hour, 0),
            meter=0.0,
            summary=f"{_whom(slice_text(name))} again; nothing had come since "
            f"{to_rfc3339(stopped.onset)}.",
            reason="rows come again",
        )

    def _learn(self, hour: int, rows: Floats, due: Floats, calm_below: Floats) -> None:
        """Take in streams against which nothing speaks; of the others, what they owe."""
        quiet = np.zeros(len(rows), np.bool_)
        quiet[list(self.open)] = True
        calm = ~quiet & (self.fleet.meter < calm_below)
        self.rhythm.learn(rows, due, calm & (due > 0))
        known = calm & (self._first_hour >= 0)
        self._seen[known] += np.column_stack([rows, np.full(rows.size, rows[ROOT])])[known]
        self.rhythm.note(hour, np.where(calm, rows, np.maximum(rows, due)))

    def of_everyone(self, monitor: Monitor, now: int) -> list[Finding]:
        """That no row comes any more, as of `now`: the wall clock, or that of rows that come again.

        A look falls an hour behind the last one if rows come. From then on each hour owes what is
        usual at that time of day; the instant at which the evidence reaches 1 is the same whoever
        asks, and when.
        """
        start = self.looked_at + HOUR
        if not self.looked_at or ROOT in self.open or now < start + HOUR or not self._is_known():
            return []
        dispersion = float(self.rhythm.dispersion()[ROOT])
        spend = float(hazard(monitor, 1, STEP / 1e6)[0]) / 2
        evidence = total = 0.0
        for step in range(min((now - start) // STEP, LONGEST * STEPS_AN_HOUR)):
            at = start + (step + 1) * STEP
            due = self.rhythm.least_before((at - 1) // HOUR, ROOT) / STEPS_AN_HOUR
            total += due
            evidence = (evidence + spend) * np.exp(_NATS_A_ROW * due / dispersion)
            if evidence >= 1.0 and at >= start + HOUR:
                return [self._nobody_sends(monitor, start, at, total, float(evidence))]
        return []

    def _is_known(self) -> bool:
        return int((self.rhythm.hours >= 0).sum()) >= HOURS_TO_KNOW

    def _nobody_sends(
        self, monitor: Monitor, onset: int, at: int, due: float, evidence: float
    ) -> Finding:
        due_an_hour = due / ((at - onset) / HOUR)
        self.open[ROOT] = Stopped(onset, due_an_hour)
        return a_finding(
            monitor,
            Kind.SILENCE,
            (),
            State.FIRING,
            Severity.CRITICAL,
            onset=onset,
            onset_until=onset + HOUR,
            at=at,
            effect=rates("rows_an_hour", due_an_hour, 0.0, 0),
            meter=evidence,
            summary=f"No prediction has come since {to_rfc3339(onset)}; about {due_an_hour:.3g} "
            "an hour are usual.",
            reason="evidence of too few rows at 1",
        )

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "streams": self.streams,
            "rhythm": self.rhythm.save(),
            "fleet": self.fleet.save(),
            "open": [[place, *astuple(stopped)] for place, stopped in self.open.items()],
            "cell_rows": _used(self.cell_rows),
            "since_look": _used(self._since_look),
            "first_hour": self._first_hour.copy(),
            "seen": self._seen.copy(),
            "low": self._low.copy(),
            "well_at": self._well_at.copy(),
            "numbers": [self.lag, self.looked_at],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self.streams = list(state["streams"])
        self.rhythm.restore(state["rhythm"])
        self.fleet.restore(state["fleet"])
        self.open = {place: Stopped(*columns) for place, *columns in state["open"]}
        self.cell_rows = np.array(state["cell_rows"])
        self._since_look = np.array(state["since_look"])
        self._first_hour = np.array(state["first_hour"])
        self._seen, self._low = np.array(state["seen"]), np.array(state["low"])
        self._well_at = np.array(state["well_at"])
        self.lag, self.looked_at = state["numbers"]


def _whom(slice_: str) -> str:
    return "Predictions come" if slice_ == "everyone" else f"{slice_} sends"


def _used(by_cell: Floats) -> Floats:
    """Without the empty cells at the end, which are spare room."""
    used = np.flatnonzero(by_cell)
    return by_cell[: int(used[-1]) + 1].copy() if used.size else np.zeros(0)
