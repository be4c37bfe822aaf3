"""Past: sums over spans, held against the rows they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.fold import Fold
from service.engine.views import model_view
from service.ingest.events import LABEL
from service.monitor.history import HOUR
from service.monitor.past import Past
from service.monitor.slices import ROOT
from tests.rows import SECOND, START, Stream, a_configuration, fold_in

SPLIT = START // HOUR + 20
EDGES = np.array([START // HOUR, SPLIT, START // HOUR + 60])


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream(12_000, bad={"floor": "2"}, bad_rate=0.6, onset=0.4, apart=15 * SECOND)


@pytest.fixture(scope="module")
def past(stream: Stream) -> Past:
    fold = Fold()
    fold.apply(a_configuration({"loss": "zero_one", "reference": {"rows": 4_000}}))
    fold_in(fold, stream.rows())
    view = model_view(fold, "acme", "m")
    assert view is not None
    return view.past


def by_hand(stream: Stream, floor: str, first: int, last: int) -> tuple[int, int, float]:
    """Predictions, labels and mean loss of a floor, from its rows one by one."""
    rows = stream.rows()
    attribute, truth = rows.attributes["floor"], rows.truth.text
    assert truth is not None
    mine: dict[str, None] = {}
    for row, id_ in enumerate(rows.ids):
        if rows.kind[row] != LABEL and attribute.values[attribute.codes[row]] == floor:
            if first <= rows.time[row] // HOUR < last:
                mine[id_] = None
    losses = [
        float(truth.values[truth.codes[row]] != "yes")
        for row, id_ in enumerate(rows.ids)
        if rows.kind[row] == LABEL and id_ in mine
    ]
    return len(mine), len(losses), sum(losses) / len(losses)


def test_a_course_is_what_the_rows_of_each_span_say(past: Past, stream: Stream) -> None:
    course = past.course(np.array([past.names.index((("floor", "2"),))]), EDGES)
    for span in (0, 1):
        rows, labels, loss = by_hand(stream, "2", int(EDGES[span]), int(EDGES[span + 1]))
        assert (course.rows[0, span], course.labels[0, span]) == (rows, labels)
        assert course.loss[0, span] == pytest.approx(loss)
        assert course.lower[0, span] < loss < course.upper[0, span]


def test_a_slice_and_its_rest_are_everyone(past: Past) -> None:
    index = past.names.index((("floor", "2"),))
    own, rest = past.course(np.array([index]), EDGES), past.rest(index, EDGES)
    everyone = past.course(np.array([ROOT]), EDGES)
    assert (own.rows + rest.rows == everyone.rows).all()
    assert (own.labels + rest.labels == everyone.labels).all()


def test_what_is_due_stays_where_the_reference_was_and_excess_says_who_got_worse(
    past: Past,
) -> None:
    floors = [past.names.index((("floor", str(n)),)) for n in (1, 2)]
    course = past.course(np.array(floors), EDGES)
    # a floor's thousand rows of reference hold 100 errors, give or take 10
    assert course.due == pytest.approx(np.full((2, 2), 0.1), abs=0.04)
    assert course.excess[1, 1] > 2 > 1.5 > course.excess[0, 1]


def test_a_span_without_labels_says_nothing(past: Past) -> None:
    nothing = past.course(np.array([ROOT]), np.array([0, 1]))
    assert nothing.rows[0, 0] == 0
    for figure in (nothing.loss, nothing.lower, nothing.upper, nothing.due, nothing.excess):
        assert np.isnan(figure).all()


def test_a_past_stays_as_it_is_while_the_fold_goes_on(stream: Stream) -> None:
    fold, rows = Fold(), stream.rows()
    half = len(rows) // 2
    fold_in(fold, rows.take(np.arange(half)))
    view = model_view(fold, "acme", "m")
    assert view is not None
    every = np.arange(len(view.past.names))
    before = view.past.course(every, EDGES)
    fold_in(fold, rows.take(np.arange(half, len(rows))))
    after = view.past.course(every, EDGES)
    assert (before.rows == after.rows).all() and (before.labels == after.labels).all()
    later = model_view(fold, "acme", "m")
    assert later is not None
    assert later.past.course(every[:1], EDGES).labels.sum() > after.labels[:1].sum()
