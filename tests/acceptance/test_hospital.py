"""The hospital: floor 7 is found where it is worse, and nobody where nobody is."""

from __future__ import annotations

from service.alerts.alert import Alert
from service.engine.fold import Fold
from service.ingest.events import EventBatch
from tests import hospital
from tests.hospital import ONSET
from tests.rows import HOUR, fired, fold_in


def alerts_of(rows: EventBatch) -> list[Alert]:
    """Every alert that fired, everything learnt from the rows."""
    return fired(fold_in(Fold(), rows, size=500))


def test_floor_7_is_flagged_within_two_days_and_nothing_that_does_not_contain_it() -> None:
    alerts = alerts_of(hospital.story())
    assert all(("floor", "7") in alert.slice for alert in alerts)
    assert {alert.kind.value for alert in alerts} == {"disparity", "input_shift"}
    moved = next(alert for alert in alerts if alert.kind == "input_shift")
    assert moved.effect.feature in ("output", "output length", "confidence")  # no others here
    alerts = [alert for alert in alerts if alert.kind == "disparity"]
    first = alerts[0]
    assert ONSET < first.detected_at < ONSET + 48 * HOUR
    assert first.onset_interval[0] <= ONSET < first.onset_interval[1]
    assert first.effect.metric == "wer"
    # true of the file: floor 7 goes from 8.3 to 16.3 %, the others stay at 8.1
    assert 0.07 < first.effect.before < 0.10
    assert 0.12 < first.effect.after < 0.21
    assert [alert.explained_by for alert in alerts].count(None) == 1  # one incident is told


def test_where_nothing_happens_nothing_is_flagged() -> None:
    assert alerts_of(hospital.quiet()) == []


def test_what_hits_every_floor_is_told_as_one_global_incident_and_not_as_a_floors() -> None:
    # floor 7's rows are left out of this world, which is told as its silence
    found = alerts_of(hospital.everywhere())
    assert [a.slice for a in found if a.kind == "silence"] == [(("floor", "7"),)]
    alerts = [alert for alert in found if alert.kind != "silence"]
    assert [alert.slice for alert in alerts if alert.kind == "error_rate"] == [()]
    assert alerts[0].slice == ()
    assert not any("floor" in dict(alert.slice) for alert in alerts)
    assert ONSET < alerts[0].detected_at < ONSET + 24 * HOUR
    assert alerts[0].effect.after > 1.5 * alerts[0].effect.before
