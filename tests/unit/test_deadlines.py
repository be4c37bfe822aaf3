"""Senders that stop half-way, against a real server with short deadlines."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.deadlines import MAX_HEAD_BYTES, protocol
from service.metrics import Metrics
from service.settings import Settings

DEADLINE_SECONDS = 0.2
MAX_CONNECTIONS = 20
METRICS = Metrics()
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


class Server(uvicorn.Server):
    """Runs in a thread; knows when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()
        self.let_go = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    settings = Settings(
        head_deadline_seconds=DEADLINE_SECONDS,
        body_deadline_seconds=DEADLINE_SECONDS,
        max_connections=MAX_CONNECTIONS,
    )
    config = uvicorn.Config(
        Starlette(routes=[Route("/", echo, methods=["POST"])]),
        port=0,
        http=protocol(settings, METRICS),
        ws="none",
        log_config=None,
        timeout_keep_alive=5,
    )
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.is_up.wait(10)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=5) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    """All that comes before the server hangs up; a timeout of the socket fails the test."""
    got = b""
    try:
        while part := connection.recv(65_536):
            got += part
    except ConnectionResetError:
        pass
    return got


def answer(connection: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"hello"):
        part = connection.recv(65_536)
        assert part, got
        got += part
    return got


def test_a_whole_request_is_answered(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"hello")
    assert answer(connection).startswith(b"HTTP/1.1 200")


def test_a_silent_connection_is_closed(connection: socket.socket) -> None:
    assert until_closed(connection) == b""


def test_half_a_head_is_waited_for_and_then_closed(connection: socket.socket) -> None:
    connection.sendall(HEAD[:20])
    assert until_closed(connection) == b""


def test_half_a_body_is_waited_for_and_then_closed(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"he")
    assert until_closed(connection) == b""


def test_a_head_that_drips_is_closed_all_the_same(connection: socket.socket) -> None:
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(500):  # each drop is progress; the deadline is for the whole
            connection.sendall(b"X")
            threading.Event().wait(DEADLINE_SECONDS / 20)


def test_blank_lines_on_a_connection_kept_alive_do_not_hold_it_open(
    connection: socket.socket,
) -> None:
    connection.sendall(HEAD + b"hello")
    answer(connection)
    connection.sendall(b"\r\n")
    assert until_closed(connection) == b""


def test_a_connection_kept_alive_outlives_the_deadline_of_a_head(
    connection: socket.socket,
) -> None:
    connection.sendall(HEAD + b"hello")
    answer(connection)
    threading.Event().wait(2 * DEADLINE_SECONDS)  # what must not happen has no event to wait for
    connection.sendall(HEAD + b"hello")
    assert answer(connection).startswith(b"HTTP/1.1 200")


def test_a_head_without_end_is_cut(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nx: ")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100 * MAX_HEAD_BYTES // 1024):
            connection.sendall(b"a" * 1024)


@pytest.mark.parametrize("n_bytes", [MAX_HEAD_BYTES + 1, 100_000, 4 * MAX_HEAD_BYTES])
def test_a_body_longer_than_any_head_may_be_is_taken(
    connection: socket.socket, n_bytes: int
) -> None:
    head = HEAD.replace(b"length: 5", b"length: %d" % n_bytes)
    for _ in range(5):  # how the bytes are cut on their way differs from one to the next
        connection.sendall(head + b"x" * (n_bytes - 5) + b"hello")
        assert answer(connection).endswith(b"hello")


def test_a_connection_too_many_is_told_when_to_try_again_before_it_asks(
    address: tuple[str, int],
) -> None:
    made = [socket.create_connection(address, timeout=5) for _ in range(3 * MAX_CONNECTIONS)]
    answers = [until_closed(connection) for connection in made]
    for connection in made:
        connection.close()
    refused = [answer for answer in answers if answer]
    assert len(refused) == 2 * MAX_CONNECTIONS
    for answer in refused:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 5\r\n" in head
        assert b"application/problem+json" in head and b'"status":503' in body
    overflow = METRICS.registry.get_sample_value(
        "slicewatch_overflow_total", {"cap": "connections"}
    )
    assert overflow == len(refused)
