"""A real year: few incidents, the right ones, one for what lasts, and intervals that hold.

What is true of it was found by tests that take days as clusters: from June to July flights from JFK
and to the west were worse served (z 4.8 and 4.3), EWR and the east hardly (1.0 and 2.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from service.alerts.alert import Alert
from service.backtest import Backtest, backtest
from service.clock import SystemClock
from service.ingest.events import EventBatch
from service.monitor.config import MonitorConfig, NamedMonitor
from service.monitor.findings import Kind, State
from service.monitor.model import Model
from service.monitor.standing import standing
from service.replay import Source
from tests.figures import Figures

FILE: Final = Path(__file__).parents[1] / "data" / "flights" / "one_in_five.parquet"
REFERENCE: Final = {"rows": 1_000}  # as many days as the default's 5,000 are of all flights
MICROS: Final = 1_000_000
LABELLED: Final = 3  # one in so many rows has its label known, for the intervals
MIN_ROWS: Final = 20


@pytest.fixture(scope="module")
def year() -> Backtest:
    monitor = NamedMonitor.model_validate({"model": "late-arrival", "reference": REFERENCE})
    return backtest(Source((FILE,)), SystemClock(), monitors=(monitor,))


def incidents(year: Backtest) -> list[Alert]:
    return [alert for alert in year.alerts if alert.explained_by is None]


def at(month: int) -> int:
    when = datetime(2013 + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC)
    return int(when.timestamp()) * MICROS


def test_a_year_of_bad_days_is_a_handful_of_incidents(year: Backtest) -> None:
    assert year.rows == year.labels == 58_142
    assert 1 <= len(incidents(year)) <= 15
    assert all(alert.onset_interval[0] <= alert.onset for alert in year.alerts)
    shown = [alert for alert in year.alerts if alert.kind is not Kind.SILENCE]  # which has no rows
    assert all(alert.effect.rows >= MIN_ROWS for alert in shown)


def test_in_summer_the_west_and_jfk_are_told_of_and_newark_and_the_east_are_not(
    year: Backtest,
) -> None:
    told = [a for a in incidents(year) if a.slice and at(6) <= a.onset < at(9)]
    named = {part for alert in told for part in alert.slice}
    assert named & {("region", "west"), ("origin", "JFK")}
    before_autumn = {part for a in told if a.detected_at < at(9) for part in a.slice}
    assert not before_autumn & {("origin", "EWR"), ("region", "east")}


def test_what_lasts_is_one_open_incident(year: Backtest) -> None:
    by_slice: dict[object, list[Alert]] = {}
    for alert in incidents(year):
        by_slice.setdefault((alert.kind, alert.slice), []).append(alert)
    for alerts in by_slice.values():
        for one, other in pairwise(alerts):
            assert one.state is not State.FIRING  # while it is open there is no other
            assert one.resolved_at is not None
            assert other.detected_at > one.resolved_at
    longest = max((a.resolved_at or year.until) - a.detected_at for a in incidents(year))
    assert longest > 21 * 86_400 * MICROS  # and not one a week


def is_known(id_: str) -> bool:
    return zlib.crc32(b"known " + id_.encode()) % LABELLED == 0


def without_most_labels(batch: EventBatch) -> EventBatch:
    """Only some of the labels have come yet."""
    rows = [row for row, id_ in enumerate(batch.ids) if batch.kind[row] == 1 or is_known(id_)]
    return batch.take(np.array(rows, np.intp))


def by_month(model: Model, month: int) -> dict[object, tuple[float, float, float, float]]:
    """Rows, loss and its interval of each slice that may be shown."""
    assert model.monitor is not None
    stands = standing(model.monitor, at(month), at(month + 1))
    columns = (stands.rows, stands.loss, stands.loss_lower, stands.loss_upper)
    return {
        name: (float(rows), float(loss), float(low), float(high))
        for name, rows, loss, low, high in zip(model.monitor.slices.names, *columns, strict=True)
        if rows >= MIN_ROWS and not np.isnan(loss)
    }


def months(labels: str) -> list[dict[object, tuple[float, float, float, float]]]:
    """What is known of each month at its end, of all labels or of those that have come."""
    config = MonitorConfig.model_validate({"reference": REFERENCE, "loss": "zero_one"})
    model, told, month = Model(config, 600), [], 1
    for batch in Source((FILE,)).batches(1_000, lambda row: None):
        while int(batch.time[0]) >= at(month + 1):
            told.append(by_month(model, month))
            month += 1
        rows = batch if labels == "all" else without_most_labels(batch)
        model.absorb(rows, int(batch.time[-1]) + 86_400 * MICROS)
    return [*told, by_month(model, month)]


def coverage(early: Sequence[dict[object, tuple[float, float, float, float]]]) -> tuple[int, int]:
    """How many slices and months there are, and in how many the truth is inside the interval."""
    n = inside = 0
    for then, later in zip(early, months("all"), strict=True):
        for name in then.keys() & later.keys():
            _, _, low, high = then[name]
            n += 1
            inside += low <= later[name][1] <= high
    return n, inside


def test_intervals_of_each_slice_and_month_hold_what_later_labels_say(figures: Figures) -> None:
    n, inside = coverage(months("some"))
    figures("intervals of a slice and month", slices_and_months=n, covered=inside)
    assert n > 800
    assert inside >= 0.95 * n  # as stated
