"""LabelDelay: how long labels take, against counts by hand."""

from __future__ import annotations

import numpy as np

from service.engine.fold import Fold
from service.engine.state_bytes import from_bytes, to_bytes
from service.monitor.label_delay import BOUNDS, SECOND, LabelDelay
from tests.rows import Stream, fold_in


def delays_of(*seconds: float) -> LabelDelay:
    delays = LabelDelay()
    delays.add(np.array([int(s * SECOND) for s in seconds], np.int64))
    return delays


def test_a_label_is_in_the_bucket_whose_bound_it_does_not_pass() -> None:
    delays = delays_of(0, 60, 61, 600, 31 * 86_400)
    assert delays.counts.tolist() == [2, 2, *[0] * (len(BOUNDS) - 2), 1]
    assert delays.total_seconds == 60 + 61 + 600 + 31 * 86_400


def test_a_label_that_says_it_came_before_its_prediction_took_no_time() -> None:
    delays = delays_of(-5)
    assert (delays.counts[0], delays.total_seconds) == (1, 0)


def test_the_share_that_has_come_is_straight_between_bounds() -> None:
    delays = delays_of(30, 30, 3_000, 40 * 86_400)  # buckets up to 60 s, up to 1 h, past the last
    shares = delays.share_within(np.array([0.0, 30.0, 60.0, 600.0, 2_100.0, 3_600.0, 1e9]))
    # half by 60 s, none until 600 s, then a quarter by 3,600 s; a quarter came past every bound
    assert shares.tolist() == [0.0, 0.25, 0.5, 0.5, 0.625, 0.75, 0.75]


def test_without_labels_nothing_has_come() -> None:
    assert LabelDelay().share_within(np.array([1e6])).tolist() == [0.0]


def test_saved_counts_go_on_where_they_were() -> None:
    delays, again = delays_of(5, 90, 4_000), LabelDelay()
    again.restore(from_bytes(to_bytes(delays.save())))
    again.add(np.array([61 * SECOND]))
    assert again.counts.sum() == 4
    assert again.total_seconds == delays.total_seconds + 61


def test_every_joined_label_is_counted_once() -> None:
    fold = Fold()
    fold_in(fold, Stream(n_predictions=1_200).rows())
    known = fold.model("acme", "m")
    assert known is not None and known[0].monitor is not None
    monitor = known[0].monitor
    assert monitor.delays.counts.sum() == monitor.n_labels == 1_200
