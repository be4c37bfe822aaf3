"""Inputs: where features' values fall, counted per cell, against counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from service.engine.state_bytes import from_bytes, to_bytes
from service.ingest.events import hash_ids
from service.monitor.indicators import Indicators
from service.monitor.input_watch import REFERENCE_ROWS, ReferenceRows, scatter_of
from service.monitor.inputs import Inputs
from service.monitor.signals import Signal
from tests.rows import HOUR, SECOND, START, a_batch, a_prediction

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


def many_rows(n: int) -> ReferenceRows:
    """Rows a second apart over some hours, every other one in a session of some minutes."""
    rng = np.random.default_rng(3)
    time = START + np.arange(n) * SECOND
    session = hash_ids([f"s{i // 400}" for i in range(n)])
    cluster = np.where(np.arange(n) % 2 == 0, session, np.uint64(0))
    bins = rng.integers(0, 4, (2, n)).astype(np.int32)
    return ReferenceRows.of(np.zeros(n, np.intp), cluster, time, bins)


def test_of_a_long_reference_whole_sessions_and_minutes_are_kept_from_all_of_its_hours() -> None:
    n = 5 * REFERENCE_ROWS
    rows = many_rows(n)
    kept = ReferenceRows.none(2).join(rows)
    assert kept.halvings == 3  # a quarter of them would still be too many
    assert REFERENCE_ROWS / 4 < len(kept) <= REFERENCE_ROWS
    assert set(kept.hour.tolist()) == set(rows.hour.tolist())
    for column in ("cluster", "drawn"):
        of_all, of_kept = getattr(rows, column), getattr(kept, column)
        named = of_kept[of_kept != 0]
        assert np.isin(of_all, named).sum() == named.size  # whole ones


@pytest.mark.parametrize("size", [777, 50_000])
def test_which_rows_of_a_reference_are_kept_does_not_depend_on_where_requests_are_cut(
    size: int,
) -> None:
    rows = many_rows(3 * REFERENCE_ROWS)
    whole, cut = ReferenceRows.none(2).join(rows), ReferenceRows.none(2)
    for at in range(0, len(rows), size):
        part = slice(at, at + size)
        more = ReferenceRows(
            rows.cell[part],
            rows.cluster[part],
            rows.hour[part],
            rows.drawn[part],
            rows.bins[:, part],
        )
        cut = cut.join(more)
    for left, right in zip(whole.save(), cut.save(), strict=True):
        assert np.array_equal(left, right)


def test_how_far_hours_scatter_is_told_by_a_part_of_their_rows_as_by_all_of_them() -> None:
    """A share of one half that moves from hour to hour with a correlation of 0.01."""
    rng = np.random.default_rng(4)
    n_hours, n = 60, 120_000
    hour = np.arange(n) * n_hours // n
    share = rng.beta(0.5 * 99, 0.5 * 99, (2, n_hours))
    cell = rng.integers(0, 2, n)
    bins = (rng.random(n) < share[cell, hour]).astype(np.int32)[None]
    time = START + np.arange(n) * (n_hours * HOUR // n)
    rows = ReferenceRows.of(cell, np.zeros(n, np.uint64), time, bins)
    membership = csr_array(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    indicators = Indicators((Signal("codec", "categorical", values=("opus",)),))
    of_all = scatter_of(indicators, rows, membership).own
    of_part = scatter_of(indicators, ReferenceRows.none(1).join(rows), membership).own
    at_all_rows = np.full((3, 1), 1_000.0)
    assert of_all.at(at_all_rows)[1] > 8
    assert of_part.at(at_all_rows)[1:] == pytest.approx(of_all.at(at_all_rows)[1:], rel=0.3)
