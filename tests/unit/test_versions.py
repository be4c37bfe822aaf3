"""Versions: told apart, compared slice by slice, and watched while they are new."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.disparity import Disparity
from detectors.rollout import EPOCH_WEIGHT, bounded
from detectors.summary import LABELS, LOSS, ROWS
from service.engine.fold import Fold
from service.ingest.events import PREDICTION, Categories, EventBatch
from service.monitor.compare import compare
from service.monitor.findings import Kind
from service.monitor.versions import KEPT_VERSIONS, Versions
from tests.doors import a_client, an_app
from tests.rows import START, fired, fold_in
from tests.versions import Release, a_fold, monitor_of

BETTER = Release(b_rate=0.10)  # the average improves
HURTS_FLOOR_2 = Release(b_rate=0.09, b_rate_on_floor_2=0.30)
CANARY = Release(share=0.3, b_rate=0.09, b_rate_on_floor_2=0.34)


def some_rows(names: list[str]) -> EventBatch:
    n = len(names)
    return EventBatch(
        ids=[f"p{i}" for i in range(n)],
        kind=np.full(n, PREDICTION, np.uint8),
        time=np.full(n, START),
        model=Categories(np.zeros(n, np.int32), ["m"]),
        version=Categories.of(names),
    )


@given(
    names=st.lists(st.integers(0, 20).map(str), min_size=1, max_size=60),
    cuts=st.lists(st.integers(1, 60), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_numbers_of_versions_do_not_depend_on_how_rows_are_cut(
    names: list[str], cuts: list[int]
) -> None:
    whole, cut = Versions(), Versions()
    expected, seen = [], []
    for name in names:  # one row at a time
        if name not in seen:
            seen.append(name)
        number = seen.index(name) + 1
        expected.append(number if number > len(seen) - KEPT_VERSIONS else 0)
    assert whole.assign(some_rows(names)).tolist() == expected
    stops = [0, *sorted({min(stop, len(names)) for stop in cuts}), len(names)]
    parts = [names[a:b] for a, b in pairwise(stops) if a < b]
    assert [n for part in parts for n in cut.assign(some_rows(part)).tolist()] == expected


def test_sums_by_version_are_those_of_its_rows_and_survive_a_restart() -> None:
    fold = a_fold()
    rows = CANARY.rows()
    fold_in(fold, rows)
    monitor = monitor_of(fold)
    n_cells = monitor.slices.n_cells
    whole = monitor.history.cells_between(n_cells)
    parts = [monitor.history.cells_between(n_cells, version=v) for v in (0, 1, 2)]
    np.testing.assert_allclose(sum(parts), whole)
    is_b = (rows.kind == PREDICTION) & (rows.version.codes == rows.version.values.index("b"))
    assert parts[2][:, ROWS].sum() == is_b.sum()
    assert parts[2][:, LABELS].sum() == is_b.sum()  # labels count for what made the prediction
    again = Fold.restore(fold.save())
    assert again.digest() == fold.digest()
    assert monitor_of(again).versions.names == ["", "a", "b"]


def test_a_new_version_is_an_epoch_and_no_news_in_itself() -> None:
    rows = Release(seed=2).rows()  # both versions err alike, and nobody by chance much more
    fold, unchanged = a_fold(), a_fold()
    only_a = replace(rows, version=Categories(np.minimum(rows.version.codes, 0), ["a"]))
    told, as_before = (
        [(alert.kind, alert.slice) for alert in fired(fold_in(each, batch))]
        for each, batch in ((fold, rows), (unchanged, only_a))
    )
    assert told == as_before
    assert monitor_of(fold).rollout.fleet is not None
    assert monitor_of(unchanged).rollout.fleet is None


def test_under_a_new_version_the_past_weighs_less_and_nothing_is_forgotten() -> None:
    fleet = Disparity()
    fleet.grow(np.ones(2), np.ones(2), np.array([9e3, 90.0]), np.array([6e3, 100.0]))
    fleet.evidence[:] = 0.1
    fleet.hold(np.array([1]))
    bounded(fleet)
    assert fleet.rate.tolist() == pytest.approx([EPOCH_WEIGHT, 105.0])
    assert fleet.shape[0] / fleet.rate[0] == pytest.approx(1.5, rel=1e-2)
    assert fleet.meter.tolist() == pytest.approx([0.5, 0.5])
    assert fleet.open.tolist() == [False, True]


@pytest.mark.parametrize("release", [HURTS_FLOOR_2, CANARY], ids=["at once", "side by side"])
def test_a_version_that_hurts_a_slice_while_the_average_improves_is_named(
    release: Release,
) -> None:
    alerts = [a for a in fired(fold_in(a_fold(), release.rows())) if a.kind is Kind.VERSION]
    assert [alert.slice for alert in alerts] == [(("floor", "2"),)]
    alert = alerts[0]
    assert alert.effect.because == "degraded"
    assert (alert.effect.feature, alert.effect.moved) == ("version", "a → b")
    assert alert.effect.before == pytest.approx(0.15, abs=0.03)
    assert alert.effect.after == pytest.approx(release.b_rate_on_floor_2, abs=0.09)
    assert alert.effect.rest_after is not None
    assert alert.effect.rest_after < 0.12
    assert "Version b" in alert.summary
    assert "floor=2" in alert.summary


def test_a_version_that_leaves_a_slice_behind_is_named_as_that() -> None:
    release = Release(n=24_000, b_rate=0.05, b_rate_on_floor_2=0.15)
    alerts = [a for a in fired(fold_in(a_fold(), release.rows())) if a.kind is Kind.VERSION]
    assert [(a.slice, a.effect.because) for a in alerts] == [((("floor", "2"),), "left_behind")]


def test_a_version_that_is_better_or_worse_for_everyone_hurts_no_slice() -> None:
    for release in (BETTER, Release(b_rate=0.25), Release(share=0.3, b_rate=0.25)):
        alerts = fired(fold_in(a_fold(), release.rows()))
        assert not [a for a in alerts if a.kind is Kind.VERSION]


def test_what_is_open_is_over_when_another_version_follows() -> None:
    fold = a_fold()
    fold_in(fold, HURTS_FLOOR_2.rows())
    monitor = monitor_of(fold)
    assert monitor.rollout.open
    again = Fold.restore(fold.save())
    assert monitor_of(again).rollout.open == monitor.rollout.open
    assert again.digest() == fold.digest()
    later = Release(n=400, seed=2).rows()
    shift = HURTS_FLOOR_2.n * HURTS_FLOOR_2.apart
    values = {"a": "c", "b": "d"}
    version = Categories(later.version.codes, [values[v] for v in later.version.values])
    moved = replace(
        later, time=later.time + shift, version=version, ids=[f"q{i}" for i in later.ids]
    )
    ended = [t for t in fold_in(fold, moved) if t.type == "alert.resolved"]
    assert [t.alert.kind for t in ended if t.alert.kind is Kind.VERSION] == [Kind.VERSION]
    assert not monitor.rollout.open


def test_versions_are_compared_with_intervals_that_hold_the_truth() -> None:
    fold = a_fold()
    fold_in(fold, CANARY.rows())
    monitor = monitor_of(fold)
    found = compare(monitor, 1, 2)
    assert found.side_by_side
    floor = monitor.slices.find((("floor", "2"),))
    assert floor is not None
    assert found.difference_lower[floor] < 0.19 < found.difference_upper[floor]
    assert found.difference_lower[floor] > 0
    assert found.difference_upper[0] > 0.0025 > found.difference_lower[0]


def test_a_version_that_met_easier_rows_gains_nothing_by_that() -> None:
    # Both versions err alike on each floor; "b" has most of its rows on the floor where few err.
    release = Release(share=0.4, b_on_easy_rows=0.7, easy=0.2)
    fold = a_fold()
    fold_in(fold, release.rows())
    found = compare(monitor_of(fold), 1, 2)
    assert found.difference_upper[0] < -0.02
    assert found.standardised_lower[0] < 0 < found.standardised_upper[0]
    assert abs(found.standardised[0]) < abs(found.difference[0]) / 3
    sums = monitor_of(fold).history.cells_between(monitor_of(fold).slices.n_cells, version=2)
    assert sums[:, LOSS].sum() / sums[:, LABELS].sum() < 0.12


def test_the_comparison_is_told_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{i}", "model": "m", "attributes": {"floor": str(i % 4)}, "output": "a",
         "time": 1_790_000_000 + 60 * i, "truth": "a" if i % 9 else "b",
         "version": "ab"[i // 4 % 2]}
        for i in range(1_200)
    ]  # fmt: skip
    with an_app(tmp_path) as app:
        api = a_client(app)
        assert api.post("/v1/events", json=rows).status_code == 200
        answer = api.get("/v1/models/m/compare?versions=a,b&order=1&limit=2").json()
        assert answer["versions"] == ["a", "b"]
        assert answer["basis"] == "side_by_side"
        assert answer["next"] == "2"
        first = answer["slices"][0]
        assert set(first) == {
            "slice", "a", "b", "difference", "difference_interval",
            "standardised_difference", "standardised_difference_interval",
        }  # fmt: skip
        assert set(first["a"]) == {"rows", "labels", "loss", "loss_interval"}
        whole = api.get("/v1/models/m/compare?versions=a,b&order=0").json()["slices"]
        assert [s["slice"] for s in whole] == [{}]
        assert whole[0]["difference"] == pytest.approx(
            whole[0]["b"]["loss"] - whole[0]["a"]["loss"], rel=1e-4
        )
        for wrong in ("", "versions=a", "versions=a,b,c", "versions=a,a", "versions=a,b&order=9"):
            assert api.get(f"/v1/models/m/compare?{wrong}").status_code == 422
        unknown = api.get("/v1/models/m/compare?versions=a,zz9")
        assert unknown.status_code == 404
        assert "versions" in unknown.json()["detail"]
        assert "zz9" not in unknown.text
        assert api.get("/v1/models/unheard-of/compare?versions=a,b").status_code == 404
