"""Hold: a data directory for one process alone."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import Conflict


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """The directory, for this process alone. Raises Conflict where another has it."""
    with (directory / "slicewatch.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("data_dir: another server has it") from None
        yield
