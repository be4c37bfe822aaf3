"""The tables of `detectors/BENCH.md`, rebuilt: fixed seeds, stated replicates.

    make bench-detectors            quick, some minutes, printed
    make bench-detectors FULL=1     replicates as published; writes detectors/BENCH.md and plots/

`--write DIRECTORY` writes there instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.benchmarks.bench_detectors import (
    labels,
    plots,
    rest,
    single_stream,
    throughput,
    week,
    wer,
)
from tests.benchmarks.bench_detectors.page import FULL, QUICK, Effort, Table
from tests.benchmarks.bench_walk import machine

ROOT: Final = Path(__file__).parents[3]
CODE: Final = ("detectors/*.py", "tests/benchmarks/bench_detectors")
INTRODUCTION: Final = """\
# Measured

Detectors on synthetic streams whose change points are known, ours beside river's and beside the
tests that people write by hand. "False alarms for each one promised" is at most 1 where a promise
is kept; "<" is the one-sided 95 % limit where no alarm came."""


def tables(effort: Effort, plots_in: Path | None) -> Iterator[Table]:
    """Each table as soon as it is there; plots are drawn on the way, where they are wanted."""
    defaults = single_stream.defaults(effort)
    yield single_stream.default_table(effort, defaults)
    curves = single_stream.curves(effort)
    yield single_stream.matched(effort, curves)
    if plots_in:
        plots.delay_against_run_length(plots_in / "single_stream.png", curves, defaults)
    yield single_stream.frequent(effort)
    yield throughput.table(effort)
    yield single_stream.references(effort)
    yield rest.table(effort)
    scores = week.scores(effort)
    yield week.table(scores)
    if plots_in:
        plots.week(plots_in / "week.png", scores)
    yield wer.table(effort)
    yield labels.maturity(effort)
    yield labels.sampling(effort)


def write(effort: Effort, directory: Path | None, say: Callable[[str], None]) -> None:
    """Build all tables; say each, and write the page and its plots into `directory`, if any."""
    plots_in = directory / "plots" if directory else None
    if plots_in:
        plots_in.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    parts = []
    for table in tables(effort, plots_in):
        parts.append(table.markdown())
        say(parts[-1] + "\n")
    if directory:
        minutes = (time.process_time() - started) / 60
        page = [INTRODUCTION, _provenance(effort, minutes), _pictures(), *parts]
        (directory / "BENCH.md").write_text("\n\n".join(page) + "\n")


def _provenance(effort: Effort, minutes: float) -> str:
    head = _git("rev-parse", "--short", "HEAD").strip()
    changed = " with changes" if _git("status", "--porcelain", "--", *CODE) else ""
    flag = " FULL=1" if effort is FULL else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "river"))
    return (
        f"Commit {head}{changed}; `make bench-detectors{flag}` ({effort.name}, {minutes:.0f} CPU "
        f"minutes); {machine()}, {versions}."
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout


def _pictures() -> str:
    return (
        "![Median delay against run length](plots/single_stream.png)\n\n"
        "![Recall against false alerts a week](plots/week.png)"
    )


def main() -> None:
    """Quick and printed, or full and written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="replicates as published")
    parser.add_argument("--write", type=Path, metavar="DIRECTORY", help="where the page goes")
    options = parser.parse_args()
    directory = options.write or (ROOT / "detectors" if options.full else None)

    def say(text: str) -> None:
        print(text, flush=True)

    write(FULL if options.full else QUICK, directory, say)
    if directory:
        print(f"written: {directory / 'BENCH.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
