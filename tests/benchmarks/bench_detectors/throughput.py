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
SIGNALS: Final = 14  # of a model: its loss and 13 inputs, say
ENOUGH_TICKS: Final = 7  # of which the best counts, in a small effort too


def table(effort: Effort) -> Table:
    """Events a second of each, best of a few runs; ours starts anew in each."""
    n, repeats = effort.throughput_events, effort.repeats
    cells, wrong = events(n)
    river = rivers_rate(cells, wrong, repeats)
    rows = []
    for size in (size for size in MICRO_BATCHES if size <= n):
        figures = [
            our_rate(make, cells, wrong, size, repeats)
            for make in (_nothing, _error_rate, a_disparity)
        ]
        ratio = f"{figures[-1] / river:,.1f}"
        rows.append([f"{size:,}", *(f"{f / 1e6:.1f} M" for f in figures), ratio])
    tick, all_ticks = (1e3 * tick_seconds(k, max(repeats, ENOUGH_TICKS)) for k in (1, SIGNALS))
    return Table(
        "2.2 Throughput of a fleet",
        f"{SLICES:,} slices, traffic as one over their rank, {n:,} events, CPU time, best of "
        f"{repeats}; the same events through {SLICES:,} ADWINs of river, `update` alone: "
        f"{river / 1e6:.2f} M events a second, {1e6 / river:.2f} µs each.",
        ("events a tick", "summed alone", "`ErrorRate`", "`Disparity`", "`Disparity` / river"),
        rows,
        f"A tick of `Disparity` in which all {SLICES:,} slices have rows takes {tick:.1f} ms, one "
        f"of {SIGNALS} signals × {SLICES:,} slices, each signal with a fleet of its own, "
        f"{all_ticks:.0f} ms: {1e3 * tick / SLICES:.2f} µs a slice, of which river's `update` "
        f"takes {1e6 / river:.2f}. The cost of a tick is that of its active slices, whatever the "
        "events; summing counts the rows and the wrong ones.",
    )


def events(n: int) -> tuple[Indices, Bools]:
    """Which slice each of n events is of, and whether it is wrong."""
    rng = generator(22)
    fleet = zipf_fleet(rng, SLICES, 1.0)
    return rng.choice(SLICES, n, p=fleet.rows_an_hour).astype(np.intp), rng.random(n) < RATE


def rivers_rate(cells: Indices, wrong: Bools, repeats: int) -> float:
    """Events a second through an ADWIN of river's for each slice."""
    return _best(lambda: _through_river(cells, wrong), cells.size, repeats)


def our_rate(
    make: Callable[[], ErrorRate | Disparity | None],
    cells: Indices,
    wrong: Bools,
    size: int,
    repeats: int,
) -> float:
    """Events a second through one fleet, `size` of them a tick."""
    batches = [(cells[k : k + size], wrong[k : k + size]) for k in range(0, cells.size, size)]
    return _best(partial(_through, make, batches), cells.size, repeats)


def tick_seconds(n_fleets: int, repeats: int) -> float:
    """What one tick of so many fleets takes in which all slices have rows."""
    fleets, rng = [a_disparity() for _ in range(n_fleets)], generator(22, 1)
    expected = np.full(SLICES, 1.0)
    hazard = np.full(1 + SLICES, 1e-9)
    times = []
    for _ in range(repeats):
        ticks = [
            Outcomes(_with_root(rng.poisson(expected).astype(np.float64)), _with_root(expected))
            for _ in fleets
        ]
        started = time.process_time()
        for fleet, tick in zip(fleets, ticks, strict=True):
            fleet.update(tick, hazard)
        times.append(time.process_time() - started)
    return min(times)


def _nothing() -> None:
    return None


def _error_rate() -> ErrorRate:
    fleet = ErrorRate()
    fleet.grow(np.ones(1 + SLICES))
    return fleet


def a_disparity() -> Disparity:
    """A fleet of all slices that knows nothing yet."""
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
        sums = Summary.of_errors(cells, SLICES, wrong).sums
        if fleet is not None:
            observed, expected = sums[:, CAPPED], RATE * sums[:, EXPOSURE]
            fleet.update(Outcomes(_with_root(observed), _with_root(expected)), hazard)


def _with_root(per_slice: Floats) -> Floats:
    return np.concatenate([[per_slice.sum()], per_slice])


def _through_river(cells: Indices, wrong: Bools) -> None:
    detectors: list[Any] = [ADWIN() for _ in range(SLICES)]  # type: ignore[no-untyped-call]
    for cell, value in zip(cells.tolist(), wrong.astype(np.float64).tolist(), strict=True):
        detectors[cell].update(value)


def _best(work: Callable[[], None], n: int, repeats: int) -> float:
    """Events a second of the fastest of a few runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return n / min(times)
