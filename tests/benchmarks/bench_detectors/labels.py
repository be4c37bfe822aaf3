"""Labels that come late by outcome, and labels drawn by risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors import ErrorRate, Outcomes, fit_cell_rates
from detectors.reference import margin_on
from detectors.streams import label_delays
from tests.benchmarks.bench_detectors.page import Effort, Floats, Table, delays, generator, rate

EVENTS_AN_HOUR: Final = 100
HOURS: Final = 500
RATE: Final = 0.05
REFERENCE: Final = 20_000  # rows, of which all labels are in
PROMISED: Final = 1e5  # events for one false alarm
SURGE: Final = 3.0  # times the traffic, four hours a day


@dataclass(frozen=True, slots=True)
class Arrival:
    """When labels are counted."""

    name: str
    mean_wrong: float  # hours until an error is labelled
    mean_right: float
    closed_after: float | None = None  # hours after which an hour is counted, by what is in
    surge: float = 1.0


ARRIVALS: Final = (
    Arrival("as they come, equal delays", 24.0, 24.0),
    Arrival("as they come, errors sooner", 6.0, 24.0),
    Arrival("the same, with surges of traffic", 6.0, 24.0, None, SURGE),
    Arrival("hours closed after 120 h, errors sooner", 6.0, 24.0, 120.0),
    Arrival("hours closed after 48 h, errors sooner", 6.0, 24.0, 48.0),
)


def maturity(effort: Effort) -> Table:
    """False alarms by when labels are counted; nothing is wrong in any of them."""
    n = effort.label_streams
    seen = generator(28).binomial(REFERENCE, RATE, n).astype(np.float64)
    rates = seen / REFERENCE
    rows = []
    for k, arrival in enumerate(ARRIVALS):
        fleet = ErrorRate()
        fleet.grow(np.ones(n), seen, seen)
        alarms, counted = 0.0, 0.0
        errors, labels = _counts(arrival, n, generator(28, 1, k))
        for x, m in zip(errors, labels, strict=True):
            alarms += len(fleet.update(Outcomes(x, m * rates), m / PROMISED))
            counted += float(m.sum())
        rows.append([arrival.name, rate(alarms, counted / PROMISED)])
    return Table(
        "2.8 Labels that come late",
        f"Errors at {RATE}, nothing wrong; {EVENTS_AN_HOUR} events an hour for {HOURS} h, "
        f"exponential delays of 24 h, or 6 h for errors and 24 h for the rest; the reference of "
        f"{REFERENCE:,} rows is complete. {n} streams, ticks of an hour. False alarms for each one "
        f"promised ({PROMISED:,.0f} labels).",
        ("labels are counted", "false alarms"),
        rows,
        f"Surges are ×{SURGE:g} for four hours a day.",
    )


def _counts(arrival: Arrival, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Errors and labels that are counted in each hour, float64, shape (HOURS, n)."""
    volume = np.full(HOURS, EVENTS_AN_HOUR)
    if arrival.surge > 1:
        volume[np.arange(HOURS) % 24 < 4] = round(arrival.surge * EVENTS_AN_HOUR)
    hour = np.repeat(np.arange(HOURS), volume)
    wrong = rng.random((hour.size, n)) < RATE
    delay = label_delays(rng, wrong, arrival.mean_wrong, arrival.mean_right)
    if arrival.closed_after is None:
        at = np.floor(hour[:, None] + delay).astype(np.int64)
        counted = at < HOURS
    else:
        at = np.broadcast_to(hour[:, None], wrong.shape)
        counted = delay < arrival.closed_after
    key = (at * n + np.arange(n))[counted]
    shape = (HOURS, n)
    errors = np.bincount(key, wrong[counted], minlength=HOURS * n).reshape(shape)
    labels = np.bincount(key, minlength=HOURS * n).reshape(shape)
    return errors.astype(np.float64), labels.astype(np.float64)


RISKY: Final = 0.1  # of the events
RISKY_RATE: Final = 0.2
REST_RATE: Final = (RATE - RISKY * RISKY_RATE) / (1 - RISKY)
CHANCES: Final = np.array([0.6, 0.156])  # of a label: the risky, the rest
BEFORE: Final = 50  # ticks
HORIZON: Final = 200
EVENTS_A_TICK: Final = 100
SAMPLINGS: Final = ("unweighted", "weighted by 1 / chance", "**strata as cells**, unweighted")


def sampling(effort: Effort) -> Table:
    """Labels drawn by risk, read in three ways, against a reference labelled in full."""
    n = effort.streams
    share = np.array([RISKY, 1 - RISKY])
    p = np.array([RISKY_RATE, REST_RATE])
    rng = generator(28, 2)
    sizes = np.rint(REFERENCE * share)
    seen = rng.binomial(sizes.astype(np.int64), p, (n, 2)).astype(np.float64)
    rows = []
    for k, name in enumerate(SAMPLINGS):
        cells = []
        for ratio in (1.0, 2.0):
            alarms, first = _sampled(k, seen, sizes, share, p, ratio)
            if ratio == 1.0:
                cells.append(rate(alarms, n * (BEFORE + HORIZON) * EVENTS_A_TICK / PROMISED))
            else:
                cells.append(delays(first, HORIZON * EVENTS_A_TICK))
        rows.append([name, *cells])
    return Table(
        "2.8b Labels drawn by risk",
        f"{CHANCES[0]:.0%} of the riskiest tenth (errors at {RISKY_RATE}) and {CHANCES[1]:.1%} of "
        f"the rest (at {REST_RATE:.3f}) are labelled; the reference of {REFERENCE:,} rows is "
        f"labelled in full. {n} streams, ticks of {EVENTS_A_TICK} events. False alarms for each "
        f"one promised ({PROMISED:,.0f} events), delay of a doubling in events, median / 90 %.",
        ("labels are read", "false alarms", "×2"),
        rows,
        "Weighted counts are divided by their compound dispersion, as the service does.",
    )


def _sampled(
    kind: int, seen: Floats, sizes: Floats, share: Floats, p: Floats, ratio: float
) -> tuple[float, Floats]:
    n = len(seen)
    weights = 1.0 / CHANCES if kind == 1 else np.ones(2)
    if kind == 2:
        rates = np.array([_stratum_rates(row, sizes) for row in seen])
    else:
        rates = np.repeat(seen.sum(axis=1, keepdims=True) / sizes.sum(), 2, axis=1)
    dispersion = np.ones(n)
    if kind == 1:
        scale = share @ CHANCES  # so that an average label weighs 1
        weights = weights * scale
        lost = share * CHANCES * p
        compound = (lost * weights**2).sum() / (lost * weights).sum()
        dispersion = np.full(n, float(margin_on(np.array([compound]))[0]))
    fleet = ErrorRate()
    fleet.grow(dispersion, seen.sum(axis=1), rates @ sizes)
    hazard = np.full(n, EVENTS_A_TICK / PROMISED)
    rng = generator(28, 3, round(ratio))
    alarms, first = 0.0, np.full(n, np.nan)
    for tick in range(BEFORE + HORIZON):
        drawn = rng.multinomial(
            EVENTS_A_TICK, [*(share * CHANCES), 1 - (share * CHANCES).sum()], n
        )[:, :2]
        wrong = rng.binomial(drawn, p * (ratio if tick >= BEFORE else 1.0))
        outcomes = Outcomes(wrong @ weights, (drawn * rates) @ weights)
        crossed = fleet.update(outcomes, hazard).slices
        alarms += crossed.size
        if tick >= BEFORE:
            new = crossed[np.isnan(first[crossed])]
            first[new] = (tick + 1 - BEFORE) * EVENTS_A_TICK
    return alarms, first


def _stratum_rates(seen: Floats, sizes: Floats) -> npt.NDArray[np.float64]:
    levels = np.arange(2, dtype=np.int32)[:, None]
    return fit_cell_rates(levels, seen, sizes).predict(levels)
