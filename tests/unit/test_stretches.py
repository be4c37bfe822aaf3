"""Stretches: counts by time, finer the younger, none lost."""

from __future__ import annotations

import numpy as np

from service.engine.state_bytes import from_bytes, to_bytes
from service.monitor.history import HOUR, RETENTION_HOURS
from service.monitor.stretches import PER_LEVEL, Stretches


def filled(n_hours: int) -> tuple[Stretches, list[np.ndarray[tuple[int, int], np.dtype[np.int64]]]]:
    rng, stretches, given = np.random.default_rng(1), Stretches(), []
    for hour in range(n_hours):
        counts = rng.poisson(0.5, (1 + hour % 5, 7)).astype(np.int64)
        stretches.add(hour * HOUR, (hour + 1) * HOUR, counts)
        given.append(np.pad(counts, ((0, 5 - len(counts)), (0, 0))))
    return stretches, given


def test_no_count_is_lost_while_stretches_are_joined() -> None:
    stretches, given = filled(500)
    assert (stretches.since(-1, 5, 7) == np.sum(given, axis=0)).all()
    for part in stretches.parts:
        first, last = part.start // HOUR, part.end // HOUR
        assert (part.of_bins(2, 6, 5) == np.sum(given[first:last], axis=0)[:, 2:6]).all()


def test_the_last_hours_stand_alone_and_older_ones_cover_more() -> None:
    stretches, given = filled(500)
    spans = [(part.end - part.start) // HOUR for part in stretches.parts]
    assert spans == sorted(spans, reverse=True)
    assert spans[-PER_LEVEL + 1 :] == [1] * (PER_LEVEL - 1)
    assert len(spans) <= PER_LEVEL * 7
    assert (stretches.since(497 * HOUR, 5, 7) == np.sum(given[497:], axis=0)).all()


def test_what_is_past_the_retention_is_dropped() -> None:
    stretches, _ = filled(3 * RETENTION_HOURS)
    assert stretches.parts[0].end > 2 * RETENTION_HOURS * HOUR


def test_saved_stretches_come_back() -> None:
    stretches, _ = filled(60)
    again = Stretches()
    again.restore(from_bytes(to_bytes(stretches.save())))
    assert to_bytes(again.save()) == to_bytes(stretches.save())
