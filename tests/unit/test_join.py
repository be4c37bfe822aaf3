"""Join against a dict model that takes one row at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from service.engine.state_bytes import from_bytes, to_bytes
from service.ingest.events import LABEL, PREDICTION
from service.limits import PENDING, WAITING_LABELS
from service.monitor import join as join_module
from service.monitor import pending as pending_module
from service.monitor.config import LossName
from service.monitor.join import Join, Matched
from tests.rows import DAY, SECOND, START, Row, a_batch, a_label, a_prediction, both

HORIZON = 30 * DAY

Joined = tuple[int, str, int, int, int]  # (row, truth, prediction's time, its cell, label's cell)


def match(join: Join, rows: list[Row], cells: list[int] | None = None) -> Matched:
    given = range(len(rows)) if cells is None else cells
    return join.match(a_batch(rows), np.array(list(given), np.intp))


def truths(matched: Matched) -> list[str | None]:
    text = matched.labels.truth.text
    return [] if text is None else text.tolist()


def joined(matched: Matched) -> list[Joined]:
    return [
        (int(row), str(truth), int(time), int(cell), int(label_cell))
        for row, truth, time, cell, label_cell in zip(
            matched.at_row,
            truths(matched),
            matched.time,
            matched.cell,
            matched.label_cell,
            strict=True,
        )
    ]


@dataclass
class Expected:
    """What comes of a batch."""

    joined: list[Joined] = field(default_factory=list)
    duplicate: list[bool] = field(default_factory=list)
    n_new: int = 0
    n_late: int = 0


class OneAtATime:
    """The rule that Join keeps, in plain Python."""

    def __init__(self) -> None:
        self.predictions: dict[str, tuple[int, int]] = {}  # time, cell
        self.labelled: set[str] = set()
        self.waiting: dict[str, tuple[int, str, int]] = {}  # time, truth, cell

    def match(self, rows: list[Row], cells: list[int]) -> Expected:
        expected = Expected()
        for row, (event, cell) in enumerate(zip(rows, cells, strict=True)):
            id_, new = event["id"], False
            if event["kind"] & PREDICTION and id_ not in self.predictions:
                new = True
                expected.n_new += 1
                self.predictions[id_] = (event["time"], cell)
                if id_ in self.waiting:
                    self._meet(id_, self.waiting.pop(id_), row, expected)
            if event["kind"] & LABEL:
                label = (event["time"], event["truth"], cell)
                if id_ not in self.predictions:
                    new |= id_ not in self.waiting
                    self.waiting.setdefault(id_, label)
                elif id_ not in self.labelled:
                    new = True
                    self._meet(id_, label, row, expected)
            expected.duplicate.append(not new)
        return expected

    def _meet(self, id_: str, label: tuple[int, str, int], row: int, expected: Expected) -> None:
        self.labelled.add(id_)
        time, cell = self.predictions[id_]
        if label[0] > time + HORIZON:
            expected.n_late += 1
        else:
            expected.joined.append((row, label[1], time, cell, label[2]))

    def forget(self, now: int) -> None:
        self.waiting = {i: w for i, w in self.waiting.items() if w[0] >= now - HORIZON}


IDS = st.sampled_from([f"utt-{i}" for i in range(8)])
TIMES = st.sampled_from([START + days * DAY for days in (0, 1, 29, 30, 31, 45, 70)])
WORDS = st.sampled_from(["a", "b", "c", "d", "e"])
ROWS = st.one_of(
    st.builds(lambda i, at: a_prediction(i, at), IDS, TIMES),
    st.builds(lambda i, at, truth: a_label(i, at, truth=truth), IDS, TIMES, WORDS),
    st.builds(lambda i, at, truth: both(i, at, truth=truth), IDS, TIMES, WORDS),
)


class JoinAgainstDict(RuleBasedStateMachine):
    """Duplicates, late, early and second labels in any order, any cut, saved in between."""

    def __init__(self) -> None:
        super().__init__()
        self.join, self.model, self.n_cells = Join("zero_one", HORIZON), OneAtATime(), 0

    @rule(rows=st.lists(ROWS, min_size=1, max_size=12))
    def send(self, rows: list[Row]) -> None:
        cells = list(range(self.n_cells, self.n_cells + len(rows)))
        self.n_cells += len(rows)
        matched, expected = match(self.join, rows, cells), self.model.match(rows, cells)
        assert joined(matched) == expected.joined
        assert matched.duplicate.tolist() == expected.duplicate
        assert matched.predictions.size == expected.n_new
        assert int(matched.late.sum()) == expected.n_late
        assert len(self.join) == len(self.model.predictions)
        assert self.join.n_waiting_labels == len(self.model.waiting)

    @rule()
    def save_and_restore(self) -> None:
        saved = to_bytes(self.join.save())
        self.join = Join.restore(from_bytes(saved))
        assert to_bytes(self.join.save()) == saved

    @rule(days=st.sampled_from([0, 31, 60, 75]))
    def forget(self, days: int) -> None:
        self.join.forget(START + days * DAY)
        self.model.forget(START + days * DAY)


TestJoinAgainstDict = JoinAgainstDict.TestCase
TestJoinAgainstDict.settings = settings(
    derandomize=True, deadline=None, max_examples=80, stateful_step_count=20
)


def test_a_label_counts_once_and_the_first_is_the_one() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_prediction("x"), a_prediction("y")])
    first = match(join, [a_label("x", truth="first"), a_label("x", truth="second")])
    assert truths(first) == ["first"]
    assert first.duplicate.tolist() == [False, True]
    assert match(join, [a_label("x", truth="third")]).duplicate.tolist() == [True]


def test_a_label_meets_a_prediction_that_comes_after_it() -> None:
    join = Join("zero_one", HORIZON)
    early = match(join, [a_label("x", START + SECOND, truth="said")], [5])
    assert joined(early) == []
    assert not early.duplicate.any()
    met = match(join, [a_prediction("y"), a_prediction("x", START)], [6, 7])
    assert joined(met) == [(1, "said", START, 7, 5)]
    assert join.n_waiting_labels == 0


def test_late_label_past_the_horizon_is_counted_not_joined() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_prediction("x"), a_prediction("y")])
    matched = match(join, [a_label("x", START + HORIZON), a_label("y", START + HORIZON + 1)])
    assert matched.late.tolist() == [False, True]
    assert matched.duplicate.tolist() == [False, False]
    assert matched.at_row.tolist() == [0]


def test_a_label_that_waited_is_held_to_the_same_horizon() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_label("x", START + HORIZON + 1)])
    matched = match(join, [a_prediction("x", START)])
    assert joined(matched) == []
    assert matched.late.tolist() == [True]
    assert match(join, [a_label("x", START)]).duplicate.tolist() == [True]


def test_a_late_label_sent_again_is_a_duplicate() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_prediction("x")])
    late = a_label("x", START + HORIZON + 1)
    assert match(join, [late]).late.tolist() == [True]
    again = match(join, [late])
    assert (again.late.tolist(), again.duplicate.tolist()) == ([False], [True])


def test_a_row_may_be_prediction_and_truth_at_once() -> None:
    join = Join("zero_one", HORIZON)
    matched = match(join, [both("x", truth="b"), both("x", truth="c")], [1, 2])
    assert joined(matched) == [(0, "b", START, 1, 1)]
    assert matched.duplicate.tolist() == [False, True]


def test_the_truth_of_a_prediction_sent_again_is_its_label() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_prediction("x")], [3])
    matched = match(join, [both("x", truth="b")], [4])
    assert joined(matched) == [(0, "b", START, 3, 4)]
    assert matched.predictions.size == 0
    assert not matched.duplicate.any()


def rows_of_a_generation(n: int, name: str, at: int) -> list[Row]:
    return [a_prediction(f"{name}{i}", at, output=f"{name} ward {i}") for i in range(n)]


@pytest.fixture
def small_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_module, "GENERATION_ROWS", (10, 10))


@pytest.mark.usefixtures("small_generations")
@pytest.mark.parametrize("restored", [False, True])
def test_generations_are_forgotten_once_all_of_them_are_past_the_horizon(restored: bool) -> None:
    join = Join("wer", HORIZON)
    for name, day in (("a", 0), ("b", 1), ("c", 2)):
        match(join, rows_of_a_generation(8, name, START + day * DAY))
    join.forget(START + HORIZON)
    assert len(join) == 24  # nothing of the first generation is older than the horizon yet
    join.forget(START + HORIZON + 1)
    assert len(join) == 16
    if restored:
        join = Join.restore(join.save())
    matched = match(join, [a_label(i, START + 3 * DAY) for i in ("a3", "b3", "c7")])
    assert matched.outputs.text == ["b ward 3", "c ward 7"]
    assert matched.time.tolist() == [START + DAY, START + 2 * DAY]
    join.forget(START + 10 * HORIZON)
    assert len(join) == 8  # the newest generation is still being filled


@pytest.mark.usefixtures("small_generations")
def test_past_the_cap_the_oldest_predictions_go_and_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join_module, "PENDING", replace(PENDING, limit=20))
    join = Join("zero_one", HORIZON)
    for name in "abcd":
        match(join, rows_of_a_generation(8, name, START))
    assert len(join) == 16
    assert join.n_forgotten == 16
    assert truths(match(join, [a_label("a1"), a_label("d1")])) == ["a"]


def test_past_the_cap_the_oldest_labels_wait_no_longer_and_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join_module, "WAITING_LABELS", replace(WAITING_LABELS, limit=3))
    join = Join("zero_one", HORIZON)
    match(join, [a_label("w0"), a_label("w1")])
    matched = match(join, [a_label("w2"), a_label("w3")])
    assert not matched.duplicate.any()
    assert join.n_waiting_labels == 3
    assert join.overflowed["waiting_labels"] == 1
    assert joined(match(join, [a_prediction("w0")])) == []
    assert len(truths(match(join, [a_prediction(f"w{i}") for i in (1, 2, 3)]))) == 3


@pytest.mark.parametrize(
    ("loss", "fields", "number", "text"),
    [
        ("wer", {"output": "two words"}, [], ["two words"]),
        ("absolute_error", {"output": 2.5}, [2.5], []),
        ("brier", {"output": 0.25}, [0.25], []),
        ("log_loss", {"output": "cat", "confidence": 0.75}, [0.75], []),
        ("given", {"output": 2.5}, [], []),
    ],
)
def test_of_a_prediction_only_what_the_loss_needs_is_kept(
    loss: LossName, fields: dict[str, Any], number: list[float], text: list[str]
) -> None:
    join = Join(loss, HORIZON)
    match(join, [a_prediction("x", **fields)])
    outputs = match(Join.restore(join.save()), [a_label("x")]).outputs
    assert outputs.number.tolist() == number
    assert outputs.text == text


def test_when_a_snapshot_was_taken_leaves_no_trace() -> None:
    def run(saving: bool) -> bytes:
        join = Join("wer", HORIZON)
        match(join, [a_label(f"w{i}", truth=f"truth {i}") for i in range(100)])
        match(join, [a_prediction(f"w{i}", output="x") for i in range(30)])
        if saving:
            join = Join.restore(join.save())
        match(join, [a_label(f"v{i}", truth=f"other {i}") for i in range(100)])
        return to_bytes(join.save())

    assert run(saving=True) == run(saving=False)


def test_a_cluster_is_told_with_the_label_of_its_prediction() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_prediction("x", cluster="round-1"), a_prediction("y", cluster="round-1")])
    match(join, [a_prediction("z")])
    clusters = match(join, [a_label("x"), a_label("y"), a_label("z")]).cluster
    assert clusters[0] == clusters[1] != 0
    assert clusters[2] == 0


def kept_over_time(horizon: int, n_rows: int) -> list[int]:
    """How many predictions are kept as rows of a steady stream, a second apart, go by."""
    join, kept = Join("zero_one", horizon), []
    for start in range(0, n_rows, 100):
        match(join, [a_prediction(f"x{i}", START + i * SECOND) for i in range(start, start + 100)])
        join.forget(START + (start + 99) * SECOND)
        kept.append(len(join))
    return kept


def test_a_steady_stream_keeps_a_quarter_more_than_its_horizon_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending_module, "GENERATION_ROWS", (100, 100_000))
    needed, kept = 2_000, kept_over_time(2_000 * SECOND, 10_000)
    settled = kept[len(kept) // 2 :]
    assert needed <= min(settled) and max(settled) <= needed * 4 // 3 + 200
    # the control: generations that hold as many rows whatever the horizon
    monkeypatch.setattr(pending_module, "GENERATION_ROWS", (6_000, 6_000))
    assert max(kept_over_time(2_000 * SECOND, 10_000)) > 3 * needed


def test_clusters_that_begin_in_the_middle_belong_to_who_named_them() -> None:
    join = Join("zero_one", HORIZON)
    match(join, [a_prediction("x")])
    match(join, [a_prediction("y", cluster="round-1")])
    match(join, [a_prediction("z")])
    assert "cluster" not in Join("zero_one", HORIZON).save()["pending"]["columns"]
    for each in (join, Join.restore(join.save())):
        clusters = match(each, [a_label("x"), a_label("y"), a_label("z")]).cluster
        assert [bool(cluster) for cluster in clusters] == [False, True, False]
