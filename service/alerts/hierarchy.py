"""Hierarchy: which alerts make one incident. The head is told, what it explains is not."""

from __future__ import annotations

from collections.abc import Iterable

from service.alerts.alert import Alert
from service.monitor.findings import Kind, Slice


def is_part_of(inner: Slice, outer: Slice) -> bool:
    """Whether every row of `inner` is a row of `outer`, and not the other way round."""
    return set(inner) > set(outer)


def head_of(kind: Kind, explained_by: Slice | None, open_alerts: Iterable[Alert]) -> Alert | None:
    """The open alert that heads the incident a finding belongs to: never one under another head."""
    if explained_by is None:
        return None
    by_id = {alert.id: alert for alert in open_alerts}
    for alert in by_id.values():
        if alert.kind is kind and alert.slice == explained_by:
            return by_id.get(alert.explained_by or "", alert)
    return None


def taken_over(kind: Kind, slice_: Slice, open_alerts: Iterable[Alert]) -> list[Alert]:
    """Open alerts that a new head explains: heads of its own kind on parts of its slice."""
    return [
        alert
        for alert in open_alerts
        if alert.kind is kind
        and slice_  # the whole model's alert explains no disparity inside it
        and alert.explained_by is None
        and is_part_of(alert.slice, slice_)
    ]
