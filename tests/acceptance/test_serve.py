"""The server as a process: how it starts, how it ends, and what it exits with."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx2

from service.database import Database
from service.engine.journal import SqlEventLog
from service.engine.ports import BATCH
from service.ingest.frame import from_frame
from tests.server import START_WITHIN_SECONDS, Server, ended


def rows(first: int, n: int) -> str:
    return "\n".join(
        json.dumps({"id": f"r{i}", "model": "m", "time": 1_790_000_000 + i, "output": f"{i} " * 50})
        for i in range(first, first + n)
    )


def stored_ids(directory: Path) -> list[str]:
    database = Database.in_directory(directory / "data")
    entries = SqlEventLog(database).read(0)
    ids = [id_ for e in entries if e.codec == BATCH for id_ in from_frame(e.body)[0].ids]
    database.close()
    return ids


def test_it_says_where_it_listens_and_ends_with_0_when_asked(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with ended(server):
        server.start()
        assert server.url.startswith("http://127.0.0.1:")
        answer = server.post("/v1/events", rows(0, 3))
        assert answer.json()["accepted"] == 3
        assert server.stop() == 0
    assert stored_ids(tmp_path) == ["r0", "r1", "r2"]


def test_a_second_server_on_the_same_directory_ends_and_says_why(tmp_path: Path) -> None:
    first, second = Server(tmp_path), Server(tmp_path)
    with ended(first, second):
        first.start()
        second.launch()
        output, _ = second.process.communicate(timeout=START_WITHIN_SECONDS)
        assert second.process.returncode not in (0, None)
        assert "another server has it" in output and "Traceback" not in output
        assert first.client.get(f"{first.url}/readyz").status_code == 200


def test_a_sender_that_stopped_half_way_does_not_hold_up_the_end(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with ended(server):
        server.start()
        port = int(server.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
            assert server.stop() == 0  # within ten seconds


def test_an_io_error_ends_it_with_74_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    server = Server(tmp_path, max_file_bytes=1_000_000)
    acknowledged: list[str] = []
    with ended(server):
        server.start()
        for first in range(0, 100_000, 500):
            try:
                answer = server.post("/v1/events", rows(first, 500))
            except httpx2.TransportError:
                break
            if answer.status_code == 200:
                acknowledged += [f"r{i}" for i in range(first, first + 500)]
        assert server.await_end() == 74
        assert acknowledged
        server.max_file_bytes = None
        server.start()  # the disk is well again
        answer = server.post("/v1/events", rows(-1, 1))
        assert answer.json()["accepted"] == 1
        assert server.stop() == 0
    stored = stored_ids(tmp_path)
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


def test_an_io_error_that_a_request_meets_ends_it_with_74(tmp_path: Path) -> None:
    """The engine has nothing to do meanwhile: rows come nowhere in this."""
    server = Server(tmp_path, max_file_bytes=600_000)
    with ended(server):
        server.start()
        for n in range(100):
            body = json.dumps({"url": f"https://receiver.example/{n}"})
            try:
                server.post("/v1/endpoints", body, **{"content-type": "application/json"})
            except httpx2.TransportError:
                break
        assert server.await_end() == 74
        assert any("storage failed" in line for line in server.log)
