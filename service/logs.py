"""Logs: JSON lines on standard error, one an event, which say where and never what was sent."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

_KEPT_FRAMES: Final = 12


def configure() -> None:
    """Send structlog's events and the standard library's warnings to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_the_error,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it warns at each look at a long job


class _ToStructlog(logging.Handler):
    """Hands the records of uvicorn and asyncio on, so that one line is one event."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


def _name_the_error(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """An exception's type and where it came from, without its text: that may quote a payload."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if isinstance(info, tuple) and info[0] is not None:
        frames = traceback.extract_tb(info[2])[-_KEPT_FRAMES:]
        event["error"] = info[0].__name__
        event["where"] = [f"{f.filename}:{f.lineno} {f.name}" for f in frames]
    return event
