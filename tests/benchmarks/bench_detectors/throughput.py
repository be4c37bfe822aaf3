"""Fleet throughput: events a second through our fleets and through river's ADWINs, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN

from detectors import Disparity, ErrorRate, Outcomes, Summary
from detectors.streams import zipf_fleet
from detectors.summary import CAPPED, EXPOSURE
from tests.benchmarks.bench_detectors.page import Bools, Effort, Floats, Table, generator

Indices = npt.NDArray[np.intp]

SLICES: Final = 10_000
MICRO_BATCHES: Final = (1_000, 10_000, 100_000, 1_000_000)
RATE: Final = 0.05


def table(effort: Effort) -> Table:
    """Events a second of each, best of a few runs; ours starts anew in each."""
    rng = generator(22)
    n = effort.throughput_events
    fleet = zipf_fleet(rng, SLICES, 1.0)
    cells = rng.choice(SLICES, n, p=fleet.rows_an_hour).astype(np.intp)
    wrong = rng.random(n) < RATE
    river = _best(lambda: _through_river(cells, wrong), n, effort.repeats)
    rows = []
    for size in (size for size in MICRO_BATCHES if size <= n):
        batches = [(cells[k : k + size], wrong[k : k + size]) for k in range(0, n, size)]
        figures = [
            _best(partial(_through, make, batches), n, effort.repeats)
            for make in (_nothing, _error_rate, _disparity)
        ]
        ratio = f"{figures[-1] / river:,.1f}"
        rows.append([f"{size:,}", *(f"{f / 1e6:.1f} M" for f in figures), ratio])
    tick = _tick_seconds(effort.repeats)
    return Table(
        "2.2 Throughput of a fleet",
        f"{SLICES:,} slices, traffic as one over their rank, {n:,} events, CPU time, best of "
        f"{effort.repeats}; the same events through {SLICES:,} ADWINs of river, `update` alone: "
        f"{river / 1e6:.2f} M events a second, {1e6 / river:.2f} µs each.",
        ("events a tick", "summed alone", "`ErrorRate`", "`Disparity`", "`Disparity` / river"),
        rows,
        f"A tick of `Disparity` in which all {SLICES:,} slices have rows takes {1e3 * tick:.1f} "
        "ms. The cost of a tick is that of its active slices, whatever the events; summing is five "
        "`bincount`s, of which the detectors read two.",
    )


def _nothing() -> None:
    return None


def _error_rate() -> ErrorRate:
    fleet = ErrorRate()
    fleet.grow(np.ones(1 + SLICES))
    return fleet


def _disparity() -> Disparity:
    fleet = Disparity()
    fleet.grow(np.ones(1 + SLICES), np.ones(1 + SLICES))
    return fleet


def _through(
    make: Callable[[], ErrorRate | Disparity | None], batches: list[tuple[Indices, Bools]]
) -> None:
    """Sum each batch by cell, a slice a cell, and put it through a new fleet."""
    fleet = make()
    hazard = np.full(1 + SLICES, 1e-9)
    for cells, wrong in batches:
        loss = wrong.astype(np.float64)
        ones = np.ones(loss.size)
        sums = Summary.of_labels(cells, SLICES, ones, loss, loss, ones).sums
        if fleet is not None:
            observed, expected = sums[:, CAPPED], RATE * sums[:, EXPOSURE]
            fleet.update(Outcomes(_with_root(observed), _with_root(expected)), hazard)


def _with_root(per_slice: Floats) -> Floats:
    return np.concatenate([[per_slice.sum()], per_slice])


def _through_river(cells: Indices, wrong: Bools) -> None:
    detectors: list[Any] = [ADWIN() for _ in range(SLICES)]  # type: ignore[no-untyped-call]
    for cell, value in zip(cells.tolist(), wrong.astype(np.float64).tolist(), strict=True):
        detectors[cell].update(value)


def _tick_seconds(repeats: int) -> float:
    fleet, rng = _disparity(), generator(22, 1)
    expected = np.full(SLICES, 1.0)
    hazard = np.full(1 + SLICES, 1e-9)
    ticks = [
        Outcomes(_with_root(rng.poisson(expected).astype(np.float64)), _with_root(expected))
        for _ in range(repeats)
    ]
    times = []
    for tick in ticks:
        started = time.process_time()
        fleet.update(tick, hazard)
        times.append(time.process_time() - started)
    return min(times)


def _best(work: Callable[[], None], n: int, repeats: int) -> float:
    """Events a second of the fastest of a few runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return n / min(times)
