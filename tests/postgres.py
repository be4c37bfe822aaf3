"""Postgres: a private server of Debian's, on a socket of its own, to be stopped and killed.

with Postgres.started() as server:
    url = server.database()              # empty, and its owner is no superuser
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

START_WITHIN_SECONDS: Final = 30.0
ROLE: Final = "slicewatch"

_VERSIONS: Final = Path("/usr/lib/postgresql")
_INITDB: Final = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "fsync": "off",  # no test takes the machine's power, and what its kernel has, it keeps
    "full_page_writes": "off",
}


def programs() -> Path | None:
    """Where `initdb` and `postgres` are; None where PostgreSQL is not installed."""
    found = sorted(_VERSIONS.glob("*/bin/initdb")) if _VERSIONS.is_dir() else []
    return found[-1].parent if found else None


class Postgres:
    """One cluster in a directory, and the process that serves it, one after another."""

    def __init__(self, directory: Path, bin_: Path) -> None:
        self.directory = directory
        self._bin = bin_
        self._user = _someone_but_root()
        self._process: subprocess.Popen[bytes] | None = None
        self._n_databases = 0

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Postgres]:
        """A new cluster that runs until the block is left. Asks that PostgreSQL is installed."""
        bin_ = programs()
        assert bin_ is not None, "apt-get install postgresql"
        directory = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes
        server = cls(directory, bin_)
        try:
            server._initialise()
            server.start()
            yield server
        finally:
            server.kill()
            shutil.rmtree(directory)

    def database(self, template: str = "template0") -> str:
        """The URL of a new database, empty or like another one that nobody is connected to."""
        self._n_databases += 1
        name = f"d{self._n_databases}"
        with self.superuser() as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Forget a database, whoever is connected to it."""
        name = name_of(url)
        with self.superuser() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """How its owner reaches a database."""
        return f"postgresql://{ROLE}@/{name}?host={self.directory}"

    def superuser(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that may do anything, and commits as it goes."""
        return psycopg.connect(
            host=str(self.directory), user="postgres", dbname="postgres", autocommit=True
        )

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.directory / "data", "-k", self.directory],
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
            )
        for _ in range(int(START_WITHIN_SECONDS * 20)):
            try:
                self.superuser().close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                threading.Event().wait(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def stop(self) -> None:
        """End it in an orderly way, whoever is connected."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and all its processes at once."""
        self._signal(signal.SIGQUIT)

    def pause(self) -> None:
        """Stop every process of it: sockets stay open, and nobody answers."""
        self._send_to_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._send_to_all(signal.SIGCONT)

    def _initialise(self) -> None:
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        subprocess.run(
            [self._bin / "initdb", *_INITDB, "-D", self.directory / "data"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            cwd=self.directory,
        )
        with (self.directory / "data" / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
        self.start()
        with self.superuser() as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN")
        self.stop()

    def _signal(self, number: int) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.resume()
        process.send_signal(number)
        process.wait(START_WITHIN_SECONDS)

    def _send_to_all(self, number: int) -> None:
        process = self._process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def name_of(url: str) -> str:
    """The name of the database at a URL of `Postgres`."""
    return url.partition("?")[0].rpartition("/")[2]


def _someone_but_root() -> str | None:
    """Who runs the server: PostgreSQL refuses to be root. None: whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)
