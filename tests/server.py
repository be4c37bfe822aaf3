"""Server: the real `slicewatch serve` in a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2

from service.clock import SystemClock
from service.database import Database
from service.keys import Keys, Scope
from service.settings import Settings

START_WITHIN_SECONDS: Final = 60.0
STOP_WITHIN_SECONDS: Final = 10.0


class Server:
    """A data directory, and the process that serves it, one after another.

    server = Server(tmp_path)
    server.start()
    server.post("/v1/events", content=...)
    server.kill()
    """

    def __init__(
        self,
        directory: Path,
        max_file_bytes: int | None = None,
        without: str = "",
        **env: object,
    ) -> None:
        self.directory = directory
        self.max_file_bytes = max_file_bytes  # a write beyond it is an I/O error
        self.without = without  # statements that take a guard away before it serves, for controls
        self.url = ""
        self.client = httpx2.Client(timeout=30)
        self.log: list[str] = []  # what it printed, of this start
        self._env = {f"SLICEWATCH_{name.upper()}": str(value) for name, value in env.items()}
        self._process: subprocess.Popen[str] | None = None
        self._follower: threading.Thread | None = None
        self.key = self._create_key()

    def post(self, path: str, content: str, **headers: str) -> httpx2.Response:
        """The answer to a request with the server's key; raises TransportError without one."""
        proven = {"authorization": f"Bearer {self.key}", **headers}
        return self.client.post(f"{self.url}{path}", content=content, headers=proven)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("SLICEWATCH_")}
        self.log = []
        self._process = subprocess.Popen(
            [*self._program(), "serve", "--host", "127.0.0.1", "--port", "0"],
            cwd=self.directory,
            env=ours | {"SLICEWATCH_DATA_DIR": str(self.directory / "data")} | self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=self._limit_files,
        )

    def await_ready(self) -> None:
        """Wait until it says where it listens, and then until it is ready."""
        urls: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._follower = threading.Thread(target=self._follow, args=(self.process, urls))
        self._follower.start()
        self.url = urls.get(timeout=START_WITHIN_SECONDS)
        assert self.url, "".join(self.log)
        while self.client.get(f"{self.url}/readyz").status_code != 200:
            threading.Event().wait(0.02)

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process that was started last."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """End it as a power switch would."""
        self.process.kill()
        self.await_end()

    def stop(self) -> int:
        """Ask it to end, and give its exit code; it has ten seconds."""
        self.process.send_signal(signal.SIGTERM)
        return self.await_end()

    def await_end(self) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(STOP_WITHIN_SECONDS)
        finally:
            if self._follower is not None:
                self._follower.join(STOP_WITHIN_SECONDS)
                self._follower = None
            elif self.process.stdout is not None:
                self.process.stdout.close()

    def end(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.client.close()

    def database(self) -> Database:
        """What it keeps its state in, to be looked at and closed."""
        url = self._env.get("SLICEWATCH_DATABASE_URL")
        return Database.of(Settings(data_dir=self.directory / "data", database_url=url))

    def _program(self) -> list[str]:
        if not self.without:
            return [sys.executable, "-m", "service"]
        serves = "import runpy\nrunpy.run_module('service', run_name='__main__')"
        return [sys.executable, "-c", f"{self.without}\n{serves}"]

    def _create_key(self) -> str:
        database = self.database()
        database.create_tables()
        key = Keys(database, SystemClock()).create("acme", list(Scope))
        database.close()
        return key

    def _limit_files(self) -> None:
        if self.max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.max_file_bytes, self.max_file_bytes))

    def _follow(self, process: subprocess.Popen[str], urls: queue.SimpleQueue[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.log.append(line)
                if line.startswith("listening on "):
                    urls.put(line.removeprefix("listening on ").strip())
        urls.put("")  # it ended; nobody waits for this where it had listened


@contextmanager
def ended(*servers: Server) -> Iterator[None]:
    """None of these runs any more when the block is left."""
    try:
        yield
    finally:
        for server in servers:
            server.end()


def retried(send: Callable[[], httpx2.Response]) -> httpx2.Response | None:
    """An answer; None where there was none, or one that asks to try again."""
    try:
        answer = send()
    except httpx2.TransportError:
        return None
    return None if answer.status_code in (429, 503) else answer
