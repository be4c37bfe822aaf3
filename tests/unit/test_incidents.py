"""Incidents: what labels that come later make of an alert that is open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.alerts.alert import Transition
from service.engine.fold import Fold
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Ints
from tests.rows import (
    DAY,
    HOUR,
    SECOND,
    START,
    Stream,
    a_configuration,
    by_time,
    fired,
    fold_in,
    without_positions,
)

FLOOR_3 = (("floor", "3"),)
ONSET = START + 30 * HOUR


def a_fold(**config: Any) -> Fold:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 1_200}} | config))
    return fold


def held_back(rows: EventBatch, until: int, *, hours: int = 10) -> tuple[EventBatch, Ints]:
    """The same rows, but that labels of floor 3 that say "right" wait: those of predictions of
    `hours` from the onset on come at `until`, and when each of these does."""
    truth = rows.truth.text
    assert truth is not None
    is_prediction = rows.kind == PREDICTION
    made_at = dict(
        zip(np.array(rows.ids)[is_prediction], rows.time[is_prediction].tolist(), strict=True)
    )
    floor = dict(
        zip(
            np.array(rows.ids)[is_prediction],
            np.array(rows.attributes["floor"].tolist())[is_prediction],
            strict=True,
        )
    )
    right = np.array([said == "yes" for said in truth.tolist()])
    ours = np.array([floor[id_] == "3" for id_ in rows.ids])
    at = np.array([made_at[id_] for id_ in rows.ids])
    waits = (rows.kind == LABEL) & right & ours & (at >= ONSET) & (at < ONSET + hours * HOUR)
    time = rows.time.copy()
    time[waits] = until + np.arange(waits.sum()) * SECOND
    return by_time(replace(rows, time=time)), time[waits]


def of(transitions: list[Transition], slice_: Any = FLOOR_3) -> list[Transition]:
    return [t for t in transitions if t.alert.slice == slice_]


@pytest.mark.parametrize("hours", [10, 48])  # it is over by the later hours, or it is open
def test_an_alert_that_later_labels_of_its_hours_disprove_is_retracted_within_a_tick(
    hours: int,
) -> None:
    # Whoever labels floor 3 sends errors at once and what was right two days later.
    rows, came_at = held_back(Stream(6_000).rows(), ONSET + 2 * DAY, hours=hours)
    transitions = of(fold_in(a_fold(), rows))
    told = [t.type for t in transitions if t.notify and t.type != "alert.revised"]
    assert told == ["alert.firing", *["alert.resolved"] * (hours == 10), "alert.retracted"]
    retracted = transitions[-1]
    assert came_at[0] < retracted.at <= came_at[-1] + 20 * 60 * SECOND
    assert retracted.reason.startswith("later labels took the evidence back: with them it is ")
    assert " in the hours that were told as " in retracted.reason
    assert retracted.alert.state == "retracted"
    assert "no alarm after all" in retracted.alert.summary


def test_an_alert_that_was_true_is_resolved_and_not_retracted() -> None:
    stream = Stream(6_000, bad={"floor": "3"}, onset=0.3, until=0.5)
    transitions = of(fold_in(a_fold(), stream.rows()))
    assert [t.type for t in transitions if t.notify][-1] == "alert.resolved"
    assert not [t for t in transitions if t.type == "alert.retracted"]


@pytest.mark.parametrize("seed", range(1, 5))
def test_an_incident_that_goes_on_is_revised_a_few_times_at_most_and_never_taken_back(
    seed: int,
) -> None:
    stream = Stream(9_000, bad={"floor": "3"}, bad_rate=0.3, onset=0.2, seed=seed)
    transitions = of(fold_in(a_fold(), stream.rows()))
    told = [t.type for t in transitions if t.notify]
    assert told[0] == "alert.firing"
    assert set(told[1:]) <= {"alert.revised"}
    assert len(told) <= 4


def test_an_incident_that_gets_worse_is_told_so() -> None:
    mild = Stream(9_000, bad={"floor": "3"}, bad_rate=0.25, onset=0.2)
    severe = replace(mild, bad_rate=0.7).rows()
    rows, worse_from = mild.rows(), START + 4_500 * 60 * SECOND
    made_at = {
        id_: at
        for id_, at, kind in zip(rows.ids, rows.time.tolist(), rows.kind.tolist(), strict=True)
        if kind == PREDICTION
    }
    late = np.array([made_at[id_] >= worse_from for id_ in rows.ids])
    early_late = EventBatch.concatenate(
        [rows.take(np.flatnonzero(~late)), severe.take(np.flatnonzero(late))]
    )
    transitions = of(fold_in(a_fold(), by_time(early_late)))
    worse = [t for t in transitions if t.reason.startswith("it got worse: ")]
    assert worse
    assert worse[0].type == "alert.revised"
    assert worse[0].notify
    assert worse[0].at > worse_from
    before = transitions[0].alert.effect.after
    assert worse[0].alert.effect.after > before


def test_what_was_told_of_began_before_it_was_told_however_long_it_lasts() -> None:
    # Bad for a month and worse in the second half, of which alone hours are kept to replay.
    mild = Stream(12_000, bad={"floor": "3"}, bad_rate=0.3, onset=0.1, apart=240 * SECOND)
    severe, rows = replace(mild, bad_rate=0.6).rows(), mild.rows()
    worse = rows.time >= START + 18 * DAY
    both = [rows.take(np.flatnonzero(~worse)), severe.take(np.flatnonzero(worse))]
    transitions = of(fold_in(a_fold(), by_time(EventBatch.concatenate(both))))
    assert any(t.at > START + 18 * DAY for t in transitions)
    for t in transitions:
        assert t.alert.onset <= t.alert.detected_at, t.reason


def test_a_floor_whose_worst_part_spoke_first_leads_once_it_is_worse_beyond_that_part() -> None:
    mild = Stream(9_000, bad={"floor": "3"}, bad_rate=0.2, onset=0.2)
    part = {"floor": "3", "device": "phone"}
    severe, rows = replace(mild, bad=part, bad_rate=0.6).rows(), mild.rows()
    devices = zip(rows.ids, rows.kind, rows.attributes["device"].tolist(), strict=True)
    phones = {id_ for id_, kind, device in devices if kind == PREDICTION and device == "phone"}
    on_phone = np.array([id_ in phones for id_ in rows.ids])
    both = [severe.take(np.flatnonzero(on_phone)), rows.take(np.flatnonzero(~on_phone))]
    transitions = fold_in(a_fold(), by_time(EventBatch.concatenate(both)))

    phone_3 = (("device", "phone"), ("floor", "3"))
    assert transitions[0].alert.slice == phone_3
    floor = of(transitions)
    assert floor[0].alert.explained_by == transitions[0].alert.id
    leads = next(t for t in floor if t.reason == "it is worse beyond the part that explained it")
    assert leads.type == "alert.firing"
    assert leads.notify and leads.alert.explained_by is None
    assert of(transitions, phone_3)[-1].alert.explained_by == leads.alert.id


def test_what_was_told_too_high_on_a_few_labels_is_revised_with_those_that_come_later() -> None:
    # Half of what was right comes late: floor 3 is worse, and not by as much as it seemed.
    stream = Stream(6_000, bad={"floor": "3"}, bad_rate=0.25, onset=0.3)
    rows, _ = held_back(stream.rows(), ONSET + DAY, hours=40)
    transitions = of(fold_in(a_fold(), rows))
    first = transitions[0]
    revised = [t for t in transitions if t.reason.startswith("with later labels it is ")]
    assert revised
    assert revised[0].alert.effect.after < first.alert.effect.after
    assert not [t for t in transitions if t.type == "alert.retracted"]


def test_an_alert_that_is_retracted_and_fires_again_is_the_same_alert() -> None:
    rows, _ = held_back(
        Stream(9_000, bad={"floor": "3"}, onset=0.6, bad_rate=0.5).rows(),
        ONSET + 2 * DAY,
        hours=48,
    )
    transitions = of(fold_in(a_fold(), rows))
    told = [t.type for t in transitions if t.notify]
    assert told[:3] == ["alert.firing", "alert.retracted", "alert.firing"]
    assert len({t.alert.id for t in transitions}) == 1
    assert [t.alert.revision for t in transitions] == list(range(1, len(transitions) + 1))
    again = [t.reason for t in transitions if t.type == "alert.firing"][1]
    assert again.startswith("the same incident again: ")


def test_what_an_alert_rests_on_survives_a_restart() -> None:
    rows, came_at = held_back(Stream(6_000).rows(), ONSET + 2 * DAY)
    middle = int(np.searchsorted(rows.time, came_at[0]))
    first, second = (
        without_positions(rows.take(np.arange(*span)))
        for span in ((0, middle), (middle, len(rows)))
    )
    fold = a_fold()
    before = fold_in(fold, first)
    assert fired(before)
    assert Fold.restore(fold.save()).digest() == fold.digest()
    assert fold_in(Fold.restore(fold.save()), second) == fold_in(fold, second)


def test_a_slice_that_only_labels_know_of_is_told_by_its_labelled_rows() -> None:
    rows = Stream(bad={"floor": "3"}).rows()
    known = zip(rows.ids, rows.attributes["floor"].tolist(), strict=True)
    floor_of = {id_: floor for id_, floor in known if floor is not None}
    floor = Categories.of([floor_of[id_] for id_ in rows.ids])
    codes = np.where(rows.kind == PREDICTION, -1, floor.codes).astype(np.int32)
    attributes = {**rows.attributes, "floor": Categories(codes, floor.values)}
    fold = a_fold(dimensions=["accent", "floor"], reference={"rows": 600})
    alert = fired(fold_in(fold, replace(rows, attributes=attributes)))[0]
    assert alert.slice == FLOOR_3
    assert alert.effect.rows == alert.effect.labels >= 20
