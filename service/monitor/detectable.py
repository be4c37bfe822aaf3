"""Detectable: what it takes to see a slice's loss double, and whether that can be waited for.

A slice with few labels is not monitorable alone, by anyone; it is better said than found out. What
happens to it is then seen, diluted, in the smallest slice around it that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from detectors.confidence import losses_to_detect
from detectors.summary import JUDGED, LABELS
from service.ingest.events import Floats
from service.monitor.history import HOUR
from service.monitor.monitor import SECOND, Monitor

RATIO: Final = 2.0  # times worse than due, of which it is said how long it takes to see
LONGEST_WEEKS: Final = 4.0  # until which a slice counts as monitored alone
WEEK: Final = 7 * 24 * HOUR


@dataclass(frozen=True, slots=True)
class Detectable:
    """One row a slice; NaN where nothing is known yet."""

    labels: Floats  # that it takes to find `RATIO`, typically
    weeks: Floats  # in which as many come, as fast as in the last one; infinite where none do


def detectable(monitor: Monitor) -> Detectable:
    """What each slice takes, by its own rate, dispersion and share of the budget."""
    n, watch = len(monitor.slices), monitor.watch
    unknown = np.full(n, np.nan)
    if watch is None:
        return Detectable(unknown, unknown)
    membership, n_cells = monitor.slices.membership(), monitor.slices.n_cells
    sums = monitor.history.cells_between(n_cells)
    due = membership @ (watch.scale * sums[:, JUDGED] * watch.rates.predict(monitor.slices.levels))
    labels = membership @ sums[:, LABELS]
    spent = watch.hazards(monitor.slices, monitor.clock.tick / SECOND, monitor.watching)
    hazard = np.minimum(*spent)  # an alarm needs both kinds of evidence
    takes = losses_to_detect(RATIO, hazard, watch.divisors(n))
    needed = np.divide(takes * labels, due, out=unknown, where=due > 0)
    recent = monitor.history.cells_between(n_cells, since=monitor.row_clock.now - WEEK)
    with np.errstate(divide="ignore"):
        return Detectable(needed, needed / (membership @ recent[:, LABELS]))


def detectable_json(monitor: Monitor, known: Detectable, index: int) -> dict[str, Any] | None:
    """As `GET /v1/models/{model}/slices` has it; None before there is a reference."""
    if not np.isfinite(known.labels[index]):
        return None
    weeks = float(known.weeks[index])
    parent = None if weeks <= LONGEST_WEEKS else _parent(monitor, known, index)
    return {
        "ratio": RATIO,
        "labels": int(np.ceil(known.labels[index])),
        "weeks": float(f"{weeks:.3g}") if np.isfinite(weeks) else None,
        "alone": weeks <= LONGEST_WEEKS,
        "covered_by": None if parent is None else dict(monitor.slices.names[parent]),
    }


def _parent(monitor: Monitor, known: Detectable, index: int) -> int | None:
    """The slice around this one that fixes most, is monitored alone, and is so most slowly."""
    name = monitor.slices.names[index]
    for order in range(len(name) - 1, -1, -1):
        around = [monitor.slices.find(part) for part in combinations(name, order)]
        alone = [p for p in around if p is not None and known.weeks[p] <= LONGEST_WEEKS]
        if alone:
            return max(alone, key=lambda p: float(known.weeks[p]))
    return None
