"""Causes: what moved on the same slice, or a larger one, in the window of the onset."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from service.alerts.alert import Alert, Transition
from service.alerts.causes import AFTER, BEFORE, MAX_CAUSES
from service.alerts.ledger import Ledger
from service.engine.state_bytes import from_bytes, to_bytes
from service.monitor.findings import Finding, Kind, Severity, Slice, State
from tests.builders import an_alert
from tests.rows import HOUR, START

FLOOR: Slice = (("floor", "7"),)
WEST: Slice = (("accent", "west"), ("floor", "7"))
PHONE: Slice = (("device", "phone"),)


def found(
    kind: Kind, slice_: Slice, at: int = START, state: State = State.FIRING, feature: str = "snr"
) -> Finding:
    like = an_alert()
    effect = like.effect
    if kind is not Kind.DISPARITY:
        effect = replace(effect, because=None, feature=feature, moved="10 % → 31 %")
    return Finding(
        model="m",
        kind=kind,
        slice=slice_,
        state=state,
        severity=Severity.WARNING,
        onset=at,
        onset_interval=(at, at),
        detected_at=START + 100 * HOUR,
        effect=effect,
        evidence=like.evidence,
        summary=f"{kind} {slice_} {feature}",
    )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("acme", "m")


def the_disparity(ledger: Ledger) -> Alert:
    return next(alert for alert in ledger.open.values() if alert.kind is Kind.DISPARITY)


def causes(ledger: Ledger) -> list[Slice]:
    return [tuple(cause["slice"].items()) for cause in the_disparity(ledger).likely_causes]


def revisions(transitions: list[Transition]) -> list[tuple[str, bool]]:
    return [(t.reason, t.notify) for t in transitions if t.type == "alert.revised"]


@pytest.mark.parametrize("kind", [Kind.INPUT_SHIFT, Kind.DATA_QUALITY, Kind.VERSION, Kind.LABELS])
def test_what_moved_before_on_the_slice_or_around_it_is_a_likely_cause(
    ledger: Ledger, kind: Kind
) -> None:
    (shift, *_) = ledger.apply([found(kind, FLOOR)])
    ledger.apply([found(Kind.DISPARITY, WEST)])
    assert the_disparity(ledger).likely_causes == (
        {
            "kind": kind.value,
            "alert": shift.alert.id,
            "slice": {"floor": "7"},
            "feature": "snr",
            "moved": "10 % → 31 %",
            "since": START,
        },
    )


@pytest.mark.parametrize(
    ("kind", "slice_", "at"),
    [
        (Kind.INPUT_SHIFT, PHONE, START),  # elsewhere
        (Kind.INPUT_SHIFT, WEST, START - BEFORE - 1),  # long before
        (Kind.INPUT_SHIFT, WEST, START + AFTER + 1),  # after
        (Kind.COMPOSITION, WEST, START),  # who is in the slice is allowed for already
        (Kind.SILENCE, WEST, START),
    ],
)
def test_what_moved_elsewhere_or_at_another_time_is_none(
    ledger: Ledger, kind: Kind, slice_: Slice, at: int
) -> None:
    ledger.apply([found(kind, slice_, at), found(Kind.DISPARITY, WEST)])
    assert the_disparity(ledger).likely_causes == ()


def test_a_shift_inside_a_slice_does_not_explain_the_whole_of_it(ledger: Ledger) -> None:
    ledger.apply([found(Kind.INPUT_SHIFT, WEST), found(Kind.DISPARITY, FLOOR)])
    assert the_disparity(ledger).likely_causes == ()


def test_the_slice_itself_comes_before_its_parents_and_the_closest_in_time_first(
    ledger: Ledger,
) -> None:
    ledger.apply(
        [
            found(Kind.INPUT_SHIFT, (), START),
            found(Kind.INPUT_SHIFT, FLOOR, START - 5 * HOUR),
            found(Kind.DATA_QUALITY, FLOOR, START - HOUR),
            found(Kind.INPUT_SHIFT, WEST, START - 9 * HOUR),
            found(Kind.DISPARITY, WEST),
        ]
    )
    told = [(cause["kind"], len(cause["slice"])) for cause in the_disparity(ledger).likely_causes]
    assert told == [("input_shift", 2), ("data_quality", 1), ("input_shift", 1), ("input_shift", 0)]


def test_a_cause_found_later_revises_the_alert_and_only_the_first_is_told(ledger: Ledger) -> None:
    ledger.apply([found(Kind.DISPARITY, WEST)])
    first = ledger.apply([found(Kind.INPUT_SHIFT, FLOOR)])
    second = ledger.apply([found(Kind.DATA_QUALITY, FLOOR)])
    assert revisions(first) == [("input_shift of floor=7 may explain it", True)]
    assert revisions(second) == [("data_quality of floor=7 may explain it", False)]
    assert the_disparity(ledger).revision == 3


def test_a_cause_that_is_restated_revises_nothing_else(ledger: Ledger) -> None:
    ledger.apply([found(Kind.DISPARITY, WEST), found(Kind.INPUT_SHIFT, FLOOR)])
    (again,) = ledger.apply([found(Kind.INPUT_SHIFT, FLOOR, feature="level")])
    assert again.alert.kind is Kind.INPUT_SHIFT


def test_a_cause_that_is_over_stays_one_and_a_retracted_one_does_not(ledger: Ledger) -> None:
    ledger.apply([found(Kind.INPUT_SHIFT, FLOOR), found(Kind.DATA_QUALITY, WEST)])
    ledger.apply([found(Kind.DISPARITY, WEST)])
    assert revisions(ledger.apply([found(Kind.DATA_QUALITY, WEST, state=State.RESOLVED)])) == []
    assert causes(ledger) == [WEST, FLOOR]
    back = ledger.apply([found(Kind.INPUT_SHIFT, FLOOR, state=State.RETRACTED)])
    assert revisions(back) == [("input_shift of floor=7 was taken back", False)]
    assert causes(ledger) == [WEST]


def test_causes_survive_a_snapshot_and_later_figures(ledger: Ledger) -> None:
    ledger.apply([found(Kind.INPUT_SHIFT, FLOOR), found(Kind.DISPARITY, WEST)])
    ledger = Ledger.restore("acme", "m", from_bytes(to_bytes(ledger.save())))
    worse = found(Kind.DISPARITY, WEST)
    ledger.apply([replace(worse, effect=replace(worse.effect, after=0.4))])
    assert the_disparity(ledger).effect.after == 0.4
    assert causes(ledger) == [FLOOR]


def test_causes_are_bounded(ledger: Ledger) -> None:
    many: list[Slice] = [tuple((f"d{i:02}", "x") for i in range(n)) for n in range(13)]
    ledger.apply([found(Kind.INPUT_SHIFT, slice_) for slice_ in many])
    ledger.apply([found(Kind.DISPARITY, many[-1])])
    assert len(causes(ledger)) == MAX_CAUSES
