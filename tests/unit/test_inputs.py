"""Inputs: where features' values fall, counted per cell, against counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from service.engine.state_bytes import from_bytes, to_bytes
from service.monitor.inputs import Inputs
from service.monitor.signals import Signal
from tests.rows import a_batch, a_prediction

SIGNALS = (
    Signal("snr_db", "numeric", cuts=(0.0, 10.0)),
    Signal("codec", "categorical", values=("opus", "pcm")),
)
BELOW, BETWEEN, ABOVE, NO_NUMBER, OPUS, PCM, OTHER, NO_TEXT = range(8)
EVERYONE = csr_array(np.ones((1, 3)))
FIRST = np.array([0])

Features = dict[str, Any]


def add(inputs: Inputs, rows: list[tuple[Features, int]], in_reference: bool = False) -> None:
    batch = a_batch([a_prediction(str(i), features=f) for i, (f, _) in enumerate(rows)])
    cells = np.array([cell for _, cell in rows], np.intp)
    inputs.add(batch, np.arange(len(rows)), cells, in_reference)


def bins_of(features: Features) -> list[int]:
    number, text = features.get("snr_db"), features.get("codec")
    if isinstance(number, float):
        first = BELOW if number < 0 else BETWEEN if number < 10 else ABOVE
    else:
        first = NO_NUMBER
    if isinstance(text, str):
        return [first, {"opus": OPUS, "pcm": PCM}.get(text, OTHER)]
    return [first, NO_TEXT]


FEATURES = st.fixed_dictionaries(
    {},
    optional={
        "snr_db": st.sampled_from([-5.0, 0.0, 5.0, 10.0, 50.0, "loud", None]),
        "codec": st.sampled_from(["opus", "pcm", "mp3", 3.0, None]),
        "unknown": st.just(1.0),
    },
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(FEATURES, st.integers(0, 2)), max_size=10), max_size=4))
def test_every_value_is_counted_in_its_bin_and_cell(
    batches: list[list[tuple[Features, int]]],
) -> None:
    inputs, expected = Inputs(SIGNALS), np.zeros((3, 8), np.int64)
    for n, rows in enumerate(batches):
        add(inputs, rows)
        for features, cell in rows:
            expected[cell, bins_of(features)] += 1
        if n == 1:
            saved = inputs.save()
            inputs = Inputs(SIGNALS)
            inputs.restore(from_bytes(to_bytes(saved)))
    counted = np.zeros((3, 8), np.int64)
    so_far = inputs.so_far()[:3]
    counted[: len(so_far)] = so_far
    assert (counted == expected).all()


def test_only_new_predictions_of_a_batch_are_counted() -> None:
    inputs = Inputs(SIGNALS)
    batch = a_batch([a_prediction(str(i), features={"codec": c}) for i, c in enumerate("abc")])
    inputs.add(batch, np.array([2]), np.array([1]), True)
    assert inputs.reference.sum() == 2  # a bin of each signal
    assert inputs.reference[1, OTHER] == 1


def test_spare_room_is_not_saved() -> None:
    small, large = Inputs(SIGNALS), Inputs(SIGNALS)
    row: list[tuple[Features, int]] = [({"codec": "pcm"}, 0)]
    add(small, row)
    add(large, [*([({}, 0)] * 3), ({"codec": "mp3"}, 500)])
    large.restore({**large.save(), "now": np.zeros((501, 8), np.int64)})
    add(large, row)
    counts = [inputs.save()["now"] for inputs in (small, large)]
    assert to_bytes(counts[0]) == to_bytes(counts[1])


def test_the_feature_that_moved_most_is_named_with_its_shares() -> None:
    inputs = Inputs(SIGNALS)
    calm: list[tuple[Features, int]] = [({"snr_db": 5.0, "codec": "opus"}, 0)] * 40
    loud: list[tuple[Features, int]] = [({"snr_db": 20.0, "codec": "opus"}, 0)] * 40
    add(inputs, calm, in_reference=True)
    add(inputs, [*loud, *calm[:10]])
    assert inputs.shifts(EVERYONE, FIRST)[0] == {
        "feature": "snr_db",
        "share": "above 10",
        "from": 0.0,
        "to": pytest.approx(0.8),
    }


def test_values_that_stop_coming_are_told_as_missing() -> None:
    inputs = Inputs(SIGNALS)
    add(inputs, [({"snr_db": -5.0, "codec": "opus"}, 0)] * 40, in_reference=True)
    add(inputs, [({"codec": "opus"}, 0)] * 40)
    expected = {"feature": "snr_db", "share": "missing", "from": 0.0, "to": 1.0}
    assert inputs.shifts(EVERYONE, FIRST)[0] == expected


def test_too_few_rows_on_either_side_say_nothing() -> None:
    inputs = Inputs(SIGNALS)
    add(inputs, [({"codec": "opus"}, 0)] * 40, in_reference=True)
    add(inputs, [({"codec": "pcm"}, 0)] * 29)
    assert inputs.shifts(EVERYONE, FIRST) == [None]
    assert Inputs(()).shifts(EVERYONE, FIRST) == [None]
