"""Receivers of every kind, each a real server on the loopback, TLS ones included."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import Damaged
from service.keys import Scope
from service.notify.egress import DEADLINE_SECONDS, Egress
from service.notify.endpoints import EndpointState
from service.notify.worker import BREAKS_AFTER, LONGEST_PAUSE_SECONDS
from service.seal import Seal
from service.settings import Settings
from tests.builders import ManualClock
from tests.certificates import Authority
from tests.house import House
from tests.receiver import Receiver, Reply, receiving, status

pytestmark = pytest.mark.fault


LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.database.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A head that never ends, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-A: b\r\n")
        handler.wfile.flush()
        if handler.server.released.wait(0.1):  # type: ignore[attr-defined]
            return


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(500)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65_536))


def noise(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x16\x03\x01 not HTTP\r\n\r\n")
    handler.close_connection = True


HOSTILE: dict[str, tuple[Reply | None, int | None]] = {  # what it does, the status that is logged
    "hangs": (None, None),
    "endless body": (endless, 500),
    "429": (status(429, retry_after="1"), 429),
    "301": (status(301, location="http://127.0.0.1:1/"), 301),
    "308": (status(308, location="http://127.0.0.1:1/"), 308),
    "400": (status(400), 400),
    "noise": (noise, None),
}


def test_every_hostile_receiver_is_left_in_time_and_tried_again_by_the_schedule(
    house: House,
) -> None:
    """All at once; the schedule is 0, 5, 300 s and each attempt has two."""
    with ExitStack() as stack:
        receivers = {name: stack.enter_context(receiving()) for name in HOSTILE}
        for name, (reply, _) in HOSTILE.items():
            receivers[name].replies = [reply or receivers[name].hang]
            house.endpoint(receivers[name])
        house.happen({})
        for delay in (0, 5, 300):
            house.wait_out(delay)
            assert house.drain() == len(HOSTILE)
            assert house.drain() == 0
        house.clock.advance(86_400)
        assert house.drain() == 0
        tried = {name: len(receivers[name].requests) for name in HOSTILE}
    assert tried == dict.fromkeys(HOSTILE, 3)
    with sqlite3.connect(house.database.engine.url.database or "") as connection:
        rows = connection.execute("SELECT status, seconds, error FROM attempts").fetchall()
        states = connection.execute("SELECT DISTINCT state FROM deliveries").fetchall()
    connection.close()
    expected = sorted(str(logged) for _, logged in HOSTILE.values() for _ in range(3))
    assert sorted(str(row[0]) for row in rows) == expected
    assert max(row[1] for row in rows) < 4
    assert states == [("failed",)]
    assert DEADLINE_SECONDS == 15


def test_a_failing_endpoint_is_probed_by_one_delivery_and_goes_on_when_it_is_back(
    house: House, receiver: Receiver
) -> None:
    house.endpoint(receiver)
    receiver.replies = [status(500)]
    house.happen(*({"id": f"al_{i}"} for i in range(100)))
    worker = house.worker()

    async def hour() -> None:
        for _ in range(720):
            house.clock.advance(5)
            await worker.drain()

    async def back() -> int:
        house.clock.advance(LONGEST_PAUSE_SECONDS)
        n = await worker.drain()  # the probe
        for _ in range(30):
            house.clock.advance(0.1)
            n += await worker.drain()
        return n

    asyncio.run(hour())
    # A hundred deliveries have three tries each: pressed, it would get them all in minutes. Pauses
    # are drawn from up to five minutes, two and a half on average: 24 an hour.
    n_hour = len(receiver.requests)
    assert BREAKS_AFTER < n_hour < 50
    receiver.replies = [status(204)]
    assert asyncio.run(back()) == 31  # one, and on at its pace


def test_five_days_of_nothing_but_failures_disable_it_and_others_are_told(
    house: House, receiver: Receiver
) -> None:
    with receiving() as dead:
        dead.replies = [status(500)]
        failing = house.endpoint(dead)
        house.endpoint(receiver, also=["endpoint.disabled"], filters={"models": []})
        for day in range(7):
            house.happen({"id": f"al_{day}"})
            house.drain()
            house.clock.advance(86_400)
            house.drain()
    ended = house.endpoints.get("acme", failing.id)
    assert ended.state is EndpointState.DISABLED
    assert ended.state_reason == "nothing but failures for 5 days"
    (told,) = receiver.requests
    assert json.loads(told.body)["type"] == "endpoint.disabled"
    assert json.loads(told.body)["data"]["endpoint"] == failing.id
    page = house.metrics.page("text/plain")[0].decode()
    assert "slicewatch_endpoints_disabled_total 1.0" in page


def test_one_success_in_five_days_keeps_it(house: House, receiver: Receiver) -> None:
    endpoint = house.endpoint(receiver)
    receiver.replies = [*[status(500)] * 4, status(204), status(500)]
    for day in range(7):
        house.happen({"id": f"al_{day}"})
        house.drain()
        house.clock.advance(86_400)
    assert house.endpoints.get("acme", endpoint.id).state is EndpointState.ACTIVE


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    return authority


def secured(directory: Path, authority: Authority, clients: bool) -> ssl.SSLContext:
    """A server's side, of hooks.example; with `clients` it asks who connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("hooks.example").write(directory / "server.pem"))
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(directory / "ca.pem")
    return context


async def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def secure_url(receiver: Receiver) -> str:
    return receiver.url.replace("127.0.0.1", "hooks.example")


def test_a_receiver_that_asks_who_connects_is_shown_the_endpoint_s_certificate(
    house: House, tmp_path: Path, authority: Authority
) -> None:
    ours = authority.issue("slicewatch.example")
    theirs = Authority("someone else").issue("slicewatch.example")
    egress = Egress(LOOPBACK, resolve=here, ca_file=tmp_path / "ca.pem", deadline_seconds=5)
    with receiving(secured(tmp_path, authority, clients=True)) as receiver:
        url = secure_url(receiver)
        for certificate in (ours, theirs, None):
            shown = certificate and {"certificate": certificate.certificate, "key": certificate.key}
            house.endpoint(Receiver(url), client_certificate=shown)
        house.happen({})
        assert asyncio.run(house.worker(egress).drain()) == 3
        assert len(receiver.requests) == 1
    assert sorted(str(found) for _, found in house.attempts()) == ["204", "None", "None"]


def test_a_receiver_whose_certificate_nobody_vouches_for_gets_nothing(
    house: House, tmp_path: Path, authority: Authority
) -> None:
    with receiving(secured(tmp_path, authority, clients=False)) as receiver:
        house.endpoint(Receiver(secure_url(receiver)))
        house.happen({})
        strict = Egress(LOOPBACK, resolve=here, deadline_seconds=5)
        assert asyncio.run(house.worker(strict).drain()) == 1
        assert receiver.requests == []
        house.wait_out(5)
        trusting = Egress(LOOPBACK, resolve=here, ca_file=tmp_path / "ca.pem")
        assert asyncio.run(house.worker(trusting).drain()) == 1
        assert len(receiver.requests) == 1


# Secrets


def secret_keys(*keys: str) -> tuple[SecretStr, ...]:
    return tuple(map(SecretStr, keys))


def _until_delivered(http: TestClient, endpoint_id: str) -> None:
    """Wait until nothing waits for an endpoint: what is recorded is not sent again."""
    for _ in range(1000):
        found = http.get(f"/v1/endpoints/{endpoint_id}/deliveries").json()["deliveries"]
        if {each["state"] for each in found} == {"delivered"}:
            return
        threading.Event().wait(0.01)
    raise AssertionError("it is not delivered")


def test_no_secret_of_an_endpoint_is_in_any_file_or_answer_and_keys_can_be_rotated(
    tmp_path: Path, receiver: Receiver, authority: Authority
) -> None:
    first, second = "A" * 43 + "=", "B" * 42 + "A="
    client = authority.issue("slicewatch.example")
    data = tmp_path / "data"
    settings: dict[str, Any] = {"data_dir": data, "egress_allow": LOOPBACK, "egress_http": True}
    stated = {
        "url": receiver.url + "?token=marker-url",
        "headers": {"Authorization": "Bearer marker-header"},
        "client_certificate": {"certificate": client.certificate, "key": client.key},
    }
    seen = b""
    for keys in ([first], [second, first], [second]):
        app = create_app(Settings(**settings, secrets_keys=secret_keys(*keys)))
        key = app.state.services.keys.create("acme", [Scope.ADMIN])
        with TestClient(app, headers={"authorization": f"Bearer {key}"}) as http:
            if not seen:
                made = http.post("/v1/endpoints", json=stated).json()
                assert made["client_certificate"]["sha256"]
            answer = http.get(f"/v1/endpoints/{made['id']}")
            seen += answer.content
            assert http.post(f"/v1/endpoints/{made['id']}/test").status_code == 202
            _until_delivered(http, made["id"])
        files = b"".join(path.read_bytes() for path in data.iterdir() if path.is_file())
        for secret in ("marker-url", "marker-header", made["secret"][6:], client.key[40:80]):
            assert secret.encode() not in files
        for secret in ("marker-header", made["secret"], client.key[40:80]):
            assert secret.encode() not in seen
    assert receiver.requests[2].headers["authorization"] == "Bearer marker-header"
    with pytest.raises(Damaged, match="not among secrets_keys"):
        app = create_app(Settings(**settings, secrets_keys=secret_keys(first)))
        with TestClient(app):
            pass


def test_the_control_without_a_key_does_leave_them_in_the_file(
    house: House, receiver: Receiver, tmp_path: Path
) -> None:
    secret = house.endpoint(receiver).secrets[0].secret
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert secret.encode() in files
    assert not Seal().has_keys
    assert isinstance(house.clock, ManualClock)
