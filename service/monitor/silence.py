"""Silence: who stopped sending. A slice is missed by the stream's clock, everyone by the wall's.

Of a slice as many rows are due as its share beside those of the others, so what moves all (the
night, a quiet week) is missed of no one, and no more than it sent at the same hours of the day and
of the week before. Its counts are held against half of that by the same e-detector that errors are
held by, downwards. Of everyone the usual rows of each hour are due, while no row comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from service.clock import to_rfc3339
from service.ingest.events import Bools, EventBatch, Floats, Ints
from service.monitor.by_cell import grown
from service.monitor.findings import Finding, Kind, Severity, Slice, State, slice_text
from service.monitor.held import Held, Open
from service.monitor.history import HOUR
from service.monitor.observer import Look
from service.monitor.process import (
    HOURS_TO_KNOW,
    Indices,
    a_finding,
    by_slice,
    hazard,
    rates,
    share_inside,
    used,
)
from service.monitor.rhythm import Rhythm
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor
    from service.monitor.slices import Slices

FAR_BELOW: Final = 0.5  # times what is due: a slice that sends more is not silent
LARGEST_SHARE: Final = 0.9  # of all rows; who sends more is missed as everyone is
STEPS_AN_HOUR: Final = 6  # at which everyone's silence is looked at
STEP: Final = HOUR // STEPS_AN_HOUR
LONGEST: Final = 8 * 24  # hours; who is not missed by then never sent enough to be
LIVE: Final = HOUR  # rows older than that when they came are a replay: no wall clock is theirs
# log e of an hour without a row, a row that was due: half of them against a tenth of them
_NATS_A_ROW: Final = FAR_BELOW - 0.1


class Silence:
    """The slices of one dimension, and everyone, by whether they still send."""

    name = "silence"

    def __init__(self) -> None:
        self.streams: list[int] = []  # slices, everyone first
        self.held = Held(FAR_BELOW, downwards=True)
        self.sent = Rhythm()  # what each sent in the last week; `held` has what it owed instead
        self.cell_rows: Floats = np.zeros(0)  # all that came, by cell
        self.is_live = True  # rows that came last came as they were made
        self.looked_at = 0
        self._since_look: Floats = np.zeros(0)  # rows, by cell
        self._first_hour: Ints = np.empty(0, np.int64)  # in which each stream had a row
        self._seen: Floats = np.zeros((0, 2))  # rows of each, and everybody's since its first
        # Rows of looks in which nobody else sent, so nothing was due: they count with the next
        # in which something is. Without them a slice of a sparse model would always owe.
        self._early: Floats = np.zeros(0)

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count predictions."""
        n_cells = int(cells.max(initial=-1)) + 1
        self._since_look = grown(self._since_look, n_cells)
        np.add.at(self._since_look, cells, 1.0)

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """Who was silent since the last look, or is back."""
        findings = self.of_everyone(monitor, look.at)
        if ROOT in self.held.open:
            findings.append(_is_back(monitor, (), self.held.end(ROOT, look.at), look.at))
        elif self.looked_at:  # who is not missed in hours without a row usually sends none then
            self.held.rhythm.note_nothing(self.looked_at // HOUR + 1, (look.at - 1) // HOUR)
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
        names = monitor.slices.names
        for place, stopped in self.held.over(rows, due, look.at, span):
            findings.append(_is_back(monitor, names[self.streams[place]], stopped, look.at))
        spend = hazard(monitor, len(self.streams), look.seconds)
        judged = self._judged(hour)
        sent = rows + self._early
        self._early = np.where(judged & (rows == rows[ROOT]), sent, 0.0)
        for place, meter in self.held.crossed(sent, due, judged, spend, look.at, span):
            told = self._seen[place, 0] >= monitor.config.publish_min_rows
            if told and not self._is_explained(monitor.slices, place):
                findings.append(self._has_gone(monitor, place, meter, look.at))
        self._learn(hour, rows, due, self.held.calm(spend))
        return findings

    def in_use(self) -> list[int]:
        """Slices that are silent."""
        return [self.streams[place] for place in self.held.open]

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: of each stream there nothing is known yet."""
        streams = np.flatnonzero(np.isin(self.streams, places))
        self.held.renew(streams, self.looked_at)
        self.sent.renew(streams)
        self._first_hour[streams], self._seen[streams], self._early[streams] = -1, 0.0, 0.0

    def _grow(self, slices: Slices) -> None:
        new = np.setdiff1d(np.flatnonzero(slices.orders() <= 1), self.streams).tolist()
        self.streams += new
        n = len(new)
        self.held.grow(len(self.streams), self.looked_at)
        self.sent.grow(len(self.streams))
        self._first_hour = np.concatenate([self._first_hour, np.full(n, -1, np.int64)])
        self._seen = np.concatenate([self._seen, np.zeros((n, 2))])
        self._early = np.concatenate([self._early, np.zeros(n)])

    def _due(self, hour: int, rows: Floats, span: float) -> Floats:
        """Rows that each stream owes to a look in which the others sent so many."""
        whole = self._seen[:, 1]
        share = np.divide(self._seen[:, 0], whole, out=np.zeros(whole.size), where=whole > 0)
        for mean in self.held.rhythm.before(hour):
            if mean[ROOT] > 0:
                share = np.minimum(share, mean / mean[ROOT])
        share = np.minimum(share, LARGEST_SHARE)
        due: Floats = (rows[ROOT] - rows) * share / (1.0 - share)
        due[ROOT] = self.held.rhythm.least_before(hour, ROOT) * span
        return due

    def _judged(self, hour: int) -> Bools:
        known: Bools = (self._first_hour >= 0) & (hour - self._first_hour >= HOURS_TO_KNOW)
        known[ROOT] = False  # whose silence is told by the hours in which no row came
        return known

    def _is_explained(self, slices: Slices, place: int) -> bool:
        """Whether it sends what it owes but for rows of a slice that is silent already."""
        rows, due, _ = self.held.off[place]
        return any(
            rows >= FAR_BELOW * due * (1.0 - share_inside(slices, slice_, other, self.cell_rows))
            for slice_ in [self.streams[place]]
            for other in (self.streams[head] for head in self.held.open)
        )

    def _has_gone(self, monitor: Monitor, place: int, meter: float, at: int) -> Finding:
        rows = self.held.off[place, 0]
        stopped = self.held.begin(place)
        name = monitor.slices.names[self.streams[place]]
        told = "stopped sending" if stopped.now < 0.1 * stopped.usual else "sends far less"
        return a_finding(
            monitor,
            Kind.SILENCE,
            name,
            State.FIRING,
            Severity.WARNING,
            onset=stopped.onset,
            onset_until=stopped.onset + HOUR,
            at=at,
            effect=rates("rows_an_hour", stopped.usual, stopped.now, rows),
            meter=meter,
            summary=f"{slice_text(name)} {told}: {stopped.now:.3g} rows an hour since "
            f"{to_rfc3339(stopped.onset)}, {stopped.usual:.3g} are usual.",
            reason="evidence of too few rows at 1",
        )

    def _learn(self, hour: int, rows: Floats, due: Floats, calm: Bools) -> None:
        """Take in streams against which nothing speaks; of the others, what they owe."""
        self.held.rhythm.learn(rows, due, calm & (due > 0))
        known = calm & (self._first_hour >= 0)
        self._seen[known] += np.column_stack([rows, np.full(rows.size, rows[ROOT])])[known]
        self.held.rhythm.note(hour, np.where(calm, rows, np.maximum(rows, due)))
        self.sent.note(hour, rows)

    def of_everyone(self, monitor: Monitor, now: int) -> list[Finding]:
        """That no row comes any more, as of `now`: the wall clock, or that of rows that come again.

        A look falls an hour behind the last one if rows come. From then on each hour owes what is
        usual at that time of day; the instant at which the evidence reaches 1 is the same whoever
        asks, and when.
        """
        start = self.looked_at + HOUR
        if (
            not self.looked_at
            or ROOT in self.held.open
            or now < start + HOUR
            or not self._is_known()
        ):
            return []
        dispersion = float(self.held.rhythm.dispersion()[ROOT])
        spend = float(hazard(monitor, 1, STEP / 1e6)[0]) / 2
        evidence = total = 0.0
        for step in range(min((now - start) // STEP, LONGEST * STEPS_AN_HOUR)):
            at = start + (step + 1) * STEP
            due = self.held.rhythm.least_before((at - 1) // HOUR, ROOT) / STEPS_AN_HOUR
            total += due
            evidence = (evidence + spend) * np.exp(_NATS_A_ROW * due / dispersion)
            if evidence >= 1.0 and at >= start + HOUR:
                return [self._nobody_sends(monitor, start, at, total, float(evidence))]
        return []

    def _is_known(self) -> bool:
        return int((self.held.rhythm.hours >= 0).sum()) >= HOURS_TO_KNOW

    def _nobody_sends(
        self, monitor: Monitor, onset: int, at: int, due: float, evidence: float
    ) -> Finding:
        due_an_hour = due / ((at - onset) / HOUR)
        self.held.open[ROOT] = Open(onset, due_an_hour, 0.0)
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
            "held": self.held.save(),
            "sent": self.sent.save(),
            "cell_rows": used(self.cell_rows),
            "since_look": used(self._since_look),
            "first_hour": self._first_hour.copy(),
            "seen": self._seen.copy(),
            "early": self._early.copy(),
            "numbers": [int(self.is_live), self.looked_at],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self.streams = list(state["streams"])
        self.held.restore(state["held"])
        self.sent.restore(state["sent"])
        self.cell_rows = np.array(state["cell_rows"])
        self._since_look = np.array(state["since_look"])
        self._first_hour = np.array(state["first_hour"])
        self._seen = np.array(state["seen"])
        self._early = np.array(state["early"])
        is_live, self.looked_at = state["numbers"]
        self.is_live = bool(is_live)


def _is_back(monitor: Monitor, name: Slice, stopped: Open, at: int) -> Finding:
    return a_finding(
        monitor,
        Kind.SILENCE,
        name,
        State.RESOLVED,
        Severity.WARNING,
        onset=stopped.onset,
        onset_until=stopped.onset + HOUR,
        at=at,
        effect=rates("rows_an_hour", stopped.usual, stopped.usual, 0),
        meter=0.0,
        summary=f"{_whom(slice_text(name))} again, as before {to_rfc3339(stopped.onset)}.",
        reason="rows come again",
    )


def _whom(slice_: str) -> str:
    return "Predictions come" if slice_ == "everyone" else f"{slice_} sends"
