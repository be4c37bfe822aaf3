"""InputNamer: what moved, named: which share, from what to what, since when, and whose story it is.

A detector says *that* a slice's input moved. The stretches behind it say since when (the window
whose likelihood ratio is greatest) and whether another slice explains it: leave out the culprit's
cells, and see if anything of the movement is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import xlogy

from detectors import Detections, Shares
from detectors.confidence import combined_interval, rate_interval
from detectors.input_shift import TOLERANCE
from detectors.shares import PRIOR, Due, moved
from service.clock import to_rfc3339
from service.ingest.events import Bools, Floats
from service.monitor.attribution import ONSET_NATS
from service.monitor.findings import (
    Effect,
    Evidence,
    Finding,
    Kind,
    Severity,
    Slice,
    State,
    slice_text,
)
from service.monitor.history import HOUR
from service.monitor.indicators import cuts_outside, shares_of
from service.monitor.input_watch import Incident, InputWatch
from service.monitor.naming import EVIDENCE_SHOWN, SUSPICIOUS
from service.monitor.signature import is_acoustic, signature
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.inputs import Inputs
    from service.monitor.monitor import Monitor

METRIC: Final = "share_of_rows"
STRIKING: Final = 0.1  # a share that moved by as much is worth a warning
SAME_CAUSE: Final = 48 * HOUR  # after everyone's onset: what moves until then is its part
NAMED: Final = 6  # features that a summary names beside the foremost


@dataclass(frozen=True, slots=True)
class Move:
    """The foremost movement of one signal in one slice."""

    signal: int
    indicator: int  # of the signal's
    nats: float  # log likelihood ratio over the dispersion; 0 where nothing moved
    rises: bool
    onset: int  # microseconds, the start of the stretch with which the window begins
    onset_interval: tuple[int, int]
    hits: Floats  # of the slice in the reference and since, of the rest likewise; shape (4,)
    rows: Floats
    n_rows: int  # of the slice since the onset, those without a value included
    dispersion: float = 1.0  # of its counts, against its own past

    @property
    def shares(self) -> Floats:
        """Of the slice in the reference and since, of the rest likewise; NaN without rows."""
        with np.errstate(invalid="ignore", divide="ignore"):
            shares: Floats = self.hits / self.rows
        return shares

    @property
    def size(self) -> float:
        """By how much the slice's share moved."""
        return float(abs(self.shares[1] - self.shares[0]))

    @property
    def rest_size(self) -> float:
        """By how much everyone else's did; 0 where there is no one."""
        return float(np.nan_to_num(abs(self.shares[3] - self.shares[2])))


class InputNamer:
    """Names the detections of one stretch, which is the last of `inputs.stretches`."""

    def __init__(self, monitor: Monitor, inputs: Inputs, watch: InputWatch, at: int) -> None:
        self.monitor, self.inputs, self.watch, self.at = monitor, inputs, watch, at
        self.slices, self.indicators = monitor.slices, inputs.indicators
        self.membership = monitor.slices.membership()
        self.n_cells = self.slices.n_cells
        n_streams = len(watch) * len(inputs.signals)
        self.enough = float(np.log(20 * max(n_streams, 1)))  # nats that are more than chance
        self._counts: dict[int, tuple[Shares, Shares]] = {}

    def name(
        self, uneven: Detections, everywhere: Detections, recovered: list[int], shares: Shares
    ) -> list[Finding]:
        """The findings in the order to be told: what is over, everyone, then the strongest."""
        findings = [self._recovered(s, shares) for s in recovered]
        found: dict[int, list[tuple[int, float, float | None]]] = {}
        if everywhere.streams is not None and len(everywhere):
            of_all = zip(
                everywhere.streams.tolist(), everywhere.own_reference.tolist(), strict=True
            )
            found[ROOT] = [(s, own, None) for s, own in of_all]
        findings += [f for f in (self._told(ROOT, found.pop(ROOT, [])),) if f is not None]
        if uneven.streams is not None and uneven.rest is not None:
            columns = (uneven.slices, uneven.streams, uneven.own_reference, uneven.rest)
            for slice_, s, own, rest in zip(*(c.tolist() for c in columns), strict=True):
                found.setdefault(slice_, []).append((s, own, rest))
        for slice_ in self._strongest_first(found):
            finding = self._told(slice_, found[slice_])
            if finding is not None:
                findings.append(finding)
        return findings

    def _strongest_first(
        self, found: dict[int, list[tuple[int, float, float | None]]]
    ) -> list[int]:
        """By strength; of those that tie, the more specific first."""
        nats = {
            slice_: max(self.move(slice_, s).nats for s, _, _ in crossed)
            for slice_, crossed in found.items()
        }
        return sorted(nats, key=lambda s: (-round(nats[s]), -len(self.slices.names[s]), s))

    def _told(self, slice_: int, crossed: list[tuple[int, float, float | None]]) -> Finding | None:
        """The finding for a slice of which signals crossed; None where it is another's story."""
        damaged = self._damaged(slice_)
        moves = [self.move(slice_, s) for s, _, _ in crossed if s not in damaged]
        if slice_ != ROOT:
            moves = [move for move in moves if self._is_its_own(slice_, move)]
        if not moves:
            return None
        known = self.watch.incidents.get(slice_)
        if known is None and max(m.n_rows for m in moves) < self.monitor.config.publish_min_rows:
            return None
        if known is None:
            moves += self._suspicious(slice_, damaged | {m.signal for m in moves})
        own = max(own for _, own, _ in crossed)
        rests = [rest for _, _, rest in crossed if rest is not None]
        return self._open(slice_, moves, known, own, max(rests) if rests else None)

    def _damaged(self, slice_: int) -> set[int]:
        """Signals of features that are told of as damaged: there is nothing to add to that."""
        damaged = self.monitor.quality.damaged(ROOT)
        for pair in self.slices.names[slice_]:
            around = self.slices.find((pair,))
            damaged |= set() if around is None else self.monitor.quality.damaged(around)
        signals = self.inputs.signals
        return {s for s, signal in enumerate(signals) if signal.feature in damaged}

    def _is_its_own(self, slice_: int, move: Move) -> bool:
        """Whether no open incident explains the movement.

        While everyone's inputs are not what they were, a slice whose share was another to begin
        with goes another way for the same cause, so it must go further than everyone does.
        """
        everyone = self.watch.incidents.get(ROOT)
        if everyone is not None and move.size - move.rest_size < everyone.size:
            return False
        others = [s for s in self.watch.incidents if s not in (slice_, ROOT)]
        if not others:
            return True
        return self.move(slice_, move.signal, tuple(others)).nats >= self.enough

    def _suspicious(self, slice_: int, without: set[int]) -> list[Move]:
        """Other signals that the detectors hold something against, and that clearly moved."""
        if slice_ == ROOT:
            held = self.watch.everywhere.meter >= SUSPICIOUS
        else:
            own, rest = self.watch.shift.own.meter[slice_], self.watch.shift.meter[slice_]
            held = (own >= SUSPICIOUS) & (rest >= SUSPICIOUS)
        moves = [self.move(slice_, s) for s in np.flatnonzero(held).tolist() if s not in without]
        return [move for move in moves if move.nats >= self.enough]

    def _open(
        self, slice_: int, moves: list[Move], known: Incident | None, own: float, rest: float | None
    ) -> Finding | None:
        """Hold what moved; tell of it if that is new, or twice as much as was told."""
        if known is None:
            foremost = max(moves, key=lambda m: m.nats)
            signals = tuple(m.signal for m in moves)
            sound = self._signature(slice_, signals, foremost.onset)
            starts = self.indicators.starts
            known = Incident(
                onset=foremost.onset,
                onset_interval=foremost.onset_interval,
                indicator=int(starts[foremost.signal]) + foremost.indicator,
                rises=foremost.rises,
                before=float(foremost.shares[0]),
                size=foremost.size,
                signals=signals,
                n_told=0,
                signature=sound,
            )
        else:
            s = int(self.indicators.signals[known.indicator])
            foremost = self.move(slice_, s, from_=known.onset)
            signals = (*known.signals, *(m.signal for m in moves if m.signal not in known.signals))
            sound = self._signature(slice_, signals, known.onset)
        is_news = len(signals) >= 2 * known.n_told or bool(sound and not known.signature)
        n_told = len(signals) if is_news else known.n_told
        incident = replace(
            known, signals=signals, n_told=n_told, signature=sound or known.signature
        )
        self.watch.open(slice_, incident, float(foremost.shares[1]))
        if not is_news:
            return None
        told = replace(foremost, onset=known.onset, onset_interval=known.onset_interval)
        return self._finding(
            slice_,
            State.FIRING,
            told,
            self._words(slice_, told, signals, incident.signature),
            own,
            rest,
        )

    def _signature(self, slice_: int, signals: tuple[int, ...], onset: int) -> str:
        """One sound that explains them, where features of sound moved."""
        if not any(is_acoustic(self.inputs.signals[s].feature) for s in signals):
            return ""
        inside = self._cells(slice_)
        now, before = self.inputs.sounds.latest, self.inputs.sounds.reference
        return signature(
            now.take(inside[now.cell] & (now.at >= onset)), before.take(inside[before.cell])
        )

    def _words(self, slice_: int, move: Move, signals: tuple[int, ...], sound: str) -> str:
        """One sentence for a person."""
        name = self.slices.names[slice_]
        whom = f"for {slice_text(name)}" if name else "everywhere"
        since = to_rfc3339(move.onset)[:16].replace("T", " ")
        signal = self.inputs.signals[move.signal]
        was, now, rest_was, rest_now = move.shares
        told = f"Of {signal.feature} the {self.indicators.words(move.signal, move.indicator)} "
        told += f"{'rose' if move.rises else 'fell'} from {percent(was)} to {percent(now)}"
        if name and np.isfinite(rest_now):
            told += f" while the rest {_course(rest_was, rest_now)}"
        also = list(dict.fromkeys(self.inputs.signals[s].feature for s in signals))
        also = [feature for feature in also if feature != signal.feature]
        if also:
            more = f" and {len(also) - NAMED} more" if len(also) > NAMED else ""
            told += f"; also {', '.join(also[:NAMED])}{more}"
        named = f": {sound}" if sound else ""
        return f"Inputs changed {whom} since {since} UTC{named}. {told}."

    def _recovered(self, slice_: int, shares: Shares) -> Finding:
        incident = self.watch.incidents.pop(slice_)
        s = int(self.indicators.signals[incident.indicator])
        indicator = incident.indicator - int(self.indicators.starts[s])
        hits, rows = (of[:, incident.indicator] for of in (shares.hits, shares.rows))
        nothing, some = (
            np.zeros(2),
            np.array([incident.before, hits[slice_] / max(rows[slice_], 1.0)]),
        )
        move = Move(
            s,
            indicator,
            0.0,
            incident.rises,
            incident.onset,
            (incident.onset, incident.onset),
            np.concatenate([some, nothing]),
            np.concatenate([np.ones(2), nothing]),
            int(rows[slice_]),
        )
        name, signal = self.slices.names[slice_], self.inputs.signals[s]
        told = f"{signal.feature} for {slice_text(name)} is back: "
        told += f"{self.indicators.words(s, indicator)} is {percent(float(some[1]))}."
        return self._finding(slice_, State.RESOLVED, move, told, 0.0, None if not name else 0.0)

    def _finding(
        self,
        slice_: int,
        state: State,
        move: Move,
        summary: str,
        own: float,
        rest: float | None,
    ) -> Finding:
        striking = move.size >= STRIKING
        return Finding(
            model="",  # the model's own name is put on by whoever knows it
            kind=Kind.INPUT_SHIFT,
            slice=self.slices.names[slice_],
            state=state,
            severity=Severity.WARNING if striking else Severity.INFO,
            onset=move.onset,
            onset_interval=move.onset_interval,
            detected_at=self.at,
            effect=self._effect(slice_, move),
            explained_by=self._head(slice_, move),
            evidence=Evidence(
                own_reference=float(min(own, EVIDENCE_SHOWN)),
                rest=None if rest is None else float(min(rest, EVIDENCE_SHOWN)),
                alarm_at=1.0,
                mode="proven",
                false_alerts=self.monitor.config.budget_text,
            ),
            summary=summary,
        )

    def _head(self, slice_: int, move: Move) -> Slice | None:
        """Everyone's incident, for a slice that went further when it began, or soon after."""
        everyone = self.watch.incidents.get(ROOT)
        if slice_ == ROOT or everyone is None or move.onset > everyone.onset + SAME_CAUSE:
            return None
        return self.slices.names[ROOT]

    def _effect(self, slice_: int, move: Move) -> Effect:
        was, now, rest_was, rest_now = (float(s) if np.isfinite(s) else None for s in move.shares)
        was, now = was or 0.0, now or 0.0
        widened = (
            None if rest_was is None or rest_now is None else now - was - (rest_now - rest_was)
        )
        signal = self.inputs.signals[move.signal]
        words = self.indicators.words(move.signal, move.indicator)
        return Effect(
            metric=METRIC,
            because=None,
            before=was,
            after=now,
            rest_before=rest_was,
            rest_after=rest_now,
            gap_widened_by=widened,
            interval=self._interval(slice_, move),
            rows=move.n_rows,
            labels=0,
            feature=signal.feature,
            moved=f"{words}: {percent(was)} → {percent(now)}",
        )

    def _interval(self, slice_: int, move: Move) -> tuple[float, float] | None:
        """Of how far the gap widened, or the share moved where there is no rest."""
        n_parts = 4 if (move.rows > 0).all() else 2
        hits, rows = move.hits[:n_parts], move.rows[:n_parts]
        if not (rows > 0).all() or move.nats == 0:
            return None
        scatter = np.full(n_parts, move.dispersion)
        limits = rate_interval(hits, rows, scatter)
        signs = np.array([-1.0, 1.0, 1.0, -1.0])[:n_parts]
        low, high = combined_interval(signs, hits / rows, *limits)
        return max(float(low), -2.0), min(float(high), 2.0)

    def move(
        self, slice_: int, s: int, culprits: tuple[int, ...] = (), from_: int | None = None
    ) -> Move:
        """The window up to now in which one signal of a slice moved most, culprits left out."""
        outside = np.ones(self.n_cells, np.bool_)
        for culprit in culprits:
            outside &= ~self._cells(culprit)
        inside = self._cells(slice_) & outside
        others = outside & ~inside
        reference, since = self._of_signal(s)
        x0, n0, y0, r0 = (
            of[cells].sum(axis=0)
            for cells in (inside, others)
            for of in (reference.hits, reference.rows)
        )
        x, n, y, r = (
            _from_here_on(of[cells].sum(axis=0))
            for cells in (inside, others)
            for of in (since.hits, since.rows)
        )
        fleet = self.watch.shift.own if slice_ == ROOT else self.watch.shift
        parts = self.inputs.stretches.parts
        hours = np.cumsum([max(part.end - part.start, 1) / HOUR for part in parts[::-1]])[::-1]
        dispersion, own_dispersion = (
            of.dispersion.take(slice(slice_, slice_ + 1), np.array([s])).at(n / hours[:, None])
            for of in (fleet, self.watch.shift.own)
        )
        of_signal = slice(self.indicators.starts[s], self.indicators.starts[s + 1])
        usual = np.stack([self.watch.usual(part.start, part.end)[of_signal] for part in parts])
        came = since.rows[inside].sum(axis=0)
        usual = _from_here_on(usual * came) / np.maximum(n, 1.0)
        whole = (x0 + y0 + 0.5) / (n0 + r0 + 1.0)
        known, rest_known = (rows + PRIOR * dispersion for rows in (n0, r0))
        share, of_rest = (
            moved((hits + PRIOR * dispersion * whole) / rows, usual)
            for hits, rows in ((x0, known), (y0, rest_known))
        )
        if slice_ == ROOT:
            due = Due.of_slice(share, known, n)
            y0, r0, y, r = (np.zeros_like(of) for of in (y0, r0, y, r))
        else:
            due = Due.beside(share, known, n, of_rest, rest_known, Shares(y, r))
        due = due.tied(cuts_outside(self.inputs.signals[s]))
        nats, rises = beyond_tolerance(Shares(x, n), due, dispersion)
        first = 0 if from_ is None else self._window(from_)
        last = len(nats) if from_ is None else first + 1
        t, j = divmod(int(np.argmax(nats[first:last])) + first * nats.shape[1], nats.shape[1])
        near = np.flatnonzero(nats[:, j] >= nats[t, j] - ONSET_NATS) if nats[t, j] > 0 else [t]
        return Move(
            signal=s,
            indicator=j,
            nats=float(nats[t, j]),
            rises=bool(rises[t, j]),
            onset=parts[t].start,
            onset_interval=(parts[int(near[0])].start, parts[int(near[-1])].end),
            hits=np.array([x0[j], x[t, j], y0[j], y[t, j]]),
            rows=np.array([n0[j], n[t, j], r0[j], r[t, j]]),
            n_rows=int(n[t, -1]),  # of the last indicator, which asks all rows
            dispersion=float(own_dispersion[t, j]),
        )

    def _window(self, since: int) -> int:
        """The stretch that an instant lies in."""
        starts = [part.start for part in self.inputs.stretches.parts]
        return max(int(np.searchsorted(starts, since, side="right")) - 1, 0)

    def _of_signal(self, s: int) -> tuple[Shares, Shares]:
        """Of each cell in the reference, and in every stretch since: one signal's indicators."""
        if s not in self._counts:
            signal = self.inputs.signals[s]
            first, stop = int(self.indicators.bins[s]), int(self.indicators.bins[s + 1])
            reference = np.zeros((self.n_cells, stop - first))
            n = min(self.n_cells, len(self.inputs.reference))
            reference[:n] = self.inputs.reference[:n, first:stop]
            since = np.stack(
                [part.of_bins(first, stop, self.n_cells) for part in self.inputs.stretches.parts],
                axis=1,
            )
            self._counts[s] = shares_of(signal, reference), shares_of(signal, since)
        return self._counts[s]

    def _cells(self, slice_: int) -> Bools:
        """Which cells a slice holds, shape (n_cells,)."""
        held = np.zeros(self.n_cells, np.bool_)
        held[self.membership[[slice_], :].indices] = True
        return held


def _from_here_on(of_stretches: Floats) -> Floats:
    """Sums over each stretch and all later ones."""
    summed: Floats = np.cumsum(of_stretches[::-1], axis=0)[::-1]
    return summed


def beyond_tolerance(shares: Shares, due: Due, dispersion: Floats) -> tuple[Floats, Bools]:
    """How much windows say beyond the tolerance, and whether their shares rise or fall."""
    none = np.broadcast_to(due.lower, shares.rows.shape)
    share: Floats = np.divide(shares.hits, shares.rows, out=np.array(none), where=shares.rows > 0)
    upper, lower = due.upper + TOLERANCE, due.lower - TOLERANCE
    rises = share > upper
    null = np.clip(np.where(rises, upper, lower), 1e-9, 1 - 1e-9)
    nats = xlogy(share, share / null) + xlogy(1.0 - share, (1.0 - share) / (1.0 - null))
    beyond = rises | (share < lower)
    return np.where(beyond, shares.rows * nats / (dispersion * due.spread), 0.0), rises


def _course(was: float, now: float) -> str:
    before, after = percent(was), percent(now)
    return f"stayed at {after}" if before == after else f"went from {before} to {after}"


def percent(share: float) -> str:
    """A share in words: `31 %`."""
    return f"{share:.0%}".replace("%", " %")
