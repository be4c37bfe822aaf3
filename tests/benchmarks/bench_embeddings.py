"""How soon embeddings that moved are found, beside online tests of the kernel's mean (MMD).

A stream of vectors of 64 numbers, a mixture of ten kinds of rows in a subspace of 16, as encoders
give them. 2,000 rows are the reference; 2,000 more are like it; then something happens. Ours counts
regions and directions that the first thousand rows teach, as the service does, and looks every
fifty rows. Beside it, on the same rows, as many numbers a row (256 random Fourier features, their
bandwidth the median distance):

- NEWMA, two exponential averages of the features, one of which forgets sooner: Keriven, Garreau,
  Poli, "NEWMA", IEEE TSP 2020;
- a scan, the newest 2ᵏ rows against the reference: the statistic of Xie and Wei, "Online kernel
  CUSUM", arXiv 2211.15070, over windows as Kalinke, Szabó, "Online RFF-MMD", arXiv 2505.17789,
  space them.

What each is to exceed for an alarm is set so that one in ten quiet streams has one: theirs by these
simulations, with what happens left out, ours by what it promises.

    make bench-embeddings            prints it
    make bench-embeddings FULL=1     writes detectors/EMBEDDINGS.md
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist

from detectors import Dispersion, OwnInputs, Shares
from service.ingest.events import PREDICTION, Categories, EventBatch, Value, Vectors
from service.monitor.config import MonitorConfig
from service.monitor.indicators import Indicators
from service.monitor.signals import Reader, learn_signals
from tests.benchmarks.bench_detectors.page import Table, delays, number

Floats = npt.NDArray[np.float64]

LENGTH: Final = 64  # numbers a vector
SUBSPACE: Final = 16  # dimensions in which kinds lie apart
KINDS: Final = 10
REFERENCE: Final = 2_000  # rows
LEARNT: Final = 1_000  # the first of them, which teach regions and directions
QUIET: Final = 2_000
WATCHED: Final = 10_000  # rows, the quiet ones among them
STEP: Final = 50  # rows from one look to the next
FALSE: Final = 0.1  # of quiet streams have an alarm
FOURIER: Final = 256
FORGETTING: Final = (1 / 64, 1 / 512)
WINDOWS: Final = 2 ** np.arange(5, 12)
SEED: Final = 20_261_130


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a stream's rows."""

    words: str
    moved: float = 0.0  # standard deviations, along a direction at random
    part: float = 1.0  # of the rows, which do
    wider: float = 1.0
    rarer: float = 1.0  # times what there were of the most frequent kind
    stranger: float = 0.0  # share of rows of a kind that was not there


NOTHING: Final = Change("nothing")
CHANGES: Final = (
    Change("all move by 0.5 sd", moved=0.5),
    Change("all move by 1 sd", moved=1.0),
    Change("a fifth moves by 3 sd", moved=3.0, part=0.2),
    Change("half as much again of scatter", wider=1.5),
    Change("the commonest kind halves", rarer=0.5),
    Change("5 % are of a new kind", stranger=0.05),
)


def stream(rng: np.random.Generator, change: Change) -> Floats:
    """The reference and what is watched, shape (REFERENCE + WATCHED, LENGTH)."""
    n = REFERENCE + WATCHED
    basis = np.linalg.qr(rng.standard_normal((LENGTH, SUBSPACE)))[0].T
    centres = rng.normal(0.0, 2.0, (KINDS + 1, SUBSPACE))  # the last is the new kind's
    share = 1.0 / np.arange(1, KINDS + 1)
    share /= share.sum()
    later = np.arange(n) >= REFERENCE + QUIET
    after = share * np.where(np.arange(KINDS) == 0, change.rarer, 1.0)
    after /= after.sum()
    kind = np.where(later, rng.choice(KINDS, n, p=after), rng.choice(KINDS, n, p=share))
    kind = np.where(later & (rng.random(n) < change.stranger), KINDS, kind)
    noise = rng.standard_normal((n, LENGTH))
    noise[later] *= change.wider
    direction = rng.standard_normal(LENGTH)
    direction /= np.linalg.norm(direction)
    moves = later & (rng.random(n) < change.part)
    rows: Floats = centres[kind] @ basis + noise
    rows += change.moved * moves[:, None] * direction
    return rows


Method = Callable[[Floats], Floats]  # a stream; how far it strayed at each look


def ours(rows: Floats) -> Floats:
    """Evidence of `OwnInputs`, at a hazard that one quiet stream in ten may spend."""
    batch = _batch(rows)
    signals = learn_signals(
        MonitorConfig(features={"output": "ignore"}), batch.take(np.arange(LEARNT))
    )
    indicators = Indicators(signals)
    fleet = OwnInputs(indicators.signals)
    bins = Reader(signals).bins(batch, np.arange(len(batch))) + indicators.bins[:-1, None]

    def shares(part: slice) -> Shares:
        counts = np.bincount(bins[:, part].ravel(), minlength=indicators.n_bins)
        return indicators.shares(counts[None])

    none = np.zeros((1, len(signals)))
    fleet.grow(Dispersion(none + 1.0, none), shares(slice(REFERENCE)))
    n_looks = WATCHED // STEP
    hazard = np.full(1, FALSE / n_looks)
    evidence = np.zeros(n_looks)
    for k in range(n_looks):
        start = REFERENCE + k * STEP
        found = fleet.update(shares(slice(start, start + STEP)), hazard)
        evidence[k] = max([1.0, *found.own_reference]) if len(found) else fleet.meter.max()
    return evidence


def _batch(rows: Floats) -> EventBatch:
    n = len(rows)
    return EventBatch(
        ids=[""] * n,
        kind=np.full(n, PREDICTION, np.uint8),
        time=np.zeros(n, np.int64),
        model=Categories.absent(n),
        version=Categories.absent(n),
        features={
            "embedding": Value(
                vector=Vectors(np.arange(n + 1) * LENGTH, rows.astype(np.float32).ravel())
            )
        },
    )


def _fourier(rows: Floats) -> Floats:
    """Random Fourier features of a Gaussian kernel, in units of what the reference's mean has."""
    rng = np.random.default_rng(SEED)
    bandwidth = float(np.median(pdist(rows[: REFERENCE // 4])))
    angles = rows @ rng.normal(0.0, 1 / bandwidth, (LENGTH, FOURIER // 2))
    features: Floats = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    features -= features[:REFERENCE].mean(axis=0)
    return features


def newma(rows: Floats) -> Floats:
    """The squared distance of two averages, one of which forgets sooner."""
    features = _fourier(rows)
    fast, slow = (np.zeros(FOURIER) for _ in FORGETTING)
    apart = np.zeros(WATCHED // STEP)
    for row, values in enumerate(features):
        fast += FORGETTING[0] * (values - fast)
        slow += FORGETTING[1] * (values - slow)
        watched = row + 1 - REFERENCE
        if watched > 0 and watched % STEP == 0:
            apart[watched // STEP - 1] = float(((fast - slow) ** 2).sum())
    return apart


def scan(rows: Floats) -> Floats:
    """The farthest of windows of the newest rows, each in deviations of its own in quiet."""
    features = _fourier(rows)
    scatter = float((features[:REFERENCE] ** 2).sum(axis=1).mean())
    covariance = np.cov(features[:REFERENCE].T)
    spread = float(np.sqrt(2 * (covariance**2).sum()))
    sums = np.concatenate([np.zeros((1, FOURIER)), np.cumsum(features, axis=0)])
    ends = REFERENCE + STEP * np.arange(1, WATCHED // STEP + 1)
    strayed = []
    for window in WINDOWS:
        mean = (sums[ends] - sums[ends - window]) / window
        noise = scatter * (1 / window + 1 / REFERENCE)
        unit = spread * (1 / window + 1 / REFERENCE)
        strayed.append(((mean**2).sum(axis=1) - noise) / unit)
    farthest: Floats = np.max(strayed, axis=0)
    return farthest


METHODS: Final[dict[str, Method]] = {
    "**ours**": ours,
    "NEWMA": newma,
    "scan of windows, MMD": scan,
}


def table(n_quiet: int, n_changed: int) -> Table:
    """A row a method: false alarms, then delays."""
    rows = []
    quiet = [stream(np.random.default_rng([SEED, 0, k]), NOTHING) for k in range(n_quiet)]
    more = [stream(np.random.default_rng([SEED, 1, k]), NOTHING) for k in range(n_quiet)]
    for name, method in METHODS.items():
        peaks = np.array([method(rows).max() for rows in quiet])
        level = 1.0 if method is ours else float(np.quantile(peaks, 1 - FALSE))
        again = np.mean([method(rows).max() >= level for rows in more])
        cells = [name, number(float(again))]
        for c, change in enumerate(CHANGES):
            found = np.array(
                [
                    _delay(method(stream(np.random.default_rng([SEED, 2 + c, k]), change)), level)
                    for k in range(n_changed)
                ]
            )
            cells.append(delays(found, WATCHED - QUIET))
        rows.append(cells)
    return Table(
        "Embeddings that move",
        f"{n_changed} streams of each change, and {n_quiet} quiet ones of {WATCHED:,} rows, other "
        f"than the {n_quiet} that set what the peers are to exceed. Delays in rows from the change "
        f"on, median / 90 %; what was not found in {WATCHED - QUIET:,} rows counts as that.",
        ("method", "quiet streams with an alarm", *(change.words for change in CHANGES)),
        rows,
        "A peer needs its quiet streams simulated, or a bound that is looser; ours has a hazard. "
        "An alarm of ours names the region or the direction that moved, and from what to what; a "
        "kernel's mean names nothing.",
    )


def _delay(strayed: Floats, level: float) -> float:
    """Rows from the change to the first alarm behind it, NaN where there is none.

    What crossed before it is passed over: the state goes on.
    """
    looks = np.flatnonzero(strayed[QUIET // STEP :] >= level)
    return float((looks[0] + 1) * STEP) if looks.size else np.nan


def page(full: bool) -> Iterator[str]:
    """The page, a paragraph at a time."""
    title, rest = (__doc__ or "").split("\n\n", 1)
    yield f"# Embeddings, measured\n\n{title}"
    yield rest.split("\n\n    make")[0]
    yield table(*((100, 40) if full else (20, 5))).markdown()
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    yield f"`make bench-embeddings FULL=1`, at {done.stdout.strip()}."


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="write detectors/EMBEDDINGS.md")
    full = parser.parse_args().full
    text = "\n\n".join(page(full)) + "\n"
    if full:
        (Path(__file__).parents[2] / "detectors" / "EMBEDDINGS.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
