"""Deliveries, end to end: a real database, the real worker, a real receiver on the loopback."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import standardwebhooks
import svix.webhooks
import time_machine
from sqlalchemy import select
from starlette.testclient import TestClient

from service.app import create_app
from service.keys import Scope
from service.notify import lanes, outbox
from service.notify.egress import DEADLINE_SECONDS, Egress
from service.notify.endpoints import EndpointState
from service.notify.worker import LEASE_MARGIN_SECONDS, POLL_SECONDS, Worker
from service.seal import Seal
from service.settings import Settings
from service.tables import attempts
from tests.house import DEADLINE, SCHEDULE, House, received, until, while_running
from tests.receiver import Receiver, Request, receiving, status


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.database.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def verify(request: Request, *secrets: str) -> None:
    """Both public verifiers accept a request by each of these secrets, at its own time."""
    at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    with time_machine.travel(at, tick=False):
        for secret in secrets:
            standardwebhooks.Webhook(secret).verify(request.body, request.headers)
            svix.webhooks.Webhook(secret).verify(request.body, request.headers)


def test_a_transition_arrives_once_and_signed(house: House, receiver: Receiver) -> None:
    secret = house.endpoint(receiver).secrets[0].secret
    house.enqueue()
    assert house.drain() == 1
    assert house.drain() == 0
    (request,) = receiver.requests
    verify(request, secret)
    assert request.headers["webhook-id"] == house.delivery().id
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body)["data"]["slice"] == {"accent": "scottish", "floor": "7"}
    assert house.delivery().state == "delivered"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verify(Request("/", request.headers, request.body.replace(b"firing", b"wiring")), secret)


def test_a_failing_receiver_gets_the_same_id_and_bytes_until_it_takes_them(
    house: House, receiver: Receiver
) -> None:
    secret = house.endpoint(receiver).secrets[0].secret
    receiver.replies = [status(500), status(302, location=receiver.url), status(204)]
    house.enqueue()
    assert house.drain() == 1
    assert house.drain() == 0  # not before its time
    house.wait_out(5)
    assert house.drain() == 1
    house.wait_out(300)
    assert house.drain() == 1
    assert house.attempts() == [(1, 500), (2, 302), (3, 204)]
    assert house.delivery().state == "delivered"
    assert len(receiver.requests) == 3
    assert len({(each.headers["webhook-id"], each.body) for each in receiver.requests}) == 1
    times = [int(each.headers["webhook-timestamp"]) for each in receiver.requests]
    assert times == sorted(set(times))  # each attempt is signed at its own time
    for request in receiver.requests:
        verify(request, secret)


def test_the_schedule_used_up_is_a_failure_and_a_replay_starts_anew(
    house: House, receiver: Receiver
) -> None:
    endpoint = house.endpoint(receiver)
    receiver.replies = [status(500)]
    house.enqueue()
    for delay in SCHEDULE:
        house.wait_out(delay)
        assert house.drain() == 1
    assert house.delivery().state == "failed"
    house.wait_out(86_400)
    assert house.drain() == 0
    receiver.replies = [status(204)]
    with house.database.write() as connection:
        outbox.replay(connection, "acme", endpoint.id, house.delivery().id, house.clock.now())
    assert house.drain() == 1
    assert house.delivery().state == "delivered"
    assert len({(each.headers["webhook-id"], each.body) for each in receiver.requests}) == 1
    assert house.attempts()[-1] == (len(SCHEDULE) + 1, 204)


def test_410_disables_the_endpoint_and_nothing_more_is_sent(
    house: House, receiver: Receiver
) -> None:
    endpoint = house.endpoint(receiver)
    receiver.replies = [status(410)]
    house.enqueue()
    house.enqueue(id="al_2")
    assert house.drain() == 1
    assert house.endpoints.get("acme", endpoint.id).state is EndpointState.DISABLED
    house.wait_out(86_400)
    assert house.drain() == 0
    assert len(receiver.requests) == 1


def test_retry_after_is_waited_for(house: House, receiver: Receiver) -> None:
    house.endpoint(receiver)
    receiver.replies = [status(429, retry_after="600"), status(204)]
    house.enqueue()
    house.drain()
    house.clock.advance(599)
    assert house.drain() == 0
    house.clock.advance(1)
    assert house.drain() == 1


def test_a_receiver_that_hangs_is_left_at_the_deadline_and_tried_again(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)
    receiver.replies = [receiver.hang, status(204)]
    house.enqueue()
    assert asyncio.run(house.worker(deadline_seconds=0.2).drain()) == 1
    assert house.attempts() == [(1, None)]
    with house.database.read() as connection:
        row = connection.execute(select(attempts.c.seconds, attempts.c.error)).one()
    assert 0.2 <= row.seconds < DEADLINE
    assert row.error == "no answer within 0.2 s"
    house.wait_out(5)
    assert house.drain() == 1
    assert house.delivery().state == "delivered"


def test_the_deadline_of_a_real_deployment_is_fifteen_seconds(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).delivery_deadline_seconds == DEADLINE_SECONDS == 15


def test_a_crash_between_sending_and_recording_sends_the_same_again(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver has it, the worker dies before it hears so: at least once, never forgotten."""
    monkeypatch.setattr(lanes, "give_back", lambda *_: None)  # the dead give nothing back
    house.endpoint(receiver)
    receiver.replies = [receiver.hang, status(204)]
    house.enqueue()

    async def until_sent() -> None:
        await until(lambda: len(receiver.requests) == 1)

    while_running(house.worker(), until_sent)
    assert house.attempts() == []
    assert house.drain() == 0  # the dead worker's lease still holds
    house.clock.advance(DEADLINE + LEASE_MARGIN_SECONDS)
    assert house.drain() == 1
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert house.delivery().state == "delivered"


def test_two_workers_send_each_delivery_once(house: House, receiver: Receiver) -> None:
    house.endpoint(receiver)
    for i in range(20):
        house.enqueue(id=f"al_{i}")

    async def both() -> int:
        first, second = house.worker(), house.worker()
        n = 0
        while attempted := sum(await asyncio.gather(first.drain(), second.drain())):
            n += attempted
            house.clock.advance(0.1)  # the pace of a lane
        return n

    assert asyncio.run(both()) == 20
    ids = [each.headers["webhook-id"] for each in receiver.requests]
    assert len(ids) == len(set(ids)) == 20


def test_a_wake_delivers_at_once_and_not_at_the_next_poll(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.notify.worker.POLL_SECONDS", 3600.0)
    house.endpoint(receiver)
    worker = house.worker()
    house.metrics.deliveries_waiting.set(-1)  # until the first look, which finds none

    def has_looked() -> bool:
        return house.metrics.registry.get_sample_value("slicewatch_deliveries_waiting") == 0

    async def script() -> None:
        await until(has_looked)
        await asyncio.to_thread(house.enqueue)
        await asyncio.to_thread(worker.wake)  # as the engine's thread does
        await until(lambda: len(receiver.requests) == 1)

    while_running(worker, script)


def test_what_another_process_enqueued_is_found_by_the_poll(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)

    async def script() -> None:
        await asyncio.to_thread(house.enqueue)
        await until(lambda: len(receiver.requests) == 1)

    assert POLL_SECONDS <= 1
    while_running(house.worker(), script)


def test_what_is_in_flight_at_a_clean_stop_goes_out_again_at_the_next_start(
    house: House, receiver: Receiver
) -> None:
    """Its control is a crash, above, after which the lease must run out."""
    receiver.replies = [receiver.hang, status(204)]
    house.endpoint(receiver)
    house.enqueue()

    async def until_in_flight() -> None:
        await until(partial(received, receiver, 1))

    while_running(house.worker(deadline_seconds=30), until_in_flight)
    assert house.attempts() == []
    assert house.drain() == 1  # no time has passed
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert house.delivery().state == "delivered"


def test_four_receivers_that_hang_do_not_hold_up_a_good_one(
    house: House, receiver: Receiver
) -> None:
    with receiving() as dead:
        dead.replies = [dead.hang]
        for _ in range(4):
            house.endpoint(dead)
        house.endpoint(receiver)
        for i in range(5):
            house.enqueue(id=f"al_{i}")

        worker = house.worker(deadline_seconds=30)

        async def script() -> None:
            for n in range(1, 6):
                await until(partial(received, receiver, n))
                house.clock.advance(0.1)
                worker.wake()

        while_running(worker, script)
        assert len(dead.requests) == 4  # one lane each, and no second request in any


def test_with_fewer_lanes_than_dead_receivers_the_good_one_still_has_its_turn(
    house: House, receiver: Receiver
) -> None:
    with receiving() as dead:
        dead.replies = [dead.hang]
        for _ in range(3):
            house.endpoint(dead)
        for i in range(10):
            house.enqueue(id=f"al_{i}")  # each dead endpoint has ten due, all older
        house.endpoint(receiver)
        house.clock.advance(1)
        house.enqueue(id="al_new")

        async def script() -> None:
            await until(lambda: len(receiver.requests) == 1)

        while_running(house.worker(max_at_once=2, deadline_seconds=0.1), script)
        assert len(dead.requests) <= 6


def test_a_rotated_secret_signs_beside_the_old_one_for_a_day(
    house: House, receiver: Receiver
) -> None:
    endpoint = house.endpoint(receiver)
    old = endpoint.secrets[0].secret
    new = house.endpoints.rotate("acme", endpoint.id).secrets[0].secret
    house.enqueue()
    house.drain()
    verify(receiver.requests[0], new, old)
    house.clock.advance(86_400)
    house.enqueue(id="al_2")
    house.drain()
    verify(receiver.requests[1], new)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verify(receiver.requests[1], old)


def test_an_endpoint_inside_is_attempted_by_no_connection_and_its_log_says_why(
    house: House, receiver: Receiver
) -> None:
    """Made when its network was allowed, and delivered to when it no longer is."""
    house.endpoint(receiver)
    house.enqueue()
    worker = Worker(
        house.database,
        house.clock,
        Egress(),
        Seal(),
        schedule_seconds=SCHEDULE,
        rng=random.Random(7),
        metrics=house.metrics,
    )
    assert asyncio.run(worker.drain()) == 1
    assert receiver.n_connections == 0
    with house.database.read() as connection:
        assert connection.execute(select(attempts.c.error)).scalar_one() == "url: must be https"
    assert house.delivery().state == "waiting"


def test_an_endpoint_made_and_tested_through_the_api_is_posted_to(
    tmp_path: Path, receiver: Receiver
) -> None:
    settings = Settings(data_dir=tmp_path, egress_allow=("127.0.0.0/8",), egress_http=True)
    app = create_app(settings)
    key = app.state.services.keys.create("acme", [Scope.ADMIN])
    with TestClient(app, headers={"authorization": f"Bearer {key}"}) as client:
        made = client.post("/v1/endpoints", json={"url": receiver.url}).json()
        sent = client.post(f"/v1/endpoints/{made['id']}/test").json()
        receiver.wait_for(1)
    (request,) = receiver.requests
    verify(request, made["secret"])
    assert request.headers["webhook-id"] == sent["id"]
    assert json.loads(request.body)["type"] == "endpoint.test"


def test_attempts_are_counted_by_result(house: House, receiver: Receiver) -> None:
    house.endpoint(receiver)
    receiver.replies = [status(500), status(204)]
    house.enqueue()
    house.drain()
    house.wait_out(5)
    house.drain()
    page = house.metrics.page("text/plain")[0].decode()
    assert 'slicewatch_deliveries_total{result="retried"} 1.0' in page
    assert 'slicewatch_deliveries_total{result="delivered"} 1.0' in page
