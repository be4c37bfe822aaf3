"""Limits: every bound of the service by name, with what happens to what goes over it.

A collection that can grow with what people send has a `Cap` here; what overflows is counted in
`slicewatch_overflow_total{cap="<name>"}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service.settings import Settings


class Overflow(StrEnum):
    """What happens to what goes over a cap."""

    REFUSE = "refuse"  # the request gets 413, 422, 429 or 503; nothing of it is kept
    FORGET_OLDEST = "forget_oldest"  # the newest are kept
    RELEASE_OLDEST = "release_oldest"  # the oldest waits no longer and goes on as it is
    MERGE = "merge"  # into one that stands for the rest: slice="other"


@dataclass(frozen=True, slots=True)
class Cap:
    """A bound: how many of what, and its overflow rule."""

    name: str  # the same in settings, metrics and documentation
    limit: int
    unit: str
    overflow: Overflow


REJECTED_ROWS: Final = Cap("rejected_rows", 10_000, "rows a tenant", Overflow.FORGET_OLDEST)
MANAGEMENT_BODY: Final = Cap("management_body", 256 * 1024, "bytes a request", Overflow.REFUSE)
QUEUE_SHARE: Final = Cap("queue_share", 50, "% of the queue a tenant", Overflow.REFUSE)
QUESTIONS: Final = Cap("questions", 256, "queries of live state waiting", Overflow.REFUSE)
HALVES: Final = Cap(
    "halves", 10_000, "requests and responses of a model that wait", Overflow.RELEASE_OLDEST
)
PENDING: Final = Cap(
    "pending_predictions",
    20_000_000,
    "predictions of a model whose label may yet come",
    Overflow.FORGET_OLDEST,
)
WAITING_LABELS: Final = Cap(
    "waiting_labels",
    1_000_000,
    "labels of a model whose prediction has not come",
    Overflow.FORGET_OLDEST,
)
PLACES: Final = Cap("values", 1_000, "values of a dimension that have a place", Overflow.MERGE)
SLICES: Final = Cap("slices", 2_000, "slices of a model", Overflow.MERGE)
TENANT_ROWS: Final = "tenant_rows"
TENANT_BYTES: Final = "tenant_bytes"
SESSIONS: Final = Cap("sessions", 100, "browsers signed in with a key", Overflow.FORGET_OLDEST)
ENDPOINTS: Final = Cap("endpoints", 100, "endpoints a tenant", Overflow.REFUSE)
SILENCES: Final = Cap("silences", 1_000, "silences a tenant that have not ended", Overflow.REFUSE)
GROUP_BATCHES: Final = 64  # of one commit; no cap: what is over waits for the next


def caps(settings: Settings) -> tuple[Cap, ...]:
    """Every cap of a server with these settings."""
    return (
        Cap("connections", settings.max_connections, "connections", Overflow.REFUSE),
        Cap("body_bytes", settings.max_body_bytes, "bytes a request", Overflow.REFUSE),
        Cap("request_rows", settings.max_rows_per_request, "rows a request", Overflow.REFUSE),
        Cap("queue_batches", settings.queue_batches, "batches waiting", Overflow.REFUSE),
        Cap("queue_bytes", settings.queue_bytes, "bytes waiting", Overflow.REFUSE),
        MANAGEMENT_BODY,
        Cap(TENANT_ROWS, settings.tenant_rows_per_second, "rows a second", Overflow.REFUSE),
        Cap(TENANT_BYTES, settings.tenant_bytes_per_second, "bytes a second", Overflow.REFUSE),
        QUEUE_SHARE,
        QUESTIONS,
        REJECTED_ROWS,
        HALVES,
        PENDING,
        WAITING_LABELS,
        PLACES,
        SLICES,
        SESSIONS,
        ENDPOINTS,
        SILENCES,
        Cap(
            "slice_series", settings.max_slice_series, "slices a model at /metrics", Overflow.MERGE
        ),
    )
