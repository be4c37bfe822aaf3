"""How often the slices that truly got worse are named, those exactly and those first.

    make bench-slices               a few replicates of each world, printed
    make bench-slices FULL=1        as published; writes tests/benchmarks/bench_slices/RESULTS.md

What was measured is kept in `.bench/` until the code changes: a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from scipy.stats import beta

from tests.benchmarks.bench_detectors.page import Table, delays, number
from tests.benchmarks.bench_slices.worlds import WORLDS, Told, World, tell
from tests.benchmarks.bench_walk import machine

ROOT: Final = Path(__file__).parents[3]
CODE: Final = ("detectors", "service/monitor", "service/alerts", "tests/benchmarks/bench_slices")
QUICK, FULL = 2, 25  # replicates of each world


class Kept(msgspec.Struct):
    """A replicate that was measured."""

    world: str
    replicate: int
    told: Told
    seconds: float  # of the processor's time


def measure(replicates: int, kept_in: Path) -> list[Kept]:
    """Every replicate of every world, those that are not kept already drawn and folded in."""
    kept_in.mkdir(parents=True, exist_ok=True)
    path = kept_in / f"slices-{_digest()}.jsonl"
    decoder = msgspec.json.Decoder(Kept)
    known = decoder.decode_lines(path.read_bytes()) if path.exists() else []
    done = {(kept.world, kept.replicate) for kept in known}
    for replicate in range(replicates):  # all worlds equally often, wherever it is broken off
        for world in WORLDS:
            if (world.name, replicate) not in done:
                started = time.process_time()
                told = tell(world, replicate)
                seconds = time.process_time() - started
                kept = Kept(world.name, replicate, told, seconds)
                with path.open("ab") as file:
                    file.write(msgspec.json.encode(kept) + b"\n")
                known.append(kept)
                print(f"measured: {world.name}, {replicate}", file=sys.stderr, flush=True)
    return known


def table(known: Sequence[Kept]) -> Table:
    """A row a world, and one of all."""
    rows = [_row(world.name, world.n_slices, _of(known, world)) for world in WORLDS]
    return Table(
        "Naming",
        "Rows of three or four dimensions, each labelled, folded in by the real `Model` and told "
        "by the real `Ledger`: 60 hours of reference, 12 quiet ones, then 72 in which one or two "
        "pairs of values lose two to four times as much as before. Each pair has 1 to 5 % of 1,500 "
        "rows an hour, of which 8 % are wrong on average. Where all lose 1.5 times as much, or "
        "traffic shifts between values (logarithms by 0.5), that begins with the quiet hours. The "
        "budget is one false alert in 30 days: what is counted here is naming, and a false alert "
        "that the budget allows counts against it too.",
        (
            "world",
            "slices",
            "runs",
            "exact set named",
            "first named is true",
            "told per true incident",
            "hours to the first alert",
            "CPU s a run",
        ),
        [*rows, _row("**all**", 0, known)],
        "Exact: at the end the heads that are open are those pairs and no other. First: the "
        "first slice that anyone was told of is one of those pairs. Told: alerts that began, of "
        "slices and of the model at large, over what was true: the pairs, and the common rise. "
        "Where traffic shifts, alerts that say just that (silence, composition) are not counted. "
        "In parentheses the lower 95 % limit (Clopper and Pearson).",
    )


def _of(known: Sequence[Kept], world: World) -> list[Kept]:
    return [kept for kept in known if kept.world == world.name]


def _row(name: str, n_slices: int, known: Sequence[Kept]) -> tuple[str, ...]:
    told = [kept.told for kept in known]
    if not told:
        return (name, f"{n_slices:,}", "0", *(["–"] * 5))
    hours = np.array([np.nanmin([*one.delays, np.inf]) for one in told])
    n_told = sum(one.n_told + one.worldwide for one in told)
    n_true = sum(one.n_true for one in told)
    return (
        name,
        f"{n_slices:,}" if n_slices else "",
        str(len(told)),
        _share([one.is_exact for one in told]),
        _share([one.first in one.truth.bad for one in told]),
        f"{n_told / n_true:.2f}",
        delays(np.where(np.isinf(hours), np.nan, hours), 72.0, 1),
        number(float(np.mean([kept.seconds for kept in known]))),
    )


def _share(held: Sequence[bool]) -> str:
    n, k = len(held), sum(held)
    limit = float(beta.ppf(0.05, k, n - k + 1)) if k else 0.0
    return f"{k / n:.1%} (> {limit:.0%})".replace("%", " %")


def _digest() -> str:
    digest = hashlib.blake2b(digest_size=6)
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name != "__main__.py":
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def page(known: Sequence[Kept], replicates: int) -> str:
    """The page of figures."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    flag = " FULL=1" if replicates == FULL else ""
    return "\n\n".join(
        [
            "# Which slice it was",
            "Models in which one or two pairs of values truly get worse, beside moves that all"
            " share and harmless shifts of traffic: what was named.",
            f"Commit {head}; `make bench-slices{flag}`; {machine()}.",
            table(known).markdown(),
        ]
    )


def main() -> None:
    """Quick and printed, or full and written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="replicates as published")
    parser.add_argument("--kept", action="store_true", help="what is kept, measuring nothing")
    options = parser.parse_args()
    replicates = FULL if options.full else QUICK
    known = measure(0 if options.kept else replicates, ROOT / ".bench")
    text = page(known, replicates)
    print(text)
    if options.full:
        Path(__file__).with_name("RESULTS.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
