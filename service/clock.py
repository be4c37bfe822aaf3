"""Clock: the wall clock as an argument, so that tests can move it and nothing else reads it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Says what time it is."""

    def now(self) -> int:
        """Microseconds since 1970, UTC."""


class SystemClock:
    """The machine's clock; made once, in the composition root."""

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return time.time_ns() // 1000  # noqa: TID251 - the one place that may


def from_datetime(instant: datetime) -> int:
    """Microseconds since 1970 of an instant that says its offset."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def to_rfc3339(micros: int) -> str:
    """`2026-11-22T10:00:00.12Z` for microseconds since 1970; whole seconds without a fraction."""
    at = datetime.fromtimestamp(micros // 1_000_000, UTC)
    fraction = micros % 1_000_000
    tail = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{tail}Z"
