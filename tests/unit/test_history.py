"""History against sums by hand; when it merged leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from detectors.summary import (
    CAPPED,
    EXPOSURE,
    JUDGED,
    JUDGED_TWICE,
    LABELS,
    LOSS,
    N_COLUMNS,
    ROWS,
    SQUARED,
)
from service.engine.state_bytes import from_bytes, to_bytes
from service.ingest.events import Floats
from service.monitor import history as history_module
from service.monitor.history import HOUR, History

N_CELLS = 4
FIRST_HOUR = 492_000

Event = tuple[int, int, float]  # hour, cell, loss; a negative loss is a row without its label

EVENTS = st.lists(
    st.tuples(
        st.integers(FIRST_HOUR, FIRST_HOUR + 5),
        st.integers(0, N_CELLS - 1),
        st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0]),
    ),
    max_size=40,
)


def add(history: History, events: Sequence[Event]) -> None:
    hours = np.array([hour for hour, _, _ in events], np.int64)
    cells = np.array([cell for _, cell, _ in events], np.intp)
    loss = np.array([loss for _, _, loss in events], np.float64)
    history.add_rows(hours, cells)
    n, labelled = np.count_nonzero(loss >= 0), loss >= 0
    history.add_labels(
        hours[labelled],
        cells[labelled],
        weight=np.full(n, 2.0),
        loss=loss[labelled],
        capped=np.minimum(loss[labelled], 1.0),
        exposure=np.full(n, 0.5),
    )


def by_hand(events: Sequence[Event]) -> Floats:
    sums = np.zeros((N_CELLS, N_COLUMNS))
    for _, cell, loss in events:
        sums[cell, ROWS] += 1
        if loss >= 0:
            sums[cell, [LABELS, LOSS, CAPPED, EXPOSURE, SQUARED, JUDGED, JUDGED_TWICE]] += [
                1,
                2 * loss,
                2 * min(loss, 1),
                2 * 0.5,
                (2 * loss) ** 2,
                2 * 0.5,
                2 * (2 * 0.5),
            ]
    return sums


@settings(derandomize=True, deadline=None, max_examples=80)
@given(batches=st.lists(EVENTS, max_size=5), since=st.integers(-1, 6), until=st.integers(-1, 7))
def test_sums_are_those_of_the_hours_in_the_window(
    batches: list[list[Event]], since: int, until: int
) -> None:
    history = History()
    for events in batches:
        add(history, events)
    window = ((FIRST_HOUR + since) * HOUR, (FIRST_HOUR + until) * HOUR)
    inside = [e for events in batches for e in events if since <= e[0] - FIRST_HOUR < until]
    assert (history.cells_between(N_CELLS, *window) == by_hand(inside)).all()
    everything = by_hand([e for events in batches for e in events])
    assert (history.cells_between(N_CELLS) == everything).all()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(batches=st.lists(EVENTS, max_size=6), merged=st.sets(st.integers(0, 5)))
def test_when_it_was_merged_or_saved_leaves_no_trace(
    batches: list[list[Event]], merged: set[int]
) -> None:
    awkward = 1 / 3  # sums of thirds depend on the order of adding
    whole, looked_at = History(), History()
    for n, events in enumerate(batches):
        for history in (whole, looked_at):
            add(history, [(hour, cell, loss * awkward) for hour, cell, loss in events])
        if n in merged:
            looked_at = History.restore(from_bytes(to_bytes(looked_at.save())))
    assert to_bytes(looked_at.save()) == to_bytes(whole.save())


def test_an_hour_counts_whole_where_the_window_begins_inside_it() -> None:
    history = History()
    add(history, [(FIRST_HOUR, 0, 1.0), (FIRST_HOUR + 1, 1, 1.0)])
    half_past = FIRST_HOUR * HOUR + HOUR // 2
    assert history.cells_between(2, since=half_past)[:, ROWS].tolist() == [1, 1]
    assert history.cells_between(2, until=half_past)[:, ROWS].tolist() == [1, 0]


@pytest.mark.parametrize("merge_at", [1, 100_000])
def test_hours_past_the_retention_are_dropped_whenever_it_merges(
    merge_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "_MERGE_AT", merge_at)
    history = History(retention_hours=24)
    for hour in range(100):
        add(history, [(FIRST_HOUR + hour, 0, 1.0)])
    add(history, [(FIRST_HOUR + 10, 0, 1.0)])  # a straggler from an hour that is gone
    assert history.cells_between(1)[0, ROWS] == 24
    assert history.save()["hours"].min() == FIRST_HOUR + 76


def test_hourly_sums_are_per_slice_beside_what_was_due() -> None:
    history = History()
    add(history, [(FIRST_HOUR, 0, 1.0), (FIRST_HOUR + 2, 1, 0.5), (FIRST_HOUR + 2, 2, -1.0)])
    membership = csr_array(np.array([[1.0, 1, 1, 1], [0, 1, 1, 0]]))
    rates = np.array([0.1, 0.2, 0.3, 0.4])
    hours, *sums = history.hourly(rates, since=0)
    observed, due = (membership @ of_cells.toarray() for of_cells in sums)
    assert hours.tolist() == [FIRST_HOUR, FIRST_HOUR + 2]  # the hours that have labels
    assert observed.tolist() == [[2.0, 1.0], [0.0, 1.0]]
    assert due == pytest.approx(np.array([[0.1, 0.2], [0.0, 0.2]]))
    later, _, _ = history.hourly(rates, since=(FIRST_HOUR + 1) * HOUR)
    assert later.tolist() == [FIRST_HOUR + 2]


def test_a_history_of_nothing_has_sums_of_nothing() -> None:
    assert not History().cells_between(3).any()
    assert not History.restore(History().save()).cells_between(0).size
