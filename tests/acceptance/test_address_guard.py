"""Nothing inside is connected to: every spelling, at every door, with names that turn inwards.

What is counted are the connects of this process as the interpreter's audit hook sees them,
whatever library makes them. The control lifts the guard for the loopback, and is seen to connect.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.keys import Scope
from service.notify import addresses
from service.notify.addresses import AddressRules
from service.notify.egress import Egress
from service.notify.outbox import enqueue_test
from service.notify.wants import EndpointSettings
from service.settings import Settings
from tests.builders import ManualClock
from tests.house import House
from tests.receiver import Receiver, receiving, status

pytestmark = pytest.mark.fault


ADDRESSES: Final = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.254 127.0.0.1
127.1.2.3 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 240.0.0.1
239.255.255.250 255.255.255.255 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0x7f.0.0.1 0177.0.0.1
017700000001 0 0x0 2852039166 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 169.254.43518
[::] [::1] [0:0:0:0:0:0:0:1] [::7f00:1] [::127.0.0.1] [::ffff:127.0.0.1] [::FFFF:7F00:1]
[::ffff:10.0.0.1] [::ffff:169.254.169.254] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::1]
[100::1] [2001::1] [2001:0:7f00:1::] [2001:db8::1] [2002:7f00:1::] [2002:a9fe:a9fe::] [3fff::1]
[5f00::1] [fc00::1] [fd00:ec2::254] [fe80::1] [fec0::1] [ff02::1] [ff0e::1]
""".split()
SPELLINGS: Final = [f"https://{host}/" for host in ADDRESSES] + [
    "http://127.0.0.1/",
    "https://127.0.0.1:8443/",
    "https://127.0.0.1:5432/",
    "https://user@127.0.0.1/",
    "https://hooks.example@127.0.0.1/",
    "https://127.0.0.1\\@hooks.example/",
    "https://127.0.0.1%2f.hooks.example/",
    "https://１２７.0.0.1/",
    "https://[::1%25lo]/",
    "gopher://127.0.0.1/",
    "file:///etc/passwd",
]
NAMES: Final = {  # what each resolves to at the first, second, … look
    "plain.example": [["127.0.0.1"]],
    "mixed.example": [["8.8.8.8", "127.0.0.1"]],
    "metadata.example": [["169.254.169.254"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "turning.example": [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"]],
}

_connects: list[Any] = []
_watched = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event == "socket.connect":
        _connects.append(arguments[1])


sys.addaudithook(_audit)  # for good: it can't be taken back, so it looks at `_watched`


@contextmanager
def connects() -> Iterator[list[Any]]:
    """The addresses that this process connects to in the block."""
    global _watched
    _connects.clear()
    _watched = True
    try:
        yield _connects
    finally:
        _watched = False


class Names:
    """A resolver that gives each of a name's answers in turn, and the last for ever."""

    def __init__(self) -> None:
        self.answers = {name: list(answers) for name, answers in NAMES.items()}

    async def __call__(self, host: str, port: int) -> list[str]:
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.database.close()


def test_there_are_sixty_spellings_and_more() -> None:
    assert len(set(SPELLINGS)) == len(SPELLINGS) >= 75


def test_no_spelling_gets_through_create_or_update(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path), ManualClock())
    key = app.state.services.keys.create("acme", [Scope.ADMIN])
    client = TestClient(app, headers={"authorization": f"Bearer {key}"})
    made = client.post("/v1/endpoints", json={"url": "https://hooks.example/"}).json()
    with connects() as seen:
        for url in SPELLINGS:
            for answer in (
                client.post("/v1/endpoints", json={"url": url}),
                client.patch(f"/v1/endpoints/{made['id']}", json={"url": url}),
            ):
                assert answer.status_code == 422, url
                assert url not in answer.text
    assert seen == []
    assert len(client.get("/v1/endpoints").json()["endpoints"]) == 1
    app.state.services.database.close()


def posted(house: House, urls: list[str], egress: Egress, tests: bool) -> list[Any]:
    """Where connects went while an alert, or a test, was posted to each of these URLs.

    The endpoints are put where they are behind the API's back, as if their networks had been
    allowed when they were made.
    """
    for url in urls:
        endpoint = house.endpoints.create("acme", EndpointSettings(url=url))
        if tests:
            with house.database.write() as connection:
                enqueue_test(connection, "acme", endpoint.id, house.clock.now())
    if not tests:
        house.enqueue()
    with connects() as seen:
        n = asyncio.run(house.worker(egress, max_at_once=100).drain())
    assert n == len(urls)
    return list(seen)


@pytest.mark.parametrize("tests", [False, True], ids=["deliver", "test"])
def test_no_spelling_is_connected_to(house: House, tests: bool) -> None:
    assert posted(house, SPELLINGS, Egress(), tests) == []
    assert {status for _, status in house.attempts()} == {None}


def test_no_name_that_leads_inside_is_connected_to_however_often_it_turns(house: House) -> None:
    urls = [f"https://{name}/" for name in NAMES]
    egress = Egress(resolve=Names())
    assert posted(house, urls, egress, tests=False) == []
    for delay in (5, 300):
        house.wait_out(delay)
        with connects() as seen:
            assert asyncio.run(house.worker(egress).drain()) == len(urls)
        assert seen == []


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_connected_to(
    house: House, receiver: Receiver
) -> None:
    """Rebinding between the check and the connect finds nothing to rebind."""
    looks: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        looks.append(host)
        return ["127.0.0.1"] if len(looks) == 1 else ["169.254.169.254"]

    egress = Egress(["127.0.0.0/8"], http=True, resolve=resolve)
    url = receiver.url.replace("127.0.0.1", "hooks.example")
    seen = posted(house, [url], egress, tests=False)
    assert [address[0] for address in seen] == ["127.0.0.1"]
    assert looks == ["hooks.example"]
    assert receiver.requests[0].headers["host"].startswith("hooks.example")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_inside_is_followed_by_nobody(
    house: House, receiver: Receiver, code: int
) -> None:
    with receiving() as inside:
        receiver.replies = [status(code, location=inside.url)]
        seen = posted(house, [receiver.url], Egress(["127.0.0.0/8"], http=True), tests=False)
    assert len(seen) == len(receiver.requests) == 1
    assert inside.requests == []


def test_the_control_with_the_guard_lifted_connects(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert posted(house, [receiver.url], Egress(), tests=False) == []
    monkeypatch.setattr(AddressRules, "target", lambda _, url: addresses._parse(url))
    house.wait_out(5)
    with connects() as seen:
        asyncio.run(house.worker(Egress()).drain())
    assert [address[0] for address in seen] == ["127.0.0.1"]
    assert len(receiver.requests) == 1
