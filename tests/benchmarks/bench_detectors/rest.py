"""A slice against the rest: what hits everybody, and what hits the slice alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors import Disparity, ErrorRate, Outcomes
from detectors.streams import season, step, traffic
from tests.benchmarks.bench_detectors.page import Effort, Floats, Table, delays, generator, rate

Indices = npt.NDArray[np.intp]

SLICES: Final = 20
ROWS: Final = 10  # of each slice in a batch
RATES: Final = np.where(np.arange(SLICES) % 2, 0.03, 0.08)
REFERENCE: Final = 1_000  # batches to learn from
BEFORE: Final = 100  # batches watched before a change
HORIZON: Final = 500  # batches after it
CONTRACT: Final = 1e-4  # false alarms that a slice may spend on a batch
BATCHES_A_DAY: Final = 144
METHODS: Final = ("A: own reference", "R: share of all errors", "**min(A, R)**: `Disparity`")


@dataclass(frozen=True, slots=True)
class World:
    """What becomes of slice 0 and of the others, batch by batch."""

    name: str
    ratios: Callable[[int], tuple[Floats, Floats]]  # of n batches: slice 0's, the others'
    added: float = 0.0  # to all rates
    judged: range = range(SLICES)  # slices in which an alarm is false


def _all(of: Callable[[int], Floats]) -> Callable[[int], tuple[Floats, Floats]]:
    return lambda n: (of(n), of(n))


NULLS: Final = (
    World("null", _all(np.ones)),
    World("global ×1.3", _all(lambda n: np.full(n, 1.3))),
    World("season ±25 %", _all(lambda n: season(n, BATCHES_A_DAY, 0.25))),
    World("the others ×0.6", lambda n: (np.ones(n), np.full(n, 0.6)), 0.0, range(1)),
    World("+0.03 for all, those at 0.08", _all(np.ones), 0.03, range(0, SLICES, 2)),
    World("+0.03 for all, those at 0.03", _all(np.ones), 0.03, range(1, SLICES, 2)),
)
CHANGES: Final = (
    World("×1.5", lambda n: (step(n, BEFORE, 1.5), np.ones(n))),
    World("×2", lambda n: (step(n, BEFORE, 2.0), np.ones(n))),
    World("global ×1.3, slice ×2.6", lambda n: (step(n, BEFORE, 2.6), step(n, BEFORE, 1.3))),
)


def table(effort: Effort) -> Table:
    """Three ways to judge the same batches."""
    cells = [[method] for method in METHODS]
    for k, world in enumerate(NULLS):
        counts = np.zeros(len(METHODS))
        for replicate in range(effort.null_replicates):
            for alarms in _alarms(world, effort.null_batches, generator(24, k, replicate)):
                counts += [np.isin(slices, world.judged).sum() for slices in alarms]
        n_batches = effort.null_replicates * effort.null_batches * len(world.judged)
        for row, count in zip(cells, counts, strict=True):
            row.append(rate(float(count), n_batches * CONTRACT))
    for k, world in enumerate(CHANGES, len(NULLS)):
        found = np.array([_delays(world, generator(24, k, i)) for i in range(effort.pairs)])
        for row, delay in zip(cells, found.T, strict=True):
            row.append(delays(delay * ROWS, HORIZON * ROWS))
    return Table(
        "2.4 A slice against the rest",
        f"{SLICES} slices of {ROWS} rows a batch, half of them at 0.08 and half at 0.03, learned "
        f"from {REFERENCE:,} batches. False alarms for each one promised ({1 / CONTRACT:,.0f} "
        f"batches of a slice), over {effort.null_replicates} × {effort.null_batches:,} batches; "
        f"then, over {effort.pairs} replicates, delays in rows of the one slice (at 0.08) that got "
        "worse, median / 90 %.",
        ("method", *(world.name for world in (*NULLS, *CHANGES))),
        cells,
        "What is judged is the *ratio* of a slice to the rest: the same absolute rise for all is a "
        "greater ratio for a slice that was better than most, and R says so.",
    )


def _delays(world: World, rng: np.random.Generator) -> list[float]:
    """Batches until slice 0 was first found after the change, by each method."""
    found = [np.nan] * len(METHODS)
    for batch, alarms in enumerate(_alarms(world, BEFORE + HORIZON, rng)):
        for method, slices in enumerate(alarms):
            if batch >= BEFORE and 0 in slices and np.isnan(found[method]):
                found[method] = batch + 1.0 - BEFORE
        if not np.isnan(found).any():
            break
    return found


def _alarms(world: World, n_batches: int, rng: np.random.Generator) -> Iterator[list[Indices]]:
    """The slices, from 0 on, that each method names in each batch."""
    due = ROWS * RATES
    seen = rng.binomial(REFERENCE * ROWS, RATES).astype(np.float64)
    own, both, share = ErrorRate(), Disparity(), Disparity()
    ones = np.ones(1 + SLICES)
    reference = _with_root(seen), _with_root(REFERENCE * due)
    own.grow(ones, *reference)
    for fleet in (both, share):
        fleet.grow(ones, ones, *reference)
    hazard = CONTRACT * ones

    slice_ratio, others_ratio = world.ratios(n_batches)
    rates = RATES * others_ratio[:, None]
    rates[:, 0] = RATES[0] * slice_ratio
    rows = np.full((n_batches, SLICES), ROWS)
    for errors in traffic(rng, rows, rates + world.added).errors:
        outcomes = Outcomes(_with_root(errors.astype(np.float64)), _with_root(due))
        yield [
            own.update(outcomes, hazard).slices - 1,
            _share_alone(share, outcomes, hazard) - 1,
            both.update(outcomes, hazard).slices - 1,
        ]


def _share_alone(fleet: Disparity, outcomes: Outcomes, hazard: Floats) -> Indices:
    """What R alone would report of a fleet that judges by both."""
    reported = fleet.update(outcomes, hazard).slices  # and begins again with these
    crossed = np.flatnonzero(fleet.meter >= 1.0)
    fleet.evidence[crossed] = 0.0
    return np.union1d(reported, crossed)


def _with_root(per_slice: Floats) -> Floats:
    return np.concatenate([[per_slice.sum()], per_slice])
