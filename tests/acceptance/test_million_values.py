"""A million values in one dimension: bounded room, and who is hurt among them is found."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np

from service.alerts.ledger import Ledger
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch
from service.monitor.config import MonitorConfig
from service.monitor.findings import slice_text
from service.monitor.model import Model
from tests.figures import Figures
from tests.rows import DAY, START

ROWS: Final = 1_200_000
DAYS: Final = 24
BATCH_ROWS: Final = 10_000
WARDS: Final = 8  # with 12 % of the rows between them; each of the others is seen once
LATE: Final = "annex"  # opens on the eighth day, with 3 % of the rows
LATE_DAY, HURT_DAY = 8, 16
GROWTH_MB: Final = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run came to."""

    values: int
    growth_mb: float
    told: list[str]
    rows_other: int
    slices: int


def a_request(rng: np.random.Generator, first: int) -> EventBatch:
    """Rows from `first` on: those of ward 3 and of the annex are wrong three times as often."""
    n = BATCH_ROWS
    time = START + (np.arange(first, first + n) * (DAYS * DAY / ROWS)).astype(np.int64)
    day = (time - START) // DAY
    drawn = rng.random(n)
    ward = rng.integers(WARDS, size=n)
    is_ward = drawn < 0.12
    is_late = (drawn >= 0.12) & (drawn < 0.15) & (day >= LATE_DAY)
    site = np.where(is_ward, ward, np.where(is_late, WARDS, WARDS + 1 + np.arange(n)))
    names = [*(f"ward {w}" for w in range(WARDS)), LATE, *(f"visit {first + i}" for i in range(n))]
    accent = rng.integers(3, size=n)
    is_hurt = (day >= HURT_DAY) & ((is_ward & (ward == 3)) | is_late)
    wrong = rng.random(n) < np.where(is_hurt, 0.3, 0.1)
    return EventBatch(
        ids=[f"e{first + i}" for i in range(n)],
        kind=np.full(n, PREDICTION | LABEL, np.uint8),
        time=time,
        model=Categories(np.zeros(n, np.int32), ["m"]),
        version=Categories.absent(n),
        attributes={
            "site": Categories(site.astype(np.int32), names),
            "accent": Categories(accent.astype(np.int32), ["us", "irish", "welsh"]),
        },
        loss=wrong.astype(np.float64),
    )


def resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def watch_a_million() -> Seen:
    rng = np.random.default_rng(7)
    config = {
        "loss": "given",
        "dimensions": ["site", "accent"],
        "reference": {"rows": 100_000},
        "false_alerts": {"at_most": 0.05},  # so that whoever is told of is hurt
        "label_horizon": "1d",  # ids are remembered for so long, however many values there are
    }
    model, ledger = Model(MonitorConfig.model_validate(config), 600), Ledger("acme", "m")
    told, before, most = [], 0.0, 0.0
    for first in range(0, ROWS, BATCH_ROWS):
        batch = a_request(rng, first)
        _, findings = model.absorb(batch, int(batch.time[-1]))
        told += [t.alert for t in ledger.apply(findings) if t.type == "alert.firing" and t.notify]
        before = before or (resident_mb() if first >= ROWS // 12 else 0.0)
        most = max(most, resident_mb())
    assert model.monitor is not None
    slices = model.monitor.slices
    return Seen(
        values=len(slices.values[slices.dimensions.index("site")]),
        growth_mb=most - before,
        told=[slice_text(alert.slice) for alert in told],
        rows_other=slices.n_rows_other,
        slices=len(slices),
    )


def test_among_a_million_values_who_is_hurt_is_found_in_bounded_room(figures: Figures) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        seen = fresh.submit(watch_a_million).result()
    figures(
        "a million values of one dimension",
        values_with_a_place=seen.values,
        slices=seen.slices,
        rows_other=seen.rows_other,
        rss_growth_mb=round(seen.growth_mb, 1),
    )
    assert set(seen.told) == {"site=ward 3", f"site={LATE}"}
    assert len(seen.told) == 2
    assert seen.rows_other > 1_000_000  # each of a value of its own
    assert seen.slices <= 2_001
    assert seen.growth_mb <= GROWTH_MB
