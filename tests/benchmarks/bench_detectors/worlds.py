"""Worlds through the whole pipeline: nobody is hurt more than others, or ten pairs are.

Each world is written to a file and judged as `slicewatch backtest` judges it, once a budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import gamma, poisson

from detectors.streams import label_delays, season, zipf_fleet
from service.alerts.alert import Alert
from service.backtest import Backtest, backtest
from service.clock import SystemClock
from service.monitor.config import NamedMonitor
from service.monitor.findings import Kind, Slice
from service.monitor.mix_naming import LEAST_CHANGE
from service.monitor.silence import FAR_BELOW
from service.replay import Source
from tests.benchmarks.bench_detectors.page import (
    Bools,
    Effort,
    Floats,
    Table,
    delays,
    generator,
    number,
)
from tests.benchmarks.bench_detectors.week import BAND_NAMES, BANDS

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]

SITES: Final = 25
ACCENTS: Final = 40
CELLS: Final = SITES * ACCENTS
SLICES: Final = CELLS + SITES + ACCENTS  # watched: each value, each pair
BUDGETS: Final = (0.2, 1.0, 10.0)  # false alerts a week
MODES: Final = ("proven", "calibrated")
WEEK_HOURS: Final = 168
WATCHED_WEEKS: Final = 2  # of each replicate
CHANGE_HOURS: Final = 48  # into the first
START: Final = 1_767_225_600_000_000  # 2026-01-01, microseconds
HOUR: Final = 3_600_000_000
SESSION_MICROS: Final = 600_000_000  # from a session's first row to its last
LEVEL: Final = 0.01  # of the test that says a promise is broken


@dataclass(frozen=True, slots=True)
class World:
    """One way for nothing to be wrong, as far as anybody's share goes."""

    name: str
    labels_an_hour: int = 3_000
    reference_rows: int = 180_000
    swing: float = 0.0  # of the daily season
    bad: float = 1.0  # ratio of the rate of ten pairs from the change on
    common: float = 1.0  # of everybody's
    mix: float = 0.0  # sd of the logarithms by which traffic shifts then
    session: int = 1
    correlation: float = 0.0  # within a session
    mean_wrong: float = 0.0  # hours until an error is labelled
    mean_right: float = 0.0  # and anything else
    matured_hours: int = 0  # after which an hour is counted; 0: as labels come
    weeks: int = WATCHED_WEEKS

    @property
    def hours(self) -> int:
        """How long it is: the reference, the weeks that are watched, and the labels' delay."""
        return self.reference_hours + self.weeks * WEEK_HOURS + self.matured_hours

    @property
    def reference_hours(self) -> int:
        """How long the reference is, as rows come."""
        return -(-self.reference_rows // self.labels_an_hour)

    @property
    def change_at(self) -> int:
        """When what changes does so, microseconds."""
        return START + (self.reference_hours + CHANGE_HOURS) * HOUR


WORLDS: Final = (
    World("nothing"),
    World("nothing, 20,000 labels an hour", labels_an_hour=20_000, reference_rows=200_000),
    World("season ±25 %", swing=0.25),
    World("everybody ×1.5", common=1.5),
    World("sessions of 8", session=8, correlation=0.27),
    World("reference of 5,000 rows, the default", reference_rows=5_000),
    World("traffic shifts", mix=1.0),
    World("errors are labelled sooner", mean_wrong=6.0, mean_right=24.0, matured_hours=120),
)
HURT: Final = World("ten pairs ×5", labels_an_hour=6_000, reference_rows=200_000, bad=5.0, weeks=1)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true in one replicate of a world."""

    bad: Ints  # the places of the pairs that get worse
    rates: Floats  # of each place, before anything changes
    before: Floats  # each place's share of the traffic
    after: Floats

    def traffic(self, slice_: Slice) -> float:
        """How many times its former share of the traffic a slice has after the change."""
        inside = _inside(slice_)
        return float(self.after[inside].sum() / self.before[inside].sum())

    def harder(self, slice_: Slice) -> float:
        """How many times its former loss who is in a slice then has, each served as before."""
        inside = _inside(slice_)
        was, is_ = (
            np.average(self.rates[inside], weights=weight[inside])
            for weight in (self.before, self.after)
        )
        return float(is_ / was)


def _inside(slice_: Slice) -> Bools:
    """Which places are in a slice."""
    place, of = np.arange(CELLS), dict(slice_)
    site, accent = (of.get(name, "").removeprefix(f"{name}-") for name in ("site", "accent"))
    inside = np.ones(CELLS, np.bool_)
    if site:
        inside &= place // ACCENTS == int(site)
    if accent:
        inside &= place % ACCENTS == int(accent)
    return inside


def write(world: World, rng: np.random.Generator, path: Path) -> Truth:
    """Write a replicate of a world as a file in the contract's flat form, and tell the truth."""
    fleet = zipf_fleet(rng, CELLS, world.labels_an_hour)
    place = rng.permutation(CELLS)  # which site and accent a cell of the fleet is
    n_sessions = rng.poisson(world.hours * world.labels_an_hour / world.session)
    began = np.sort(rng.random(n_sessions) * world.hours * HOUR).astype(np.int64) + START
    later = began >= world.change_at
    before = fleet.rows_an_hour / fleet.rows_an_hour.sum()
    after = before * np.exp(world.mix * rng.standard_normal(CELLS))
    after /= after.sum()
    cell = _cells(rng, before, after, later)
    ratio = np.full(CELLS, world.common)
    bad = np.concatenate([rng.choice(np.arange(lo, hi), n, False) for lo, hi, n in BANDS])
    ratio[bad] *= world.bad
    rate = fleet.rates[cell] * np.where(later, ratio[cell], 1.0) * _rhythm(world, began)
    if world.correlation:
        spread = (1 - world.correlation) / world.correlation
        rate = rng.beta(rate * spread, (1 - rate) * spread)
    n = n_sessions * world.session
    session = np.repeat(np.arange(n_sessions), world.session)
    time = began[session]
    if world.session > 1:
        time = time + (rng.random(n) * SESSION_MICROS).astype(np.int64)
    wrong = rng.random(n) < rate[session]
    pq.write_table(_table(world, rng, time, place[cell[session]], session, wrong), path)
    cell_of = np.argsort(place)
    return Truth(place[bad], fleet.rates[cell_of], before[cell_of], after[cell_of])


def _cells(rng: np.random.Generator, before: Floats, after: Floats, later: Bools) -> Ints:
    """The cell of each session, by shares that may shift."""
    n_later = int(later.sum())
    return np.concatenate(
        [rng.choice(CELLS, later.size - n_later, p=before), rng.choice(CELLS, n_later, p=after)]
    )


def _rhythm(world: World, began: Ints) -> Floats:
    by_hour = season(24 * 7, 24, world.swing)
    rhythm: Floats = by_hour[(began // HOUR) % by_hour.size]
    return rhythm


def _table(
    world: World, rng: np.random.Generator, time: Ints, place: Ints, session: Ints, wrong: Bools
) -> Any:
    def instants(at: Ints) -> Any:
        return pa.array(at, pa.timestamp("us", "UTC"))

    def names(codes: Ints, prefix: str, n: int) -> Any:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), [f"{prefix}{k}" for k in range(n)]
        )

    n = time.size
    columns = {
        "id": pa.array([f"e{k}" for k in range(n)]),
        "time": instants(time),
        "model": names(np.zeros(n, np.int64), "fleet-", 1),
        "output": names(np.zeros(n, np.int64), "answer-", 1),
        "attributes.site": names(place // ACCENTS, "site-", SITES),
        "attributes.accent": names(place % ACCENTS, "accent-", ACCENTS),
        "loss": pa.array(wrong.astype(np.float64)),
    }
    if world.session > 1:
        columns["cluster"] = pa.array([f"s{k}" for k in session.tolist()])
    if world.mean_right:
        delay = label_delays(rng, wrong, world.mean_wrong, world.mean_right) * HOUR
        columns["label_time"] = instants(time + delay.astype(np.int64))
    return pa.table(columns)


def monitor(world: World, budget: float, mode: str) -> NamedMonitor:
    """How the world is watched, as `monitors.yaml` would state it."""
    labels = {"matured": f"{world.matured_hours}h"} if world.matured_hours else "arrival"
    return NamedMonitor.model_validate(
        {
            "model": "fleet-0",
            "loss": "given",
            "dimensions": ["site", "accent"],
            "order": 2,
            "reference": {"rows": world.reference_rows},
            "false_alerts": {"at_most": budget, "per": "7d", "mode": mode},
            "labels": labels,
        }
    )


@dataclass(frozen=True, slots=True)
class Count:
    """What one budget brought in one world."""

    world: str
    mode: str
    budget: float
    weeks: int
    false: int  # alerts, those that another one explains too
    rows: int  # predictions judged

    @property
    def is_spent(self) -> bool:
        """Whether a third of the budget at least was seen."""
        return 3 * self.false >= self.budget * self.weeks

    @property
    def is_kept(self) -> bool:
        """Whether so many are what the budget would bring in one of a hundred such trials."""
        return bool(poisson.sf(self.false - 1, self.budget * self.weeks) >= LEVEL)


def counts(effort: Effort, world: int, mode: str) -> list[Count]:
    """False alerts in replicates of a world, at each budget."""
    of = _scaled(WORLDS[world], effort.world_traffic)
    weeks = effort.world_weeks * WORLDS[0].labels_an_hour // WORLDS[world].labels_an_hour
    replicates = max(1, weeks // WATCHED_WEEKS)
    weeks = replicates * WATCHED_WEEKS
    false, rows = [0] * len(BUDGETS), 0
    for path, truth in _files(of, replicates, world):
        for k, budget in enumerate(BUDGETS):
            judged = _judged(path, of, budget, mode)
            false[k] += sum(_is_false(of, truth, alert) for alert in judged.alerts)
        rows += judged.rows
    return [Count(of.name, mode, budget, weeks, false[k], rows) for k, budget in enumerate(BUDGETS)]


def _judged(path: Path, world: World, budget: float, mode: str) -> Backtest:
    return backtest(Source((path,)), SystemClock(), monitors=(monitor(world, budget, mode),))


@dataclass(frozen=True, slots=True)
class Found:
    """How the pairs that got worse were found at one budget."""

    mode: str
    budget: float
    weeks: int
    hours: Floats  # from the change to its alert, of each pair; NaN where it had none
    false: int  # alerts of slices that hold no such pair, or from before


def found(effort: Effort, mode: str) -> list[Found]:
    """Delays and false alerts where ten pairs get worse, at each budget but the smallest."""
    of, weeks = _scaled(HURT, effort.world_traffic), 2 * effort.world_weeks
    hours: dict[float, list[float]] = {budget: [] for budget in BUDGETS[1:]}
    false = dict.fromkeys(hours, 0)
    for path, truth in _files(of, weeks, len(WORLDS)):
        pairs = [
            {("accent", f"accent-{place % ACCENTS}"), ("site", f"site-{place // ACCENTS}")}
            for place in truth.bad.tolist()
        ]
        for budget in hours:
            alerts = _judged(path, of, budget, mode).alerts
            after = [alert for alert in alerts if alert.detected_at >= of.change_at]
            hours[budget] += [_first_of(pair, after, of.change_at) for pair in pairs]
            true = [a for a in after if any(set(a.slice) <= pair for pair in pairs)]
            false[budget] += len(alerts) - len(true)
    return [Found(mode, b, weeks, np.array(hours[b]), false[b]) for b in hours]


def _first_of(pair: set[tuple[str, str]], alerts: Sequence[Alert], since: int) -> float:
    """Hours until an alert of the pair, or of its site or its accent, which holds it."""
    hours = ((a.detected_at - since) / HOUR for a in alerts if a.slice and set(a.slice) <= pair)
    return min(hours, default=np.nan)


def _scaled(world: World, traffic: float) -> World:
    """The same hours with more or less in them."""
    return replace(
        world,
        labels_an_hour=round(traffic * world.labels_an_hour),
        reference_rows=max(500, round(traffic * world.reference_rows)),
    )


def _files(world: World, replicates: int, seed: int) -> Iterator[tuple[Path, Truth]]:
    """Each replicate in the same file, one after another, and what is true in it."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "world.parquet"
        for replicate in range(replicates):
            yield path, write(world, generator(29, seed, replicate), path)


def _is_false(world: World, truth: Truth, alert: Alert) -> bool:
    """Whether nothing of the kind happened: all are but what the change at its hour makes true.

    Everybody got worse where everybody did; who sends less than half of what they sent may be told
    of as silent, and who is in a slice as another composition if they lose at least half of the
    tenth more that such an alert is about.
    """
    if alert.detected_at < world.change_at:
        return True
    match alert.kind:
        case Kind.ERROR_RATE:
            return bool(alert.slice) or world.common <= 1
        case Kind.SILENCE:
            return truth.traffic(alert.slice) >= FAR_BELOW
        case Kind.COMPOSITION:
            return truth.harder(alert.slice) < 1.0 + LEAST_CHANGE / 2
        case _:
            return True


def table(effort: Effort, counted: Sequence[Count]) -> Table:
    """A row a world, a column a budget."""
    cells: dict[tuple[str, str], list[str]] = {}
    for count in counted:
        row = cells.setdefault(
            (count.world, count.mode), [str(count.weeks), f"{count.rows / count.weeks:,.0f}"]
        )
        row.append(_cell(count))
    weeks = sum(count.weeks for count in counted) // (len(BUDGETS) * len(MODES))
    broken = sum(not count.is_kept for count in counted)
    calibrated = [c for c in counted if c.mode == "calibrated" and c.budget >= 1]
    spent = sum(count.is_spent for count in calibrated)
    scale = f", times {effort.world_traffic:g}" if effort.world_traffic != 1 else ""
    return Table(
        "2.9 The promise, on the whole pipeline",
        f"`slicewatch backtest`, in process, over files in which nobody is hurt more than others: "
        f"{SITES} sites × {ACCENTS} accents, {SLICES:,} slices of order 1 and 2, traffic of pairs "
        f"as one over their rank, base rates Beta of mean 0.05 and sd 0.02, "
        f"{WORLDS[0].labels_an_hour:,} labels an hour where nothing else is said{scale}, a "
        f"reference of {WORLDS[0].reference_rows:,} rows{scale}, then {WATCHED_WEEKS} weeks that "
        f"are watched; what changes does so {CHANGE_HOURS} hours into them. {weeks} weeks in all, "
        "the same ones for each budget and mode.",
        ("world", "mode", "weeks", "rows", *(f"alerts a week at {b:g} a week" for b in BUDGETS)),
        [[*names, *row] for names, row in sorted(cells.items(), key=_by_world)],
        "Every alert that fired counts, also those that another one explains; where everybody got "
        "worse, the alert that says so is true, and where traffic shifts those of who is gone and "
        "of slices with other people in them. In parentheses the upper 95 % limit. "
        + (
            f"**{broken} of {len(counted)}** break the promise (one-sided Poisson test at 1 %)."
            if broken
            else f"None of {len(counted)} breaks the promise (one-sided Poisson test at 1 %)."
        )
        + f" Calibrated, {spent} of {len(calibrated)} come to a third at least of 1 and 10 a week.",
    )


def _by_world(row: tuple[tuple[str, str], list[str]]) -> tuple[int, int]:
    (world, mode), _ = row
    return [known.name for known in WORLDS].index(world), MODES.index(mode)


def _cell(count: Count) -> str:
    limit = float(gamma.ppf(0.95, count.false + 1)) / count.weeks  # Garwood's
    text = f"{number(count.false / count.weeks)} (< {number(limit)})"
    return text if count.is_kept else f"**{text}**"


def found_table(effort: Effort, all_found: Sequence[Found]) -> Table:
    """A row a mode and budget."""
    rows = []
    for one in sorted(all_found, key=lambda one: (one.budget, MODES.index(one.mode))):
        known = one.hours[~np.isnan(one.hours)]
        bands, start = [], 0
        for _, _, n in BANDS:
            band = one.hours.reshape(one.weeks, -1)[:, start : start + n]
            median = np.median(np.where(np.isnan(band), WEEK_HOURS - CHANGE_HOURS, band))
            bands.append(f"{np.mean(~np.isnan(band)):.2f}, {median:.1f} h")
            start += n
        rows.append(
            [
                f"{one.budget:g}",
                one.mode,
                number(known.size / one.hours.size),
                *bands,
                delays(one.hours, WEEK_HOURS - CHANGE_HOURS, 1),
                number(one.false / one.weeks),
            ]
        )
    weeks = all_found[0].weeks
    return Table(
        "2.9b Found, on the whole pipeline",
        f"The same with {HURT.labels_an_hour * effort.world_traffic:,.0f} labels an hour, where "
        f"ten pairs lose {HURT.bad:g} times as much from hour {CHANGE_HOURS} of the week on: three "
        f"of traffic rank 5 to 50, four of 50 to 300, three beyond; {weeks} weeks. Delays in "
        "hours, median / 90 %, what was missed counting as the week's end; a pair is found with "
        "an alert of its own, or of its site or accent; false are alerts of slices that hold none.",
        (
            "budget",
            "mode",
            "recall",
            *(f"rank {name}: recall, median" for name in BAND_NAMES),
            "delay, h",
            "false a week",
        ),
        rows,
        "Medians over the proven mode's: " + ", ".join(_gains(all_found)) + ".",
    )


def _gains(all_found: Sequence[Found]) -> Iterator[str]:
    """Each budget's median delay calibrated, over that proven."""
    median = {
        (one.budget, one.mode): np.median(np.nan_to_num(one.hours, nan=WEEK_HOURS - CHANGE_HOURS))
        for one in all_found
    }
    for budget in BUDGETS[1:]:
        ratio = median[budget, "calibrated"] / median[budget, "proven"]
        yield f"{number(ratio)} at {budget:g} a week"
