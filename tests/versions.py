"""Versions: a stream of classifications whose model changes, at once or beside the old one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from service.engine.fold import Fold
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Value
from service.monitor.monitor import Monitor
from tests.rows import HOUR, SECOND, START, a_configuration, by_time

FLOORS: Final = ["1", "2", "3", "4"]


@dataclass(frozen=True, slots=True)
class Release:
    """Version "a", and from half-way on "b" for a share of the rows."""

    n: int = 12_000
    seed: int = 1
    share: float = 1.0  # of the rows that "b" makes: 1 replaces "a" at once
    a_rate: float = 0.15  # of errors under "a", whatever the floor
    b_rate: float = 0.15  # under "b"
    b_rate_on_floor_2: float | None = None  # under "b" on floor 2; None: as everywhere
    b_on_easy_rows: float = 0.0  # of "b"'s rows, moved to the easy floor 4 where fewer err
    easy: float = 1.0  # times the rate on floor 4, under either
    apart: int = 60 * SECOND
    delay: int = 2 * HOUR

    def rows(self) -> EventBatch:
        n, draw = self.n, np.random.default_rng(self.seed)
        b = (np.arange(n) >= n // 2) & (draw.random(n) < self.share)
        floor = draw.integers(4, size=n)
        floor = np.where(b & (draw.random(n) < self.b_on_easy_rows), 3, floor)
        accent = draw.integers(3, size=n)
        on_2 = self.b_rate if self.b_rate_on_floor_2 is None else self.b_rate_on_floor_2
        rate = np.where(b, np.where(floor == 1, on_2, self.b_rate), self.a_rate)
        wrong = draw.random(n) < rate * np.where(floor == 3, self.easy, 1.0)
        time = START + np.arange(n) * self.apart
        none = np.zeros(n, np.int32)
        predictions = EventBatch(
            ids=[f"p{i}" for i in range(n)],
            kind=np.full(n, PREDICTION, np.uint8),
            time=time,
            model=Categories(none, ["m"]),
            version=Categories(b.astype(np.int32), ["a", "b"]),
            attributes={
                "floor": Categories(floor.astype(np.int32), FLOORS),
                "accent": Categories(accent.astype(np.int32), ["north", "south", "west"]),
            },
            output=Value(text=Categories(none, ["yes"])),
        )
        labels = EventBatch(
            ids=predictions.ids,
            kind=np.full(n, LABEL, np.uint8),
            time=time + (draw.random(n) * self.delay).astype(np.int64),
            model=predictions.model,
            version=Categories.absent(n),
            truth=Value(text=Categories(wrong.astype(np.int32), ["yes", "no"])),
        )
        return by_time(EventBatch.concatenate([predictions, labels]))


def a_fold(**stated: object) -> Fold:
    """A fold that watches floors and accents, alone."""
    fold = Fold()
    config = {"dimensions": ["floor", "accent"], "order": 1, "loss": "zero_one"}
    fold.apply(a_configuration({**config, "reference": {"rows": 3_000}, **stated}))
    return fold


def monitor_of(fold: Fold) -> Monitor:
    known = fold.model("acme", "m")
    assert known is not None
    assert known[0].monitor is not None
    return known[0].monitor
