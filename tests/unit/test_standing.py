"""Standing: rates of slices against rates by hand, and what is shown of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from service.engine.fold import Fold
from service.engine.views import SliceQuery, model_json, slices_json
from service.ingest.events import EventBatch
from service.monitor.config import MonitorConfig
from service.monitor.learn import learn
from service.monitor.monitor import Monitor
from service.monitor.standing import standing
from tests.rows import (
    HOUR,
    LATER,
    START,
    Row,
    Stream,
    a_batch,
    a_configuration,
    a_prediction,
    an_entry,
    both,
    fold_in,
    in_requests,
)


def a_monitor(rows: EventBatch, **config: object) -> Monitor:
    stated = MonitorConfig.model_validate({"dimensions": ["floor"], "loss": "zero_one"} | config)
    monitor = Monitor(stated, learn(stated, rows), 600)
    monitor.absorb(rows, LATER)
    return monitor


def floors(n: int, wrong: dict[str, int], at: int = START, name: str = "p") -> list[Row]:
    """`n` rows a floor, the first so many of them wrong."""
    return [
        both(
            f"{name}{floor}-{i}",
            at + i * 1_000_000,
            truth="b" if i < n_wrong else "a",
            attributes={"floor": floor},
        )
        for floor, n_wrong in wrong.items()
        for i in range(n)
    ]


def test_loss_and_disparity_are_rates_of_slice_and_rest() -> None:
    rows = floors(40, {"1": 4, "2": 10, "3": 0})
    rows += [a_prediction(f"u{i}", attributes={"floor": "1"}) for i in range(5)]
    monitor = a_monitor(a_batch(rows))
    now = standing(monitor)
    assert monitor.slices.names == [(), *((("floor", f),) for f in "123")]
    assert now.rows.tolist() == [125, 45, 40, 40]
    assert now.labels.tolist() == [120, 40, 40, 40]
    assert now.loss == pytest.approx([14 / 120, 4 / 40, 10 / 40, 0])
    gaps = [4 / 40 - 10 / 80, 10 / 40 - 4 / 80, 0 - 14 / 80]
    assert now.disparity[1:] == pytest.approx(gaps)
    assert np.isnan(now.disparity[0])  # there is no rest of everyone
    assert (now.loss_lower <= now.loss).all()
    assert (now.loss <= now.loss_upper).all()
    assert (now.disparity_lower[1:] <= now.disparity[1:]).all()
    assert (now.disparity[1:] <= now.disparity_upper[1:]).all()


def test_sampled_labels_stand_for_all_they_were_drawn_from() -> None:
    rare = [
        both(f"r{i}", truth="b", inclusion_probability=0.25, attributes={"floor": "1"})
        for i in range(5)
    ]
    sure = [both(f"s{i}", truth="a", attributes={"floor": "1"}) for i in range(20)]
    now = standing(a_monitor(a_batch(rare + sure)))
    assert now.loss[0] == pytest.approx(5 * 4 / (5 * 4 + 20))
    assert now.labels[0] == 25


def test_a_span_of_hours_has_its_own_figures() -> None:
    early, late = floors(10, {"1": 1}), floors(10, {"1": 9}, START + 3 * HOUR, "late")
    monitor = a_monitor(a_batch(early + late))
    assert standing(monitor, until=START + HOUR).loss[1] == pytest.approx(0.1)
    assert standing(monitor, since=START + HOUR).loss[1] == pytest.approx(0.9)
    assert standing(monitor).loss[1] == pytest.approx(0.5)
    nothing = standing(monitor, since=START + 30 * HOUR)
    assert nothing.rows.tolist() == [0, 0]
    assert np.isnan(nothing.loss).all()


def test_without_labels_there_is_nothing_to_say_but_rows() -> None:
    batch = a_batch([a_prediction(str(i), attributes={"floor": "1"}) for i in range(20)])
    now = standing(a_monitor(batch))
    assert now.rows.tolist() == [20, 20]
    assert np.isnan(now.loss).all()
    assert np.isnan(now.disparity).all()
    assert not now.evidence.any()


def test_the_reference_loss_is_that_of_the_hours_until_it_was_complete() -> None:
    calm = [
        both(
            f"c{i}",
            START + i * 60_000_000,
            truth="b" if i % 10 == 0 else "a",
            attributes={"floor": str(i % 2)},
        )
        for i in range(600)
    ]
    monitor = a_monitor(a_batch(calm), reference={"rows": 500})
    assert monitor.watch is not None
    assert monitor.reference_until > START
    at_first = standing(monitor)
    worse = floors(60, {"0": 60, "1": 60}, START + 20 * HOUR, "w")
    monitor.absorb(a_batch(worse), LATER)
    later = standing(monitor)
    assert later.loss[0] > at_first.loss[0]
    assert later.reference_loss == pytest.approx(at_first.reference_loss)
    # floor 0 has the even rows, and so all of every tenth that is wrong
    assert later.reference_loss[:2] == pytest.approx([0.1, 0.2], abs=0.02)


def shown(fold: Fold, **query: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    known = fold.model("acme", "m")
    assert known is not None
    asked = SliceQuery(**query)
    return model_json("m", known[0]), slices_json(fold, "acme", "m", asked, 0, 100)


def test_a_model_that_was_only_stated_waits_for_rows() -> None:
    fold = Fold()
    fold.apply(a_configuration({"loss": "wer", "dimensions": ["floor"]}))
    model, slices = shown(fold)
    assert (model["state"], model["loss"], model["dimensions"]) == ("waiting", "wer", ["floor"])
    assert (model["rows"], model["labels"], model["last_row_at"]) == (0, 0, None)
    assert slices == []


def test_a_model_is_shown_through_its_life() -> None:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}}))
    states = []
    for request in in_requests(Stream(bad={"floor": "3"}).rows(), 250):
        fold.apply(an_entry(request))
        model, slices = shown(fold)
        assert {} in [s["slice"] for s in slices]
        states.append(model["state"])
    assert list(dict.fromkeys(states)) == ["learning", "reference", "watching"]
    assert model["rows"] == model["labels"] == 3_000
    assert model["features"] == {}
    worst = slices[0]
    assert worst["slice"]["floor"] == "3"
    assert any(s["alerts"] for s in slices if s["slice"] == {"floor": "3"})
    assert msgspec.json.decode(msgspec.json.encode([model, slices])) == [model, slices]


def test_a_slice_says_what_it_takes_to_see_it_double_and_who_covers_it() -> None:
    fold = Fold()
    assert fold_in(fold, Stream(bad={"floor": "3"}).rows()) is not None
    _, slices = shown(fold)
    assert {s["detectable"] for s in slices} == {None}  # the reference of 5,000 rows is not over
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}}))
    fold_in(fold, Stream(9_000, apart=20 * 60_000_000).rows())  # 3 an hour
    by_name = {tuple(s["slice"].items()): s["detectable"] for s in shown(fold)[1]}
    known = fold.model("acme", "m")
    assert known is not None
    assert known[0].monitor is not None
    watch = known[0].monitor.watch
    assert watch is not None
    floor, everyone = by_name[(("floor", "3"),)], by_name[()]
    # (ln(5 / h) + 1.5) / (2 ln 2 - 1) errors over the error rate of 0.1, times the dispersion
    hazard = 0.6 / 0.7 / 2 / 9 * 600 / 604_800  # a ninth of an order's half of the slices' share
    index = known[0].monitor.slices.find((("floor", "3"),))
    assert index is not None
    due = (np.log(5 / hazard) + 1.5) / (2 * np.log(2) - 1)
    due *= watch.divisors(len(watch.disparity))[index]
    assert floor["labels"] == pytest.approx(due / 0.1, rel=0.3)  # learnt from 150 rows
    assert floor["weeks"] == pytest.approx(floor["labels"] / (3 * 168 / 4), rel=0.15)
    assert everyone["alone"] and everyone["covered_by"] is None
    pairs = [d for name, d in by_name.items() if len(name) == 2 and not d["alone"]]
    assert pairs
    assert all(d["weeks"] > 4 and d["covered_by"] is not None for d in pairs)


def test_slices_are_selected_by_order_and_dimension_and_rows() -> None:
    fold = Fold()
    fold_in(fold, Stream(n_predictions=1_200).rows())
    assert [s["slice"] for s in shown(fold, order=0)[1]] == [{}]
    pairs = shown(fold, order=2, dimension="floor")[1]
    assert pairs
    assert all(len(s["slice"]) == 2 and "floor" in s["slice"] for s in pairs)
    rows = [s["rows"] for s in shown(fold, sort="rows")[1]]
    assert rows == sorted(rows, reverse=True)
    assert shown(fold, min_rows=1_201)[1] == []
    assert slices_json(fold, "acme", "other", SliceQuery(), 0, 100) == []
