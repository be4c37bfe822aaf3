"""The tables of `detectors/BENCH.md`, rebuilt: fixed seeds, stated replicates.

    make bench-detectors            quick, some minutes, printed
    make bench-detectors FULL=1     replicates as published; writes detectors/BENCH.md and plots/

`--write DIRECTORY` writes there instead. What was measured is kept in `.bench/` until the code
changes: called again, a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.bench_detectors import plots, single_stream, week, worlds
from tests.benchmarks.bench_detectors.page import FULL, QUICK, Effort, Table
from tests.benchmarks.bench_detectors.parts import (
    LIBRARIES,
    ROOT,
    WHOLE,
    Result,
    measure,
    parts,
)
from tests.benchmarks.bench_walk import machine

INTRODUCTION: Final = """\
# Measured

Detectors on synthetic streams whose change points are known, ours beside river's and beside the
tests that people write by hand. "False alarms for each one promised" is at most 1 where a promise
is kept; "<" is the one-sided 95 % limit where no alarm came."""


def page(effort: Effort, results: Mapping[str, Result], plots_in: Path | None) -> list[Table]:
    """Every table, of what was measured; the plots are drawn where they are wanted."""

    def joined(prefix: str) -> list[Any]:
        return [one for name in results if name.startswith(prefix) for one in results[name].value]

    defaults, curves = results["defaults"].value, joined("curves-")
    scores = joined("week-")
    if plots_in:
        plots_in.mkdir(parents=True, exist_ok=True)
        plots.delay_against_run_length(plots_in / "single_stream.png", curves, defaults)
        plots.week(plots_in / "week.png", scores)
    return [
        single_stream.default_table(effort, defaults),
        single_stream.matched(effort, curves),
        results["frequent"].value,
        results["throughput"].value,
        results["references"].value,
        results["rest"].value,
        week.table(scores),
        results["wer"].value,
        results["maturity"].value,
        results["sampling"].value,
        worlds.table(effort, joined("world-")),
        worlds.found_table(effort, joined("found-")),
    ]


def write(effort: Effort, directory: Path | None, kept_in: Path, say: Callable[[str], None]) -> str:
    """Measure what is not kept already; the tables, written into `directory` too, if any."""
    results = measure(effort, parts(effort), kept_in, say)
    tables = page(effort, results, directory / "plots" if directory else None)
    text = "\n\n".join(table.markdown() for table in tables)
    if directory:
        minutes = sum(result.seconds for result in results.values()) / 60
        whole = [INTRODUCTION, _provenance(effort, minutes), _pictures(), text]
        (directory / "BENCH.md").write_text("\n\n".join(whole) + "\n")
    return text


def _provenance(effort: Effort, minutes: float) -> str:
    head = _git("rev-parse", "--short", "HEAD").strip()
    code = (f"{folder}/*.py" for folder in WHOLE)
    changed = " with changes" if _git("status", "--porcelain", "--", *code) else ""
    flag = " FULL=1" if effort is FULL else ""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
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

    def say(name: str) -> None:
        print(f"measured: {name}", file=sys.stderr, flush=True)

    print(write(FULL if options.full else QUICK, directory, ROOT / ".bench", say))
    if directory:
        print(f"written: {directory / 'BENCH.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
