"""Model: while it learns and after, the same counts; stated anew, it begins anew or goes on."""

from __future__ import annotations

from typing import Any

import pytest

from service.ingest.events import EventBatch
from service.monitor import slices as slices_module
from service.monitor.config import MonitorConfig
from service.monitor.findings import Slice
from service.monitor.learn import LEARN_ROWS
from service.monitor.model import Model
from service.monitor.standing import standing
from tests.rows import (
    DAY,
    HOUR,
    LATER,
    SECOND,
    START,
    Row,
    Stream,
    a_batch,
    a_label,
    a_prediction,
    both,
    in_requests,
)


def a_model(**config: Any) -> Model:
    return Model(MonitorConfig.model_validate(config), 600)


def feed(model: Model, rows: EventBatch, size: int = 500) -> list[bool]:
    """Absorb the rows; which of them were duplicates."""
    duplicate = []
    for request in in_requests(rows, size):
        counted, _ = model.absorb(request, LATER)
        duplicate += counted.duplicate.tolist()
    return duplicate


def predictions(n: int, at: int = START, **stated: Any) -> list[Row]:
    return [
        a_prediction(f"p{i}", at + i * SECOND, attributes={"floor": str(i % 2)}, **stated)
        for i in range(n)
    ]


@pytest.mark.parametrize("size", [1, 37, 5_000])
def test_duplicates_are_told_alike_while_learning_and_after(size: int) -> None:
    model = a_model()
    rows = predictions(LEARN_ROWS + 100)
    twice = [row for row in rows for _ in range(2)]
    assert feed(model, a_batch(twice), size) == [False, True] * len(rows)
    assert not model.is_learning
    assert model.monitor is not None
    assert model.monitor.n_predictions == len(rows)
    assert feed(model, a_batch(rows), size) == [True] * len(rows)


def test_whoever_asks_while_it_learns_is_answered_from_what_has_come() -> None:
    model = a_model()
    feed(model, a_batch([*predictions(100), a_label("p3", START + HOUR, truth="b")]))
    assert model.is_learning
    assert model.monitor is not None
    assert (model.monitor.n_predictions, model.monitor.n_labels) == (100, 1)
    assert model.monitor.slices.dimensions == ["floor"]


def test_what_is_learnt_does_not_depend_on_cuts() -> None:
    rows = Stream(n_predictions=1_500).rows()
    schemas = []
    for size in (1, 37, 5_000):
        model = a_model()
        feed(model, rows, size)
        assert model.monitor is not None
        schemas.append(model.monitor.schema)
    assert schemas[0] == schemas[1] == schemas[2]
    assert schemas[0].dimensions == ("device", "accent", "floor")


def test_features_of_rows_behind_the_first_are_not_learnt_from() -> None:
    first = predictions(LEARN_ROWS, features={"x": 1.0})
    rows = [*first, a_prediction("behind", features={"y": 1.0})]
    for size in (1, 5_000):
        model = a_model()
        feed(model, a_batch(rows), size)
        assert model.monitor is not None
        assert list(model.monitor.schema.features) == ["x"]


def test_a_shorter_reference_stated_while_learning_ends_the_learning() -> None:
    model = a_model()
    feed(model, a_batch(predictions(300)))
    model.configure(MonitorConfig.model_validate({"reference": {"rows": 100}}))
    assert feed(model, a_batch([*predictions(300)[-3:], a_prediction("new")])) == [
        True,
        True,
        True,
        False,
    ]
    assert not model.is_learning
    assert model.monitor is not None
    assert model.monitor.n_predictions == 301


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"tolerance": 0.2}, False),
        ({"false_alerts": {"at_most": 2, "per": "1d"}}, False),
        ({"label_horizon": "7d"}, False),
        ({"publish_min_rows": 5}, False),
        ({"order": 1}, True),
        ({"dimensions": ["floor"]}, True),
        ({"loss": "wer"}, True),
        ({"reference": {"rows": 700}}, True),
        ({"features": {}}, True),
    ],
)
def test_only_what_changes_the_meaning_of_the_sums_begins_anew(
    change: dict[str, Any], anew: bool
) -> None:
    stated = {"reference": {"rows": 600}}
    model = a_model(**stated)
    feed(model, Stream(n_predictions=1_500).rows())
    assert model.configure(MonitorConfig.model_validate(stated)) is False
    assert model.configure(MonitorConfig.model_validate(stated | change)) is anew
    monitor = model.monitor
    assert (monitor is None) is anew
    if monitor is not None and monitor.watch is not None:
        week = monitor.config.alerts_a_week
        assert monitor.watch.budget.alerts_a_week == week
        assert monitor.watch.disparity.tolerance == 1 + monitor.config.tolerance
        horizon_days = 7 if "label_horizon" in change else 30
        assert monitor.join.horizon == horizon_days * DAY


def test_a_model_that_begins_anew_learns_anew() -> None:
    model = a_model(reference={"rows": 600})
    feed(model, Stream(n_predictions=1_500).rows())
    model.configure(MonitorConfig.model_validate({"reference": {"rows": 600}, "order": 1}))
    feed(model, Stream(n_predictions=1_500).rows())
    assert model.monitor is not None
    assert model.monitor.n_predictions == 1_500
    assert model.monitor.slices.orders().max() == 1


def test_labels_add_their_attributes_to_those_of_their_predictions() -> None:
    model = a_model(dimensions=["accent", "floor"], reference={"rows": 50})
    feed(model, a_batch(predictions(60)))
    feed(model, a_batch([a_label("p1", truth="b", attributes={"accent": "west"}), a_label("p3")]))
    assert labels_of(model) == {
        (): 2,
        (("floor", "1"),): 2,
        (("accent", "west"),): 1,
        (("accent", "west"), ("floor", "1")): 1,
    }


def test_a_label_past_the_cap_on_cells_leaves_its_prediction_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices_module, "MAX_CELLS", 3)  # those of others and of two floors
    model = a_model(dimensions=["accent", "floor"], reference={"rows": 50})
    feed(model, a_batch(predictions(60)))
    feed(model, a_batch([a_label("p1", truth="b", attributes={"accent": "west"}), a_label("p3")]))
    assert labels_of(model) == {(): 2, (("floor", "1"),): 2}


def labels_of(model: Model) -> dict[Slice, int]:
    """How many labels each slice has, where it has any."""
    assert model.monitor is not None
    labels = standing(model.monitor).labels
    names = model.monitor.slices.names
    return {name: int(n) for name, n in zip(names, labels, strict=True) if n}


def test_versions_are_counted_and_those_of_other_models_are_not() -> None:
    model = a_model()
    rows = a_batch(
        [a_prediction("a", version="1"), a_prediction("b", version="2"), a_label("a", version="1")]
    )
    feed(model, rows)
    assert model.versions == {"1": 2, "2": 1}
    other = a_model()
    other.absorb(rows.take(rows.kind.nonzero()[0][:1]), LATER)
    assert other.versions == {"1": 1}


def an_uploaded_reference(model: Model) -> int:
    reference = Stream(n_predictions=400, seed=9).rows()
    return model.upload_reference(reference)[0]


def test_an_uploaded_reference_is_watched_against_from_the_first_row() -> None:
    model = a_model()
    assert an_uploaded_reference(model) == 400
    assert model.monitor is not None
    assert model.monitor.watch is not None
    assert model.monitor.n_predictions == 0  # what was uploaded is not what happened


def test_rows_kept_while_learning_are_not_lost_to_an_upload() -> None:
    model = a_model()
    feed(model, a_batch(predictions(300)))
    an_uploaded_reference(model)
    assert model.monitor is not None
    assert model.monitor.n_predictions == 300
    assert feed(model, a_batch(predictions(300))) == [True] * 300


def test_too_small_a_reference_is_not_taken() -> None:
    model = a_model()
    assert model.upload_reference(Stream(n_predictions=49).rows())[0] == 49
    assert model.monitor is not None
    assert model.monitor.watch is None


def test_an_incident_stays_open_when_another_reference_is_uploaded() -> None:
    model = a_model(reference={"rows": 600})
    feed(model, Stream(bad={"floor": "3"}).rows())
    assert model.monitor is not None
    assert model.monitor.watch is not None
    before = model.monitor.watch
    assert before.disparity.open.any()
    an_uploaded_reference(model)
    now = model.monitor.watch
    assert now is not before
    assert now.disparity.open.tolist() == before.disparity.open.tolist()
    assert now.recovery.midpoint.tolist() == before.recovery.midpoint.tolist()


def test_losses_that_wait_for_a_tick_are_taken_in_the_units_of_a_new_reference() -> None:
    def errors(n: int, name: str, at: int) -> EventBatch:
        return a_batch(
            [
                both(f"{name}{i}", at + i * SECOND, output=0.0, truth=100.0 + i % 10)
                for i in range(n)
            ]
        )

    model = a_model(loss="absolute_error", dimensions=[])
    feed(model, errors(LEARN_ROWS, "p", START))
    model.upload_reference(errors(100, "r", START))
    assert model.monitor is not None
    [*waiting] = model.monitor._since_tick
    assert waiting
    assert all((part.capped <= 1).all() for part in waiting)
    assert all((part.loss >= 100).all() for part in waiting)
