"""Summary: what a tick's rows come to, per cell and per slice; a monoid under +.

A *cell* is one combination of all dimensions' values, so each row is in one cell and the event
path is a few `bincount`s. Slices overlap; they are sums of cells, rolled up once a tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

ROWS: Final = 0  # predictions
LABELS: Final = 1  # labelled predictions
LOSS: Final = 2  # weighted loss, as it is published
CAPPED: Final = 3  # weighted loss, capped, as the detectors take it
EXPOSURE: Final = 4  # weighted exposure: rows, or reference words for WER
SQUARED: Final = 5  # sum of (weight x loss)^2: the smallest variance that LOSS can have
N_COLUMNS: Final = 6


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One tick as the error detectors see it; row 0 is the whole model.

    Attributes
    ----------
    observed, expected : float64, shape (n_slices,)
        Capped loss of the rows labelled in this tick, and what their reference expects of them.
    """

    observed: Floats
    expected: Floats


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums per cell: float64, shape (n_cells, N_COLUMNS). `a + b` merges, `zero()` changes nothing.

    Examples
    --------
    >>> a = Summary.of_rows(np.array([0, 2, 2]), 3)
    >>> (a + a).sums[:, ROWS]
    array([2., 0., 4.])
    >>> (a + Summary.zero()).sums is a.sums
    True
    """

    sums: Floats

    @classmethod
    def zero(cls) -> Summary:
        """The summary of no rows."""
        return cls(np.zeros((0, N_COLUMNS)))

    @classmethod
    def of_rows(cls, cells: Indices, n_cells: int) -> Summary:
        """Predictions counted by cell."""
        sums = np.zeros((n_cells, N_COLUMNS))
        sums[:, ROWS] = np.bincount(cells, minlength=n_cells)
        return cls(sums)

    @classmethod
    def of_labels(
        cls,
        cells: Indices,
        n_cells: int,
        weight: Floats,
        loss: Floats,
        capped: Floats,
        exposure: Floats,
    ) -> Summary:
        """Labelled rows summed by cell; the arrays have shape (n_rows,)."""
        sums = np.zeros((n_cells, N_COLUMNS))
        for column, values in (
            (LABELS, None),
            (LOSS, weight * loss),
            (CAPPED, weight * capped),
            (EXPOSURE, weight * exposure),
            (SQUARED, (weight * loss) ** 2),
        ):
            sums[:, column] = np.bincount(cells, values, minlength=n_cells)
        return cls(sums)

    def __add__(self, other: Summary) -> Summary:
        longer, shorter = (self.sums, other.sums)
        if len(longer) < len(shorter):
            longer, shorter = shorter, longer
        if not len(shorter):
            return Summary(longer)
        sums = longer.copy()
        sums[: len(shorter)] += shorter
        return Summary(sums)

    def roll_up(self, membership: csr_array) -> Floats:
        """Sums per slice, shape (n_slices, N_COLUMNS); `membership` is (n_slices, n_cells), 0/1."""
        rolled: Floats = membership[:, : len(self.sums)] @ self.sums
        return rolled
