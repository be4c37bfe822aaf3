"""Compare: two versions of a model, slice by slice, side by side where they ran so.

The crude difference is what users met. The standardised one is what is left of it once both
versions have the same rows: each is held to what the reference expects of the rows that it had, so
a version that was tried where things are easier gains nothing by that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detectors.confidence import TYPICAL_RATE, combined_interval, rate_interval
from detectors.summary import EXPOSURE, LABELS, LOSS, ROWS
from service.ingest.events import Floats, Ints
from service.monitor.standing import dispersions, rates_with_limits

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

_DIFFERENCE = np.array([-1.0, 1.0])  # b less a
SIDE_BY_SIDE = 0.5  # of the labels of whichever has fewer, in hours in which both had some


@dataclass(frozen=True, slots=True)
class Side:
    """One version; a row a slice, row 0 the whole model; NaN where there is nothing to say."""

    rows: Floats
    labels: Floats
    loss: Floats
    loss_lower: Floats
    loss_upper: Floats


@dataclass(frozen=True, slots=True)
class Comparison:
    """Version b beside version a: differences are b's loss less a's."""

    side_by_side: bool  # whether only the hours are counted in which both ran
    a: Side
    b: Side
    difference: Floats
    difference_lower: Floats
    difference_upper: Floats
    standardised: Floats  # NaN before there is a reference
    standardised_lower: Floats
    standardised_upper: Floats


def common_hours(
    monitor: Monitor, a: int, b: int, since: int | None = None, until: int | None = None
) -> Ints | None:
    """The hours in which both versions ran, where they ran side by side; else None."""
    hours, n = zip(*(monitor.history.labels_by_hour(v, since, until) for v in (a, b)), strict=True)
    common = np.intersect1d(*hours)
    parts = [
        (float(labels[np.isin(at, common)].sum()), float(labels.sum()))
        for at, labels in zip(hours, n, strict=True)
    ]
    inside, whole = min(parts, key=lambda part: part[1])
    return common if inside > 0 and inside >= SIDE_BY_SIDE * whole else None


def compare(
    monitor: Monitor, a: int, b: int, since: int | None = None, until: int | None = None
) -> Comparison:
    """Two versions by their numbers, between two instants."""
    hours = common_hours(monitor, a, b, since, until)
    n_cells, membership = monitor.slices.n_cells, monitor.slices.membership()
    cells = [
        monitor.history.cells_between(n_cells, since, until, version, hours) for version in (a, b)
    ]
    sums = [membership @ of_cells for of_cells in cells]
    typical = TYPICAL_RATE if monitor.watch is None else monitor.watch.typical_rate
    limits = [rates_with_limits(part, dispersions(monitor, part), typical) for part in sums]
    crude = _difference(limits)
    even = _difference(_standardised(monitor, cells, sums))
    of_a, of_b = (
        Side(part[:, ROWS], part[:, LABELS], *limit)
        for part, limit in zip(sums, limits, strict=True)
    )
    return Comparison(hours is not None, of_a, of_b, *crude, *even)


def _difference(limits: list[tuple[Floats, Floats, Floats]]) -> tuple[Floats, Floats, Floats]:
    rate, lower, upper = (np.stack(pair) for pair in zip(*limits, strict=True))
    return rate[1] - rate[0], *combined_interval(_DIFFERENCE, rate, lower, upper)


def _standardised(
    monitor: Monitor, cells: list[Floats], sums: list[Floats]
) -> list[tuple[Floats, Floats, Floats]]:
    """Each version's loss over what was due of its rows, times what was due of both's."""
    nothing = np.full(len(monitor.slices), np.nan)
    if monitor.watch is None:
        return [(nothing, nothing, nothing)] * 2
    rates, membership = (
        monitor.watch.rates.predict(monitor.slices.levels),
        monitor.slices.membership(),
    )
    due = [membership @ (rates * of_cells[:, EXPOSURE]) for of_cells in cells]
    exposure = sums[0][:, EXPOSURE] + sums[1][:, EXPOSURE]
    each = np.divide(due[0] + due[1], exposure, out=nothing.copy(), where=exposure > 0)
    whole = max(float(due[0][0] + due[1][0]), 1e-12)
    typical = max(float(sums[0][0, LOSS] + sums[1][0, LOSS]), 1e-12) / whole
    answer = []
    for part, expected in zip(sums, due, strict=True):
        lost = np.maximum(part[:, LOSS], 0.0)
        ratio = np.divide(lost, expected, out=nothing.copy(), where=expected > 0)
        lower, upper = rate_interval(lost, expected, dispersions(monitor, part), typical=typical)
        answer.append((each * ratio, each * lower, each * upper))
    return answer
