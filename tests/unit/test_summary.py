"""Summaries: sums of rows per cell that may be cut and merged at will, and rolled up to slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from detectors import Summary
from detectors.summary import (
    CAPPED,
    EXPOSURE,
    JUDGED,
    JUDGED_TWICE,
    LABELS,
    LOSS,
    N_COLUMNS,
    ROWS,
    SQUARED,
)

Floats = npt.NDArray[np.float64]

ANY_SPEED = settings(deadline=None, max_examples=60)


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows; all numbers are small binary fractions, so sums are exact in any order."""

    cell: npt.NDArray[np.intp]
    weight: Floats
    loss: Floats
    exposure: Floats

    def take(self, rows: slice) -> Rows:
        return Rows(self.cell[rows], self.weight[rows], self.loss[rows], self.exposure[rows])

    def summary(self) -> Summary:
        n_cells = int(self.cell.max(initial=-1)) + 1
        capped = np.minimum(self.loss, 1.0)
        labels = Summary.of_labels(
            self.cell, n_cells, self.weight, self.loss, capped, self.exposure
        )
        return labels + Summary.of_rows(self.cell, n_cells)


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    n = draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Rows(
        cell=rng.integers(0, 9, n).astype(np.intp),
        weight=rng.integers(1, 9, n) / 4,
        loss=rng.integers(0, 17, n) / 8,
        exposure=rng.integers(1, 40, n).astype(np.float64),
    )


def padded(summary: Summary, n_cells: int = 9) -> Floats:
    """The sums with cells that were not seen, which are zero."""
    return (summary + Summary(np.zeros((n_cells, summary.sums.shape[1])))).sums


@ANY_SPEED
@given(rows(), rows(), rows())
def test_summaries_are_a_commutative_monoid(first: Rows, second: Rows, third: Rows) -> None:
    a, b, c = first.summary(), second.summary(), third.summary()
    assert_array_equal(((a + b) + c).sums, (a + (b + c)).sums)
    assert_array_equal((a + b).sums, (b + a).sums)
    assert_array_equal((a + Summary.zero()).sums, a.sums)
    assert_array_equal((Summary.zero() + a).sums, a.sums)


@ANY_SPEED
@given(rows(), st.data())
def test_a_summary_does_not_depend_on_how_rows_are_cut_into_batches(
    all_rows: Rows, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, all_rows.cell.size))
    parts = all_rows.take(slice(None, cut)).summary() + all_rows.take(slice(cut, None)).summary()
    assert_array_equal(padded(parts), padded(all_rows.summary()))


@ANY_SPEED
@given(rows())
def test_sums_are_those_of_each_row_added_by_hand(all_rows: Rows) -> None:
    sums = np.zeros((9, N_COLUMNS))
    for cell, weight, loss, exposure in zip(
        all_rows.cell, all_rows.weight, all_rows.loss, all_rows.exposure, strict=True
    ):
        sums[cell, [ROWS, LABELS]] += 1
        sums[cell, LOSS] += weight * loss
        sums[cell, CAPPED] += weight * min(loss, 1.0)
        sums[cell, EXPOSURE] += weight * exposure
        sums[cell, SQUARED] += (weight * loss) ** 2
        sums[cell, JUDGED] += weight * exposure
        sums[cell, JUDGED_TWICE] += weight * (weight * exposure)
    assert_array_equal(padded(all_rows.summary()), sums)


def test_errors_without_weights_are_summed_as_labels_of_weight_one() -> None:
    rng = np.random.default_rng(1)
    cells, is_wrong = rng.integers(0, 7, 500), rng.random(500) < 0.3
    ones, loss = np.ones(500), is_wrong.astype(np.float64)
    labels = Summary.of_labels(cells, 9, ones, loss, loss, ones)
    assert_array_equal(Summary.of_errors(cells, 9, is_wrong).sums, labels.sums)


def test_merging_writes_to_neither_summary() -> None:
    a, b = Summary.of_rows(np.array([0, 2]), 3), Summary.of_rows(np.array([1]), 2)
    for summary in (a, b):
        summary.sums.flags.writeable = False
    assert (a + b).sums[:, ROWS].tolist() == [1, 1, 1]
    assert not np.shares_memory((a + b).sums, a.sums)


def test_overlapping_slices_are_sums_of_their_cells() -> None:
    rng = np.random.default_rng(0)
    summary = Summary(rng.uniform(0, 9, (5, 6)))
    members = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    rolled = summary.roll_up(csr_array(members.astype(np.float64)))
    for s, cells in enumerate(members.astype(bool)):
        assert_allclose(rolled[s], summary.sums[cells].sum(axis=0))


def test_cells_that_no_row_has_reached_yet_count_nothing() -> None:
    summary = Summary.of_rows(np.array([0, 1, 1]), 2)
    membership = csr_array(np.ones((1, 4)))
    assert summary.roll_up(membership)[0, ROWS] == 3
