"""Past: how slices fared over time, in spans of hours, to be read outside the engine's thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from detectors.confidence import TYPICAL_RATE, rate_interval
from detectors.summary import EXPOSURE, LABELS, LOSS, N_COLUMNS, ROWS
from service.ingest.events import Floats, Ints
from service.monitor.findings import Slice
from service.monitor.history import HOUR, Hours
from service.monitor.losses import SCALED_LOSSES
from service.monitor.monitor import Monitor
from service.monitor.slices import ROOT
from service.monitor.standing import dispersions

SHRINK: Final = 4.0  # effective losses by which a ratio to what is due is held to 1
# The same of a slice's own past to what its cells say: what few labels of a small slice's reference
# happened to be is no norm, and what is due is drawn without an interval.
OWN_PRIOR: Final = 30.0
MOST_CAPPED: Final = 1.25  # times what the detectors' cap leaves of the losses, at the most

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Course:
    """Slices over time, float64, shape (n_slices, n_spans); NaN where there is nothing to say."""

    rows: Floats
    labels: Floats
    loss: Floats
    lower: Floats  # 95 %, whenever one looks
    upper: Floats
    due: Floats  # the loss that the reference expects of the span's rows
    excess: Floats  # loss over due, held towards 1 where there are few labels


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of one model's slices hour by hour; nothing in it changes any more."""

    names: tuple[Slice, ...]
    membership: csr_array  # (n_slices, n_cells), 0/1
    hours: Hours
    rates: Floats | None  # loss due per exposure, of each cell; None while there is no reference
    own_ratio: Floats  # of each slice: what it lost in the reference over what its cells' rates say
    dispersion: Floats  # of each slice
    typical: float  # about what rates are, as intervals are told
    reference_until: int  # microseconds since 1970; 0 while there is none

    @classmethod
    def of(cls, monitor: Monitor) -> Past:
        """The past of a monitor, as of now."""
        slices, hours, watch = monitor.slices, monitor.history.hours(), monitor.watch
        membership = slices.membership()
        dispersion = dispersions(
            monitor, membership @ monitor.history.cells_between(slices.n_cells)
        )
        rates, own_ratio, typical = None, np.ones(len(slices)), TYPICAL_RATE
        if watch is not None:
            rates = watch.rates.predict(slices.levels)
            rates, lost, due = _in_published_units(monitor, hours, rates)
            lost, due = membership @ lost / dispersion, membership @ due / dispersion
            own_ratio, typical = (lost + OWN_PRIOR) / (due + OWN_PRIOR), watch.typical_rate
        return cls(
            names=tuple(slices.names),
            membership=membership,
            hours=hours,
            rates=rates,
            own_ratio=own_ratio,
            dispersion=dispersion,
            typical=typical,
            reference_until=monitor.reference_until,
        )

    def between(self) -> tuple[int, int]:
        """The first hour that is retained and the one behind the last; equal where there is none.

        Hours of which only labels are left, their predictions being older, do not count.
        """
        seen = self.hours.hours[self.hours.sums[:, ROWS] > 0]
        return (int(seen.min()), int(seen.max()) + 1) if seen.size else (0, 0)

    def course(self, slices: Indices, edges: Ints) -> Course:
        """How `slices` fared in the spans between `edges`, hours since 1970."""
        return self._course(self._sums(slices, edges), slices)

    def rest(self, slice_: int, edges: Ints) -> Course:
        """How everyone else fared, shape (1, n_spans)."""
        both = self._sums(np.array([ROOT, slice_]), edges)
        return self._course(both[:1] - both[1:], np.array([ROOT]))

    def _sums(self, slices: Indices, edges: Ints) -> npt.NDArray[np.float64]:
        """Sums of each column, and what was due, shape (n_slices, n_spans, N_COLUMNS + 1)."""
        hours, cells, sums = self.hours.hours, self.hours.cells, self.hours.sums
        keep = (hours >= edges[0]) & (hours < edges[-1])
        hours, cells, sums = hours[keep], cells[keep], sums[keep]
        span = np.searchsorted(edges, hours, side="right") - 1
        n_cells, n_spans = self.membership.shape[1], edges.size - 1
        members = self.membership[slices, :]
        summed = np.zeros((len(slices), n_spans, N_COLUMNS + 1))
        due = np.zeros(cells.size) if self.rates is None else self.rates[cells] * sums[:, EXPOSURE]
        for column in range(N_COLUMNS + 1):
            values = due if column == N_COLUMNS else sums[:, column]
            by_cell = np.bincount(cells * n_spans + span, values, minlength=n_cells * n_spans)
            summed[:, :, column] = members @ by_cell.reshape(n_cells, n_spans)
        return summed

    def _course(self, sums: npt.NDArray[np.float64], slices: Indices) -> Course:
        exposure, lost = sums[..., EXPOSURE], np.maximum(sums[..., LOSS], 0.0)
        dispersion = np.broadcast_to(self.dispersion[slices, None], exposure.shape)
        lower, upper = rate_interval(lost, exposure, dispersion, typical=self.typical)
        due = sums[..., N_COLUMNS] * self.own_ratio[slices, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            is_labelled = exposure > 0
            is_due = is_labelled & (self.rates is not None)
            effective = (lost / dispersion + SHRINK) / (due / dispersion + SHRINK)
            return Course(
                rows=sums[..., ROWS],
                labels=sums[..., LABELS],
                loss=np.where(is_labelled, lost / exposure, np.nan),
                lower=np.where(is_labelled, lower, np.nan),
                upper=np.where(is_labelled, upper, np.nan),
                due=np.where(is_due, due / exposure, np.nan),
                excess=np.where(is_due, effective, np.nan),
            )


def _in_published_units(
    monitor: Monitor, hours: Hours, rates: Floats
) -> tuple[Floats, Floats, Floats]:
    """Rates of losses as published, and what each cell lost and was due by them in the reference.

    `rates` are of losses as the detectors take them: capped, and in units of the cap where a loss
    has no unit of its own. Published ones are a little more, as they were in the reference.
    """
    unit = monitor.cap if monitor.schema.loss in SCALED_LOSSES else 1.0
    normal = hours.hours * HOUR < monitor.reference_until
    cells, n_cells = hours.cells[normal], rates.size
    lost: Floats = np.bincount(cells, hours.sums[normal, LOSS], minlength=n_cells).astype(
        np.float64
    )
    due = unit * rates * np.bincount(cells, hours.sums[normal, EXPOSURE], minlength=n_cells)
    total = float(due.sum())
    capped = float(np.clip(lost.sum() / total, 1.0, MOST_CAPPED)) if total > 0 else 1.0
    return rates * unit * capped, lost, due * capped
