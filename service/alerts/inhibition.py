"""Inhibition: an alert that another one makes pointless is not told while that one fires.

| while this fires | these are not told, of its model, on its slice and parts of it | because |
|---|---|---|
| `silence` | `input_shift`, `composition`, `labels`, `data_quality` | nothing comes in to compare |
| `data_quality` | `input_shift`, `composition` | the inputs moved because they are broken |
| `disparity` | `error_rate` | it says the same, and against the rest |

What says that people are served worse is inhibited by nothing that is about plumbing. Like all
muting it is worked out when someone reads or is to be told, and stored nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from service.alerts.alert import Alert
from service.monitor.findings import Kind, State

INHIBITS: Final[Mapping[Kind, frozenset[Kind]]] = {
    Kind.SILENCE: frozenset({Kind.INPUT_SHIFT, Kind.COMPOSITION, Kind.LABELS, Kind.DATA_QUALITY}),
    Kind.DATA_QUALITY: frozenset({Kind.INPUT_SHIFT, Kind.COMPOSITION}),
    Kind.DISPARITY: frozenset({Kind.ERROR_RATE}),
}


def inhibitors_of(kind: Kind) -> frozenset[Kind]:
    """The kinds that can inhibit this one."""
    return frozenset(source for source, targets in INHIBITS.items() if kind in targets)


def inhibitor(alert: Alert, others: Iterable[Alert]) -> Alert | None:
    """The firing alert among others that makes this one pointless; the first there is."""
    kinds = inhibitors_of(alert.kind)
    for other in others:
        if (
            other.kind in kinds
            and other.state is State.FIRING
            and other.model == alert.model
            and set(other.slice) <= set(alert.slice)
        ):
            return other
    return None
