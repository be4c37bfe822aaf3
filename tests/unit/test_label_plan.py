"""Where to label next: chances, what they are worth as evidence, and how the plan is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from detectors import ErrorRate, Outcomes
from detectors.label_plan import inclusion_probabilities, suspicion
from service.engine.fold import Fold
from service.monitor.label_plan import MAX_LEAVES, LabelPlan, label_plan
from service.monitor.monitor import Monitor
from service.monitor.slices import ROOT
from tests.benchmarks.bench_labels import World, measure, medians
from tests.doors import a_client, an_app
from tests.rows import Stream, a_configuration, fold_in

DAY = 86_400


def a_monitor(stream: Stream | None = None) -> Monitor:
    fold = Fold()
    stated = {"dimensions": ["floor", "accent"], "reference": {"rows": 1_000}, "loss": "zero_one"}
    fold.apply(a_configuration(stated))
    fold_in(fold, (stream or Stream()).rows())
    known = fold.model("acme", "m")
    assert known is not None
    assert known[0].monitor is not None
    return known[0].monitor


def test_chances_come_to_the_budget_and_suspects_have_half_of_it() -> None:
    rng = np.random.default_rng(1)
    rows = rng.pareto(1.0, 200) * 100
    one_each = csr_array(np.vstack([np.ones(200), np.eye(200)]))
    weight = np.zeros(201)
    weight[[3, 50, 199]] = (1.0, 0.5, 0.1)
    chance = inclusion_probabilities(500.0, rows, one_each, weight)
    assert_allclose(chance @ rows, 500.0)
    assert chance.max() <= 1.0
    others = np.setdiff1d(np.arange(200), [2, 49, 198])
    assert np.ptp(chance[others]) < 1e-12  # nothing else is known of anyone
    assert chance[others[0]] >= 250.0 / rows.sum() - 1e-12
    assert chance[2] > chance[others[0]]


def test_no_slice_goes_without_a_label_and_no_row_is_chosen_twice() -> None:
    rows = np.array([10_000.0, 5.0, 0.0])
    one_each = csr_array(np.vstack([np.ones(3), np.eye(3)]))
    chance = inclusion_probabilities(100.0, rows, one_each, np.zeros(4), least=1.0)
    assert chance[1] * rows[1] == pytest.approx(1.0, rel=0.05)
    assert inclusion_probabilities(20_000.0, rows, one_each, np.zeros(4)).tolist() == [1.0] * 3
    everything = inclusion_probabilities(100.0, rows, one_each, np.array([0.0, 0.0, 1.0, 0.0]))
    assert everything[1] == 1.0
    assert_allclose(everything @ rows, 100.0)


def test_a_slice_of_which_nothing_was_seen_is_no_suspect() -> None:
    spent = np.full(3, 1e-3)  # what an e-detector without any data has gathered
    assert suspicion(np.array([1e-3, 0.5, 0.0]), spent).round(2).tolist() == [0.0, 0.81, 0.0]


def test_labels_drawn_six_times_as_often_are_worth_six_times_as_much() -> None:
    # As weighted they are a sixth of a label each; their evidence is that of so many labels.
    weighed, counted = ErrorRate(), ErrorRate()
    for fleet in (weighed, counted):
        fleet.grow(np.ones(2), np.full(2, 1e6), np.full(2, 1e6))
    x, e = np.array([90.0, 60.0]), np.full(2, 60.0)
    weighed.update(Outcomes(x / 6, e / 6, np.full(2, 1 / 6)), np.full(2, 1e-6))
    counted.update(Outcomes(x, e), np.full(2, 1e-6))
    assert_allclose(weighed.evidence, counted.evidence, rtol=1e-3)
    assert counted.evidence[0].sum() > 1e3 * counted.evidence[1].sum()


def test_with_the_plan_bad_slices_are_found_in_seven_tenths_of_the_time() -> None:
    world = World(
        n_slices=200,
        rows_an_hour=8_000.0,
        labels_an_hour=800.0,
        reference_hours=120,
        calm_hours=24,
        bad_hours=240,
        n_bad=5,
        bands=((5, 25), (25, 60)),
        ratio=3.0,
    )
    found = measure(world, 2)
    by_traffic, planned, _ = (medians(each) for each in found.values())
    assert np.isfinite(by_traffic).all()
    assert (planned <= 0.7 * by_traffic).all(), (planned, by_traffic)
    for each in found.values():
        weeks = sum(one.weeks for one in each)
        assert sum(one.n_false for one in each) <= 10, weeks  # 3.1 promised: P(> 10) = 0.0004
        labels = sum(one.n_labels for one in each) / weeks / 168
        assert labels == pytest.approx(world.labels_an_hour, rel=0.02)


def planned(monitor: Monitor, budget: int) -> LabelPlan:
    plan = label_plan(monitor, budget, DAY)
    assert_allclose(plan.chance @ plan.rows, min(budget, plan.rows.sum()), rtol=1e-6)
    return plan


def test_a_suspected_slice_is_singled_out_and_one_with_an_alert_is_not() -> None:
    monitor = a_monitor()
    assert monitor.watch is not None
    monitor.watch.disparity.evidence[:] = 0.0
    assert planned(monitor, 200).leaves == []  # nobody is suspected
    floor = monitor.slices.find((("floor", "2"),))
    assert floor is not None
    monitor.watch.disparity.evidence[floor] = monitor.watch.disparity.own.evidence[floor] = 0.1
    plan = planned(monitor, 200)
    told = {monitor.slices.names[s] for s in np.flatnonzero(plan.suspicion > 0)}
    assert told == {(("floor", "2"),)}
    inside = np.flatnonzero(monitor.slices.membership()[[floor], :].toarray().ravel())
    assert 0 < len(plan.leaves) <= MAX_LEAVES
    assert set(plan.leaves) <= set(inside.tolist())
    assert plan.chance[plan.leaves].min() > 2 * plan.common
    monitor.watch.disparity.hold(np.array([floor]))
    assert planned(monitor, 200).leaves == []
    assert plan.suspicion[ROOT] == 0.0


def test_the_plan_is_told_with_what_can_be_seen_of_each_slice(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{i}", "model": "m", "attributes": {"floor": str(i % 4)}, "output": "a",
         "time": 1_790_000_000 + 60 * i, "truth": "a" if i % 9 else "b"}
        for i in range(1_200)
    ]  # fmt: skip
    with an_app(tmp_path) as app:
        api = a_client(app)
        assert api.post("/v1/events", json=rows).status_code == 200
        plan = api.get("/v1/models/m/label-plan?budget=300&per=12h&limit=2").json()
        assert plan["labels"] == 300
        assert plan["per"] == "12h"
        assert 0 < plan["inclusion_probability"] < 1
        assert len(plan["slices"]) == 2
        assert plan["next"] == "2"
        assert {"slice", "rows", "labels", "by_traffic", "suspicion", "detectable"} == set(
            plan["slices"][0]
        )
        assert api.get("/v1/models/unheard-of/label-plan?budget=300").status_code == 404
        for wrong in ("budget=0", "", "budget=10&per=soon", "budget=10&cursor=x"):
            assert api.get(f"/v1/models/m/label-plan?{wrong}").status_code == 422
