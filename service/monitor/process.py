"""Process: how rows and labels come, beside how well they are served.

What silence, labelling and composition have in common: their share of the budget, the sums of rows
by slice, and how a finding that is not of losses is put.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from detectors import Budget
from service.ingest.events import Floats
from service.monitor.by_cell import padded
from service.monitor.findings import Effect, Evidence, Finding, Kind, Severity, Slice, State
from service.monitor.history import HOUR
from service.monitor.naming import EVIDENCE_SHOWN

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor
    from service.monitor.slices import Slices

Indices = npt.NDArray[np.intp]

N_QUESTIONS: Final = 3  # silence, labels, composition: each has as much of their class's budget
HOURS_TO_KNOW: Final = 24  # of a stream before anything is held against it


def hazard(monitor: Monitor, n_streams: int, seconds: float) -> Floats:
    """What each stream of one of these questions may spend on a look."""
    budget = Budget(monitor.config.alerts_a_week)
    orders = np.zeros(max(n_streams, 1), np.intp)
    return budget.hazard("process", orders, seconds, monitor.watching)[:n_streams] / N_QUESTIONS


def by_slice(slices: Slices, streams: list[int], by_cell: Floats) -> Floats:
    """Sums of cells for these slices."""
    sums: Floats = slices.membership() @ padded(by_cell, slices.n_cells)
    return sums[np.array(streams, np.intp)]


def share_inside(slices: Slices, slice_: int, other: int, by_cell: Floats) -> float:
    """Which share of a slice's rows is in the other, too."""
    n_cells = min(slices.n_cells, by_cell.size)
    rows = slices.membership()[[slice_, other], :][:, :n_cells].toarray() * by_cell[:n_cells]
    whole = float(rows[0].sum())
    return float(np.minimum(rows[0], rows[1]).sum()) / whole if whole > 0 else 0.0


def a_finding(
    monitor: Monitor,
    kind: Kind,
    slice_: Slice,
    state: State,
    severity: Severity,
    *,
    onset: int,
    onset_until: int,
    at: int,
    effect: Effect,
    meter: float,
    summary: str,
    reason: str,
    onset_from: int | None = None,
) -> Finding:
    """A finding that is not of losses; `reason` is why it is told now."""
    return Finding(
        model="",
        kind=kind,
        slice=slice_,
        state=state,
        severity=severity,
        onset=onset,
        onset_interval=(
            onset - HOUR if onset_from is None else onset_from,
            max(onset_until, onset + 1),
        ),
        detected_at=at,
        effect=effect,
        evidence=Evidence(
            own_reference=float(min(meter, EVIDENCE_SHOWN)),
            rest=None,
            alarm_at=1.0,
            mode="proven",
            false_alerts=monitor.config.budget_text,
        ),
        summary=summary,
        reason=reason,
    )


def rates(metric: str, before: float, after: float, rows: float, labels: float = 0.0) -> Effect:
    """The effect of something that is not a loss."""
    return Effect(
        metric=metric,
        because=None,
        before=before,
        after=after,
        rest_before=None,
        rest_after=None,
        gap_widened_by=None,
        interval=None,
        rows=int(rows),
        labels=int(labels),
    )


def used(by_cell: Floats) -> Floats:
    """Without the empty cells at the end, which are spare room."""
    some = np.flatnonzero(by_cell)
    return by_cell[: int(some[-1]) + 1].copy() if some.size else np.zeros(0)
