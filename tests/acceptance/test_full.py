"""Disk, inodes or descriptors full: 503 while it lasts, alive all the time, and on by itself."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.figures import Figures
from tests.load import Senders, judged
from tests.server import Server, ended

pytestmark = pytest.mark.fault

SEED: Final = 3
BACK_SECONDS: Final = 5.0
FULL_SECONDS: Final = 3.0
SIZE: Final = "size=64m,nr_inodes=64"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MiB and 64 files."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk asks for root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", SIZE, "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets no one mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leaving: int = 0) -> Callable[[], None]:
    """Take the room there is, or all but so much; gives what gives it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while shutil.disk_usage(disk).free > leaving:
            file.write(b"\0" * (1 << 20 if leaving else 1 << 12))
    return filler.unlink


def use_up_inodes(disk: Path) -> Callable[[], None]:
    """Make files until there can be no more; gives what removes them."""
    made: list[Path] = []
    try:
        for n in range(1_000):
            (disk / f"empty-{n}").touch()
            made.append(disk / f"empty-{n}")
    except OSError:
        pass
    assert len(made) < 1_000, "there is no end to them"

    def remove() -> None:
        for path in made:
            path.unlink()

    return remove


def status(server: Server, path: str) -> int:
    return server.client.get(f"{server.url}{path}").status_code


def until_ready(server: Server) -> float:
    """Seconds until it is ready again."""
    started = time.monotonic()
    while status(server, "/readyz") != 200:
        assert time.monotonic() < started + 60
        threading.Event().wait(0.05)
    return time.monotonic() - started


def is_refused(server: Server, n: int) -> int:
    """The status of rows that are sent now."""
    row = f'{{"id": "probe-{n}", "model": "triage", "output": "1"}}'
    return server.post("/v1/events", row).status_code


@pytest.mark.parametrize(("what", "room"), [("floor", 16 << 20), ("no floor", 0)])
def test_a_full_disk_refuses_and_goes_on_by_itself(
    what: str, room: int, small_disk: Path, figures: Figures
) -> None:
    """Above the floor nothing fails; without one SQLite meets the end of the disk itself."""
    server = Server(small_disk, min_free_disk_bytes=room, tick_seconds=1)
    senders = Senders(server, SEED)
    with ended(server):
        server.start()
        senders.start()
        try:
            threading.Event().wait(0.5)
            give_back = fill(small_disk, room // 2)
            threading.Event().wait(FULL_SECONDS)
            while_full = {is_refused(server, n) for n in range(5)}
            ready, alive = status(server, "/readyz"), status(server, "/livez")
            give_back()
            back = until_ready(server)
        finally:
            sent = senders.stop()
        sent.issued |= {f"probe-{n}": "1" for n in range(5)}
        assert server.process.poll() is None, "it had to be started again"
        assert server.stop() == 0
    verdict = judged(server, sent)
    figures(
        f"disk full, {what}",
        acked=verdict.acked,
        lost=verdict.lost,
        while_full=sorted(while_full),
        back_after=f"{back:.1f}s",
    )
    assert while_full == {503} and (ready, alive) == (503, 200)
    assert back <= BACK_SECONDS
    assert verdict.holds(), verdict
    met_the_end = any("SQLITE_FULL" in line for line in server.log)
    assert met_the_end == (room == 0), "the floor did not keep it from the end of the disk"


def test_were_a_full_disk_a_failed_one_it_would_end_the_process(small_disk: Path) -> None:
    """The control: SQLite's "full" beside its I/O errors, which nothing may go on after."""
    failed = "service.storage._SQLITE_FAILED | service.storage._SQLITE_PASSES"
    without = (
        f"import service.storage; service.storage._SQLITE_FAILED = {failed}\n"
        "service.storage._SQLITE_PASSES = frozenset()"
    )
    server = Server(small_disk, without=without, min_free_disk_bytes=0, tick_seconds=1)
    with ended(server):
        server.start()
        assert is_refused(server, 0) == 200
        fill(small_disk)
        with suppress(httpx2.TransportError):  # its last answers may not have been given
            for n in range(200):
                is_refused(server, n + 1)
        assert server.await_end() == os.EX_IOERR


def test_inodes_that_are_used_up_cost_nothing(small_disk: Path, figures: Figures) -> None:
    """A running server makes no files. One that starts does, and ends: that is the control."""
    server = Server(small_disk, min_free_disk_bytes=1 << 20, tick_seconds=1)
    with ended(server):
        server.start()
        give_back = use_up_inodes(small_disk)
        statuses = {is_refused(server, n) for n in range(20)}
        alive = status(server, "/livez")
        with pytest.raises(OSError, match="No space left"):
            Server(small_disk / "another")
        give_back()
        back = until_ready(server)
        assert is_refused(server, 99) == 200
        assert server.stop() == 0
    figures("inodes used up", answers=sorted(statuses), back_after=f"{back:.1f}s")
    assert statuses <= {200, 503} and alive == 200 and back <= BACK_SECONDS


def test_descriptors_that_are_used_up_refuse_and_come_back(
    tmp_path: Path, figures: Figures
) -> None:
    server = Server(tmp_path, tick_seconds=1)
    with ended(server):
        server.start()
        assert is_refused(server, 0) == 200
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        whole = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 2, whole[1]))
        statuses = set()
        crowd = [httpx2.Client(timeout=2) for _ in range(20)]
        for n, client in enumerate(crowd):
            try:
                statuses.add(client.get(f"{server.url}/livez").status_code)
                statuses.add(is_refused(server, n + 1))
            except httpx2.TransportError:  # there was none left for its connection
                statuses.add(0)
        for client in crowd:
            client.close()
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, whole)
        back = until_ready(server)
        assert is_refused(server, 99) == 200
        assert server.process.poll() is None
        assert server.stop() == 0
    figures("descriptors used up", answers=sorted(statuses), back_after=f"{back:.1f}s")
    assert 0 in statuses, "the limit did not bite"
    assert statuses <= {0, 200, 503} and back <= BACK_SECONDS
