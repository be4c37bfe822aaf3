"""Severity: by how much worse a slice is and how many rows an hour feel it."""

from __future__ import annotations

import pytest

from service.monitor.findings import Severity
from service.monitor.severity import hurt_an_hour, severity_of

HOUR = 3600 * 1_000_000
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("ratio", "rows", "span", "severity"),
    [
        (2.0, 48, DAY, Severity.CRITICAL),  # 2 an hour, half of it too much: 1 hurt
        (2.0, 47, DAY, Severity.WARNING),
        (1.49, 10_000, DAY, Severity.WARNING),
        (1.5, 10_000, DAY, Severity.CRITICAL),
        (2.0, 2, DAY, Severity.WARNING),  # one hurt a day
        (2.0, 1, DAY, Severity.INFO),
        (1.1, 10_000, DAY, Severity.WARNING),
        (1.0, 10_000, DAY, Severity.INFO),
        (0.5, 10_000, DAY, Severity.INFO),
    ],
)
def test_the_table(ratio: float, rows: int, span: int, severity: Severity) -> None:
    assert severity_of(ratio, rows, span) is severity


def test_more_rows_and_a_larger_effect_never_hurt_less() -> None:
    ratios, rows = [0.5, 1.0, 1.2, 1.5, 2, 5, 100], [0, 1, 10, 100, 10_000]
    for n in rows:
        hurt = [hurt_an_hour(ratio, n, DAY) for ratio in ratios]
        assert hurt == sorted(hurt)
        assert all(each <= n / 24 for each in hurt)  # no more than there are
    for ratio in ratios:
        hurt = [hurt_an_hour(ratio, n, DAY) for n in rows]
        assert hurt == sorted(hurt)


def test_what_began_a_moment_ago_counts_as_an_hour() -> None:
    assert hurt_an_hour(2.0, 10, 0) == hurt_an_hour(2.0, 10, HOUR) == 5.0
