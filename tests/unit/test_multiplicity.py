"""The budget: what all streams spend comes to what was promised."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detectors import Budget
from detectors.multiplicity import SHARES, WEEK_SECONDS

EVERYONE, SLICES, INPUTS = "everyone", "slices", "inputs"


def orders(*counts: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """So many slices of order 1, 2, …"""
    return np.repeat(np.arange(1, len(counts) + 1), counts).astype(np.intp)


@pytest.mark.parametrize("watching", [(EVERYONE, SLICES, INPUTS), (EVERYONE, SLICES), (SLICES,)])
@pytest.mark.parametrize("seconds", [60.0, 3600.0])
def test_a_week_of_ticks_spends_the_whole_budget_whoever_watches(
    watching: tuple[str, ...], seconds: float
) -> None:
    budget = Budget(alerts_a_week=3.0)
    streams = {EVERYONE: orders(1), SLICES: orders(8, 120), INPUTS: orders(40)}
    a_tick = sum(
        float(budget.hazard(name, streams[name], seconds, watching).sum()) for name in watching
    )
    assert_allclose(a_tick * WEEK_SECONDS / seconds, 3.0)


def test_each_order_has_as_much_and_its_slices_share_equally() -> None:
    hazard = Budget(1.0).hazard(SLICES, orders(2, 10), WEEK_SECONDS, (SLICES,))
    assert_allclose(hazard, [*[0.25] * 2, *[0.05] * 10])


def test_slices_that_appear_are_paid_for_by_the_others() -> None:
    budget = Budget(1.0)
    before = budget.hazard(SLICES, orders(5, 20), 600.0, (SLICES,))
    after = budget.hazard(SLICES, orders(5, 40), 600.0, (SLICES,))
    assert_allclose(before.sum(), after.sum())
    assert after[-1] == before[-1] / 2


def test_a_class_without_streams_spends_nothing() -> None:
    assert Budget(1.0).hazard(INPUTS, orders(), 600.0, (SLICES, INPUTS)).size == 0


def test_shares_are_a_whole() -> None:
    assert_allclose(sum(SHARES.values()), 1.0)
