"""Single streams: false alarms and delays, ours and river's, alone and at matched run length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from scipy.stats import gamma

from detectors import ErrorRate
from detectors.streams import bernoulli
from tests.benchmarks.bench_detectors.ours import Baseline, fleet_of, learned_rates, watch
from tests.benchmarks.bench_detectors.page import (
    Bools,
    Effort,
    Floats,
    Table,
    delays,
    generator,
    number,
    rate,
)
from tests.benchmarks.bench_detectors.peers import CURVES, DEFAULTS, Peer, alarms

REFERENCE: Final = 2_000  # rows that ours learns from before it watches
BEFORE: Final = 5_000  # events before the change, the reference included
HORIZON: Final = 20_000  # events after it; what is not found by then is missed
RATIOS: Final = (1.5, 2.0, 4.0)
# Events for which one false alarm is promised
BUDGETS: Final = (1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 3e5, 1e6, 1e7)
SHOWN: Final = 1e5
RATE: Final = 0.05
REFERENCES: Final = (200, 1_000, 5_000, 20_000, 100_000)
BASELINES: Final[tuple[Baseline, ...]] = ("known", "plug-in", "95 % limit", "learned")
ENOUGH: Final = 5  # alarms from which a run length counts as measured
ENOUGH_ALARMS: Final = 200  # after which no more are waited for
STREAMS_AT_ONCE: Final = 100
PHASES: Final = 32  # ADWIN's looks are so many events apart


@dataclass(frozen=True, slots=True)
class Measured:
    """How one detector at one setting did."""

    name: str
    alarms: float  # false ones
    events: float  # in which they came
    found: dict[float, Floats]  # by ratio: delays in events, shape (n,), NaN where missed

    @property
    def run_length(self) -> float:
        """Events for each false alarm; NaN where too few came to say."""
        return self.events / self.alarms if self.alarms >= ENOUGH else np.nan

    @property
    def shown_length(self) -> str:
        """The same as text, or its one-sided 95 % limit (Garwood's) where too few came."""
        if self.alarms >= ENOUGH:
            return number(self.run_length)
        return f"> {self.events / gamma.ppf(0.95, self.alarms + 1):,.0f}"

    def row(self) -> list[str]:
        """Its row of the table."""
        found = (delays(self.found[ratio], HORIZON) for ratio in RATIOS)
        return [self.name, rate(self.alarms, self.events / 1e4), self.shown_length, *found]


def streams(p: float, ratio: float, n: int) -> Bools:
    """Streams that change after `BEFORE` events; shape (n_events, n)."""
    rng = generator(21, round(1000 * p), round(100 * ratio))
    return bernoulli(rng, p, BEFORE + HORIZON, n, ratio, BEFORE)


def null_streams(p: float, part: int, n: int) -> Bools:
    """Streams without a change, so many at once; shape (n_events, n)."""
    return bernoulli(generator(21, round(1000 * p), 0, part), p, BEFORE + HORIZON, n)


def of_peer(peer: Peer, p: float, n: int, n_null: int) -> Measured:
    """One of river's, on `n` streams of each change, and on at most `n_null` without.

    Some look once in 32 events. Streams are fed from different events on, so that changes fall
    anywhere between two looks.
    """
    count = n_done = 0
    while n_done < n_null and count < ENOUGH_ALARMS:
        null = null_streams(p, n_done // STREAMS_AT_ONCE, min(STREAMS_AT_ONCE, n_null - n_done))
        fed = (_alarms(peer, null[:, k], k) for k in range(null.shape[1]))
        count += sum(at >= BEFORE for found_at in fed for at in found_at)
        n_done += null.shape[1]
    found = {}
    for ratio in RATIOS:
        errors = streams(p, ratio, n)
        firsts = [_first(_alarms(peer, errors[:, k], k)) for k in range(n)]
        found[ratio] = np.array(firsts)
    return Measured(peer.name, count, n_done * HORIZON, found)


def _alarms(peer: Peer, errors: Bools, k: int) -> Iterator[int]:
    """After which events of the `k`-th stream the peer says that errors rose."""
    skipped = k % PHASES
    return (at + skipped for at in alarms(peer, errors[skipped:]))


def _first(at: Iterator[int]) -> float:
    return next(islice((event + 1.0 - BEFORE for event in at if event >= BEFORE), 1), np.nan)


def of_ours(baseline: Baseline, p: float, effort: Effort, n: int, n_null: int) -> list[Measured]:
    """Ours at each budget: it learns from the first rows, as a peer does, and then watches.

    A budget is given no more streams without a change once enough false alarms have come.
    """
    alarms, events = np.zeros(len(BUDGETS)), np.zeros(len(BUDGETS))
    for part in range(max(1, n_null // effort.streams)):
        wanted = np.flatnonzero(alarms < ENOUGH_ALARMS)
        if wanted.size:
            errors = null_streams(p, part, effort.streams)
            budgets = np.array(BUDGETS)[wanted]
            alarms[wanted] += _through(baseline, p, errors, effort, budgets)[0].sum(axis=1)
            events[wanted] += effort.streams * HORIZON
    changed = [
        _through(baseline, p, streams(p, ratio, n), effort, np.array(BUDGETS))[1]
        for ratio in RATIOS
    ]
    return [
        Measured(
            f"**ours**, baseline {baseline}, 1 per {budget:,.0f}",
            float(alarms[k]),
            float(events[k]),
            {ratio: first[k] for ratio, first in zip(RATIOS, changed, strict=True)},
        )
        for k, budget in enumerate(BUDGETS)
    ]


def _through(
    baseline: Baseline, p: float, errors: Bools, effort: Effort, budgets: Floats
) -> tuple[Floats, Floats]:
    """Alarms and first delays of a fleet that learned from the first rows of the streams."""
    seen = errors[:REFERENCE].sum(axis=0).astype(np.float64)
    fleet, rates = fleet_of(baseline, seen, REFERENCE, p)
    after = BEFORE - REFERENCE
    return watch(fleet, rates, errors[REFERENCE:], 1.0 / budgets, effort.events_a_tick, after)


def defaults(effort: Effort) -> list[Measured]:
    """River's at their defaults, then ours by how it knows what is normal."""
    answer = []
    for peer in DEFAULTS:
        n = effort.slow_peer_streams if peer.is_slow else effort.peer_streams
        if n:
            answer.append(of_peer(peer, RATE, n, n))
    for baseline in BASELINES:
        measured = of_ours(baseline, RATE, effort, effort.streams, effort.null_streams)
        answer.append(measured[BUDGETS.index(SHOWN)])
    return [*answer, measured[-1]]


def default_table(effort: Effort, measured: list[Measured]) -> Table:
    """A row for each."""
    return Table(
        "2.1 A single stream",
        f"Errors at {RATE}, {BEFORE:,} events before the change and {HORIZON:,} after; false "
        f"alarms are counted on streams without one, over the same {HORIZON:,} events. "
        f"{effort.peer_streams} streams for each of river's"
        + (f" ({effort.slow_peer_streams} for KSWIN)" if effort.slow_peer_streams else "")
        + f", {effort.streams} for ours; ours learns from the first {REFERENCE:,} "
        f"events and is fed in ticks of {effort.events_a_tick}. Delays in events, median / 90 %.",
        ("detector", "false alarms per 10k", "run length", *(f"×{r:g}" for r in RATIOS)),
        [one.row() for one in measured],
        "Falls of the error rate are not counted against river's ADWIN and PageHinkley. FHDDM "
        "follows the greatest mean so far and warns of a fall from it: fed 1 = error, as its "
        "documentation says, it cannot see errors rise.",
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """One kind of detector over its dial, for a plot and for matching."""

    name: str
    p: float
    points: tuple[Measured, ...]


def curves(effort: Effort, p: float) -> list[Curve]:
    """Ours over its budget, river's over their dials, at a base rate."""
    n, most = effort.curve_streams, effort.curve_null_streams
    answer = [Curve("ours", p, tuple(of_ours("learned", p, effort, n, most)))]
    for name, peers in CURVES.items():
        points = tuple(of_peer(peer, p, n, most if peer.is_compiled else n) for peer in peers)
        answer.append(Curve(name, p, points))
    return answer


def median_delay(found: Floats) -> float:
    """The median, what was missed counting as the horizon."""
    return float(np.median(np.where(np.isnan(found), HORIZON, found)))


def run_lengths(ours: Curve) -> Floats:
    """Ours, as measured; where too few alarms came, the promise by the last measured factor."""
    lengths, factor = [], 1.0
    for budget, point in zip(BUDGETS, ours.points, strict=True):
        measured = point.run_length
        factor = factor if np.isnan(measured) else measured / budget
        lengths.append(factor * budget)
    return np.array(lengths)


def matched(effort: Effort, all_curves: list[Curve]) -> Table:
    """Our delay at the very run length that each setting of a peer turned out to have."""
    rows, slower, n_cells = [], [], 0
    unknown = 0
    for peer in (curve for curve in all_curves if curve.name != "ours"):
        ours = next(c for c in all_curves if c.name == "ours" and c.p == peer.p)
        lengths = run_lengths(ours)
        for point in peer.points:
            known = not np.isnan(point.run_length)
            length = point.run_length if known else lengths[-1]
            if not lengths[0] <= length <= lengths[-1]:
                continue
            cells = []
            for ratio in RATIOS:
                own = [median_delay(p.found[ratio]) for p in ours.points]
                at = float(np.interp(np.log(length), np.log(lengths), own))
                theirs = median_delay(point.found[ratio])
                cells.append(f"{theirs:,.0f} → {at:,.0f}")
                if not known:
                    cells[-1] += " ?"
                    unknown += 1
                    continue
                n_cells += 1
                if at > theirs:
                    cells[-1] = f"{theirs:,.0f} → *{at:,.0f}*"
                    slower.append((at / theirs, f"{point.name} at {peer.p:g}, ×{ratio:g}"))
            rows.append([point.name, f"{peer.p:g}", point.shown_length, *cells])
    worst = max(slower, default=(0.0, ""))
    return Table(
        "2.1b At matched run length",
        "Median delay, a peer's → ours at the run length that the peer was measured to have (ours "
        "interpolated between its own measured ones), both with baselines learned from the same "
        f"{BEFORE:,} events before the change, on the same {effort.curve_streams:,} streams. Run "
        f"lengths are of streams without a change, over the same {HORIZON:,} events after the same "
        f"{BEFORE:,}: of up to {effort.curve_null_streams:,} streams for ours and ADWIN, "
        f"{effort.curve_streams:,} for PageHinkley, or of those in which the first "
        f"{ENOUGH_ALARMS} false alarms came.",
        ("peer", "error rate", "run length", *(f"×{r:g}" for r in RATIOS)),
        rows,
        (
            f"Ours is slower in {len(slower)} of {n_cells}, in *italics*, at most by "
            f"{worst[0] - 1:.0%} ({worst[1]})."
            if slower
            else f"Ours is slower in none of {n_cells}."
        )
        + (
            f" {unknown} more, with ?, are no match: the peer had fewer than {ENOUGH} false "
            f"alarms, and ours is at its longest, {BUDGETS[-1]:,.0f} promised."
            if unknown
            else ""
        ),
    )


FREQUENT: Final = (0.2, 0.3, 0.5)  # error rates at which errors are no rare events
FREQUENT_RATIOS: Final = (1.25, 1.5)
DIVISORS: Final = ("1", "1 - p")


def frequent(effort: Effort) -> Table:
    """What it gains to know that errors are right or wrong and no Poisson counts."""
    rows = []
    hazard = np.array([1.0 / SHOWN])
    for p in FREQUENT:
        drawn = generator(22, round(100 * p)).binomial(REFERENCE, p, effort.streams)
        seen = drawn.astype(np.float64)
        learned = learned_rates(seen, REFERENCE)
        for name, divisor in zip(DIVISORS, (1.0, 1 - p), strict=True):
            cells = []
            for ratio in (1.0, *FREQUENT_RATIOS):
                fleet = ErrorRate()
                fleet.grow(np.full(effort.streams, divisor), seen, REFERENCE * learned)
                errors = streams(p, ratio, effort.streams)
                count, first = watch(fleet, learned, errors, hazard, effort.events_a_tick, BEFORE)
                if ratio == 1.0:
                    cells.append(rate(float(count.sum()), count.size * HORIZON / SHOWN))
                else:
                    cells.append(delays(first[0], HORIZON))
            rows.append([f"{p:g}", name, *cells])
    return Table(
        "2.1c Frequent errors",
        f"One false alarm per {SHOWN:,.0f} events is promised, {REFERENCE:,} rows of reference, "
        f"{effort.streams} streams of {HORIZON:,} events, after {BEFORE:,} more to learn from. "
        "False alarms for each one promised, and delays in events, median / 90 %.",
        (
            "error rate",
            "counts are divided by",
            "false alarms",
            *(f"×{r}" for r in FREQUENT_RATIOS),
        ),
        rows,
        "Over 1 a Poisson count is presumed. The service divides by 1 - p, the least that keeps "
        "the promise, where rows are independent and their losses in [0, 1].",
    )


def references(effort: Effort) -> Table:
    """What a baseline learned from so many events costs: false alarms, and delay of a doubling."""
    rows = []
    hazard = np.array([1.0 / SHOWN])
    for k, n_rows in enumerate(REFERENCES):
        rng = generator(23, k)
        seen = rng.binomial(n_rows, RATE, effort.streams).astype(np.float64)
        false: list[str] = []
        doubled: list[str] = []
        for baseline in BASELINES[1:]:
            for ratio, cells in ((1.0, false), (2.0, doubled)):
                fleet, rates = fleet_of(baseline, seen, n_rows, RATE)
                errors = streams(RATE, ratio, effort.streams)
                count_from = 0 if ratio == 1.0 else BEFORE
                count, first = watch(fleet, rates, errors, hazard, effort.events_a_tick, count_from)
                if ratio == 1.0:
                    cells.append(rate(float(count.sum()), errors.size / SHOWN))
                else:
                    cells.append(delays(first[0], HORIZON))
        rows.append([f"{n_rows:,}", *false, *doubled])
    return Table(
        "2.3 A baseline learned from few events",
        f"Errors at {RATE}; one false alarm per {SHOWN:,.0f} events is promised; {effort.streams} "
        f"streams of {BEFORE + HORIZON:,} events right after the reference. False alarms per "
        f"100,000 events, and delay of a doubling {BEFORE:,} events later, median / 90 %.",
        (
            "reference",
            *(f"false alarms, {b}" for b in BASELINES[1:]),
            *(f"×2, {b}" for b in BASELINES[1:]),
        ),
        rows,
        'More than 1 is a promise broken. "Learned" is `fit_cell_rates` on the reference, then '
        "`grow` with its counts, as the service does it, and learning on while watching.",
    )
