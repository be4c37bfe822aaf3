"""Standing: how every slice of a model fares, as columns, over any span that is retained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detectors.confidence import TYPICAL_RATE, combined_interval, rate_interval
from detectors.summary import EXPOSURE, LABELS, LOSS, ROWS, SQUARED
from service.ingest.events import Floats
from service.monitor.slices import ROOT
from service.monitor.watch import heavier

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor


@dataclass(frozen=True, slots=True)
class Standing:
    """One row a slice, row 0 the whole model; NaN where there is nothing to say."""

    rows: Floats
    labels: Floats
    loss: Floats
    loss_lower: Floats
    loss_upper: Floats
    reference_loss: Floats
    disparity: Floats
    disparity_lower: Floats
    disparity_upper: Floats
    evidence: Floats  # of the slice's own kind of alert, which comes at 1


def standing(monitor: Monitor, since: int | None = None, until: int | None = None) -> Standing:
    """How the slices fared between two instants, by the hours of the predictions."""
    membership, n_cells = monitor.slices.membership(), monitor.slices.n_cells
    sums = membership @ monitor.history.cells_between(n_cells, since, until)
    rest = sums[ROOT] - sums
    dispersion = dispersions(monitor, sums)
    reference, typical = np.full(len(sums), np.nan), TYPICAL_RATE
    if monitor.watch is not None:
        normal = membership @ monitor.history.cells_between(n_cells, until=monitor.reference_until)
        reference = _rates(normal)
        typical = monitor.watch.typical_rate
    elif sums[ROOT, LOSS] > 0:
        typical = float(sums[ROOT, LOSS] / sums[ROOT, EXPOSURE])
    loss, lower, upper = rates_with_limits(sums, dispersion, typical)
    of_rest = rates_with_limits(rest, dispersion, typical)
    both = (np.stack(pair) for pair in zip((loss, lower, upper), of_rest, strict=True))
    gap_lower, gap_upper = combined_interval(np.array([1.0, -1.0]), *both)
    gap = loss - of_rest[0]
    gap[ROOT] = np.nan
    return Standing(
        rows=sums[:, ROWS],
        labels=sums[:, LABELS],
        loss=loss,
        loss_lower=lower,
        loss_upper=upper,
        reference_loss=reference,
        disparity=gap,
        disparity_lower=gap_lower,
        disparity_upper=gap_upper,
        evidence=_evidence(monitor),
    )


def rates_with_limits(
    sums: npt.NDArray[np.float64], dispersion: Floats, typical: float
) -> tuple[Floats, Floats, Floats]:
    """Rates of slices, and between what they are, however often one looks."""
    lost = np.maximum(sums[:, LOSS], 0.0)
    return _rates(sums), *rate_interval(lost, sums[:, EXPOSURE], dispersion, typical=typical)


def _rates(sums: npt.NDArray[np.float64]) -> Floats:
    exposure = sums[:, EXPOSURE]
    rates: Floats = np.divide(
        sums[:, LOSS], exposure, out=np.full(len(sums), np.nan), where=exposure > 0
    )
    return rates


def dispersions(monitor: Monitor, sums: npt.NDArray[np.float64]) -> Floats:
    """By clusters, once a reference has told; until then as if rows were independent."""
    if monitor.watch is not None:
        return monitor.watch.scatter(len(sums)) * heavier(sums)
    alone = np.divide(
        sums[:, SQUARED], sums[:, LOSS], out=np.ones(len(sums)), where=sums[:, LOSS] > 0
    )
    return np.maximum(alone, 1.0)


def _evidence(monitor: Monitor) -> Floats:
    evidence = np.zeros(len(monitor.slices))
    if monitor.watch is not None:
        disparity = monitor.watch.disparity
        both = np.minimum(disparity.meter, disparity.own.meter)
        evidence[: both.size] = both
        evidence[ROOT] = monitor.watch.everyone.meter
    return evidence
