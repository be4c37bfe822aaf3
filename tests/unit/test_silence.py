"""Silence: who stopped sending is named once, and told when they send again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.alerts.alert import Transition
from service.engine.fold import Fold
from service.engine.ports import TICK, Entry
from service.ingest.events import Bools, EventBatch
from tests.rows import (
    DAY,
    HOUR,
    SECOND,
    START,
    Stream,
    a_configuration,
    an_entry,
    fold_in,
    in_requests,
    without_positions,
)

FLOOR_3 = (("floor", "3"),)
STOP, BACK = START + 3 * DAY, START + 4 * DAY
ROWS = Stream(8_000).rows()  # five and a half days, a row a minute


def a_fold() -> Fold:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 1_200}}))
    return fold


def without(rows: EventBatch, gone: Bools) -> EventBatch:
    return without_positions(rows.take(np.flatnonzero(~gone)))


def of_floor_3(rows: EventBatch) -> Bools:
    """Which rows are floor 3's, labels of its predictions among them."""
    codes = rows.attributes["floor"].codes == rows.attributes["floor"].values.index("3")
    ids = {rows.ids[row] for row in np.flatnonzero(codes).tolist()}
    return np.array([id_ in ids for id_ in rows.ids])


def gist(transitions: list[Transition]) -> list[tuple[str, str, Any]]:
    return [(t.type, t.alert.kind.value, t.alert.slice) for t in transitions]


def tick(fold: Fold, at: int) -> list[Transition]:
    return list(fold.apply(Entry("", TICK, at.to_bytes(8, "big"), at)).transitions)


def live(fold: Fold, rows: EventBatch) -> list[Transition]:
    """Fold rows in as they were made: a request received at the time of its newest row."""
    found: list[Transition] = []
    for request in in_requests(rows, 100):
        found += fold.apply(an_entry(request, received_at=int(request.time.max()))).transitions
    return found


def test_a_slice_that_stops_is_named_once_as_silence_and_told_when_it_sends_again() -> None:
    gone = of_floor_3(ROWS) & (ROWS.time >= STOP) & (ROWS.time < BACK)
    transitions = fold_in(a_fold(), without(ROWS, gone))
    assert gist(transitions) == [
        ("alert.firing", "silence", FLOOR_3),
        ("alert.resolved", "silence", FLOOR_3),
    ]
    fired, resolved = transitions
    assert STOP <= fired.alert.detected_at <= STOP + 10 * HOUR
    assert fired.alert.onset_interval[0] <= STOP <= fired.alert.onset_interval[1]
    assert fired.alert.effect.metric == "rows_an_hour"
    assert fired.alert.effect.before == pytest.approx(15.0, rel=0.2)  # a quarter of 60 an hour
    assert fired.alert.effect.after < 1.0  # of the look in which it stopped
    assert fired.alert.effect.because is None
    assert "floor=3 stopped sending" in fired.alert.summary
    assert BACK < resolved.at <= BACK + 6 * HOUR


def test_a_slice_of_which_a_tenth_is_left_sends_far_less_than_usual() -> None:
    tenth = np.array([int(id_[1:]) % 10 == 0 for id_ in ROWS.ids])
    gone = of_floor_3(ROWS) & (ROWS.time >= STOP) & ~tenth
    transitions = fold_in(a_fold(), without(ROWS, gone))
    assert gist(transitions) == [("alert.firing", "silence", FLOOR_3)]
    assert 0 < transitions[0].alert.effect.after < 0.2 * transitions[0].alert.effect.before


@pytest.mark.parametrize("seed", range(1, 4))
def test_where_everyone_sends_nobody_is_missed(seed: int) -> None:
    transitions = fold_in(a_fold(), Stream(6_000, seed=seed).rows())
    assert [t for t in transitions if t.alert.kind == "silence"] == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_a_row_an_hour_comes_nobody_is_missed_either(seed: int) -> None:
    """A third of a year of them: in an hour whose only row is a slice's own it owes nothing."""
    rows = Stream(3_000, seed=seed, apart=HOUR, delay=DAY).rows()
    assert [kind for _, kind, _ in gist(fold_in(a_fold(), rows)) if kind == "silence"] == []


def test_of_three_rows_an_hour_a_slice_that_stops_is_missed() -> None:
    rows = Stream(3_000, apart=HOUR // 3, delay=DAY).rows()
    stop = START + 20 * DAY
    told = fold_in(a_fold(), without(rows, of_floor_3(rows) & (rows.time >= stop)))
    silent = [t for t in told if t.alert.kind.value == "silence"]
    assert [(t.type, t.alert.slice) for t in silent] == [("alert.firing", FLOOR_3)]
    assert stop < silent[0].at


def test_a_slice_that_closes_by_night_is_not_missed_at_night() -> None:
    night = (ROWS.time // HOUR % 24) >= 18
    assert fold_in(a_fold(), without(ROWS, of_floor_3(ROWS) & night)) == []


def test_a_night_of_everyone_is_not_a_silence() -> None:
    night = (ROWS.time // HOUR % 24) >= 18
    assert fold_in(a_fold(), without(ROWS, night)) == []


def test_a_customer_who_stops_sending_is_missed_by_the_wall_clock_and_once() -> None:
    fold = a_fold()
    assert live(fold, without(ROWS, ROWS.time >= STOP)) == []
    assert tick(fold, STOP + HOUR) == []
    found = [t for minute in range(0, 600, 5) for t in tick(fold, STOP + minute * 60 * SECOND)]
    assert gist(found) == [("alert.firing", "silence", ())]
    alert = found[0].alert
    assert STOP < alert.detected_at <= STOP + 5 * HOUR
    assert alert.onset_interval[0] <= STOP <= alert.onset_interval[1] + HOUR
    assert alert.severity == "critical"
    assert "No prediction has come since " in alert.summary
    back = live(fold, without(ROWS, ROWS.time < BACK))
    assert gist(back)[0] == ("alert.resolved", "silence", ())
    assert [t for t in back if t.type == "alert.firing"] == []


def test_a_gap_is_told_alike_by_the_wall_clock_and_by_the_rows_that_end_it() -> None:
    gone = (ROWS.time >= STOP) & (ROWS.time < BACK)
    watched, replayed = a_fold(), a_fold()
    live(watched, without(ROWS, ROWS.time >= STOP))
    [by_wall] = tick(watched, STOP + 10 * HOUR)
    by_rows = fold_in(replayed, without(ROWS, gone))
    assert gist(by_rows) == [("alert.firing", "silence", ()), ("alert.resolved", "silence", ())]
    assert by_rows[0].alert == by_wall.alert


def test_rows_that_are_replayed_long_after_they_were_made_are_not_missed() -> None:
    fold = a_fold()
    fold_in(fold, ROWS)
    before = fold.digest()
    assert tick(fold, START + 500 * DAY) == []
    assert fold.digest() == before


def test_silence_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    gone = of_floor_3(ROWS) & (ROWS.time >= STOP) & (ROWS.time < BACK)
    rows = without(ROWS, gone)
    first = without_positions(rows.take(np.flatnonzero(rows.time < STOP + HOUR)))
    second = without_positions(rows.take(np.flatnonzero(rows.time >= STOP + HOUR)))
    fold = a_fold()
    fold_in(fold, first)
    again = Fold.restore(fold.save())
    assert fold_in(again, second) == fold_in(fold, second)
    assert again.digest() == fold.digest()


def test_cuts_change_no_silence() -> None:
    gone = of_floor_3(ROWS) & (ROWS.time >= STOP) & (ROWS.time < BACK)
    rows = without(ROWS, gone)
    assert fold_in(a_fold(), rows, 113) == fold_in(a_fold(), rows, 5_000)
