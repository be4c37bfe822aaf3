"""Causes: what moved with it. Open alerts on inputs, versions or labels, joined to one on losses.

A likely cause is of the same slice or of one that holds it, and began in the window of the other's
onset. That is a coincidence in time and place and no proof, which is why it is called likely.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from service.alerts.alert import Alert
from service.monitor.findings import Kind, State

CAUSES: Final = (Kind.INPUT_SHIFT, Kind.DATA_QUALITY, Kind.VERSION, Kind.LABELS)
CAUSED: Final = frozenset({Kind.ERROR_RATE, Kind.DISPARITY})
_HOUR: Final = 3_600_000_000  # microseconds
BEFORE: Final = 72 * _HOUR  # so long before a loss rises, at most, its cause began
AFTER: Final = 24 * _HOUR  # later by no more than what onsets are wrong by
MAX_CAUSES: Final = 10


def likely_causes(alert: Alert, others: Iterable[Alert]) -> tuple[dict[str, Any], ...]:
    """What the open alerts say of this one's causes, likeliest first; known ones stay known.

    First are those on the very slice, then on its parents, the closest in time first.
    """
    if alert.kind not in CAUSED:
        return ()
    fitting = [other for other in others if _may_have_caused(other, alert)]
    fitting.sort(key=lambda other: (-len(other.slice), _apart(other, alert), other.id))
    new = {other.id: other for other in fitting}
    known = [cause for cause in alert.likely_causes if cause["alert"] not in new]
    return (*(_told(other) for other in fitting), *known)[:MAX_CAUSES]


def same_causes(left: Iterable[dict[str, Any]], right: Iterable[dict[str, Any]]) -> bool:
    """Whether they name the same alerts, however those have been restated since."""
    return {cause["alert"] for cause in left} == {cause["alert"] for cause in right}


def _may_have_caused(other: Alert, alert: Alert) -> bool:
    return (
        other.kind in CAUSES
        and other.state is State.FIRING
        and set(other.slice) <= set(alert.slice)
        and alert.onset_interval[0] - BEFORE <= other.onset <= alert.onset_interval[1] + AFTER
    )


def _apart(other: Alert, alert: Alert) -> int:
    return abs(other.onset - alert.onset)


def _told(other: Alert) -> dict[str, Any]:
    return {
        "kind": other.kind.value,
        "alert": other.id,
        "slice": dict(other.slice),
        "feature": other.effect.feature,
        "moved": other.effect.moved,
        "since": other.onset,
    }
