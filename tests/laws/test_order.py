"""Order: whatever fails, an endpoint hears of an alert in order of `sequence`, its newest at last.

Random histories against the real outbox and the real lanes; the worker's part is played here, so
that answers, crashes and the clock are hypothesis's to choose.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from service.notify import lanes
from service.notify.egress import Answer
from service.notify.outbox import DeliveryState
from service.notify.wants import EndpointSettings
from service.notify.worker import judge
from service.tables import lanes as lanes_table
from tests.house import House

MICROS = 1_000_000
SCHEDULE = (0, 5, 300, 1800)
LEASE = 30 * MICROS
ALERTS = ("al_1", "al_2")
TYPES = ("alert.firing", "alert.revised", "alert.revised", "alert.resolved")

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("happens"), st.sampled_from(ALERTS)),
        st.tuples(st.just("tried"), st.sampled_from(["taken", "refused", "lost", "crashed"])),
        st.tuples(st.just("passes"), st.sampled_from([0, 1, 10, 100, 4000])),
    ),
    max_size=40,
)


class Run:
    """One history: what was sent, and what of it came."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.sequences = dict.fromkeys(ALERTS, 0)
        self.came: dict[str, list[int]] = {alert: [] for alert in ALERTS}
        self.states: dict[tuple[str, int], str] = {}  # at the end
        self.rng = random.Random(7)

    def happens(self, alert: str) -> None:
        done = self.sequences[alert]
        if done < len(TYPES):
            self.sequences[alert] = done + 1
            self.house.happen({"type_": TYPES[done], "id": alert, "revision": done + 1})

    def passes(self, seconds: float) -> None:
        self.house.clock.advance(seconds)

    def tried(self, how: str) -> None:
        """One worker takes up a lane: it is taken, refused, taken and the answer lost, or the
        worker dies when it was taken."""
        leased = self.claim()
        if leased is None:
            return
        if how != "refused":
            told = json.loads(leased.body)["data"]
            self.came[told["id"]].append(told["sequence"])
        if how != "crashed":
            self.record(leased, Answer(204 if how == "taken" else None))

    def claim(self) -> lanes.Leased | None:
        now = self.house.clock.now()
        with self.house.database.write() as connection:
            wanted = lanes.due(connection, now, 1)
            return next(iter(lanes.claim_all(connection, wanted, now, now + LEASE)), None)

    def record(self, leased: lanes.Leased, answer: Answer) -> None:
        now = self.house.clock.now()
        verdict = judge(answer, leased.n_attempts, SCHEDULE, now, self.rng)
        attempt = lanes.Attempt(now, answer.status, answer.error, 0.1)
        with self.house.database.write() as connection:
            paced = replace(verdict, free_at=now + MICROS // 10)
            lanes.record(connection, leased, attempt, paced, 10**18)

    def settles(self) -> None:
        """The receiver takes all that is still due."""
        for _ in range(60):
            self.passes(4000)
            self.tried("taken")

    def check(self) -> None:
        for alert, came in self.came.items():
            assert came == sorted(came), (alert, came)


def a_run(actions: list[tuple[str, Any]], *, settled: bool = True) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        house = House(Path(directory))
        house.endpoints.create("acme", EndpointSettings(url="https://hooks.example/"))
        run = Run(house)
        for name, argument in actions:
            getattr(run, name)(argument)
        if settled:
            run.settles()
        run.states = house.states()
        house.database.close()
        return run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_of_an_alert_nothing_older_comes_after_something_newer(
    actions: list[tuple[str, Any]],
) -> None:
    a_run(actions, settled=False).check()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_the_newest_comes_once_the_receiver_is_back_unless_the_schedule_was_used_up(
    actions: list[tuple[str, Any]],
) -> None:
    run = a_run(actions)
    run.check()
    states = run.states
    assert DeliveryState.WAITING.value not in states.values()
    for alert, newest in run.sequences.items():
        if newest and states[alert, newest] != DeliveryState.FAILED.value:
            assert run.came[alert][-1] == newest


def test_the_control_without_a_lease_breaks_the_order(tmp_path: Path) -> None:
    """Two workers that both think the lane is theirs: the slower one's older news comes last."""
    house = House(tmp_path)
    house.endpoints.create("acme", EndpointSettings(url="https://hooks.example/"))
    run = Run(house)
    run.happens("al_1")
    slow = run.claim()
    assert slow is not None
    assert run.claim() is None  # the guard: nobody else has the lane
    run.happens("al_1")
    with house.database.write() as connection:  # without it
        connection.execute(update(lanes_table).values(leased_until=0))
        rows = connection.exec_driver_sql("UPDATE deliveries SET state='failed' WHERE sequence=1")
        assert rows.rowcount == 1
    run.tried("taken")
    run.came["al_1"].append(json.loads(slow.body)["data"]["sequence"])
    with pytest.raises(AssertionError):
        run.check()
    house.database.close()
