"""Worlds of overlapping slices in which one or two pairs of values truly get worse.

Each replicate is drawn anew, folded in by the real `Model` and told by the real `Ledger`; what was
said is held against what was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from service.alerts.alert import Alert
from service.alerts.ledger import Ledger
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch
from service.monitor.config import MonitorConfig
from service.monitor.findings import Kind, Slice
from service.monitor.model import Model
from tests.benchmarks.bench_detectors.page import generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

START: Final = 1_767_225_600_000_000  # 2026-01-01, microseconds
HOUR: Final = 3_600_000_000
TICK_SECONDS: Final = 600
BATCH_ROWS: Final = 5_000
RATE: Final = 0.08  # of errors, on average
SHARES: Final = (0.01, 0.05)  # of all rows, that a pair which gets worse has
RATIOS: Final = (2.0, 4.0)  # by how much


@dataclass(frozen=True, slots=True)
class World:
    """Dimensions and what happens to them half-way."""

    name: str
    sizes: tuple[int, ...]  # values of each dimension
    n_bad: int = 1  # pairs that get worse
    common: float = 1.0  # by which everybody does, from half a day before on
    mix: float = 0.0  # sd of the logarithms by which traffic shifts then
    labels_an_hour: int = 1_500
    reference_hours: int = 60
    quiet_hours: int = 12  # watched before anything happens
    hours: int = 72  # watched since
    false_alerts: float = 1.0  # expected in thirty days, in the world's budget

    @property
    def n_slices(self) -> int:
        """Values and pairs of them."""
        return sum(self.sizes) + sum(a * b for a, b in combinations(self.sizes, 2))

    @property
    def moved_at(self) -> int:
        """When traffic and everybody's losses move, microseconds."""
        return START + self.reference_hours * HOUR

    @property
    def onset(self) -> int:
        """When the pairs get worse, microseconds."""
        return self.moved_at + self.quiet_hours * HOUR


SMALL: Final = (8, 6, 5, 4)  # 217 slices
MIDDLE: Final = (20, 25, 12)
LARGE: Final = (30, 25, 20)
# Where traffic shifts it is true that a value is sent less, or that others are behind it; who tells
# of that says nothing of how well anyone is served.
OF_TRAFFIC: Final = (Kind.SILENCE, Kind.COMPOSITION)
WORLDS: Final = tuple(
    World(f"{name}, {n} bad{extra}", sizes, n, common, mix)
    for name, sizes in (("small", SMALL), ("middle", MIDDLE), ("large", LARGE))
    for n, common, mix, extra in (
        (1, 1.0, 0.0, ""),
        (2, 1.0, 0.0, ""),
        (1, 1.5, 0.0, ", all ×1.5"),
        (2, 1.0, 0.5, ", mix shifts"),
    )
)


@dataclass(frozen=True, slots=True)
class Truth:
    """Which slices get worse, and how much."""

    bad: tuple[Slice, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What one replicate brought."""

    truth: Truth
    named: tuple[Slice, ...]  # heads that are open at the end
    first: Slice | None  # the first that was told
    n_told: int  # alerts of slices that someone was told began
    worldwide: int  # the same of the whole model
    n_true: int  # incidents: the bad slices, and where everybody got worse that
    delays: tuple[float, ...]  # hours, of each bad slice; NaN where it was not named

    @property
    def is_exact(self) -> bool:
        """Whether those that are worse were named, and no other."""
        return set(self.named) == set(self.truth.bad)


def draw(world: World, rng: np.random.Generator) -> tuple[EventBatch, Truth]:
    """A replicate's rows by time, and what is true in them."""
    weights = [_shares(rng, size) for size in world.sizes]
    hours = world.reference_hours + world.quiet_hours + world.hours
    n = int(rng.poisson(world.labels_an_hour * hours))
    time = np.sort((rng.random(n) * hours * HOUR).astype(np.int64)) + START
    later = time >= world.moved_at
    codes = np.empty((len(world.sizes), n), np.int32)
    for d, weight in enumerate(weights):
        codes[d] = rng.choice(weight.size, n, p=weight)
        moved = weight * np.exp(world.mix * rng.standard_normal(weight.size))
        codes[d, later] = rng.choice(weight.size, int(later.sum()), p=moved / moved.sum())
    rates = _rates(rng, world.sizes)
    rate = rates[np.ravel_multi_index(tuple(codes), world.sizes)]
    rate = rate * np.where(later, world.common, 1.0)
    truth = _bad(rng, world, weights)
    since = time >= world.onset
    for slice_, ratio in zip(truth.bad, truth.ratios, strict=True):
        inside = since.copy()
        for dimension, value in slice_:
            inside &= codes[int(dimension[1:])] == int(value)
        rate = np.where(inside, rate * ratio, rate)
    wrong = rng.random(n) < np.minimum(rate, 0.95)
    return _batch(time, codes, world.sizes, wrong), truth


def _shares(rng: np.random.Generator, size: int) -> Floats:
    weight = 1.0 / (np.arange(size) + 3.0)
    shares: Floats = rng.permutation(weight / weight.sum())
    return shares


def _rates(rng: np.random.Generator, sizes: tuple[int, ...]) -> Floats:
    """Of each combination of values: what each value does, and something of its own."""
    log_rate = 0.1 * rng.standard_normal(sizes)
    for d, size in enumerate(sizes):
        shape = [1] * len(sizes)
        shape[d] = size
        log_rate = log_rate + 0.25 * rng.standard_normal(size).reshape(shape)
    rates: Floats = np.exp(log_rate).ravel()
    limited: Floats = np.minimum(RATE * rates / rates.mean(), 0.5)
    return limited


def _bad(rng: np.random.Generator, world: World, weights: list[Floats]) -> Truth:
    """Pairs of values with traffic in between, any two of them distinct."""
    pairs = [
        ((f"d{a}", str(i)), (f"d{b}", str(j)))
        for a, b in combinations(range(len(world.sizes)), 2)
        for i in range(world.sizes[a])
        for j in range(world.sizes[b])
        if SHARES[0] <= weights[a][i] * weights[b][j] <= SHARES[1]
    ]
    chosen = rng.choice(len(pairs), world.n_bad, replace=False)
    ratios = rng.uniform(*RATIOS, world.n_bad)
    return Truth(tuple(pairs[k] for k in chosen.tolist()), tuple(ratios.tolist()))


def _batch(
    time: Ints, codes: npt.NDArray[np.int32], sizes: tuple[int, ...], wrong: npt.NDArray[np.bool_]
) -> EventBatch:
    n = time.size
    return EventBatch(
        ids=[f"e{k}" for k in range(n)],
        kind=np.full(n, PREDICTION | LABEL, np.uint8),
        time=time,
        model=Categories(np.zeros(n, np.int32), ["m"]),
        version=Categories.absent(n),
        attributes={
            f"d{d}": Categories(codes[d], [str(k) for k in range(size)])
            for d, size in enumerate(sizes)
        },
        loss=wrong.astype(np.float64),
    )


def tell(world: World, replicate: int, seed: int = 41) -> Told:
    """Draw a replicate and fold it in; what was told of it, and what is open at its end."""
    rows, truth = draw(world, generator(seed, *world.sizes, world.n_bad, replicate))
    reference = int(np.searchsorted(rows.time, world.moved_at))
    config = MonitorConfig.model_validate(
        {
            "loss": "given",
            "dimensions": [f"d{d}" for d in range(len(world.sizes))],
            "reference": {"rows": reference},
            "false_alerts": {"at_most": world.false_alerts, "per": "30d"},
        }
    )
    model, ledger = Model(config, TICK_SECONDS), Ledger("bench", "m")
    told: list[Alert] = []
    for batch in _in_requests(rows):
        _, findings = model.absorb(batch, int(rows.time[-1]))
        told += [t.alert for t in ledger.apply(findings) if t.type == "alert.firing" and t.notify]
    counted = [kind for kind in Kind if not (world.mix and kind in OF_TRAFFIC)]
    told = [alert for alert in told if alert.kind in counted]
    open_ = [alert for alert in ledger.open.values() if alert.kind in counted]
    heads = [alert.slice for alert in open_ if alert.slice and alert.explained_by is None]
    uneven = [alert for alert in told if alert.slice]
    return Told(
        truth=truth,
        named=tuple(heads),
        first=uneven[0].slice if uneven else None,
        n_told=len(uneven),
        worldwide=len(told) - len(uneven),
        n_true=world.n_bad + (world.common != 1.0),
        delays=tuple(_delay(slice_, uneven, world.onset) for slice_ in truth.bad),
    )


def _delay(slice_: Slice, told: list[Alert], onset: int) -> float:
    at = [alert.detected_at for alert in told if alert.slice == slice_]
    return (min(at) - onset) / HOUR if at else float("nan")


def _in_requests(rows: EventBatch) -> Iterator[EventBatch]:
    for start in range(0, len(rows), BATCH_ROWS):
        yield rows.take(np.arange(start, min(start + BATCH_ROWS, len(rows))))
