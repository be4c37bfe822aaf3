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
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

ROWS: Final = 0  # predictions
LABELS: Final = 1  # labelled predictions
LOSS: Final = 2  # weighted loss, as it is published
CAPPED: Final = 3  # loss, capped, as the detectors take and weigh it
EXPOSURE: Final = 4  # weighted exposure: rows, or reference words for WER
SQUARED: Final = 5  # sum of (weight x loss)^2: the smallest variance that LOSS can have
JUDGED: Final = 6  # exposure as the detectors weigh it
JUDGED_TWICE: Final = 7  # exposure times their weight squared: what uneven weights scatter by
N_COLUMNS: Final = 8
_COUNTS: Final = (LABELS, EXPOSURE, JUDGED, JUDGED_TWICE)  # alike where each row weighs 1
_ERRORS: Final = (LOSS, CAPPED, SQUARED)  # and where a loss is 0 or 1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One tick as the error detectors see it; row 0 is the whole model.

    Attributes
    ----------
    observed, expected : float64, shape (n_slices,)
        Capped loss of the rows labelled in this tick, and what their reference expects of them.
    spread : float64, shape (n_slices,), optional
        How many times further than in the reference independent rows of this tick scatter, because
        they stand for more others each, or for fewer. It is known before their outcomes.
    leeway : float64, shape (n_slices,), optional
        By what ratio more, or less, may be due than is expected, for who is in a slice are others
        than those of whom that is known. It is known before their outcomes, too.
    """

    observed: Floats
    expected: Floats
    spread: Floats | None = None
    leeway: Floats | None = None

    def tolerated(
        self, slices: Indices, tolerance: float, downwards: bool = False
    ) -> Floats | float:
        """The ratio to what is expected that is held against none of these slices, or for them.

        Examples
        --------
        >>> one = np.ones(1)
        >>> Outcomes(one, one, leeway=np.array([1.1])).tolerated(np.array([0]), 1.2).round(2)
        array([1.32])
        """
        if self.leeway is None:
            return tolerance
        leeway = self.leeway[slices]
        return tolerance / leeway if downwards else tolerance * leeway

    def divisors(self, slices: Indices, dispersion: Floats) -> Floats:
        """What counts of this tick are to be divided by.

        Parameters
        ----------
        slices : intp, shape (n,)
        dispersion : float64, shape (n,)
            What those of the reference are.

        Notes
        -----
        Of n rows a unit, of which each pair correlates by r, counts scatter by D = 1 + (n - 1) r.
        Where n grows 1 / s times and each row stands for s times as many, the part D - 1 stays and
        that of independent rows becomes s. Where rows are frequently wrong D is below 1, and all of
        it is theirs; where they stand for more, D s is on the safe side.

        Examples
        --------
        >>> tick = Outcomes(np.ones(3), np.ones(3), np.array([0.2, 2.0, 0.2]))
        >>> tick.divisors(np.arange(3), np.array([1.5, 1.5, 0.8])).round(2)
        array([0.7 , 3.  , 0.16])
        """
        if self.spread is None:
            return dispersion
        s = self.spread[slices]
        divisors: Floats = dispersion * s
        return np.where(s < 1.0, np.maximum(divisors, dispersion - 1.0 + s), divisors)


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
    def of_errors(cls, cells: Indices, n_cells: int, is_wrong: Bools) -> Summary:
        """Labelled rows that are right or wrong and weigh 1 each, as `of_labels` sums them.

        Examples
        --------
        >>> errors = Summary.of_errors(np.array([0, 2, 2]), 3, np.array([True, False, True]))
        >>> errors.sums[:, [LABELS, LOSS]].tolist()
        [[1.0, 1.0], [0.0, 0.0], [2.0, 1.0]]
        """
        sums = np.zeros((n_cells, N_COLUMNS))
        for columns, rows in ((_COUNTS, cells), (_ERRORS, cells[is_wrong])):
            sums[:, columns] = np.bincount(rows, minlength=n_cells)[:, None]
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
        evidence_weight: Floats | None = None,
        season: Floats | None = None,
    ) -> Summary:
        """Labelled rows summed by cell; the arrays have shape (n_rows,).

        `evidence_weight` is what detectors weigh a row with, by default as it is published, and
        `season` by how much more than usual is due of it.
        """
        sums = np.zeros((n_cells, N_COLUMNS))
        for column, values in label_columns(weight, loss, capped, exposure, evidence_weight):
            if season is not None and column in (JUDGED, JUDGED_TWICE):
                values = values * season
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


def label_columns(
    weight: Floats, loss: Floats, capped: Floats, exposure: Floats, evidence_weight: Floats | None
) -> tuple[tuple[int, Floats], ...]:
    """What each labelled row adds to the columns of a summary."""
    judged_by = weight if evidence_weight is None else evidence_weight
    judged = judged_by * exposure
    return (
        (LABELS, np.ones(weight.size)),
        (LOSS, weight * loss),
        (CAPPED, judged_by * capped),
        (EXPOSURE, weight * exposure),
        (SQUARED, (weight * loss) ** 2),
        (JUDGED, judged),
        (JUDGED_TWICE, judged_by * judged),
    )
