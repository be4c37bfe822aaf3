"""The tables of `detectors/BENCH.md`, rebuilt: fixed seeds, stated replicates.

    make bench-detectors            quick, some minutes, printed
    make bench-detectors FULL=1     replicates as published; writes detectors/BENCH.md and plots/

`--write DIRECTORY` writes there instead. What was measured is kept in `.bench/` until the code
changes: called again, a run that was broken off goes on. `--tables 2.5 2.9` measures those alone
and puts them in the place of theirs in the page that is there, each with its own commit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
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


# the parts, by how their names begin, that each table is of
TABLES: Final = {
    "2.1": "defaults",
    "2.1b": "curves-",
    "2.1c": "frequent",
    "2.2": "throughput",
    "2.3": "references",
    "2.4": "rest",
    "2.5": "week-",
    "2.7": "wer",
    "2.8": "maturity",
    "2.8b": "sampling",
    "2.9": "world-",
    "2.9b": "found-",
}


def page(
    effort: Effort, results: Mapping[str, Result], plots_in: Path | None, numbers: Collection[str]
) -> list[Table]:
    """The tables of what was measured; plots of theirs are drawn where they are wanted."""

    def joined(prefix: str) -> list[Any]:
        return [one for name in results if name.startswith(prefix) for one in results[name].value]

    if plots_in:
        plots_in.mkdir(parents=True, exist_ok=True)
        if {"2.1", "2.1b"} <= set(numbers):
            singles = joined("curves-"), joined("defaults")
            plots.delay_against_run_length(plots_in / "single_stream.png", *singles)
        if "2.5" in numbers:
            plots.week(plots_in / "week.png", joined("week-"))
    drawn: dict[str, Callable[[], Table]] = {
        "2.1": lambda: single_stream.default_table(effort, joined("defaults")),
        "2.1b": lambda: single_stream.matched(effort, joined("curves-")),
        "2.5": lambda: week.table(joined("week-")),
        "2.9": lambda: worlds.table(effort, joined("world-")),
        "2.9b": lambda: worlds.found_table(effort, joined("found-")),
    }
    return [
        drawn[number]() if number in drawn else results[TABLES[number]].value
        for number in TABLES
        if number in numbers
    ]


def write(
    effort: Effort,
    directory: Path | None,
    kept_in: Path,
    say: Callable[[str], None],
    numbers: Collection[str] = tuple(TABLES),
) -> str:
    """Measure what is not kept already; the tables, written into `directory` too, if any."""
    needed = tuple(TABLES[number] for number in numbers)
    wanted = [part for part in parts(effort) if part.name.startswith(needed)]
    results = measure(effort, wanted, kept_in, say)
    tables = page(effort, results, directory / "plots" if directory else None, numbers)
    text = "\n\n".join(table.markdown() for table in tables)
    if directory:
        minutes = sum(result.seconds for result in results.values()) / 60
        path, provenance = directory / "BENCH.md", _provenance(effort, minutes, numbers)
        if len(numbers) == len(TABLES):
            path.write_text("\n\n".join([INTRODUCTION, provenance, _pictures(), text]) + "\n")
        else:
            path.write_text(_replaced(path.read_text(), tables, provenance))
    return text


def _replaced(whole: str, tables: Sequence[Table], provenance: str) -> str:
    """The page with these tables in the place of those of the same number."""
    head, *sections = whole.rstrip("\n").split("\n\n## ")
    new = {table.title.split()[0]: table for table in tables}
    for place, section in enumerate(sections):
        table = new.get(section.split()[0])
        if table is not None:
            sections[place] = f"{table.markdown().removeprefix('## ')}\n\n{provenance}"
    return "\n\n## ".join([head, *sections]) + "\n"


def _provenance(effort: Effort, minutes: float, numbers: Collection[str]) -> str:
    head = _git("rev-parse", "--short", "HEAD").strip()
    code = (f"{folder}/*.py" for folder in WHOLE)
    changed = " with changes" if _git("status", "--porcelain", "--", *code) else ""
    flag = " FULL=1" if effort is FULL else ""
    command = f"make bench-detectors{flag}"
    if len(numbers) < len(TABLES):
        full = " --full" if effort is FULL else ""
        tables = " ".join(numbers)
        command = f"python -m tests.benchmarks.bench_detectors{full} --tables {tables}"
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"Commit {head}{changed}; `{command}` ({effort.name}, {minutes:.0f} CPU minutes); "
        f"{machine()}, {versions}."
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
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=tuple(TABLES), help="these alone"
    )
    options = parser.parse_args()
    directory = options.write or (ROOT / "detectors" if options.full else None)

    def say(name: str) -> None:
        print(f"measured: {name}", file=sys.stderr, flush=True)

    effort = FULL if options.full else QUICK
    print(write(effort, directory, ROOT / ".bench", say, options.tables))
    if directory:
        print(f"written: {directory / 'BENCH.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
