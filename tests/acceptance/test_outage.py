"""Outages: endpoints that are dead, one that comes back to what waits, and a busy moment."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update

from service.clock import SystemClock
from service.notify import lanes, outbox
from service.notify.wants import EndpointSettings
from service.notify.webhook import delivery_id
from service.tables import attempts, deliveries
from service.tables import lanes as lanes_table
from tests.builders import ManualClock, a_transition
from tests.figures import Figures
from tests.house import House, received, until, while_running
from tests.receiver import Receiver, receiving

pytestmark = pytest.mark.fault


MICROS = 1_000_000


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def house_at(path: Path) -> House:
    return House(path, SystemClock())


def seconds_to_first_attempt(house: House, endpoint_id: str | None = None) -> list[float]:
    """From when each delivery was made until it was first tried."""
    d, a = deliveries.c, attempts.c
    query = select(func.min(a.at) - d.created_at).where(a.tenant == d.tenant, a.delivery_id == d.id)
    if endpoint_id is not None:
        query = query.where(d.endpoint_id == endpoint_id)
    with house.database.read() as connection:
        waits = connection.execute(query.group_by(d.id, d.created_at)).scalars()
        return sorted(wait / MICROS for wait in waits)


def test_from_detection_to_the_first_attempt_with_a_thousand_alerts_and_a_hundred_endpoints(
    tmp_path: Path, receiver: Receiver, figures: Figures
) -> None:
    house = house_at(tmp_path)
    house.happen(*({"id": f"al_{i}"} for i in range(1000)))  # open, before anyone asked
    for _ in range(100):
        house.endpoint(receiver)
    worker = house.worker()

    async def script() -> None:
        for n in range(1, 4):
            await asyncio.to_thread(house.happen, {"id": f"al_new_{n}"})
            worker.wake()
            await until(lambda n=n: received(receiver, 100 * n), 30)  # type: ignore[misc]
        await until(lambda: set(house.states().values()) == {"delivered"}, 30)

    while_running(worker, script)
    waits = seconds_to_first_attempt(house)
    assert len(waits) == 300
    median, p99 = statistics.median(waits), waits[int(len(waits) * 0.99)]
    figures("first attempts, 100 endpoints", n=len(waits), median_s=median, p99_s=p99)
    assert median <= 1.0
    house.database.close()


def test_four_dead_endpoints_keep_a_good_one_waiting_for_a_second_at_most(
    tmp_path: Path, receiver: Receiver, figures: Figures
) -> None:
    house = house_at(tmp_path)
    with receiving() as dead:
        dead.replies = [dead.hang]
        for _ in range(4):
            house.endpoint(dead)
        good = house.endpoint(receiver)
        worker = house.worker(max_at_once=8, deadline_seconds=3)

        async def script() -> None:
            for n in range(1, 31):
                await asyncio.to_thread(house.happen, {"id": f"al_{n}"})
                worker.wake()
                await until(lambda n=n: received(receiver, n), 30)  # type: ignore[misc]

        while_running(worker, script)
    waits = seconds_to_first_attempt(house, good.id)
    p99 = waits[int(len(waits) * 0.99)]
    figures("4 dead endpoints and a good one", good_p99_s=p99, dead_requests=len(dead.requests))
    assert p99 <= 1.0
    assert len(dead.requests) <= 4 * 4
    house.database.close()


def test_with_one_lane_for_all_the_dead_do_keep_the_good_one_waiting(
    tmp_path: Path, receiver: Receiver
) -> None:
    """The control: without lanes enough the good one waits for the dead ones' deadlines."""
    house = house_at(tmp_path)
    with receiving() as dead:
        dead.replies = [dead.hang]
        for _ in range(4):
            house.endpoint(dead)
        good = house.endpoint(receiver)
        worker = house.worker(max_at_once=1, deadline_seconds=0.5)
        house.clock = SystemClock()

        async def script() -> None:
            await asyncio.to_thread(house.happen, {"id": "al_1"})
            with house.database.write() as connection:  # the dead have had no turn yet, it has
                connection.execute(
                    update(lanes_table)
                    .where(lanes_table.c.endpoint_id == good.id)
                    .values(free_at=1)
                )
            worker.wake()
            await until(lambda: received(receiver, 1), 30)

        while_running(worker, script)
        dead.released.set()
    (wait,) = seconds_to_first_attempt(house, good.id) or [99.0]
    assert wait >= 1.0
    house.database.close()


# An hour's outage


def an_outage(house: House, endpoint_id: str, n_alerts: int) -> None:
    """What waits after an hour: each alert fired, was revised and ended, all untold."""
    now = house.clock.now()
    rows = []
    for i in range(n_alerts):
        for sequence, type_ in enumerate(("alert.firing", "alert.revised", "alert.resolved"), 1):
            at = now - 3_600 * MICROS + i * 100 + sequence
            body = {"type": type_, "data": {"id": f"al_{i}", "sequence": sequence}}
            rows.append(
                {
                    "tenant": "acme",
                    "id": delivery_id("acme", f"al_{i}", sequence, endpoint_id),
                    "endpoint_id": endpoint_id,
                    "alert_id": f"al_{i}",
                    "type": type_,
                    "sequence": sequence,
                    "body": json.dumps(body),
                    "state": "waiting",
                    "held_by": None,
                    "n_attempts": 0,
                    "n_replays": 0,
                    "next_attempt_at": at,
                    "created_at": at,
                }
            )
    with house.database.write() as connection:
        connection.execute(insert(deliveries), rows)
        outbox.want(connection, "acme", endpoint_id, now)


def test_thirty_thousand_deliveries_are_coalesced_and_paced(
    tmp_path: Path, receiver: Receiver, figures: Figures
) -> None:
    house = house_at(tmp_path)
    endpoint = house.endpoint(receiver)
    an_outage(house, endpoint.id, 10_000)
    times: list[float] = []
    plain = receiver.replies[0]

    def reply(handler: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        plain(handler)

    receiver.replies = [reply]
    worker = house.worker()

    async def script() -> None:
        await until(lambda: received(receiver, 30), 30)

    while_running(worker, script)
    bodies = [json.loads(request.body)["data"] for request in receiver.requests]
    assert all(body["sequence"] == 3 for body in bodies)  # how things stand, and nothing before
    assert len({body["id"] for body in bodies}) == len(bodies)
    busiest = max(sum(1 for t in times if at <= t < at + 1.0) for at in times)
    states = Counter(house.states().values())
    figures(
        "an outage ends with 30,000 deliveries",
        sent=len(times),
        superseded=states["superseded"],
        in_the_busiest_second=busiest,
    )
    # A lane's pace is from start to start; an attempt that starts late by less than a tenth of a
    # second can bring one more into a second.
    assert busiest <= 11
    assert statistics.mean(b - a for a, b in pairwise(times)) >= 0.1
    assert states["superseded"] in (2 * len(times), 2 * len(times) + 2)
    house.database.close()


def test_choosing_what_is_next_takes_no_longer_the_more_is_waiting(
    tmp_path: Path, figures: Figures
) -> None:
    def seconds_a_claim(n_alerts: int) -> float:
        house = House(tmp_path / str(n_alerts), ManualClock())
        endpoint = house.endpoints.create("acme", EndpointSettings(url="https://hooks.example/"))
        an_outage(house, endpoint.id, n_alerts)
        spent = []
        for _ in range(15):
            now = house.clock.now()
            started = time.process_time()
            with house.database.write() as connection:
                (lane,) = lanes.due(connection, now, 10)
                (leased,) = lanes.claim_all(connection, [lane], now, now + 30 * MICROS)
                verdict = lanes.Verdict(outbox.DeliveryState.DELIVERED, now)
                attempt = lanes.Attempt(now, 204, "", 0.01)
                lanes.record(connection, leased, attempt, verdict, 10**15)
            spent.append(time.process_time() - started)
        house.database.close()
        return statistics.median(spent)

    few, many = seconds_a_claim(100), seconds_a_claim(10_000)
    figures("claim and record", ms_of_300=few * 1e3, ms_of_30000=many * 1e3)
    assert many <= 3 * few + 0.005


def test_a_transition_for_a_hundred_endpoints_is_written_quickly(tmp_path: Path) -> None:
    house = House(tmp_path, ManualClock())
    for _ in range(100):
        house.endpoints.create("acme", EndpointSettings(url="https://hooks.example/"))
    started = time.process_time()
    with house.database.write() as connection:
        assert outbox.enqueue(connection, a_transition(), house.clock.now()) == 100
    assert time.process_time() - started < 1.0
    house.database.close()
