"""Learn: loss, dimensions and features read off the first rows, and whatever is stated kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.ingest.events import EventBatch
from service.monitor.config import LossName, MonitorConfig
from service.monitor.learn import MAX_DIMENSIONS, Schema, learn, learn_dimensions, learn_loss
from tests.rows import a_batch, both


def rows(**columns: Sequence[Any]) -> EventBatch:
    n = max(map(len, columns.values()))
    return a_batch(
        [
            both(str(i), output=None) | {k: column[i] for k, column in columns.items()}
            for i in range(n)
        ]
    )


@pytest.mark.parametrize(
    ("output", "truth", "expected"),
    [
        (["cat", "dog"], ["dog", "dog"], "zero_one"),
        (["the patient is stable", "no"], ["the patient is stable", "oh no"], "wer"),
        ([3, 7, 3], [3, 8, 3], "zero_one"),
        (list(range(30)), list(range(30)), "absolute_error"),
        ([1.5, 2.5], [1.0, 2.0], "absolute_error"),
        ([1, 2], [1.5, 2.0], "absolute_error"),
        ([0.2, 0.9], [0, 1], "brier"),
        ([0.2, 0.9], [True, False], "brier"),
        ([0.2, 0.9], [0.3, 0.8], "absolute_error"),
        ([True, False], [True, True], "zero_one"),
    ],
)
def test_the_loss_follows_from_the_types_of_output_and_truth(
    output: list[Any], truth: list[Any], expected: LossName
) -> None:
    assert learn_loss(rows(output=output, truth=truth)) == expected


def test_rows_that_bring_their_own_losses_are_taken_as_given() -> None:
    assert learn_loss(rows(loss=[0.5, 0.25])) == "given"


def attributes(**columns: Sequence[str | None]) -> EventBatch:
    n = max(map(len, columns.values()))
    return rows(
        attributes=[{k: v[i] for k, v in columns.items() if v[i] is not None} for i in range(n)]
    )


def test_dimensions_are_attributes_with_few_values_fewest_first() -> None:
    n = 1_000
    learnt = learn_dimensions(
        attributes(
            floor=[str(i % 8) for i in range(n)],
            device=["desk" if i % 2 else "phone" for i in range(n)],
            site=["st-mary"] * n,  # slices nothing
            patient=[str(i % 65) for i in range(n)],  # one more than a learnt dimension may have
            ward=[str(i % 64) for i in range(n)],
            rare=["x" if i == 0 else None for i in range(n)],
        )
    )
    assert learnt == ["device", "floor", "ward"]


def test_a_dimension_has_ten_values_or_at_most_one_for_ten_rows() -> None:
    of_11 = [str(i % 11) for i in range(110)]
    assert learn_dimensions(attributes(ward=of_11)) == ["ward"]
    assert learn_dimensions(attributes(ward=of_11[:109])) == []
    of_10 = [str(i % 10) for i in range(12)]
    assert learn_dimensions(attributes(ward=of_10)) == ["ward"]


def test_of_many_dimensions_only_so_many_are_learnt() -> None:
    columns = {f"d{k:02}": ["a", "b"] * 20 for k in range(MAX_DIMENSIONS + 5)}
    assert learn_dimensions(attributes(**columns)) == sorted(columns)[:MAX_DIMENSIONS]


def features(config: MonitorConfig, **columns: Sequence[Any]) -> dict[str, tuple[str, int]]:
    n = max(map(len, columns.values()))
    batch = rows(features=[{k: v[i] for k, v in columns.items()} for i in range(n)])
    return {s.name: (s.kind, s.n_bins) for s in learn(config, batch).signals}


def test_kinds_of_features_follow_from_their_types() -> None:
    numbers = [float(i) for i in range(100)]
    assert features(
        MonitorConfig(),
        snr_db=numbers,
        codec=["opus", "pcm"] * 50,
        muted=[True, False] * 50,
    ) == {
        "snr_db": ("numeric", 5 + 2),  # five cuts, six bins between them, one for missing
        "codec": ("categorical", 2 + 3),  # each value, rarer ones, new ones, missing
        "muted": ("categorical", 2 + 3),
    }


def test_stated_features_are_taken_as_stated_and_ignored_ones_left_out() -> None:
    config = MonitorConfig(features={"note": "ignore", "level": "numeric", "code": "categorical"})
    found = features(config, note=["x"] * 20, level=[1.0] * 20, code=["a"] * 20, new=[1.0] * 20)
    assert set(found) == {"level", "code", "new"}


def test_cuts_are_the_first_rows_quantiles() -> None:
    batch = rows(features=[{"snr_db": float(i)} for i in range(101)])
    [signal] = learn(MonitorConfig(), batch).signals
    assert signal.cuts == (10, 30, 50, 70, 90)


def test_what_is_stated_is_kept() -> None:
    config = MonitorConfig(loss="cer", dimensions=["ward"])
    schema = learn(config, attributes(floor=["1", "2"] * 20))
    assert (schema.loss, schema.dimensions) == ("cer", ("ward",))


def test_a_schema_survives_being_saved() -> None:
    values = np.linspace(0, 1, 50).tolist()
    batch = rows(
        output=["a", "b"] * 25, features=[{"x": v, "y": "opus", "z": None} for v in values]
    )
    schema = learn(MonitorConfig(), batch)
    assert Schema.restore(schema.save()) == schema
