"""The demo's service: the real `slicewatch serve` in a process of its own, on a free port."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

START_WITHIN_SECONDS: Final = 30.0
STOP_WITHIN_SECONDS: Final = 12.0
_LISTENING: Final = re.compile(r"listening on (http://\S+)")


class DidNotStart(Exception):
    """The service ended, or did not come up in time; the message ends with the last of its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers."""

    url: str
    pid: int
    log: Path

    def last_words(self) -> str:
        """The end of what it printed."""
        return _tail(self.log)


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[Running]:
    """A service that keeps its state in `directory` while the block runs.

    It may deliver to the loopback, which a service does not do unless told. Raises DidNotStart.
    """
    log = directory / "service.log"
    process = _start(directory, port)
    try:
        url = _url(process, log)
        _wait_until_ready(process, url, log)
        yield Running(url, process.pid, log)
    finally:
        _stop(process)


def _start(directory: Path, port: int) -> subprocess.Popen[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SLICEWATCH_")}
    settings = {
        "SLICEWATCH_DATA_DIR": str(directory),
        "SLICEWATCH_EGRESS_ALLOW": "127.0.0.0/8",
        "SLICEWATCH_EGRESS_HTTP": "true",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
        [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port)],
        cwd=directory,  # no slicewatch.toml is there
        env=ours | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is the demo's to handle; the service is stopped after it
    )


def _url(process: subprocess.Popen[str], log: Path) -> str:
    """The URL that the service says it listens on; all that it prints goes on into `log`."""
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def follow() -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        with process.stdout, log.open("w") as file:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if match := _LISTENING.search(line):
                    found.put(match[1])
        found.put(None)

    threading.Thread(target=follow, name="service-log", daemon=True).start()
    try:
        url = found.get(timeout=START_WITHIN_SECONDS)
    except queue.Empty:
        url = None
    if url is None:
        raise DidNotStart(f"the service did not start:\n{_tail(log)}")
    return url


def _wait_until_ready(process: subprocess.Popen[str], url: str, log: Path) -> None:
    give_up_at = time.monotonic() + START_WITHIN_SECONDS
    with httpx2.Client(trust_env=False, timeout=5.0) as http:
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                if http.get(f"{url}/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass  # it says where it will listen just before it does
            time.sleep(0.05)
    raise DidNotStart(f"the service did not become ready:\n{_tail(log)}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
