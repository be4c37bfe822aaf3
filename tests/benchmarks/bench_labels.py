"""Where to label next: how soon bad slices are found by the label plan and by traffic alone.

    make bench-labels            two replicates, printed
    make bench-labels FULL=1     as published; writes detectors/LABEL_PLAN.md

A thousand disjoint slices whose traffic is as one over their rank; a tenth of the rows is labelled.
What judges them is the service's own `Watch`, calibrated on its reference as in the service; the
plan is the service's own, asked every so often, and each label comes with the inclusion probability
that it was drawn with.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.streams import Fleet, zipf_fleet
from service.ingest.events import PREDICTION, Categories, EventBatch
from service.monitor.config import MonitorConfig
from service.monitor.label_plan import plan, suspicions
from service.monitor.monitor import MAX_WEIGHT
from service.monitor.null_weeks import learn_watch
from service.monitor.slices import Slices
from service.monitor.watch import Labelled, Watch
from tests.benchmarks.bench_detectors.page import Floats, Table, generator, number

Indices = npt.NDArray[np.intp]

RATIOS: Final = (2.0, 3.0)  # of the bad slices' errors
BANDS: Final = ((5, 50), (50, 300))  # traffic ranks
BAND_NAMES: Final = ("5-50", "50-300")
HOUR_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class World:
    """How much there is of everything."""

    n_slices: int = 1_000
    rows_an_hour: float = 20_000.0
    labels_an_hour: float = 2_000.0
    reference_hours: int = 168
    calm_hours: int = 48  # of planned labels before anything is wrong
    bad_hours: int = 672
    n_bad: int = 10  # in each band
    bands: tuple[tuple[int, int], ...] = BANDS
    ratio: float = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """How one way of labelling did in one world."""

    delays: Floats  # hours, shape (n_bands, n_bad); infinite where a slice was not found
    n_false: int
    weeks: float
    n_labels: int


PLANS: Final = (
    ("by traffic alone", 0),
    ("**label plan**, asked every hour", 1),
    ("asked once a day", 24),
)


def run(world: World, every: int, replicate: int) -> Found:
    """One replicate; `every` is how many hours a plan stands, 0 for none at all."""
    rng = generator(29, replicate)
    fleet = zipf_fleet(rng, world.n_slices, world.rows_an_hour)
    bad = np.concatenate(
        [rng.choice(np.arange(lo, hi), world.n_bad, False) for lo, hi in world.bands]
    )
    rng = generator(29, replicate, every)
    slices = _catalogue(world.n_slices)
    uniform = np.full(world.n_slices, world.labels_an_hour / world.rows_an_hour)
    hours = range(world.reference_hours)
    parts = [_labelled(rng, fleet.rates, fleet, uniform, hour) for hour in hours]
    watch = learn_watch(Labelled.concatenate(parts), slices, MonitorConfig())
    chance, rates, n_false, n_labels = uniform, fleet.rates.copy(), 0, 0
    found = np.full(bad.size, np.inf)
    for hour in range(-world.calm_hours, world.bad_hours):
        if every and hour % every == 0:
            seconds = (hour + world.calm_hours + 1) * HOUR_SECONDS
            held = suspicions(watch, slices, seconds)
            chance = _planned(slices, fleet, world.labels_an_hour, held)
        if hour == 0:
            rates[bad] *= world.ratio
        rows = _labelled(rng, rates, fleet, chance, hour + world.calm_hours + world.reference_hours)
        n_labels += len(rows)
        crossed = _tick(watch, slices, rows) - 1
        true = np.isin(crossed, bad) & (hour >= 0)
        n_false += int((~true).sum())
        new = np.isin(bad, crossed[true]) & np.isinf(found)
        found[new] = hour + 1
        watch.disparity.hold(crossed[true] + 1)
    weeks = (world.calm_hours + world.bad_hours) / 168
    return Found(found.reshape(len(world.bands), world.n_bad), n_false, weeks, n_labels)


def _catalogue(n: int) -> Slices:
    slices = Slices(["segment"], 1)
    for i in range(n):  # a place for each, however little traffic it has
        slices._values[0]._admit(f"s{i}")
    segments = Categories(np.arange(n, dtype=np.int32), [f"s{i}" for i in range(n)])
    none = Categories.absent(n)
    ids, kind = [""] * n, np.full(n, PREDICTION, np.uint8)
    slices.assign(EventBatch(ids, kind, np.zeros(n, np.int64), none, none, {"segment": segments}))
    return slices


def _labelled(
    rng: np.random.Generator, rates: Floats, fleet: Fleet, chance: Floats, hour: int
) -> Labelled:
    """An hour's labels, as the monitor weighs them; slice k is cell k + 1."""
    n = rng.binomial(rng.poisson(fleet.rows_an_hour), chance)
    slice_ = np.repeat(np.arange(n.size), n)
    loss = (rng.random(slice_.size) < rates[slice_]).astype(np.float64)
    weight = np.minimum(1.0 / chance[slice_], MAX_WEIGHT)
    return Labelled(
        cell=slice_ + 1,
        hour=np.full(slice_.size, hour),
        cluster=np.zeros(slice_.size, np.uint64),
        weight=weight,
        loss=loss,
        capped=loss,
        exposure=np.ones(slice_.size),
        evidence_weight=weight,
        version=np.zeros(slice_.size, np.int16),
        mask=np.zeros(slice_.size, np.uint64),
        bin=np.zeros(slice_.size, np.uint8),
    )


def _planned(slices: Slices, fleet: Fleet, n_labels: float, held: Floats) -> Floats:
    rows = np.concatenate([[0.0], fleet.rows_an_hour])
    return plan(slices, rows, held, n_labels, 1 / 24, np.ones(rows.size, np.bool_)).chance[1:]


def _tick(watch: Watch, slices: Slices, rows: Labelled) -> Indices:
    outcomes = watch.outcomes(watch.summary(rows, slices), slices)
    uneven, _ = watch.detect(outcomes, slices, HOUR_SECONDS)
    watch.learn_season(rows, slices)
    return uneven.slices


def measure(world: World, n_replicates: int) -> dict[str, list[Found]]:
    """Every way of labelling in the same worlds."""
    return {
        name: [run(world, every, replicate) for replicate in range(n_replicates)]
        for name, every in PLANS
    }


def medians(found: list[Found]) -> Floats:
    """Median delay of each band in hours; slices that were not found count as never."""
    delays = np.concatenate([one.delays for one in found], axis=1)
    median: Floats = np.median(delays, axis=1)
    return median


def table(world: World, ratios: tuple[float, ...], n_replicates: int) -> Table:
    """Delays and false alerts of each way of labelling, by how much worse the bad slices are."""
    rows = []
    for ratio in ratios:
        found = measure(replace(world, ratio=ratio), n_replicates)
        by_traffic = medians(found[PLANS[0][0]])
        rows += [[f"×{ratio:g}", *_row(name, each, by_traffic)] for name, each in found.items()]
    return Table(
        "Where to label next",
        f"{world.n_slices:,} disjoint slices, {world.rows_an_hour:,.0f} rows an hour, "
        f"{world.labels_an_hour:,.0f} labels an hour, base rates Beta of mean 0.05 and sd 0.02, a "
        f"reference of {world.reference_hours} hours labelled by traffic. After {world.calm_hours} "
        f"calm hours {world.n_bad} slices of each band of traffic ranks get worse for "
        f"{world.bad_hours} hours. {n_replicates} replicates, hourly ticks, the default budget of "
        "1 false alert a week, calibrated. Hours until half of the bad slices are found, over that "
        "of labelling by traffic, and how many are not found at all.",
        ("worse", "labels", *(f"rank {name}" for name in BAND_NAMES), "false a week", "labels/h"),
        rows,
        "Evidence, weights and chances are the service's own: `Watch`, `label_plan`, and labels "
        "weighed by 1 / inclusion probability.",
    )


def _row(name: str, found: list[Found], by_traffic: Floats) -> list[str]:
    weeks = sum(one.weeks for one in found)
    cells = []
    for band, median in enumerate(medians(found)):
        missed = np.mean([np.isinf(one.delays[band]).mean() for one in found])
        hours = "never" if np.isinf(median) else f"{median:,.0f} h"
        known = np.isfinite(median) and np.isfinite(by_traffic[band])
        ratio = f" ({median / by_traffic[band]:.2f})" if known else ""
        cells.append(f"{hours}{ratio}, {missed:.0%} missed")
    n_false = sum(one.n_false for one in found) / weeks
    labels = sum(one.n_labels for one in found) / weeks / 168
    return [name, *cells, number(n_false), f"{labels:,.0f}"]


def main() -> None:
    """Two replicates printed, or as published and written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="replicates as published")
    is_full = parser.parse_args().full
    text = table(World(), RATIOS, 8 if is_full else 2).markdown()
    print(text)
    if is_full:
        root = Path(__file__).parents[2]
        head = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(head, cwd=root, capture_output=True, text=True).stdout.strip()
        said = f"Commit {commit}; `make bench-labels FULL=1`.\n"
        (root / "detectors" / "LABEL_PLAN.md").write_text(f"{text[1:]}\n\n{said}")


if __name__ == "__main__":
    main()
