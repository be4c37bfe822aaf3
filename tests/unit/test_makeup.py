"""Makeup: slices of other cells than they were are held to rates that are known no better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from detectors import Disparity, ErrorRate, Outcomes, fit_cell_rates
from service.monitor.makeup import DEVIATIONS, Makeup
from service.monitor.watch import Labelled, _squares

ALL = csr_array(np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]))
DOUBT = np.array([0.01, 0.2, 0.01, 0.01])
DAY = 24 * 3600.0


def leeway(before: list[float], now: list[float], days: float = 10.0) -> list[float]:
    makeup = Makeup.of_reference(np.array(before))
    for _ in range(round(24 * days)):
        makeup.add(np.array(now) / 1e9, np.zeros(4), DAY / 24)  # many rows, and little to learn
    found: list[float] = makeup.leeway(DOUBT, ALL).tolist()
    return found


def test_a_slice_that_is_made_up_as_it_was_has_no_leeway_however_little_is_known() -> None:
    assert leeway([30.0, 30, 30, 30], [2.0, 2, 2, 2]) == pytest.approx([1.0] * 4)


def test_a_slice_of_other_cells_has_as_much_as_their_rates_may_be_off_by() -> None:
    whole, other, same, alone = leeway([90.0, 10, 50, 50], [50.0, 50, 50, 50])
    # the first pair's shares go from .9 and .1 to .5 and .5, the whole's from .45 and .05 to .25
    of_whole = (0.2**2) * (0.01 + 0.2)
    assert whole == pytest.approx(1 + DEVIATIONS * np.sqrt(2 * of_whole), rel=1e-6)
    assert other == pytest.approx(1 + DEVIATIONS * np.sqrt(0.4**2 * 0.21 + of_whole), rel=1e-6)
    assert same == alone == pytest.approx(1 + DEVIATIONS * np.sqrt(of_whole), rel=1e-6)


def test_few_rows_are_no_other_makeup() -> None:
    rng = np.random.default_rng(1)
    makeup = Makeup.of_reference(np.full(4, 500.0))
    found = []
    for _ in range(400):
        rows = rng.poisson(1.0, 4).astype(np.float64)
        makeup.add(rows / 1e6, rows / 1e12, 3600.0)  # a day of them is 24 of each cell
        found.append(makeup.leeway(DOUBT, ALL)[1])
    mean = float(np.mean(np.square(np.array(found[48:]) - 1.0)))
    # the shares of 48 rows in two cells scatter by 1 / (4 x 24) or less, which is taken off
    assert mean < DEVIATIONS**2 * 0.21 / (4 * 24)
    assert np.median(found[48:]) == 1.0


def test_who_comes_instead_is_no_evidence_though_what_they_lose_was_hardly_known() -> None:
    """Two cells that lose twice what their few rows told, and a slice that becomes theirs."""
    levels = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    truth = np.array([0.05, 0.1, 0.05, 0.05])
    rows = np.array([20_000.0, 20, 20_000, 20_000])
    rates = fit_cell_rates(levels, rows * np.array([0.05, 0.05, 0.05, 0.05]), rows)
    due = rates.predict(levels)
    alarms = []
    for holds_leeway in (False, True):
        fleet, makeup = Disparity(), Makeup.of_reference(rows * due)
        learnt = ALL @ (rows * due)
        fleet.grow(np.ones(4), np.ones(4), learnt, learnt)
        found = 0
        for _ in range(24 * 7):
            now = np.array([100.0, 40, 300, 300])
            makeup.add(now * due, now * due**2, 3600.0)
            allowed = makeup.leeway(rates.doubt(4, 1.0), ALL) if holds_leeway else None
            outcomes = Outcomes(ALL @ (now * truth), ALL @ (now * due), leeway=allowed)
            found += int((fleet.update(outcomes, np.full(4, 1e-4)).slices == 1).sum())
        alarms.append(found)
    assert alarms[0] > 0 == alarms[1]


def test_rows_of_a_session_are_one_unit_in_each_of_its_cells() -> None:
    cell = np.array([0, 0, 1, 1, 1, 0])
    cluster = np.array([7, 7, 7, 8, 0, 0], np.uint64)
    ones = np.ones(6)
    zeros = np.zeros(6, np.int64)
    none = zeros.astype(np.int16), zeros.astype(np.uint64), zeros.astype(np.uint8)
    rows = Labelled(cell, zeros, cluster, ones, ones, ones, 2 * ones, ones, *none)
    # of cell 0 a session of two rows and a lone one, of cell 1 two sessions' and a lone one
    assert _squares(rows, 3).tolist() == [16.0 + 4.0, 4.0 + 4.0 + 4.0, 0.0]
    alone = replace(rows, cluster=np.zeros(6, np.uint64))
    assert _squares(alone, 3).tolist() == [12.0, 12.0, 0.0]


def test_what_may_be_due_less_is_not_taken_for_an_improvement() -> None:
    fleet, doubted = ErrorRate(downwards=True), ErrorRate(downwards=True)
    for each in (fleet, doubted):
        each.grow(np.ones(1), np.full(1, 5_000.0), np.full(1, 5_000.0))
    tick = Outcomes(np.full(1, 80.0), np.full(1, 100.0), leeway=np.full(1, 1.3))
    for _ in range(10):
        fleet.gather(replace(tick, leeway=None), np.full(1, 1e-4), np.zeros(1, np.bool_))
        doubted.gather(tick, np.full(1, 1e-4), np.zeros(1, np.bool_))
    assert fleet.meter[0] > 1 > 1e-3 > doubted.meter[0]
