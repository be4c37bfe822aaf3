"""Incidents: what is open, as it was told, and what labels that come later make of it.

An alarm rests on labels of certain hours. Labels of those same hours go on coming, and each moves
the alarm's own evidence: the e-value of its hours with every label of them that has come, against
the slice's own reference and against the rest, whichever is less. Where that has fallen to
`CHANCE`, or to half of what it was in nats if that is less, the alert is *retracted*. Labels of
later hours don't touch it: they say whether it is over, which is *resolved*.

The inverse of that e-value is, from the alarm on, a likelihood ratio too. So a slice that is in
truth worse by one of the ratios that the detectors ask about is retracted with a chance of at most
`CHANCE` over what had been gathered when it alarmed (Ville's inequality): once in some thousand at
the evidence that an alarm takes. A slice that was only unlucky has its alert taken back as soon as
the labels that were missing say so.

An open alert is *revised* where what was told of it no longer fits what is known: the ratio that
was told has become `REVISED_NATS` less likely than the present one and differs by a quarter, the
two onsets' intervals have parted, or what came since is that much worse than was told. It is looked
at whenever a quarter more labels have come since its onset, so a steady incident is looked at a
dozen times and revised where the first figures flattered or frightened.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import replace

from detectors.summary import LABELS
from service.clock import to_rfc3339
from service.ingest.events import Ints
from service.monitor.attribution import Strength
from service.monitor.findings import TAKEN_BACK, Effect, Finding, Kind, Slice, State
from service.monitor.history import HOUR
from service.monitor.naming import Because, Namer, shown
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor
    from service.monitor.watch import Labelled, Watch

CHANCE: Final = float(np.log(20.0))  # nats: 20 to 1 is no more than chance among a model's slices
REVISED_NATS: Final = 3.0  # what was told is 20 times less likely than what is known
MATERIAL: Final = float(np.log(1.25))  # a change of the ratio that is worth a message
KEPT: Final = 7 * 24 * HOUR  # after its last hour what is over may be taken back
MIN_MORE: Final = 30  # labels, at least
LOOK_AGAIN: Final = 0.25  # as many labels more than since the onset, and it is looked at anew


@dataclass(slots=True)
class Incident:
    """One slice's open alert as it was told, and the sums of the hours that it rests on."""

    since: int  # the event hour that it began with, and the first that had not begun
    until: int  # when it was told: labels of hours from here on say if it is over
    taken_back_at: float  # nats of the alarm's own hours at which it is retracted
    onset: int
    onset_interval: tuple[int, int]
    because: Because
    head: Slice | None  # the slice whose incident it was told to belong to
    own_reference: float  # evidence that it alarmed with
    rest: float | None
    ratio: float  # to what was due, since the onset, as last told
    level: float  # the same since it was told before
    after: float  # the loss as last told
    told_hour: int  # when that was
    look_at: int  # how many labels of the model must have come for it to be looked at anew
    lost: float  # capped loss in the alarm's own hours, and what was due
    due: float
    rest_lost: float  # the same of everyone else
    rest_due: float


class Incidents:
    """The open incidents of one model by slice, in the order that they opened."""

    def __init__(self) -> None:
        self.open: dict[int, Incident] = {}
        self.over: dict[int, Incident] = {}  # what may be taken back yet, for `KEPT` after its end
        self._touched = False  # labels of an alarm's own hours came since the last tick

    def begin(
        self,
        namer: Namer,
        slice_: int,
        strength: Strength,
        effect: Effect,
        evidence: tuple[float, float | None],
        head: Slice | None,
    ) -> None:
        """An alert is told: keep what it says and what it rests on."""
        until = namer.until // HOUR
        sums = namer.replay.between(slice_, strength.onset // HOUR, until)
        because: Because = "left_behind" if effect.because == "left_behind" else "degraded"
        nats = namer.watch.log_evidence(slice_, *sums, because == "left_behind")
        own, rest = evidence
        for known in (self.open, self.over):  # what is told anew is the newest
            known.pop(slice_, None)
        self.open[slice_] = Incident(
            since=strength.onset // HOUR,
            until=until,
            taken_back_at=min(CHANCE, nats / 2) if nats > 0 else -np.inf,
            onset=strength.onset,
            onset_interval=strength.onset_interval,
            because=because,
            head=head,
            own_reference=own,
            rest=rest,
            ratio=strength.ratio,
            level=strength.ratio,
            after=effect.after,
            told_hour=until,
            look_at=_next_look(namer.monitor, strength.onset),
            lost=sums[0],
            due=sums[1],
            rest_lost=sums[2],
            rest_due=sums[3],
        )

    def end(self, slice_: int) -> None:
        """The slice's alert is over; labels may yet say that there was nothing."""
        if slice_ in self.open:
            self.over[slice_] = self.open.pop(slice_)

    def lead(self, namer: Namer, slice_: int) -> Finding:
        """A slice that another explained is told of as what explains that one."""
        incident, names = self.open[slice_], namer.slices.names
        incident.head = None
        for part, head in namer.watch.explained.items():
            if head == slice_ and part in self.open:
                self.open[part].head = names[slice_]
        told = replace(self._told(namer, slice_, incident, State.FIRING, None), leads=True)
        incident.after = told.effect.after
        return told.with_reason("it is worse beyond the part that explained it")

    def resting_on(self, hours: Ints) -> dict[int, list[int]]:
        """Slices whose alarm may rest on some of these hours, by the hour that it rests on none."""
        first = int(hours.min()) if hours.size else 0
        found: dict[int, list[int]] = {}
        for slice_, incident in self.open.items():
            if hours.size and first < incident.until:
                found.setdefault(incident.until, []).append(slice_)
        return found

    def add(self, monitor: Monitor, watch: Watch, rows: Labelled) -> None:
        """Count labels of the hours that an alarm rests on."""
        first = rows.hour.min(initial=np.iinfo(np.int64).max)
        known = (*self.open.items(), *self.over.items())
        own = [(slice_, incident) for slice_, incident in known if first < incident.until]
        if not own:
            return
        lost = watch.scale * rows.evidence_weight * rows.capped
        rates = watch.rates_of(monitor.slices)[rows.cell]
        due = watch.scale * rows.evidence_weight * rows.exposure * rates
        membership = monitor.slices.membership()
        for slice_, incident in own:
            span = slice(*membership.indptr[slice_ : slice_ + 2])
            inside = np.isin(rows.cell, membership.indices[span])
            among = (rows.hour >= incident.since) & (rows.hour < incident.until)
            self._touched |= bool(among.any())
            incident.lost += float(lost[among & inside].sum())
            incident.due += float(due[among & inside].sum())
            incident.rest_lost += float(lost[among & ~inside].sum())
            incident.rest_due += float(due[among & ~inside].sum())

    def reconsider(self, monitor: Monitor, watch: Watch, at: int) -> list[Finding]:
        """What labels since the last tick make of what is open: taken back, or told otherwise."""
        touched, self._touched = self._touched, False
        for old in [s for s, i in self.over.items() if at - i.until * HOUR > KEPT]:
            del self.over[old]
        known = self.open | self.over if touched else {}
        gone = [s for s, incident in known.items() if _is_taken_back(watch, s, incident)]
        due = [
            slice_
            for slice_, incident in self.open.items()
            if monitor.n_labels >= incident.look_at and slice_ not in gone
        ]
        if not (gone or due):
            return []
        namer = Namer(monitor, watch, at)
        # parts before what explains them: whoever is left is told of once its head is gone
        gone.sort(key=lambda slice_: -len(monitor.slices.names[slice_]))
        findings = [self._taken_back(namer, slice_) for slice_ in gone]
        for slice_ in due:
            incident = self.open[slice_]
            finding = namer.leads(slice_) or self._looked_at_anew(namer, slice_, incident)
            findings += [] if finding is None else [finding]
        return findings

    def _taken_back(self, namer: Namer, slice_: int) -> Finding:
        incident = self.open.get(slice_) or self.over[slice_]
        if slice_ in self.open:
            namer.release(slice_)
        self.over.pop(slice_, None)
        finding = self._told(namer, slice_, incident, State.RETRACTED, incident.until * HOUR)
        effect, metric = finding.effect, finding.effect.metric
        rest = "" if effect.rest_after is None else f" beside {shown(effect.rest_after, metric)}"
        return finding.with_reason(
            f"{TAKEN_BACK}: with them it is {shown(effect.after, metric)}{rest} "
            f"in the hours that were told as {shown(incident.after, metric)}"
        )

    def _looked_at_anew(self, namer: Namer, slice_: int, incident: Incident) -> Finding | None:
        """The alert as it is to be told now; None where what was told still fits."""
        incident.look_at = _next_look(namer.monitor, incident.onset)
        strength = namer.strength(slice_)
        dispersion = namer.watch.divisors(len(namer.slices))[slice_]
        late, late_nats = _against(namer, slice_, incident.told_hour, incident.level, dispersion)
        ratio, nats = _against(namer, slice_, incident.since, incident.ratio, dispersion)
        if late < np.sqrt(incident.ratio) and not _have_parted(incident, strength):
            return None  # it may be over: for `Recovery` to say
        metric = namer.monitor.schema.loss
        if late_nats >= 2 * REVISED_NATS and np.log(late / incident.level) >= MATERIAL:
            rate = shown(namer.effect(slice_, incident.told_hour * HOUR).after, metric)
            reason = f"it got worse: {rate} since {to_rfc3339(incident.told_hour * HOUR)}"
        elif _have_parted(incident, strength) and strength.nats >= namer.enough:
            incident.onset, incident.onset_interval = strength.onset, strength.onset_interval
            incident.since = incident.onset // HOUR
            ratio, _ = _against(namer, slice_, incident.since, incident.ratio, dispersion)
            reason = f"later labels move its beginning to {to_rfc3339(strength.onset)}"
        elif nats >= REVISED_NATS and abs(np.log(ratio / incident.ratio)) >= MATERIAL:
            rate = shown(namer.effect(slice_, incident.onset).after, metric)
            reason = f"with later labels it is {rate}, told as {shown(incident.after, metric)}"
        else:
            return None
        incident.ratio, incident.level, incident.told_hour = ratio, late, namer.until // HOUR
        finding = self._told(namer, slice_, incident, State.FIRING, None)
        incident.after = finding.effect.after
        return finding.with_reason(reason)

    def _told(
        self, namer: Namer, slice_: int, incident: Incident, state: State, until: int | None
    ) -> Finding:
        ratio = incident.ratio
        told = Strength(0.0, incident.onset, incident.onset_interval, ratio, ratio)
        return namer.finding(
            slice_,
            Kind.ERROR_RATE if slice_ == ROOT else Kind.DISPARITY,
            state,
            told,
            namer.effect(slice_, incident.onset, incident.because, until),
            (incident.own_reference, incident.rest),
            incident.head,
        )

    def save(self) -> list[Any]:
        """The state."""
        return [
            self._touched,
            *(
                [[slice_, *astuple(incident)] for slice_, incident in known.items()]
                for known in (self.open, self.over)
            ),
        ]

    def restore(self, state: list[Any]) -> None:
        """Take up the state that `save` gave."""
        self._touched, *rows = state
        self.open, self.over = (
            {slice_: _restored(columns) for slice_, *columns in known} for known in rows
        )


def _is_taken_back(watch: Watch, slice_: int, incident: Incident) -> bool:
    sums = (incident.lost, incident.due, incident.rest_lost, incident.rest_due)
    nats = watch.log_evidence(slice_, *sums, incident.because == "left_behind")
    return nats <= incident.taken_back_at


def _against(
    namer: Namer, slice_: int, since: int, told: float, dispersion: float
) -> tuple[float, float]:
    """The ratio to what was due from hour `since` on, and by how many nats it fits better."""
    lost, due, rest_lost, rest_due = namer.replay.between(slice_, since, None)
    if slice_ != ROOT and rest_due > 0:
        due *= rest_lost / rest_due
    if not (lost > 0 and due > 0):
        return told, 0.0
    ratio = lost / due
    nats = (lost * np.log(ratio / told) - (lost - told * due)) / dispersion
    return float(ratio), float(nats)


def _next_look(monitor: Monitor, onset: int) -> int:
    n_since = monitor.history.totals(onset)[1][:, LABELS].sum()
    return monitor.n_labels + max(int(LOOK_AGAIN * n_since), MIN_MORE)


def _have_parted(incident: Incident, strength: Strength) -> bool:
    """Whether the onset that was told and the present one exclude each other.

    What was told of had begun by then: a later window that speaks louder is not its beginning.
    """
    (low, high), (now_low, now_high) = incident.onset_interval, strength.onset_interval
    return strength.onset < incident.until * HOUR and (now_low >= high or low >= now_high)


def _restored(columns: list[Any]) -> Incident:
    incident = Incident(*columns)
    low, high = incident.onset_interval
    incident.onset_interval = (low, high)
    if incident.head is not None:
        incident.head = tuple((dimension, value) for dimension, value in incident.head)
    return incident
