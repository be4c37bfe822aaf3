"""The worker dies at each step, and whoever comes after sends what is due: the same id, the same
bytes; a replay of the journal sends nothing again.

The control records a delivery as made before it is sent, and loses it to the same crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.notify import lanes
from service.notify.egress import Egress
from service.notify.outbox import DeliveryState
from service.notify.worker import LEASE_MARGIN_SECONDS, Worker
from tests.house import DEADLINE, House
from tests.receiver import Receiver, receiving

pytestmark = pytest.mark.fault


LEASE_SECONDS = DEADLINE + LEASE_MARGIN_SECONDS


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.database.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def crashing(what: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """A step that is not reached, or that is the last one."""

    def step(*arguments: Any, **more: Any) -> Any:
        if after:
            what(*arguments, **more)
        raise Crash

    return step


def crash_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    post = Egress.post

    async def sent_and_gone(*arguments: Any, **more: Any) -> Any:
        await post(*arguments, **more)
        raise Crash

    async def gone(*_arguments: Any, **_more: Any) -> Any:
        raise Crash

    match step:
        case "before the claim":
            monkeypatch.setattr(lanes, "claim_all", crashing(lanes.claim_all, after=False))
        case "in the claim":  # its transaction is rolled back
            monkeypatch.setattr(lanes, "claim_all", crashing(lanes.claim_all, after=True))
        case "after the claim":
            monkeypatch.setattr(Worker, "_post", gone)
        case "after sending":
            monkeypatch.setattr(Egress, "post", sent_and_gone)
        case "in recording":
            monkeypatch.setattr(lanes, "record", crashing(lanes.record, after=True))
        case "after recording":
            monkeypatch.setattr(Worker, "_tell", crashing(Worker._tell, after=False))
        case _:
            raise AssertionError(step)


STEPS = {  # how many requests come in all
    "before the claim": 1,
    "in the claim": 1,
    "after the claim": 1,
    "after sending": 2,
    "in recording": 2,
    "after recording": 1,
}


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_loses_nothing_and_changes_no_byte(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    house.endpoint(receiver)
    house.happen({})
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            asyncio.run(house.worker().drain())
    house.clock.advance(LEASE_SECONDS)
    house.drain()
    assert house.delivery().state == "delivered"
    assert len(receiver.requests) == STEPS[step]
    assert len({(each.headers["webhook-id"], each.body) for each in receiver.requests}) == 1


@pytest.mark.parametrize("step", ["after the claim", "after sending"])
def test_a_second_worker_sends_it_once_the_first_one_s_lease_is_over_and_not_before(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    house.endpoint(receiver)
    house.happen({})
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            asyncio.run(house.worker().drain())
    house.clock.advance(LEASE_SECONDS - 0.001)
    assert house.drain() == 0
    house.clock.advance(0.001)
    assert house.drain() == 1


def test_a_replay_of_the_journal_sends_nothing_again(house: House, receiver: Receiver) -> None:
    house.endpoint(receiver)
    history: list[dict[str, Any]] = [
        {},
        {"type_": "alert.revised", "revision": 2},
        {"type_": "alert.resolved", "revision": 3},
    ]
    assert house.happen(*history) == 3
    while house.drain():
        house.clock.advance(1)
    assert len(receiver.requests) == 3
    for _ in range(3):
        assert house.happen(*history) == 0
        house.clock.advance(86_400)
        assert house.drain() == 0


def test_the_control_that_records_before_it_sends_loses_it(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.endpoint(receiver)
    house.happen({})

    async def recorded_first(worker: Worker, leased: lanes.Leased, at: int) -> Any:
        done = lanes.Verdict(DeliveryState.DELIVERED, at)
        with house.database.write() as connection:
            lanes.record(connection, leased, lanes.Attempt(at, 204, "", 0.0), done, 10**15)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_post", recorded_first)
        with pytest.raises(Crash):
            asyncio.run(house.worker().drain())
    house.clock.advance(LEASE_SECONDS)
    assert house.drain() == 0
    assert receiver.requests == []
