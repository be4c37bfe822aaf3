"""What inputs cost the walk: microseconds an event for 14 signals of 222 slices, 7 of them a row's.

The events are those of bench_walk, as Arrow, through the fold; only what `Inputs` does is timed, in
CPU time: `add`, for every batch, and `look`, once in some thousand rows, fleets and all.

    .venv/bin/python -m tests.benchmarks.bench_signals
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from service.clock import SystemClock
from service.engine.fold import Fold
from service.engine.ports import BATCH, Entry
from service.ingest.arrow_bodies import decode_arrow
from service.ingest.frame import to_frame
from service.monitor.inputs import Inputs
from tests.benchmarks.bench_walk import arrow_bodies, events, machine

RUNS: Final = 6  # of 200,000 events; the first has the reference in it and is not counted


class Timed:
    """A method that adds up its CPU time."""

    def __init__(self, of: Callable[..., Any]) -> None:
        self.of, self.seconds, self.calls = of, 0.0, 0

    def __get__(self, inputs: Inputs, _: type) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            answer = self.of(inputs, *arguments)
            self.seconds += time.process_time() - started
            self.calls += 1
            return answer

        return timed


def measure(rows: int) -> dict[str, list[float]]:
    """Microseconds an event of each run, by method, for batches of so many rows."""
    methods = {name: Timed(getattr(Inputs, name)) for name in ("add", "look")}
    for name, method in methods.items():
        setattr(Inputs, name, method)
    fold, now = Fold(), SystemClock().now()
    figures: dict[str, list[float]] = {name: [] for name in (*methods, "all")}
    for run in range(RUNS):
        of = events(run)
        for number, body in enumerate(arrow_bodies(of, rows)):
            batch = decode_arrow(body, now, rows, len(body))[0]
            fold.apply(Entry("bench", BATCH, to_frame(batch), now, f"{run}-{number}"))
        spent = [method.seconds / of.n * 1e6 for method in methods.values()]
        for name, figure in zip(figures, [*spent, sum(spent)], strict=True):
            if run:
                figures[name].append(figure)
        for method in methods.values():
            method.seconds = 0.0
    for name, method in methods.items():
        setattr(Inputs, name, method.of)
    return figures


def main() -> None:
    """Print the table."""
    print(f"{machine()}; medians of {RUNS - 1} runs, µs of CPU time an event\n")
    print(f"{'rows a batch':14}{'add':>8}{'look':>8}{'all':>8}")
    for rows in (500, 5_000):
        medians = [statistics.median(of) for of in measure(rows).values()]
        print(f"{rows:<14,}" + "".join(f"{median:8.2f}" for median in medians))


if __name__ == "__main__":
    main()
