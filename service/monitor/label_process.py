"""Label process: how labels come, as signals of their own. None of it is degradation.

| what | is held against | told as |
|---|---|---|
| labels that came | the predictions of each age, by its share of labels | labels stopped |
| labels of old predictions | those ages' part of what came | labels come later |
| a slice's labels | its part of the predictions that they are of | it gets fewer, or more |
| an annotator's labels | its part of the labels so far | others label now |

Each given what came at all, so that one change is told once. Ages are by the predictions' clock, so
labels that stop altogether are missed too. Labels count as many rows as they stand for: a design
that gives its inclusion probabilities changes nothing here.

Labels by annotators whom the reference did not know are published and are no evidence for or
against anyone, unless they become a small part of the whole without being told of: what another
hand judges may be the hand, and no statistic can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from service.clock import to_rfc3339
from service.ingest.events import Bools, Categories, EventBatch, Floats, Ints
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
    used,
)
from service.monitor.rhythm import HOURS_A_WEEK
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor
    from service.monitor.silence import Silence

MAX_ANNOTATORS: Final = 200  # of a model; more are one
RETAINED_HOURS: Final = 35 * 24
# Hours, bounds. While predictions come to an age for the first time, what is learnt of its younger
# part stands for all of it: of wide ages that would be more labels than ever come.
_TO_4_DAYS: Final = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 36, 42, 48, 60, 72, 84, 96)
AGES: Final = np.array([*_TO_4_DAYS, 120, 144, 168, 216, 264, 336, 504, 672, RETAINED_HOURS])
OLD: Final = 0.75  # of labels come sooner than those that are old
FEWER: Final = 0.5  # times what is due
MORE: Final = 1.5
MIN_KNOWN: Final = 50.0  # labels of a new annotator from which it is known, if nothing was told
HOURS_TO_BE_KNOWN: Final = 7 * 24  # and so long after its first
A_DAY: Final = 24.0  # hours: what is different by night is not over by morning
NEW_SHARE: Final = 0.05  # of labels that a new annotator may give

_EVERYONES: Final = ("arrivals", "delay", "annotators")


class LabelProcess:
    """One model's labels by when they come, of whom, and by whom."""

    name = "labels"

    def __init__(self, silence: Silence) -> None:
        self.silence = silence  # which slices are watched, and what each sent
        self.held = {
            "arrivals": Held(FEWER, downwards=True),
            "delay": Held(MORE, downwards=False, patience_hours=A_DAY),
            "fewer": Held(FEWER, downwards=True, patience_hours=A_DAY),
            "more": Held(MORE, downwards=False, patience_hours=A_DAY),
            # a new hand's labels are not to teach that so many are usual
            "annotators": Held(MORE, downwards=False, patience_hours=A_DAY, prior=1_000.0),
        }
        self.annotators: dict[str, int] = {}  # by name, in order of appearance
        self.n_given: Floats = np.zeros(0)  # labels of each
        self.known: Bools = np.zeros(0, np.bool_)  # whose labels are evidence
        self.first_hour: Ints = np.empty(0, np.int64)  # of each, by looks; 0 before the next one
        self.rows: Floats = np.zeros(RETAINED_HOURS)  # predictions by hour
        self.hours: Ints = np.full(RETAINED_HOURS, -1, np.int64)
        self.labels: Floats = np.zeros(len(AGES))  # by age, while all was well
        self.at_risk: Floats = np.zeros(len(AGES))  # predictions of that age times hours
        self.looked_at = 0
        self.first_at = 0  # look behind the first label
        self.quiet_until = 0  # what waited for labels comes late, and says nothing of delays
        self._n_rows = 0.0  # since the last look, as are the next three
        self._came: Floats = np.zeros(RETAINED_HOURS)  # labels by hour of the prediction
        self._cells: Floats = np.zeros(0)
        self._by: Floats = np.zeros(0)  # annotators

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count predictions."""
        self._n_rows += rows.size

    def annotators_of(self, column: Categories, is_learning: bool) -> Ints:
        """Who gave each label, by number; -1 where it does not say."""
        codes = np.full(len(column.values) + 1, -1, np.int64)
        used_codes, first = np.unique(column.codes, return_index=True)
        for code in used_codes[np.argsort(first)].tolist():  # in order of appearance
            if code >= 0:
                codes[code] = self._code(column.values[code], is_learning)
        return codes[column.codes]

    def _code(self, value: str, is_learning: bool) -> int:
        code = self.annotators.get(value)
        if code is None:
            if len(self.annotators) >= MAX_ANNOTATORS:
                return MAX_ANNOTATORS - 1
            code = self.annotators[value] = len(self.annotators)
            self.n_given = np.append(self.n_given, 0.0)
            self.known = np.append(self.known, is_learning)
            self.first_hour = np.append(self.first_hour, 0)
            self._by = np.append(self._by, 0.0)
        return code

    def are_evidence(self, annotators: Ints) -> Bools:
        """Which labels may be held against or for someone: all but those by unknown hands."""
        evidence: Bools = np.append(self.known, True)[annotators]
        return evidence

    def begin(self) -> None:
        """A reference is complete: whoever labelled until now is known."""
        self.known[:] = True

    def count(self, hours: Ints, cells: Indices, weight: Floats, annotators: Ints) -> None:
        """Count labels that met their prediction."""
        fresh = hours > self.looked_at // HOUR - RETAINED_HOURS
        np.add.at(self._came, hours[fresh] % RETAINED_HOURS, weight[fresh])
        week = hours > self.looked_at // HOUR - HOURS_A_WEEK
        self._cells = grown(self._cells, int(cells.max(initial=-1)) + 1)
        np.add.at(self._cells, cells[week], weight[week])
        given = annotators >= 0
        np.add.at(self._by, annotators[given], 1.0)

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """What changed in how labels come."""
        hour = (look.at - 1) // HOUR
        before, self.looked_at = self.looked_at or look.at - HOUR, look.at
        span = min((look.at - before) / HOUR, 1.0)
        self._note_rows(hour)
        came, at_risk = self._by_age(hour, span)
        by_age = np.divide(
            self.labels, self.at_risk, out=np.zeros(came.size), where=self.at_risk > 0
        )
        due = by_age * at_risk
        if came.sum() > 0:
            self.first_at = self.first_at or look.at
        is_known = bool(self.first_at) and look.at - self.first_at >= HOURS_TO_KNOW * HOUR
        findings = self._everyones(monitor, look, span, came, due, is_known)
        findings += self._slices(monitor, look, span, hour, is_known)
        findings += self._givers(monitor, look, span, is_known)
        if not any(self.held[name].open for name in _EVERYONES) and look.at >= self.quiet_until:
            spend = hazard(monitor, 1, look.seconds)
            if not is_known or self.held["arrivals"].calm(spend).all():
                self.labels += came
                self.at_risk += at_risk
        self._came[:] = 0.0
        self._cells[:] = 0.0
        self._by[:] = 0.0
        return findings

    def in_use(self) -> list[int]:
        """Slices whose labelling is told as changed."""
        open_ = {place for name in ("fewer", "more") for place in self.held[name].open}
        return [self.silence.streams[place] for place in sorted(open_)]

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: of their labels there nothing is known yet."""
        streams = np.flatnonzero(np.isin(self.silence.streams, places))
        for name in ("fewer", "more"):
            held = self.held[name]
            held.renew(streams[streams < len(held)], self.looked_at)

    def _note_rows(self, hour: int) -> None:
        slot = hour % RETAINED_HOURS
        if self.hours[slot] != hour:
            self.hours[slot], self.rows[slot] = hour, 0.0
        self.rows[slot] += self._n_rows
        self._n_rows = 0.0

    def _by_age(self, hour: int, span: float) -> tuple[Floats, Floats]:
        """Labels that came, and predictions times hours that they could come of, by age."""
        alive = (self.hours >= 0) & (hour - self.hours < RETAINED_HOURS)
        age = np.clip(hour - self.hours, 0, RETAINED_HOURS - 1)
        bucket = np.searchsorted(AGES, age, side="right")
        came = np.bincount(bucket[alive], self._came[alive], minlength=len(AGES))
        rows = np.bincount(bucket[alive], self.rows[alive], minlength=len(AGES))
        return came.astype(np.float64), (rows * span).astype(np.float64)

    def _everyones(
        self,
        monitor: Monitor,
        look: Look,
        span: float,
        came: Floats,
        due: Floats,
        is_known: bool,
    ) -> list[Finding]:
        """Whether labels come at all, and as soon as they did."""
        arrivals = self.held["arrivals"]
        hour, n_came = (look.at - 1) // HOUR, np.array([came.sum()])
        usual = [mean for mean in arrivals.rhythm.before(hour) if len(arrivals)]
        n_due = np.minimum.reduce([np.array([due.sum()]), *(mean * span for mean in usual)])
        findings = self._judge(monitor, "arrivals", look, span, n_came, n_due, is_known)
        spend = hazard(monitor, 1, look.seconds)
        well = arrivals.calm(spend)
        arrivals.rhythm.note(hour, np.where(well, n_came, np.maximum(n_came, n_due)))
        young = np.cumsum(self.labels) < OLD * self.labels.sum()
        old_due = float(due[~young].sum() / due.sum()) if due.sum() > 0 else 0.0
        old = np.array([came[~young].sum()])
        fair = is_known and not arrivals.open and look.at >= self.quiet_until
        return findings + self._judge(
            monitor, "delay", look, span, old, n_came * old_due, fair and 0 < old_due < 0.6
        )

    def _slices(
        self, monitor: Monitor, look: Look, span: float, hour: int, is_known: bool
    ) -> list[Finding]:
        """Whether each slice has its part of the labels that came of its hours' predictions."""
        silence = self.silence
        labels = by_slice(monitor.slices, silence.streams, self._cells)
        rhythm = silence.sent
        hours = hour - np.arange(HOURS_A_WEEK)
        rows = np.where(rhythm.hours[hours % HOURS_A_WEEK] == hours, 1.0, 0.0)
        rows = rows * rhythm.counts[:, hours % HOURS_A_WEEK]
        part = np.divide(rows, rows[ROOT], out=np.zeros_like(rows), where=rows[ROOT] > 0)
        due = part @ self._came[hours % RETAINED_HOURS]
        due[[ROOT, *silence.held.open]] = 0.0  # who sends nothing has nothing to be labelled
        findings: list[Finding] = []
        for name in ("fewer", "more"):
            fair = is_known and not any(self.held[o].open for o in ("fewer", "more") if o != name)
            findings += self._judge(monitor, name, look, span, labels, due, fair)
        return findings

    def _givers(self, monitor: Monitor, look: Look, span: float, is_known: bool) -> list[Finding]:
        """Whether each annotator gives the part of the labels that it gave."""
        total = max(float(self.n_given.sum()), 1.0)
        due = np.maximum(self.n_given / total, NEW_SHARE) * self._by.sum()
        due[(self.n_given == 0) & (self._by == 0)] = 0.0
        findings = self._judge(monitor, "annotators", look, span, self._by.copy(), due, is_known)
        held = self.held["annotators"]
        hour = look.at // HOUR
        self.first_hour[self.first_hour == 0] = hour
        calm = held.calm(hazard(monitor, len(held), look.seconds))
        if not held.open:
            self.n_given[calm] += self._by[calm]
            settled = hour - self.first_hour >= HOURS_TO_BE_KNOWN
            self.known |= calm & settled & (self.n_given >= MIN_KNOWN)
        return findings

    def _judge(
        self,
        monitor: Monitor,
        name: str,
        look: Look,
        span: float,
        counts: Floats,
        due: Floats,
        is_fair: bool,
    ) -> list[Finding]:
        """Hold counts against what is due; the first to cross is told, and what is over."""
        held = self.held[name]
        if len(held) < counts.size:
            held.grow(counts.size, look.at)
        findings = []
        for place, known in held.over(counts, due, look.at, span):
            if name == "arrivals":
                self.quiet_until = 2 * look.at - known.onset
            findings.append(self._over(monitor, name, place, known, look.at))
        spend = hazard(monitor, counts.size, look.seconds) / len(self.held)
        judged = np.full(counts.size, is_fair)
        for place, meter in held.crossed(counts, due, judged, spend, look.at, span):
            if not held.open:  # what the others lost or won is what this one won or lost
                findings.append(self._changed(monitor, name, place, meter, look.at))
        learns = is_fair or look.at - self.first_at < HOURS_TO_KNOW * HOUR
        held.rhythm.learn(counts, due, held.calm(spend) & (due > 0) & learns)
        return findings

    def _changed(self, monitor: Monitor, name: str, place: int, meter: float, at: int) -> Finding:
        held = self.held[name]
        counts, due, _ = held.off[place].tolist()
        known = held.begin(place)
        whom = self._slice(monitor, name, place)
        metric, before, after, said = self._in_words(monitor, name, place, known, counts, due)
        since = to_rfc3339(known.onset)
        effect = rates(metric, before, after, 0, int(self._by.sum()))
        return a_finding(
            monitor,
            Kind.LABELS,
            whom,
            State.FIRING,
            Severity.WARNING,
            onset=known.onset,
            onset_until=known.onset + HOUR,
            at=at,
            effect=effect,
            meter=meter,
            summary=f"{said} since {since}; nobody is said to be served worse for it.",
            reason=_REASONS[name],
        )

    def _in_words(
        self, monitor: Monitor, name: str, place: int, known: Open, counts: float, due: float
    ) -> tuple[str, float, float, str]:
        """Metric, its usual value and the present one, and a sentence about them."""
        whom = slice_text(self._slice(monitor, name, place))
        if name == "arrivals":
            told = "Labels stopped" if known.now < 0.1 * known.usual else "Fewer labels come"
            said = f"{told}: {known.now:.3g} an hour, where {known.usual:.3g} are usual,"
            return "labels_an_hour", known.usual, known.now, said
        ratio = counts / max(due, 1e-9)
        if name == "delay":
            said = f"Labels come later: {ratio:.2g} times as many as usual are of old predictions"
            return "late_labels_an_hour", known.usual, known.now, said
        if name == "annotators":
            who = list(self.annotators)[place]
            before = float(self.n_given[place] / max(self.n_given.sum(), 1.0))
            after = min(ratio * max(before, NEW_SHARE), 1.0)
            said = f"Others label now: annotator={who} gives {after:.0%} of labels ({before:.0%})"
            return "share_of_labels", before, after, said.replace("%", " %")
        said = f"{whom} gets {ratio:.2g} times its part of the labels"
        return "labels_an_hour", known.usual, known.now, said

    def _slice(self, monitor: Monitor, name: str, place: int) -> Slice:
        if name in _EVERYONES:
            return ()
        return monitor.slices.names[self.silence.streams[place]]

    def _over(self, monitor: Monitor, name: str, place: int, known: Open, at: int) -> Finding:
        return a_finding(
            monitor,
            Kind.LABELS,
            self._slice(monitor, name, place),
            State.RESOLVED,
            Severity.WARNING,
            onset=known.onset,
            onset_until=known.onset + HOUR,
            at=at,
            effect=rates("labels_an_hour", known.usual, known.usual, 0),
            meter=0.0,
            summary=f"Labels come as before {to_rfc3339(known.onset)} again.",
            reason="labels come as they did",
        )

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "held": {name: held.save() for name, held in self.held.items()},
            "annotators": self.annotators,
            "given": self.n_given.copy(),
            "known": self.known.copy(),
            "first_hour": self.first_hour.copy(),
            "rows": self.rows.copy(),
            "hours": self.hours.copy(),
            "labels": self.labels.copy(),
            "at_risk": self.at_risk.copy(),
            "numbers": [self.looked_at, self.first_at, self.quiet_until, self._n_rows],
            "came": self._came.copy(),
            "cells": used(self._cells),
            "by": self._by.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        for name, held in self.held.items():
            held.restore(state["held"][name])
        self.annotators = dict(state["annotators"])
        self.n_given, self.known = np.array(state["given"]), np.array(state["known"])
        self.first_hour = np.array(state["first_hour"])
        self.rows, self.hours = np.array(state["rows"]), np.array(state["hours"])
        self.labels, self.at_risk = np.array(state["labels"]), np.array(state["at_risk"])
        self.looked_at, self.first_at, self.quiet_until, self._n_rows = state["numbers"]
        self._came, self._cells = np.array(state["came"]), np.array(state["cells"])
        self._by = np.array(state["by"])


_REASONS: Final = {
    "arrivals": "evidence of too few labels at 1",
    "delay": "evidence of later labels at 1",
    "fewer": "evidence of fewer labels than its part at 1",
    "more": "evidence of more labels than its part at 1",
    "annotators": "evidence of other annotators at 1",
}
