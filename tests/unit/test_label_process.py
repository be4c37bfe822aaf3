"""Label process: a change in how labels come is named as such, and as nobody's degradation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.alerts.alert import Transition
from service.engine.fold import Fold
from service.ingest.events import LABEL, Bools, Categories, EventBatch, Value
from service.monitor.learn import learn_dimensions
from tests import hospital
from tests.rows import DAY, HOUR, SECOND, START, by_time, fold_in, without_positions

CHANGE = START + 8 * DAY  # of fourteen, in which nothing else happens
ROWS = hospital.quiet()
IS_LABEL: Bools = ROWS.kind == LABEL
LATER: Bools = IS_LABEL & (ROWS.time >= CHANGE)


def without(gone: Bools) -> EventBatch:
    return without_positions(ROWS.take(np.flatnonzero(~gone)))


def of_floor(floor: str) -> Bools:
    """Which rows are of this floor, labels of its predictions among them."""
    known = zip(ROWS.ids, ROWS.attributes["floor"].tolist(), strict=True)
    ids = {id_ for id_, name in known if name == floor}
    return np.array([id_ in ids for id_ in ROWS.ids])


def labelled_by(who: list[str | None], rows: EventBatch = ROWS) -> EventBatch:
    return replace(rows, attributes={**rows.attributes, "annotator": Categories.of(who)})


def gist(transitions: list[Transition]) -> list[tuple[str, str, Any]]:
    return [(t.type, t.alert.kind.value, t.alert.slice) for t in transitions]


def test_a_labelling_outage_is_named_as_such_and_is_over_when_labels_come_again() -> None:
    transitions = fold_in(Fold(), without(LATER & (ROWS.time < CHANGE + 2 * DAY)))
    assert gist(transitions) == [
        ("alert.firing", "labels", ()),
        ("alert.resolved", "labels", ()),
    ]
    alert = transitions[0].alert
    assert CHANGE < alert.detected_at < CHANGE + DAY
    assert alert.onset_interval[0] <= CHANGE <= alert.onset_interval[1]
    assert alert.summary.startswith("Labels stopped: 0 an hour")
    assert alert.effect.metric == "labels_an_hour"
    assert alert.effect.because is None
    assert CHANGE + 2 * DAY < transitions[1].at < CHANGE + 4 * DAY


def test_labels_that_stop_for_good_are_missed_though_none_comes_to_say_so() -> None:
    assert gist(fold_in(Fold(), without(LATER))) == [("alert.firing", "labels", ())]


def test_what_waited_during_an_outage_is_no_other_delay() -> None:
    waits = LATER & (ROWS.time < CHANGE + 2 * DAY)
    time = ROWS.time.copy()
    time[waits] = CHANGE + 2 * DAY + np.arange(waits.sum()) * SECOND
    transitions = fold_in(Fold(), by_time(replace(ROWS, time=time)))
    assert gist(transitions) == [
        ("alert.firing", "labels", ()),
        ("alert.resolved", "labels", ()),
    ]


def test_labels_that_come_a_day_later_than_they_did_are_told() -> None:
    time = np.where(LATER, ROWS.time + DAY, ROWS.time)
    transitions = fold_in(Fold(), by_time(replace(ROWS, time=time)))
    assert {kind for _, kind, _ in gist(transitions)} == {"labels"}
    assert transitions[-1].type == "alert.firing"
    assert "Labels come later" in transitions[-1].alert.summary


def test_a_slice_that_is_labelled_no_more_is_told_and_the_others_are_not() -> None:
    transitions = fold_in(Fold(), without(LATER & of_floor("3")))
    assert gist(transitions) == [("alert.firing", "labels", (("floor", "3"),))]
    assert CHANGE < transitions[0].at < CHANGE + 2 * DAY


@pytest.mark.parametrize("given", [True, False])
def test_a_sampling_design_that_is_told_changes_nothing(given: bool) -> None:
    """Half of all but floor 3's labels are left out: told by their chance, or not told."""
    out = LATER & ~of_floor("3") & (np.arange(len(ROWS)) % 4 > 0)
    chance = np.where(LATER & ~of_floor("3"), 0.25, 1.0)
    assert ROWS.inclusion_probability is not None
    stated = ROWS.inclusion_probability * chance if given else ROWS.inclusion_probability
    rows = replace(ROWS, inclusion_probability=stated)
    transitions = fold_in(Fold(), without_positions(rows.take(np.flatnonzero(~out))))
    kinds = {kind for _, kind, _ in gist(transitions)}
    assert kinds == (set() if given else {"labels"})


def other_hands() -> EventBatch:
    """From the change on half of the labels are by another annotator, who hears more words."""
    assert ROWS.truth.text is not None
    texts = ROWS.truth.text.tolist()
    new = LATER & (np.arange(len(ROWS)) % 2 == 0)
    for row in np.flatnonzero(new).tolist():
        texts[row] = " ".join(f"uh {word}" for word in (texts[row] or "").split())
    who = [
        None if not labels else "other" if changed else "one"
        for labels, changed in zip(IS_LABEL.tolist(), new.tolist(), strict=True)
    ]
    return replace(labelled_by(who), truth=Value(text=Categories.of(texts)))


def test_a_change_of_annotators_is_named_as_such_and_as_nobodys_degradation() -> None:
    transitions = fold_in(Fold(), other_hands())
    assert gist(transitions) == [("alert.firing", "labels", ())]
    alert = transitions[0].alert
    assert CHANGE < alert.detected_at < CHANGE + DAY
    assert "Others label now: annotator=other gives " in alert.summary


def test_the_same_labels_without_a_word_of_who_gave_them_look_like_degradation() -> None:
    rows = other_hands()
    attributes = {k: v for k, v in rows.attributes.items() if k != "annotator"}
    kinds = {kind for _, kind, _ in gist(fold_in(Fold(), replace(rows, attributes=attributes)))}
    assert "error_rate" in kinds  # the control: it is the annotator's name that tells


def test_who_labelled_is_no_dimension_that_is_learnt() -> None:
    who = ["ann", "bob"] * (len(ROWS) // 2) + ["ann"] * (len(ROWS) % 2)
    assert learn_dimensions(labelled_by(list(who))) == learn_dimensions(ROWS)


def test_label_process_goes_on_after_a_restart_and_however_rows_are_cut() -> None:
    rows = other_hands()
    middle = int(np.searchsorted(rows.time, CHANGE + 2 * HOUR))
    first = without_positions(rows.take(np.arange(middle)))
    second = without_positions(rows.take(np.arange(middle, len(rows))))
    fold = Fold()
    before = fold_in(fold, first, 1_500)
    again = Fold.restore(fold.save())
    assert again.digest() == fold.digest()
    after = fold_in(again, second, 1_500)
    assert after == fold_in(fold, second, 1_500)
    assert before + after == fold_in(Fold(), rows, 37_000)
