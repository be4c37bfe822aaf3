"""Outside: river's detectors beside ours, from the configuration to the alert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from detectors.single_stream import PARAMETERS
from service.alerts.alert import Transition
from service.engine.fold import Fold
from service.monitor.config import MonitorConfig
from service.monitor.monitor import Monitor
from tests.rows import Stream, a_configuration, a_reference, fired, fold_in, in_requests

FLOOR_3 = (("floor", "3"),)
BAD = Stream(bad={"floor": "3"})
ADWIN = {"river": "ADWIN", "delta": 0.002}
BOTH = ["slicewatch", ADWIN]


def a_fold(detectors: Sequence[Any], **stated: Any) -> Fold:
    fold = Fold()
    fold.apply(configured(detectors, **stated))
    return fold


def configured(detectors: Sequence[Any], **stated: Any) -> Any:
    return a_configuration({"reference": {"rows": 600}, "detectors": list(detectors), **stated})


def the_monitor(fold: Fold) -> Monitor:
    known = fold.model("acme", "m")
    assert known is not None
    monitor = known[0].monitor
    assert monitor is not None
    return monitor


def gist(transitions: list[Transition]) -> list[tuple[Any, ...]]:
    return [(t.type, t.alert.id, t.alert.kind.value, t.alert.slice, t.at) for t in transitions]


def test_adwin_flags_the_slice_that_got_worse_and_says_that_no_budget_covers_it() -> None:
    alerts = fired(fold_in(a_fold([ADWIN]), BAD.rows()))
    alert = alerts[0]
    assert (alert.kind.value, alert.slice) == ("error_rate", FLOOR_3)
    assert alert.evidence.mode == "outside the budget"
    assert alert.evidence.false_alerts == "not bounded"
    assert alert.evidence.rest is None
    assert alert.summary.endswith(" River's ADWIN says so, outside the budget.")
    assert alert.onset_interval[0] <= alert.onset <= alert.detected_at
    assert alert.effect.after > 2 * alert.effect.before
    assert {a.kind.value for a in alerts} == {"error_rate"}


def test_beside_ours_it_changes_nothing_of_what_ours_say() -> None:
    alone = fold_in(a_fold(["slicewatch"]), BAD.rows())
    beside = fold_in(a_fold(BOTH), BAD.rows())
    of_ours = [t for t in beside if t.alert.evidence.mode == "calibrated"]
    assert gist(of_ours) == gist(alone)
    of_river = [t.alert for t in beside if t.alert.evidence.mode == "outside the budget"]
    assert FLOOR_3 in {alert.slice for alert in of_river}
    assert () not in {alert.slice for alert in of_river}  # the model at large is ours to tell


def test_alone_it_watches_the_model_at_large_too() -> None:
    everybody = Stream(bad={}, bad_rate=0.4)
    alerts = fired(fold_in(a_fold([ADWIN]), everybody.rows()))
    assert () in {alert.slice for alert in alerts}
    assert {alert.evidence.mode for alert in alerts} == {"outside the budget"}


def test_parts_of_a_slice_are_explained_by_it_and_nobody_is_called_for_them() -> None:
    found = fold_in(a_fold([ADWIN]), BAD.rows())
    [head] = [t.alert for t in found if t.type == "alert.firing" and t.alert.slice == FLOOR_3]
    parts = [t for t in found if t.type == "alert.firing" and set(t.alert.slice) > set(FLOOR_3)]
    assert parts
    assert {(t.alert.explained_by, t.notify) for t in parts} == {(head.id, False)}


@pytest.mark.parametrize("detectors", [BOTH, [{"river": "DDM"}, {"river": "HDDMA"}]], ids=str)
def test_cuts_change_nothing_of_it(detectors: Sequence[Any]) -> None:
    seen = [fold_in(a_fold(detectors), BAD.rows(), size) for size in (1, 37, 5_000)]
    assert gist(seen[0])
    assert gist(seen[0]) == gist(seen[1]) == gist(seen[2])


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "KSWIN"])
def test_the_digest_is_the_same_after_restarts(name: str) -> None:
    whole, parted = a_fold([{"river": name}]), a_fold([{"river": name}])
    for request in in_requests(BAD.rows(), 600):
        parted = Fold.restore(parted.save())
        assert gist(fold_in(parted, request)) == gist(fold_in(whole, request))
        assert parted.digest() == whole.digest()
    assert the_monitor(whole).outside.fleets[0].name == name
    assert len(the_monitor(whole).outside.fleets[0]) > 10


def test_a_slice_that_came_back_is_resolved_and_one_that_stays_bad_is_not() -> None:
    for until, is_resolved in ((0.45, True), (1.0, False)):
        stream = Stream(n_predictions=8_000, bad={"floor": "3"}, onset=0.2, until=until)
        fold = a_fold([ADWIN], order=1, dimensions=["floor"])
        found = [t for t in fold_in(fold, stream.rows(), 5_000) if t.alert.slice == FLOOR_3]
        assert [t.type for t in found] == ["alert.firing", "alert.resolved"][: 1 + is_resolved]
        index = the_monitor(fold).slices.find(FLOOR_3)
        assert (index in the_monitor(fold).outside.open) is not is_resolved


def test_the_reference_is_what_it_knows_as_normal() -> None:
    fold = a_fold([ADWIN])
    fold.apply(a_reference(Stream(n_predictions=600, seed=5).rows()))
    worse = Stream(n_predictions=1_500, bad={"floor": "3"}, onset=0.0)
    assert FLOOR_3 in {alert.slice for alert in fired(fold_in(fold, worse.rows()))}


def test_where_none_is_stated_no_row_is_looped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a fleet was fed")

    monkeypatch.setattr("detectors.single_stream.SingleStream.update", refuse)
    monkeypatch.setattr("detectors.single_stream.SingleStream.warm_up", refuse)
    monkeypatch.setattr("service.monitor.outside.Outside._pairs", refuse)
    assert fired(fold_in(a_fold(["slicewatch"]), BAD.rows()))
    with pytest.raises(AssertionError, match="a fleet was fed"):
        fold_in(a_fold(BOTH), BAD.rows())


def test_detectors_come_and_go_without_beginning_the_model_anew() -> None:
    late = Stream(n_predictions=4_000, bad={"floor": "3"}, onset=0.6)
    fold, requests = a_fold(["slicewatch"]), list(in_requests(late.rows(), 2_000))
    fold_in(fold, requests[0])
    n_labels = the_monitor(fold).n_labels
    assert fold.apply(configured(BOTH)).transitions == ()
    assert the_monitor(fold).n_labels == n_labels
    found = [t for request in requests[1:] for t in fold_in(fold, request)]
    opened = {t.alert.id for t in found if t.alert.evidence.mode == "outside the budget"}
    assert opened

    adwin = the_monitor(fold).outside.fleets[0]
    fold.apply(configured(["slicewatch", {"river": "DDM"}, ADWIN]))
    assert [fleet.name for fleet in the_monitor(fold).outside.fleets] == ["DDM", "ADWIN"]
    assert the_monitor(fold).outside.fleets[1] is adwin
    fold.apply(configured(["slicewatch"]))
    assert the_monitor(fold).outside.fleets == []
    assert the_monitor(fold).outside.open  # until they have recovered
    assert Fold.restore(fold.save()).digest() == fold.digest()


def test_a_slice_with_too_few_rows_to_be_shown_is_told_when_it_has_them() -> None:
    at_once, later = (
        {alert.slice: alert for alert in fired(fold_in(a_fold([ADWIN], **stated), BAD.rows()))}
        for stated in ({}, {"publish_min_rows": 500})
    )
    assert at_once[FLOOR_3].detected_at < later[FLOOR_3].detected_at  # of some 750 rows
    assert any(len(slice_) > 1 for slice_ in at_once)
    assert not any(len(slice_) > 1 for slice_ in later)  # they have some 375 at most


@pytest.mark.parametrize(
    ("detectors", "place", "problem"),
    [
        ([], "detectors", "at least 1 item"),
        (["adwin"], "detectors.0.own", "Input should be 'slicewatch'"),
        ([ADWIN, {"river": "Adwin"}], "detectors.1.river.river", "'ADWIN', 'PageHinkley'"),
        ([{"delta": 0.1}], "detectors.0.river.river", "Field required"),
        ([3], "detectors.0.river", "valid dictionary"),
        ([{"river": "ADWIN", "delta": 7}], "detectors.0.river", "delta: must be a number from"),
        ([{"river": "ADWIN", "secret": 7}], "detectors.0.river", "ADWIN takes delta, clock"),
        ([{"river": "ADWIN", "clock": "7"}], "detectors.0.river", "clock: must be a whole number"),
        ([ADWIN, {"river": "ADWIN"}], "", "detectors: each may be given once"),
        (["slicewatch", "slicewatch"], "", "detectors: each may be given once"),
    ],
)
def test_what_cannot_be_watched_with_is_refused_by_place_and_without_its_value(
    detectors: Sequence[Any], place: str, problem: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        MonitorConfig.model_validate({"detectors": detectors})
    [error] = refused.value.errors(include_url=False, include_input=False)
    assert ".".join(map(str, error["loc"])) == place
    assert problem in error["msg"]
    assert not any(word in error["msg"] for word in ("secret", "adwin", "Adwin", "7"))


def test_a_configuration_survives_being_written_and_read() -> None:
    stated = MonitorConfig.model_validate({"detectors": BOTH})
    assert MonitorConfig.model_validate_json(stated.model_dump_json(by_alias=True)) == stated
    assert stated.model_dump(mode="json")["detectors"] == BOTH
    assert stated.is_within_budget
    assert [d.parameters for d in stated.outside_budget] == [{"delta": 0.002}]
    assert MonitorConfig().detectors == ["slicewatch"]
