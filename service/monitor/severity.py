"""Severity: how much an alert hurts, from how much worse its slice is and how many rows feel it.

| | fewer than one row a day | fewer than one an hour | one an hour or more |
|---|---|---|---|
| at least half as much again as its due | `info` | `warning` | `critical` |
| less than that | `info` | `warning` | `warning` |

Rows an hour that are hurt: the slice's rows an hour since the onset, times the share of its loss
that is more than its due, 1 - 1 / ratio (the attributable fraction of epidemiology).
"""

from __future__ import annotations

from typing import Final

from service.monitor.findings import Severity

CRITICAL_RATIO: Final = 1.5  # times what was due
CRITICAL_AN_HOUR: Final = 1.0  # rows
WARNING_AN_HOUR: Final = 1.0 / 24

_HOUR: Final = 3600 * 1_000_000  # µs


def severity_of(ratio: float, rows: int, span: int) -> Severity:
    """How severe a loss of `ratio` times its due is, felt by `rows` rows in `span` µs."""
    hurt = hurt_an_hour(ratio, rows, span)
    if hurt < WARNING_AN_HOUR:
        return Severity.INFO
    if ratio >= CRITICAL_RATIO and hurt >= CRITICAL_AN_HOUR:
        return Severity.CRITICAL
    return Severity.WARNING


def hurt_an_hour(ratio: float, rows: int, span: int) -> float:
    """Rows an hour whose loss is more than their due; a span under an hour counts as one."""
    if ratio <= 1.0:
        return 0.0
    return rows / max(span / _HOUR, 1.0) * (1.0 - 1.0 / ratio)
