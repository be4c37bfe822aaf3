"""What is kept quiet is not told, and once it may be told it is told as it then stands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.alerts.matcher import Matcher
from service.alerts.silences import Silences
from service.monitor.findings import Kind, Severity, State
from service.notify.lanes import QUIET
from tests.builders import NOW
from tests.house import House, until, while_running
from tests.receiver import Receiver, receiving

HOUR = 3600
MICROS = 1_000_000
FLOOR = (("floor", "7"),)
NIGHT = {"from": "11:00", "until": "13:00", "days": ["wed"]}  # it is Wednesday, 11:06:40


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.database.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def silence(house: House, hours: float = 1) -> str:
    made = Silences(house.database, house.clock).create(
        "acme",
        Matcher(models=["transcribe-medical"]),
        starts_at=NOW,
        ends_at=NOW + round(hours * HOUR * MICROS),
        author="ann",
        reason="painters",
    )
    return made.id


def firing(**changes: Any) -> dict[str, Any]:
    return {"type_": "alert.firing", **changes}


def resolved(revision: int = 2, **changes: Any) -> dict[str, Any]:
    return {"type_": "alert.resolved", "state": State.RESOLVED, "revision": revision, **changes}


def told(receiver: Receiver) -> list[tuple[str, str]]:
    bodies = [json.loads(request.body) for request in receiver.requests]
    return [(body["data"]["id"], body["type"]) for body in bodies]


def test_a_silenced_alert_is_told_when_the_silence_ends_if_it_still_fires(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)
    silenced_by = silence(house)
    house.happen(firing())
    assert house.drain() == 0
    assert (house.delivery().state, house.delivery().held_by) == ("waiting", silenced_by)
    house.clock.advance(HOUR - 1)
    assert house.drain() == 0
    house.clock.advance(1)
    assert house.drain() == 1
    assert told(receiver) == [("al_1", "alert.firing")]


def test_an_alert_that_ends_while_it_is_silenced_is_never_told(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)
    silence(house)
    house.happen(firing())
    house.drain()
    house.happen(resolved())
    house.clock.advance(24 * HOUR)
    assert house.drain() == 0
    assert house.states() == {("al_1", 1): "superseded", ("al_1", 2): "muted"}


def test_who_was_called_before_the_silence_hears_that_it_is_over(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)
    house.happen(firing())
    assert house.drain() == 1
    silence(house)
    house.happen({"type_": "alert.revised", "revision": 2, "severity": Severity.WARNING})
    house.clock.advance(1)
    assert house.drain() == 0
    house.happen(resolved(3))
    assert house.drain() == 1
    assert told(receiver) == [("al_1", "alert.firing"), ("al_1", "alert.resolved")]
    assert house.states()["al_1", 2] == "superseded"


def test_a_silence_ended_early_lets_the_alert_out_at_once(house: House, receiver: Receiver) -> None:
    house.endpoint(receiver)
    id_ = silence(house, hours=300)
    house.happen(firing())
    worker = house.worker()

    async def script() -> None:
        await until(lambda: house.delivery().held_by == id_)
        Silences(house.database, house.clock).end("acme", id_)
        house.clock.advance(1)  # a poll
        worker.wake()
        await until(lambda: len(receiver.requests) == 1)

    while_running(worker, script)


def test_an_inhibited_alert_is_told_within_a_minute_of_its_inhibitor_s_end(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver, filters={"kinds": ["input_shift"]})
    house.happen({"id": "al_gone", "kind": Kind.SILENCE, "slice": ()})
    house.happen(firing(kind=Kind.INPUT_SHIFT))
    assert house.drain() == 0
    assert house.delivery().held_by == "al_gone"
    house.clock.advance(60)
    assert house.drain() == 0
    house.happen(resolved(id="al_gone", kind=Kind.SILENCE, slice=()))
    house.clock.advance(60)
    assert house.drain() == 1


def test_quiet_hours_hold_what_is_not_severe_until_they_end(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver, quiet_hours=NIGHT)
    house.happen(firing(id="al_mild", severity=Severity.WARNING), firing(id="al_severe"))
    assert house.drain() == 1
    assert told(receiver) == [("al_severe", "alert.firing")]
    house.clock.advance(HOUR)
    house.happen(resolved(id="al_mild", severity=Severity.WARNING))
    assert house.drain() == 0  # its end is no reason to wake anyone either
    house.clock.advance(HOUR)
    assert house.drain() == 1
    assert told(receiver)[1:] == [("al_mild", "alert.resolved")]
    assert QUIET == "quiet_hours"


def test_a_thousand_held_deliveries_do_not_keep_another_waiting(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)
    silence(house)
    house.happen(*(firing(id=f"al_{i}") for i in range(1000)))
    house.happen(firing(id="al_other", model="other"))
    assert asyncio.run(house.worker().drain()) == 1
    assert told(receiver) == [("al_other", "alert.firing")]


def test_each_alert_of_an_incident_is_told_to_who_asks_for_alerts(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver, group="alert")
    house.endpoint(receiver)
    house.happen(firing(), firing(id="al_2", notify=False, explained_by="al_1"))
    while house.drain():
        house.clock.advance(1)
    assert sorted(told(receiver)) == [
        ("al_1", "alert.firing"),
        ("al_1", "alert.firing"),
        ("al_2", "alert.firing"),
    ]
