"""Standing: how every slice of a model fares, as columns, over any span that is retained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.confidence import rate_interval
from detectors.summary import EXPOSURE, LABELS, LOSS, ROWS, SQUARED
from service.ingest.events import Floats
from service.monitor.monitor import Monitor
from service.monitor.slices import ROOT


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
    loss, lower, upper = _rate(sums, dispersion)
    rest_loss, rest_lower, rest_upper = _rate(rest, dispersion)
    gap = loss - rest_loss
    gap[ROOT] = np.nan
    below = np.hypot(loss - lower, rest_upper - rest_loss)
    above = np.hypot(upper - loss, rest_loss - rest_lower)
    reference = np.full(loss.size, np.nan)
    if monitor.watch is not None:
        normal = membership @ monitor.history.cells_between(n_cells, until=monitor.reference_until)
        reference = _rate(normal, dispersion)[0]
    return Standing(
        rows=sums[:, ROWS],
        labels=sums[:, LABELS],
        loss=loss,
        loss_lower=lower,
        loss_upper=upper,
        reference_loss=reference,
        disparity=gap,
        disparity_lower=gap - below,
        disparity_upper=gap + above,
        evidence=_evidence(monitor),
    )


def _rate(sums: npt.NDArray[np.float64], dispersion: Floats) -> tuple[Floats, Floats, Floats]:
    exposure = sums[:, EXPOSURE]
    loss = np.divide(sums[:, LOSS], exposure, out=np.full(len(sums), np.nan), where=exposure > 0)
    return loss, *rate_interval(np.maximum(sums[:, LOSS], 0.0), exposure, dispersion)


def dispersions(monitor: Monitor, sums: npt.NDArray[np.float64]) -> Floats:
    """By clusters, once a reference has told; until then as if rows were independent."""
    alone = np.divide(
        sums[:, SQUARED], sums[:, LOSS], out=np.ones(len(sums)), where=sums[:, LOSS] > 0
    )
    dispersion = np.maximum(alone, 1.0)
    if monitor.watch is not None:
        known = monitor.watch.disparity.own.dispersion / monitor.watch.scale
        dispersion[: known.size] = known
        dispersion[known.size :] = monitor.watch.new_dispersion[0] / monitor.watch.scale
    return dispersion


def _evidence(monitor: Monitor) -> Floats:
    evidence = np.zeros(len(monitor.slices))
    if monitor.watch is not None:
        disparity = monitor.watch.disparity
        both = np.minimum(disparity.meter, disparity.own.meter)
        evidence[: both.size] = both
        evidence[ROOT] = monitor.watch.everyone.meter
    return evidence
