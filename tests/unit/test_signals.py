"""Signals: what an array is counted by says the same of the rows that taught it and of others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.ingest.events import Floats, Value, Vectors
from service.monitor.config import MonitorConfig
from service.monitor.signals import MAX_SIGNALS, Reader, Signal, learn_signals
from tests.rows import a_batch, a_prediction

N, LENGTH = 1_000, 48


def vectors(rows: Floats) -> Value:
    offsets = np.arange(len(rows) + 1) * rows.shape[1]
    return Value(vector=Vectors(offsets, rows.astype(np.float32).ravel()))


def learnt(rows: Floats) -> tuple[Signal, ...]:
    batch = a_batch([a_prediction(f"p{i}") for i in range(len(rows))])
    batch.features["embedding"] = vectors(rows)
    return learn_signals(MonitorConfig(features={"output": "ignore"}), batch)


def bins(signals: tuple[Signal, ...], rows: Floats) -> npt.NDArray[np.int32]:
    batch = a_batch([a_prediction(f"q{i}") for i in range(len(rows))])
    batch.features["embedding"] = vectors(rows)
    return Reader(signals).bins(batch, np.arange(len(rows)))


def test_an_array_has_a_region_a_distance_and_directions_at_right_angles() -> None:
    signals = learnt(np.random.default_rng(1).standard_normal((N, LENGTH)))
    region, far, *along = signals
    assert (region.kind, len(region.values)) == ("categorical", 32)
    assert far.name == "embedding distance from its region"
    assert far.percents == (50, 90, 99)
    assert len(along) == 32
    across = np.array([signal.vectors[0] for signal in along[16:]], np.float64)
    products = across @ across.T / 2.0**28
    np.testing.assert_allclose(products, np.eye(16), atol=1e-3)
    assert {signal.feature for signal in signals} == {"embedding"}


def test_what_is_usual_of_the_first_rows_is_usual_of_later_ones_too() -> None:
    """Independent rows of 48 dimensions, where means of a few rows lie nearest to those rows."""
    rng = np.random.default_rng(2)
    signals = learnt(rng.standard_normal((N, LENGTH)))
    later = bins(signals, rng.standard_normal((20_000, LENGTH)))
    for s, signal in enumerate(signals):
        for k, percent in enumerate(signal.percents):
            above = float((later[s] > k).mean())
            due = 1 - percent / 100
            # the cut is a quantile of some 750 rows: five of its deviations
            assert abs(above - due) <= 5 * np.sqrt(due * (1 - due) / 750), (signal.name, percent)


def test_rows_unlike_all_others_lie_far_from_their_region() -> None:
    rng = np.random.default_rng(3)
    kinds = rng.normal(0.0, 3.0, (6, LENGTH))
    signals = learnt(kinds[rng.integers(5, size=N)] + rng.standard_normal((N, LENGTH)))
    strange = bins(signals, kinds[[5]] + rng.standard_normal((500, LENGTH)))
    assert (strange[1] == 3).mean() > 0.95  # above the P99 of the first rows


def test_distances_are_in_the_arrays_own_units() -> None:
    rng = np.random.default_rng(4)
    rows = 1e-3 * rng.standard_normal((N, LENGTH))
    far = learnt(rows)[1]
    # from a mean of 8 independent rows: sqrt(48 (1 + 1/8)), less for the nearest of 32
    assert 0.75 <= far.cuts[0] / (1e-3 * np.sqrt(LENGTH * 9 / 8)) <= 1.0


def test_arrays_that_are_all_the_same_or_short_are_placed_without_a_fault() -> None:
    same = learnt(np.ones((N, 2)))
    assert len(same[0].values) == 1
    assert bins(same, np.ones((3, 2)))[0].tolist() == [0, 0, 0]
    short = learnt(np.random.default_rng(5).standard_normal((N, 2)))
    assert bins(short, np.zeros((1, 2))).shape == (len(short), 1)
    missing = bins(short, np.zeros((4, 1)))  # arrays of another length have no place
    assert [int(row[0]) for row in missing] == [signal.n_bins - 1 for signal in short]


def test_what_there_is_no_room_for_is_left_out_whole() -> None:
    rng = np.random.default_rng(6)
    batch = a_batch([a_prediction(f"p{i}") for i in range(N)])
    for k in range(9):
        batch.features[f"e{k}"] = vectors(rng.standard_normal((N, 40)))
    signals = learn_signals(MonitorConfig(), batch)
    assert len(signals) <= MAX_SIGNALS
    sizes = {sum(s.feature == f"e{k}" for s in signals) for k in range(9)}
    assert sizes == {0, 34}
