"""Muting: silences, maintenance windows and inhibition, worked out when they are asked for."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.alerts.hours import Hours
from service.alerts.inhibition import INHIBITS, inhibitor
from service.alerts.matcher import Matcher
from service.alerts.muting import RECHECK, Mute, Muting
from service.alerts.silences import Silence, Silences, SilenceState, forget
from service.errors import NotFound, TooLarge
from service.limits import SILENCES
from service.monitor.findings import Kind, State
from service.pages import Page
from tests.builders import NOW, an_alert
from tests.house import House

HOUR = 3600 * 1_000_000
FLOOR = (("floor", "7"),)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def silence(house: House, starts: int = 0, ends: int = HOUR, **more: Any) -> Silence:
    """One from so long after now until so long after, of everything on floor 7."""
    stated: dict[str, Any] = {
        "matcher": Matcher(slices=[{"floor": "7"}]),
        "author": "ann",
        "reason": "painters",
    }
    return Silences(house.database, house.clock).create(
        more.pop("tenant", "acme"), starts_at=NOW + starts, ends_at=NOW + ends, **stated | more
    )


def mute(house: House, **changes: Any) -> Mute | None:
    with house.database.read() as connection:
        return Muting(connection, "acme", house.clock.now()).of(an_alert(**changes))


def test_a_silence_mutes_what_it_matches_while_it_lasts(house: House) -> None:
    made = silence(house, starts=HOUR, ends=2 * HOUR)
    assert mute(house) is None
    house.clock.advance(3600)
    assert mute(house) == Mute(silence=made.id, inhibitor=None, until=NOW + 2 * HOUR)
    assert mute(house, slice=(("floor", "8"),)) is None
    house.clock.advance(3600)
    assert mute(house) is None


@pytest.mark.parametrize("state", [State.PENDING, State.RESOLVED, State.RETRACTED])
def test_what_does_not_fire_is_not_muted(house: House, state: State) -> None:
    silence(house)
    assert mute(house, state=state) is None


def test_someone_else_s_silence_mutes_nothing(house: House) -> None:
    silence(house, tenant="other")
    assert mute(house) is None


def test_of_two_silences_the_one_that_lasts_longer_is_named(house: House) -> None:
    silence(house, ends=HOUR)
    longer = silence(house, ends=3 * HOUR)
    silence(house, ends=2 * HOUR)
    assert mute(house) == Mute(silence=longer.id, inhibitor=None, until=NOW + 3 * HOUR)


def test_a_maintenance_window_mutes_in_its_hours_alone(house: House) -> None:
    hours = Hours.model_validate({"from": "12:00", "until": "13:00"})  # it is 11:06:40
    made = silence(house, ends=30 * 24 * HOUR, hours=hours)
    assert mute(house) is None
    for _ in range(3):  # it comes again each day
        house.clock.advance(3600)
        found = mute(house)
        assert found is not None and found.silence == made.id
        house.clock.advance(3600)
        assert mute(house) is None
        house.clock.advance(22 * 3600)


def test_a_window_ends_with_its_silence(house: House) -> None:
    silence(house, ends=HOUR, hours=Hours.model_validate({"from": "11:00", "until": "15:00"}))
    found = mute(house)
    assert found is not None and found.until == NOW + HOUR


def test_an_ended_silence_mutes_no_more_and_stays_in_the_list(house: House) -> None:
    silences = Silences(house.database, house.clock)
    made = silence(house)
    house.clock.advance(60)
    assert silences.end("acme", made.id).state(house.clock.now()) is SilenceState.EXPIRED
    assert mute(house) is None
    assert [each.id for each in silences.list("acme", Page())[0]] == [made.id]
    assert silences.end("acme", made.id).ends_at == NOW + 60_000_000  # not moved by ending it again
    for tenant, id_ in (("other", made.id), ("acme", "si_none")):
        with pytest.raises(NotFound):
            silences.end(tenant, id_)


def test_ending_one_that_has_not_begun_leaves_it_ended(house: House) -> None:
    made = silence(house, starts=HOUR, ends=2 * HOUR)
    ended = Silences(house.database, house.clock).end("acme", made.id)
    assert ended.state(NOW) is SilenceState.EXPIRED
    assert ended.state(NOW + HOUR) is SilenceState.EXPIRED


def test_silences_are_listed_by_state(house: House) -> None:
    ids = {
        SilenceState.EXPIRED: silence(house, starts=-2 * HOUR, ends=-HOUR).id,
        SilenceState.ACTIVE: silence(house).id,
        SilenceState.PENDING: silence(house, starts=HOUR, ends=2 * HOUR).id,
    }
    for state, id_ in ids.items():
        listed = Silences(house.database, house.clock).list("acme", Page(), state)[0]
        assert [each.id for each in listed] == [id_]


def test_a_tenant_has_so_many_silences_that_have_not_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SILENCES.limit == 1000
    monkeypatch.setattr("service.alerts.silences.SILENCES", replace(SILENCES, limit=3))
    silence(house, starts=-2 * HOUR, ends=-HOUR)
    for _ in range(3):
        silence(house)
    with pytest.raises(TooLarge, match="may have 3"):
        silence(house)
    silence(house, tenant="other")


def test_silences_that_ended_a_month_ago_are_forgotten(house: House) -> None:
    silence(house)
    month = 30 * 24 * HOUR
    with house.database.write() as connection:
        assert forget(connection, NOW + HOUR + month) == 0
        assert forget(connection, NOW + HOUR + month + 1) == 1


# Inhibition


def test_an_alert_that_another_makes_pointless_is_inhibited_while_that_fires(house: House) -> None:
    house.happen({"id": "al_gone", "kind": Kind.SILENCE, "slice": FLOOR})
    shift = {"id": "al_shift", "kind": Kind.INPUT_SHIFT}
    found = Mute(silence=None, inhibitor="al_gone", until=NOW + RECHECK)
    assert mute(house, **shift) == found
    assert mute(house, **shift, slice=FLOOR) == found
    assert mute(house, **shift, slice=(("floor", "8"),)) is None
    assert mute(house, **shift, slice=()) is None
    assert mute(house, **shift, model="other") is None
    house.happen(
        {"id": "al_gone", "kind": Kind.SILENCE, "slice": FLOOR, "state": State.RESOLVED,
         "revision": 2}
    )  # fmt: skip
    assert mute(house, **shift) is None


def test_who_is_served_worse_is_inhibited_by_nothing_about_plumbing() -> None:
    plumbing = [k for k in Kind if k not in (Kind.DISPARITY, Kind.ERROR_RATE)]
    for kind in (Kind.DISPARITY, Kind.ERROR_RATE):
        others = [an_alert(id=f"al_{k}", kind=k, slice=()) for k in plumbing]
        assert inhibitor(an_alert(kind=kind), others) is None


def test_no_two_kinds_inhibit_each_other_and_none_itself() -> None:
    for one, other in itertools.product(INHIBITS, repeat=2):
        assert not (other in INHIBITS[one] and one in INHIBITS[other])


def test_both_reasons_are_told_and_the_later_end_is_waited_for(house: House) -> None:
    house.happen({"id": "al_gone", "kind": Kind.SILENCE, "slice": ()})
    made = silence(house)
    found = mute(house, id="al_2", kind=Kind.LABELS)
    assert found == Mute(silence=made.id, inhibitor="al_gone", until=NOW + HOUR)
