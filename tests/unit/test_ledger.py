"""Ledger: findings in, transitions out; what belongs together is one incident with one head."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.alerts.alert import Alert, Transition, alert_id, fingerprint
from service.alerts.hierarchy import head_of, is_part_of, taken_over
from service.alerts.ledger import TRANSITIONS, Ledger
from service.engine.state_bytes import from_bytes, to_bytes
from service.monitor.findings import OUTSIDE_BUDGET, Finding, Kind, Severity, Slice, State
from tests.builders import an_alert
from tests.rows import HOUR, START

FLOOR: Slice = (("floor", "7"),)
WEST: Slice = (("accent", "west"), ("floor", "7"))
NORTH: Slice = (("accent", "north"), ("floor", "7"))
PHONE: Slice = (("device", "phone"),)


def found(
    slice_: Slice,
    hour: int = 0,
    *,
    state: State = State.FIRING,
    kind: Kind = Kind.DISPARITY,
    under: Slice | None = None,
) -> Finding:
    like = an_alert()
    return Finding(
        model="",
        kind=kind,
        slice=slice_,
        state=state,
        severity=Severity.WARNING,
        onset=START,
        onset_interval=(START, START + HOUR),
        detected_at=START + hour * HOUR,
        effect=like.effect,
        evidence=like.evidence,
        explained_by=under,
        summary=f"{slice_} {state}",
    )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("acme", "m")


def told(transitions: list[Transition]) -> list[tuple[str, Slice, bool]]:
    return [(t.type, t.alert.slice, t.notify) for t in transitions]


def of(ledger: Ledger, slice_: Slice) -> Alert:
    return next(alert for alert in ledger.open.values() if alert.slice == slice_)


def test_a_slice_has_one_alert_however_often_it_is_found(ledger: Ledger) -> None:
    first = ledger.apply([found(FLOOR)])
    assert told(first) == [("alert.firing", FLOOR, True)]
    assert ledger.apply([found(FLOOR, hour=1), found(FLOOR, hour=2)]) == []
    assert len(ledger.open) == 1


def test_one_that_was_left_behind_and_is_worse_now_is_told_under_the_same_alert(
    ledger: Ledger,
) -> None:
    degraded = found(FLOOR, hour=2)
    behind = replace(
        found(FLOOR),
        effect=replace(degraded.effect, because="left_behind"),
        severity=Severity.INFO,
    )
    (first,) = ledger.apply([behind])
    (second,) = ledger.apply([found(FLOOR, hour=2)])
    assert told([second]) == [("alert.revised", FLOOR, True)]
    assert second.alert.id == first.alert.id
    assert second.alert.effect.because == "degraded"
    assert second.alert.severity is Severity.WARNING
    assert second.alert.revision == first.alert.revision + 1
    assert second.alert.detected_at == first.alert.detected_at
    assert ledger.apply([degraded]) == []
    (third,) = ledger.apply([replace(found(FLOOR, hour=9), onset=START + 7 * HOUR)])
    assert third.alert.detected_at == START + 9 * HOUR  # not before it began


def test_kinds_tenants_and_models_are_told_apart() -> None:
    prints = {
        fingerprint(tenant, model, kind, slice_)
        for tenant in ("acme", "other")
        for model in ("m", "n")
        for kind in (Kind.DISPARITY, Kind.ERROR_RATE)
        for slice_ in ((), FLOOR, WEST)
    }
    assert len(prints) == 24
    assert fingerprint("a", "b", Kind.SILENCE, ()) != fingerprint("ab", "", Kind.SILENCE, ())


def test_ids_are_the_same_for_the_same_findings_and_sort_by_time() -> None:
    findings = [found(FLOOR), found(PHONE, hour=1)]
    ids = [[t.alert.id for t in Ledger("acme", "m").apply(findings)] for _ in range(2)]
    assert ids[0] == ids[1] == sorted(ids[0])
    assert all(len(id_) == 29 and id_.startswith("al_") for id_ in ids[0])
    key = fingerprint("acme", "m", Kind.DISPARITY, FLOOR)
    assert sorted(alert_id(key, START + h * HOUR) for h in range(3)) == [
        alert_id(key, START + h * HOUR) for h in range(3)
    ]


def test_a_part_of_an_incident_joins_it_and_no_one_is_called(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR)])
    transitions = ledger.apply([found(WEST, hour=1, under=FLOOR)])
    assert told(transitions) == [("alert.firing", WEST, False), ("alert.revised", FLOOR, False)]
    head, part = of(ledger, FLOOR), of(ledger, WEST)
    assert part.explained_by == head.id
    assert head.explains == (part.id,)
    assert (head.revision, part.revision) == (2, 1)


def test_what_is_explained_by_a_part_is_explained_by_its_head(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR), found(WEST, 1, under=FLOOR)])
    narrow: Slice = (*WEST, ("ward", "3"))
    ledger.apply([found(narrow, 2, under=WEST)])
    head = of(ledger, FLOOR)
    assert of(ledger, narrow).explained_by == head.id
    assert head.explains == (of(ledger, WEST).id, of(ledger, narrow).id)


def test_a_wider_alert_takes_over_its_parts_and_theirs(ledger: Ledger) -> None:
    narrow: Slice = (*WEST, ("ward", "3"))
    ledger.apply([found(WEST), found(narrow, 1, under=WEST), found(NORTH, 2), found(PHONE, 2)])
    transitions = ledger.apply([found(FLOOR, 3)])
    head = of(ledger, FLOOR)
    assert told(transitions) == [
        ("alert.firing", FLOOR, True),
        ("alert.revised", WEST, False),
        ("alert.revised", narrow, False),
        ("alert.revised", NORTH, False),
    ]
    parts = [of(ledger, slice_) for slice_ in (WEST, narrow, NORTH)]
    assert head.explains == tuple(part.id for part in parts)
    assert {part.explained_by for part in parts} == {head.id}
    assert all(part.explains == () for part in parts)
    assert of(ledger, PHONE).explained_by is None


def test_a_global_alert_takes_no_disparity_over(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR)])
    transitions = ledger.apply([found((), 1, kind=Kind.ERROR_RATE)])
    assert told(transitions) == [("alert.firing", (), True)]
    assert of(ledger, FLOOR).explained_by is None


def test_an_alert_under_a_head_that_is_not_open_is_its_own(ledger: Ledger) -> None:
    assert told(ledger.apply([found(WEST, under=FLOOR)])) == [("alert.firing", WEST, True)]


@pytest.mark.parametrize(
    ("state", "type_"),
    [(State.RESOLVED, "alert.resolved"), (State.RETRACTED, "alert.retracted")],
)
def test_an_alert_closes_and_is_the_same_within_a_week_and_another_after(
    ledger: Ledger, state: State, type_: str
) -> None:
    first = ledger.apply([found(FLOOR)])[0].alert
    [closing] = ledger.apply([found(FLOOR, 5, state=state)])
    assert (closing.type, closing.notify, closing.alert.state) == (type_, True, state)
    assert closing.alert.id == first.id
    assert closing.alert.resolved_at == START + 5 * HOUR
    assert closing.alert.revision == 2
    assert ledger.open == {}
    [again] = ledger.apply([found(FLOOR, 6)])
    assert (again.type, again.reason) == (
        "alert.firing",
        "the same incident again: both kinds of evidence at 1",
    )
    assert (again.alert.id, again.alert.revision) == (first.id, 3)
    assert again.alert.resolved_at is None
    ledger.apply([found(FLOOR, 7, state=state)])
    another = ledger.apply([found(FLOOR, 8 + 7 * 24)])[0].alert
    assert another.fingerprint == first.fingerprint
    assert another.id != first.id
    assert another.revision == 1


def test_what_was_resolved_may_be_taken_back_within_a_week(ledger: Ledger) -> None:
    first = ledger.apply([found(FLOOR)])[0].alert
    ledger.apply([found(FLOOR, 5, state=State.RESOLVED)])
    [taken_back] = ledger.apply([found(FLOOR, 9, state=State.RETRACTED)])
    assert (taken_back.type, taken_back.notify) == ("alert.retracted", True)
    assert taken_back.alert.id == first.id
    assert ledger.apply([found(FLOOR, 10, state=State.RETRACTED)]) == []
    ledger.apply([found(FLOOR, 11), found(FLOOR, 12, state=State.RESOLVED)])
    assert ledger.apply([found(FLOOR, 13 + 7 * 24, state=State.RETRACTED)]) == []


def test_a_reason_that_a_finding_gives_is_the_one_in_the_history(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR)])
    worse = replace(found(FLOOR, 1), severity=Severity.CRITICAL, reason="it got worse")
    assert [t.reason for t in ledger.apply([worse])] == ["it got worse"]


def test_no_one_is_called_when_a_part_is_over_as_no_one_was_when_it_began(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR), found(WEST, under=FLOOR)])
    transitions = ledger.apply([found(WEST, 1, state=State.RESOLVED)])
    assert told(transitions) == [("alert.resolved", WEST, False)]


def test_what_never_opened_does_not_close(ledger: Ledger) -> None:
    assert ledger.apply([found(FLOOR, state=State.RESOLVED)]) == []


def test_a_model_watched_anew_closes_what_is_open(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR), found(WEST, under=FLOOR)])
    transitions = ledger.close_all(START + HOUR)
    assert told(transitions) == [("alert.resolved", FLOOR, True), ("alert.resolved", WEST, False)]
    assert all(t.alert.resolved_at == t.at == START + HOUR for t in transitions)
    assert ledger.open == {}


SLICES = st.sampled_from([(), FLOOR, WEST, NORTH, PHONE, (*WEST, ("ward", "3"))])


def findings() -> st.SearchStrategy[list[Finding]]:
    return st.lists(
        st.builds(
            lambda s, state, under: found(s, state=state, under=under),
            SLICES,
            st.sampled_from([State.FIRING, State.FIRING, State.RESOLVED]),
            st.none() | SLICES,
        ),
        max_size=20,
    )


def in_time(findings: list[Finding]) -> Iterator[Finding]:
    for hour, finding in enumerate(findings):
        yield replace(finding, detected_at=START + hour * HOUR)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(findings(), st.integers(0, 20))
def test_revisions_count_up_no_head_has_an_open_head_and_a_restart_changes_nothing(
    stream: list[Finding], cut: int
) -> None:
    whole, parted = Ledger("acme", "m"), Ledger("acme", "m")
    revision: dict[str, int] = {}
    for n, finding in enumerate(in_time(stream)):
        if n == cut:
            parted = Ledger.restore("acme", "m", from_bytes(to_bytes(parted.save())))
        transitions = whole.apply([finding])
        assert parted.apply([finding]) == transitions
        for transition in transitions:
            alert = transition.alert
            assert alert.revision == revision.get(alert.id, 0) + 1
            revision[alert.id] = alert.revision
        by_id = {alert.id: alert for alert in whole.open.values()}
        for alert in by_id.values():
            head = by_id.get(alert.explained_by or "")
            assert head is None or by_id.get(head.explained_by or "") is None
    assert to_bytes(parted.save()) == to_bytes(whole.save())


def test_only_a_narrower_slice_is_part_of_another() -> None:
    assert is_part_of(WEST, FLOOR)
    assert is_part_of(FLOOR, ())
    assert not is_part_of(FLOOR, FLOOR)
    assert not is_part_of(FLOOR, WEST)
    assert not is_part_of(PHONE, FLOOR)


def test_heads_are_of_the_same_kind() -> None:
    other = an_alert(kind=Kind.INPUT_SHIFT, slice=FLOOR)
    assert head_of(Kind.DISPARITY, FLOOR, [other]) is None
    assert taken_over(Kind.DISPARITY, FLOOR, [replace(other, slice=WEST)]) == []


def test_what_a_closed_head_explained_and_is_still_bad_gets_a_head_and_is_told(
    ledger: Ledger,
) -> None:
    ledger.apply([found(FLOOR), found(WEST, 1, under=FLOOR), found(NORTH, 2, under=FLOOR)])
    closing = ledger.apply([found(FLOOR, 30, state=State.RESOLVED)])
    assert told(closing) == [
        ("alert.resolved", FLOOR, True),
        ("alert.firing", WEST, True),
        ("alert.revised", NORTH, False),
    ]
    assert of(ledger, WEST).explained_by is None
    assert of(ledger, WEST).explains == (of(ledger, NORTH).id,)
    assert of(ledger, NORTH).explained_by == of(ledger, WEST).id


def test_a_head_that_closes_after_what_it_explained_leaves_nothing_behind(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR), found(WEST, 1, under=FLOOR)])
    ledger.apply([found(WEST, 20, state=State.RESOLVED)])
    assert told(ledger.apply([found(FLOOR, 30, state=State.RESOLVED)])) == [
        ("alert.resolved", FLOOR, True)
    ]
    assert not ledger.open


# Pending, revised, retracted


def test_what_is_pending_is_told_to_no_one_until_it_fires(ledger: Ledger) -> None:
    pending = ledger.apply([found(FLOOR, state=State.PENDING)])
    assert told(pending) == [("alert.pending", FLOOR, False)]
    firing = ledger.apply([found(FLOOR, 1)])
    assert told(firing) == [("alert.firing", FLOOR, True)]
    assert firing[0].alert.id == pending[0].alert.id
    assert (firing[0].alert.revision, firing[0].alert.detected_at) == (2, START + HOUR)


@pytest.mark.parametrize("state", [State.RESOLVED, State.RETRACTED])
def test_what_never_fired_ends_without_a_word(ledger: Ledger, state: State) -> None:
    ledger.apply([found(FLOOR, state=State.PENDING)])
    assert told(ledger.apply([found(FLOOR, 1, state=state)])) == [(f"alert.{state}", FLOOR, False)]
    assert ledger.open == {}


def test_what_is_pending_heads_no_incident(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR, state=State.PENDING)])
    (part,) = ledger.apply([found(WEST, 1, under=FLOOR)])
    assert (part.notify, part.alert.explained_by) == (True, None)
    assert told(ledger.apply([found(FLOOR, 2)]))[0] == ("alert.firing", FLOOR, True)
    assert of(ledger, WEST).explained_by == of(ledger, FLOOR).id


def test_other_figures_revise_an_alert_and_are_told(ledger: Ledger) -> None:
    (first,) = ledger.apply([found(FLOOR)])
    worse = replace(found(FLOOR, 1), severity=Severity.CRITICAL)
    (revised,) = ledger.apply([worse])
    assert told([revised]) == [("alert.revised", FLOOR, True)]
    assert revised.alert == replace(
        first.alert, severity=Severity.CRITICAL, revision=2, summary=worse.summary
    )
    assert ledger.apply([replace(worse, detected_at=START + 2 * HOUR)]) == []


def test_a_part_s_other_figures_are_kept_and_told_to_no_one(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR), found(WEST, 1, under=FLOOR)])
    (revised,) = ledger.apply([replace(found(WEST, 2, under=FLOOR), severity=Severity.INFO)])
    assert told([revised]) == [("alert.revised", WEST, False)]


def test_a_detector_outside_the_budget_takes_back_nothing_of_one_inside(ledger: Ledger) -> None:
    inside = found(FLOOR, kind=Kind.ERROR_RATE)
    outside = replace(inside, evidence=replace(inside.evidence, mode=OUTSIDE_BUDGET))
    ledger.apply([inside])
    assert ledger.apply([outside]) == []
    other = Ledger("acme", "m")
    other.apply([outside])
    assert told(other.apply([inside])) == [("alert.revised", FLOOR, True)]


def test_the_table_of_transitions_holds_every_pair_of_states() -> None:
    open_states = (None, State.PENDING, State.FIRING)
    for before in open_states:
        for said in State:
            ledger = Ledger("acme", "m")
            if before is not None:
                ledger.apply([found(FLOOR, state=before)])
            after = ledger.apply([replace(found(FLOOR, 1, state=said), severity=Severity.CRITICAL)])
            due = TRANSITIONS.get((before, said))
            assert [t.type for t in after] == ([] if due is None else [due]), (before, said)


def test_a_slice_that_its_part_explained_becomes_the_head_of_all_its_parts(ledger: Ledger) -> None:
    ledger.apply([found(WEST), found(FLOOR, under=WEST), found(PHONE), found(NORTH)])
    assert of(ledger, FLOOR).explained_by == of(ledger, WEST).id
    leads = replace(found(FLOOR, hour=5), leads=True, reason="it is worse beyond its part")
    transitions = ledger.apply([leads])
    assert told(transitions) == [
        ("alert.firing", FLOOR, True),
        ("alert.revised", WEST, False),
        ("alert.revised", NORTH, False),
    ]
    floor = of(ledger, FLOOR)
    assert floor.explained_by is None
    assert floor.explains == (of(ledger, WEST).id, of(ledger, NORTH).id)
    assert {of(ledger, part).explained_by for part in (WEST, NORTH)} == {floor.id}
    assert of(ledger, PHONE).explained_by is None
    assert not of(ledger, WEST).explains
    assert transitions[0].reason == "it is worse beyond its part"
    assert ledger.apply([leads]) == []  # it heads them already


def test_a_part_that_is_back_within_a_week_is_explained_once(ledger: Ledger) -> None:
    ledger.apply([found(FLOOR), found(WEST, under=FLOOR)])
    ledger.apply([found(WEST, hour=3, state=State.RESOLVED), found(WEST, hour=9, under=FLOOR)])
    assert of(ledger, FLOOR).explains == (of(ledger, WEST).id,)
    assert of(ledger, WEST).explained_by == of(ledger, FLOOR).id
