"""Backtest: every alert that a file of rows would have raised, when, and how late.

The fold that the service runs, over a file instead of a journal: no server, nothing stored, and the
same alerts as a replay of the file through the API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from service.alerts.alert import Alert
from service.alerts.public import public_alert
from service.clock import Clock
from service.engine.fold import Fold
from service.engine.ports import BATCH, CONFIGURE, Entry
from service.ingest.events import LABEL, PREDICTION, EventBatch, Rejected
from service.ingest.frame import to_frame
from service.monitor.config import NamedMonitor
from service.replay import Source

CHUNK_ROWS = 5000
WEEK_MICROS = 7 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a file would have raised."""

    rows: int  # predictions read
    labels: int  # labels read
    seconds: float  # the machine's time
    since: int  # the stream's first and last instant, microseconds since 1970
    until: int
    left_out: tuple[Rejected, ...]  # rows of the file that break a rule
    alerts: tuple[Alert, ...]  # every one that ever fired, in its last state, by detection

    @property
    def alerts_a_week(self) -> float:
        """Incidents that someone would have been told of in a week of the stream's time.

        An alert that another one explains is told with it and not counted. A stream shorter
        than a week counts as one.
        """
        told = sum(alert.explained_by is None for alert in self.alerts)
        return told / max(1.0, (self.until - self.since) / WEEK_MICROS)

    def to_json(self) -> str:
        """One object: rows, labels, seconds, alerts in the contract's form."""
        document = {
            "rows": self.rows,
            "labels": self.labels,
            "seconds": round(self.seconds, 3),
            "alerts": [public_alert(alert) for alert in self.alerts],
        }
        return msgspec.json.encode(document).decode()


def backtest(
    source: Source,
    clock: Clock,
    *,
    monitors: tuple[NamedMonitor, ...] = (),
    tenant: str = "default",
    progress: Callable[[EventBatch], None] = lambda batch: None,
) -> Backtest:
    """Run the fold over a file; `progress` is told of each batch when it has been folded in."""
    started = time.monotonic()
    fold = Fold()
    for monitor in monitors:
        fold.apply(_configure(tenant, monitor, clock.now()))
    fired: dict[str, Alert] = {}
    rows = labels = 0
    since, until = [], []
    left_out: list[Rejected] = []
    for batch in source.batches(CHUNK_ROWS, left_out.append):
        entry = Entry(tenant, BATCH, to_frame(batch), clock.now())
        for transition in fold.apply(entry).transitions:
            if transition.type == "alert.firing" or transition.alert.id in fired:
                fired[transition.alert.id] = transition.alert
        rows += int(np.count_nonzero(batch.kind & PREDICTION))
        labels += int(np.count_nonzero(batch.kind & LABEL))
        since.append(int(batch.time.min()))
        until.append(int(batch.time.max()))
        progress(batch)
    return Backtest(
        rows=rows,
        labels=labels,
        seconds=time.monotonic() - started,
        since=min(since, default=0),
        until=max(until, default=0),
        left_out=tuple(left_out),
        alerts=tuple(sorted(fired.values(), key=lambda alert: (alert.detected_at, alert.id))),
    )


def _configure(tenant: str, monitor: NamedMonitor, now: int) -> Entry:
    config = monitor.model_dump(mode="json", by_alias=True, exclude={"model"})
    body = msgspec.json.encode({"model": monitor.model, "config": config})
    return Entry(tenant, CONFIGURE, body, now)
