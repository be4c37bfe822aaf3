"""Label plan: which rows are to be labelled next, so that what is wrong is found soonest.

Each row has one chance, by the cell that it is in: senders draw with it and send it back as
`inclusion_probability`. Chances follow from what is known now, and change with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from detectors.label_plan import inclusion_probabilities, suspicion
from detectors.summary import ROWS
from service.ingest.events import Floats
from service.monitor.admission import ABSENT, FIRST
from service.monitor.history import HOUR
from service.monitor.monitor import SECOND, Monitor
from service.monitor.slices import ROOT, Slices
from service.monitor.watch import Watch

WEEK: Final = 7 * 24 * HOUR
MAX_LEAVES: Final = 2_000  # combinations that a plan singles out; the others have the common chance
LEAST_A_DAY: Final = 1.0  # labels of each slice
_DAY_SECONDS: Final = 86_400
REMEMBERED_SECONDS: Final = 4 * _DAY_SECONDS  # for which a slice of some traffic remembers evidence
_ALIKE: Final = 1.01  # times the common chance, from which a combination is singled out


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """A stretch of labelling: what is expected to come, and with what chance it is labelled."""

    common: float  # chance of every row that is not singled out
    chance: Floats  # shape (n_cells,)
    rows: Floats  # expected, shape (n_cells,)
    suspicion: Floats  # shape (n_slices,), from 0 to 1

    def n_rows_seen(self, monitor: Monitor) -> Floats:
        """How many rows of each slice have come of late, that it may be shown by."""
        n_cells, now = monitor.slices.n_cells, monitor.row_clock.now
        sums = monitor.history.cells_between(n_cells, since=now - WEEK)
        return monitor.slices.membership() @ sums[:, ROWS]

    @property
    def leaves(self) -> list[int]:
        """The cells whose rows have another chance than the common one, the likeliest first."""
        apart = np.flatnonzero(self.chance > self.common)
        return [int(cell) for cell in apart[np.argsort(-self.chance[apart], kind="stable")]]


def label_plan(monitor: Monitor, n_labels: int, seconds: int) -> LabelPlan:
    """A plan for the rows of the next `seconds`, if they come as they did in the last week."""
    slices, now = monitor.slices, monitor.row_clock.now
    hours, _ = monitor.history.totals(since=now - WEEK)
    span = max(min(WEEK, now - int(hours[0]) * HOUR) if hours.size else WEEK, HOUR)
    recent = monitor.history.cells_between(slices.n_cells, since=now - WEEK)[:, ROWS]
    rows = recent * (seconds * SECOND / span)
    held = np.zeros(len(slices))
    if monitor.watch is not None:
        watched = (monitor.clock.now - monitor.reference_until) / SECOND
        held = suspicions(monitor.watch, slices, max(watched, monitor.clock.tick / SECOND))
        raised = monitor.estimate.raised(monitor.watch, slices, now)
        raised[: len(monitor.watch.disparity)][monitor.watch.disparity.open] = 0.0
        held = np.maximum(held, raised)
    least = LEAST_A_DAY * seconds / _DAY_SECONDS
    may_be_told = recent >= max(monitor.config.publish_min_rows, 1)
    return plan(slices, rows, held, n_labels, least, may_be_told)


def suspicions(watch: Watch, slices: Slices, seconds: float) -> Floats:
    """How far each slice is on its way to an alarm; those whose alarm is known are not suspects.

    `seconds` is for how long they have been watched.
    """
    disparity = watch.disparity
    n = len(disparity)
    meter = disparity.meter
    if not watch.everyone_improved:
        meter = np.minimum(meter, disparity.own.meter)
    held = np.zeros(len(slices))
    spent = np.maximum(*watch.hazards(slices, min(seconds, REMEMBERED_SECONDS)))[:n]
    held[:n] = suspicion(meter, spent)
    held[:n][disparity.open] = 0.0
    held[ROOT] = 0.0
    return held


def plan(
    slices: Slices,
    rows: Floats,
    held: Floats,
    n_labels: float,
    least: float,
    may_be_told: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> LabelPlan:
    """The plan for cells of which `rows` are expected; those that may not be told of, and those
    past `MAX_LEAVES`, have the common chance.
    """
    names = (slices.levels[:, :-1] >= FIRST) | (slices.levels[:, :-1] == ABSENT)
    leaf = may_be_told & names.all(axis=1) & (slices.levels[:, :-1] >= FIRST).any(axis=1)
    leaf &= slices.levels[:, -1] == ABSENT
    chance = inclusion_probabilities(n_labels, rows, slices.membership(), held, least)
    common = float(chance[rows > 0].min()) if (rows > 0).any() else 1.0
    extra = np.where(leaf & (chance > _ALIKE * common), (chance - common) * rows, 0.0)
    singled_out = np.zeros(rows.size, np.bool_)
    singled_out[np.argsort(-extra, kind="stable")[:MAX_LEAVES]] = True
    singled_out &= extra > 0
    others = float(rows[~singled_out].sum())
    left = max(n_labels - float(chance[singled_out] @ rows[singled_out]), 0.0)
    common = min(max(left / others, common), 1.0) if others > 0 else common
    chance = np.where(singled_out, np.maximum(chance, common), common)
    return LabelPlan(common, chance, rows, held)
