"""Composition: others in a slice are told as such, with what that explains, and not as harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.alerts.alert import Transition
from service.engine.fold import Fold
from service.ingest.events import PREDICTION, Categories, EventBatch
from service.monitor.findings import Severity
from service.monitor.mix import Mixes
from tests import hospital
from tests.rows import (
    DAY,
    HOUR,
    LATER,
    START,
    Stream,
    a_configuration,
    a_reference,
    fold_in,
    without_positions,
)

FLOOR_3 = (("floor", "3"),)
CHANGE = START + 3 * DAY
# a week, a row a minute; phones are misheard four times as often as desks, all along
ROWS = Stream(10_000, bad={"device": "phone"}, bad_rate=0.4, onset=0.0).rows()


def a_fold(**config: Any) -> Fold:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 2_000}, **config}))
    return fold


def with_phones_on_floor_3(until: int = LATER) -> EventBatch:
    """Of all phones three in four are on floor 3 from the change on, as good or bad as ever."""
    floor, device = ROWS.attributes["floor"], ROWS.attributes["device"]
    moves = (ROWS.kind == PREDICTION) & (ROWS.time >= CHANGE) & (ROWS.time < until)
    moves &= (device.codes == device.values.index("phone")) & (np.arange(len(ROWS)) % 4 > 0)
    codes = np.where(moves, floor.values.index("3"), floor.codes).astype(np.int32)
    return replace(ROWS, attributes={**ROWS.attributes, "floor": Categories(codes, floor.values)})


def with_fewer(device: str) -> EventBatch:
    """One in four rows of a device is left from the change on, on every floor."""
    column = ROWS.attributes["device"]
    gone = (ROWS.time >= CHANGE) & (column.codes == column.values.index(device))
    ids = {ROWS.ids[row] for row in np.flatnonzero(gone & (np.arange(len(ROWS)) % 4 > 0)).tolist()}
    kept = np.array([id_ not in ids for id_ in ROWS.ids])
    return without_positions(ROWS.take(np.flatnonzero(kept)))


MOVED = with_phones_on_floor_3()


def gist(transitions: list[Transition]) -> list[tuple[str, str, Any]]:
    return [(t.type, t.alert.kind.value, t.alert.slice) for t in transitions]


def compositions(transitions: list[Transition]) -> Iterator[Transition]:
    return (t for t in transitions if t.alert.kind == "composition")


def test_a_floor_that_gets_the_worse_device_is_told_as_that_and_as_nothing_else() -> None:
    transitions = fold_in(a_fold(), MOVED)
    assert {(t.alert.kind.value, t.alert.slice) for t in transitions} == {("composition", FLOOR_3)}
    alert = transitions[0].alert
    assert transitions[0].type == "alert.firing"
    assert CHANGE < alert.detected_at <= CHANGE + 12 * HOUR
    assert alert.onset_interval[0] <= CHANGE <= alert.onset_interval[1]
    assert alert.effect.because is None
    assert alert.effect.metric == "zero_one"
    assert alert.effect.feature == "device"
    assert alert.effect.moved is not None
    assert alert.effect.moved.startswith("device=phone: 49 % → 7")
    assert alert.severity is Severity.WARNING
    assert f"because who is in it changed ({alert.effect.moved} of its rows)" in alert.summary


def test_on_real_sessions_the_value_that_came_is_named_and_then_how_much_it_explains() -> None:
    change = START + 8 * DAY
    rows = hospital.moving("device", "room_mic", change)
    found = fold_in(Fold(), rows)
    assert gist(found) == [
        ("alert.firing", "composition", FLOOR_3),
        ("alert.revised", "composition", FLOOR_3),
    ]
    first, revised = (t.alert for t in found)
    assert change < first.detected_at <= change + DAY
    assert first.effect.feature == "device"
    now = hospital.percent_on_floor_3(rows, "device", "room_mic", first.onset, first.detected_at)
    assert first.effect.moved == f"device=room_mic: 10 % → {now} %"
    assert first.summary.endswith(", each served as before.")
    assert revised.summary.startswith("WER for floor=3 is expected to rise from 7.0 % to 9.2 % ")
    explained = revised.summary.split("; that explains ")[1]
    assert 80 <= int(explained.removesuffix(" % of the change.")) <= 100
    effect = revised.effect
    assert effect.labels >= 200
    assert effect.before < 0.08 < 0.09 < effect.after  # as labels show it
    assert effect.rest_before == pytest.approx(effect.rest_after, abs=0.01)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_mix_that_stays_is_not_told(seed: int) -> None:
    rows = Stream(8_000, seed=seed, bad={"device": "phone"}, bad_rate=0.4, onset=0.0).rows()
    assert fold_in(a_fold(), rows) == []


def test_a_mix_that_moves_for_all_is_told_once_and_of_everyone() -> None:
    told = list(compositions(fold_in(a_fold(), with_fewer("desk"))))
    assert gist(told) == [("alert.firing", "composition", ()), ("alert.revised", "composition", ())]
    assert told[0].alert.effect.rest_before is None
    assert (told[0].alert.effect.moved or "").startswith("device=phone: 49 % →")


def test_a_mix_that_gets_easier_is_not_told() -> None:
    assert list(compositions(fold_in(a_fold(), with_fewer("phone")))) == []


def test_it_is_over_once_who_was_there_is_there_again() -> None:
    back = CHANGE + 36 * HOUR
    first, *_, last = fold_in(a_fold(), with_phones_on_floor_3(back))
    assert (last.type, last.alert.id) == ("alert.resolved", first.alert.id)
    assert back < last.at <= back + 2 * DAY + HOUR


def test_a_new_reference_ends_what_it_takes_as_normal() -> None:
    fold = a_fold()
    until = CHANGE + 2 * DAY
    [first] = fold_in(fold, without_positions(MOVED.take(np.flatnonzero(MOVED.time < until))))
    as_now = without_positions(MOVED.take(np.flatnonzero(MOVED.time >= CHANGE)))
    fold.apply(a_reference(as_now))
    last = fold_in(fold, without_positions(MOVED.take(np.flatnonzero(MOVED.time >= until))))
    told = [(t.type, t.alert.id) for t in compositions(last)]
    assert told == [("alert.resolved", first.alert.id)]


def test_an_uploaded_reference_is_what_a_mix_is_held_to_from_then_on() -> None:
    fold = a_fold()
    rows = with_fewer("phone")
    fold.apply(a_reference(without_positions(rows.take(np.flatnonzero(rows.time >= CHANGE)))))
    told = list(compositions(fold_in(fold, MOVED)))
    assert [t.alert.slice for t in told][:1] == [()]  # more phones everywhere than it has
    assert told[0].alert.detected_at < CHANGE


def test_less_than_the_tolerance_is_not_told() -> None:
    assert list(compositions(fold_in(a_fold(tolerance=0.5), MOVED))) == []


def test_a_slice_of_too_few_rows_to_show_is_told_once_there_are_enough() -> None:
    [fired, *_] = fold_in(a_fold(publish_min_rows=600), MOVED)
    assert fired.alert.effect.rows >= 600
    assert fired.alert.detected_at > CHANGE + 12 * HOUR


def test_composition_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    rows = with_phones_on_floor_3(CHANGE + 36 * HOUR)
    for cut in (CHANGE + 4 * HOUR, CHANGE + DAY):
        first = without_positions(rows.take(np.flatnonzero(rows.time < cut)))
        second = without_positions(rows.take(np.flatnonzero(rows.time >= cut)))
        fold = a_fold()
        fold_in(fold, first)
        again = Fold.restore(fold.save())
        assert again.digest() == fold.digest()
        assert fold_in(again, second) == fold_in(fold, second)
        assert again.digest() == fold.digest()


def test_cuts_change_no_composition() -> None:
    rows = with_phones_on_floor_3(CHANGE + 36 * HOUR)
    assert fold_in(a_fold(), rows, 113) == fold_in(a_fold(), rows, 5_000)


def test_named_is_the_dimension_that_makes_the_difference_and_the_value_that_came() -> None:
    levels = np.array([[2, 2], [2, 3], [3, 2], [3, 3]], np.int32)
    rates = np.array([0.1, 0.1, 0.3, 0.3])  # the second dimension makes none
    mixes = Mixes(np.array([40.0, 40.0, 10.0, 10.0]), np.array([0.0, 40.0, 10.0, 50.0]), rates)
    assert mixes.foremost(levels) == (0, 3, 0.2, 0.6)
    assert mixes.change == pytest.approx(0.22 / 0.14 - 1.0)
    assert mixes.without(levels[:, 0] == 3).change == pytest.approx(0.0)
