"""Hours: windows of a week on the clocks of a place, summer time included."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from service.alerts.hours import DAYS, Hours


def micros(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000


def until(hours: dict[str, Any], at: str) -> str | None:
    ends = Hours.model_validate(hours).until_when(micros(at))
    return None if ends is None else datetime.fromtimestamp(ends // 1_000_000, UTC).isoformat()


NIGHT = {"from": "22:00", "until": "06:00"}
WEEKEND = {**NIGHT, "days": ["sat", "sun"], "timezone": "Europe/London"}


@pytest.mark.parametrize(
    ("hours", "at", "ends"),
    [
        ({"from": "09:00", "until": "17:00"}, "2026-11-18T09:00:00Z", "2026-11-18T17:00:00+00:00"),
        ({"from": "09:00", "until": "17:00"}, "2026-11-18T17:00:00Z", None),
        ({"from": "09:00", "until": "17:00"}, "2026-11-18T08:59:59Z", None),
        (NIGHT, "2026-11-18T23:00:00Z", "2026-11-19T06:00:00+00:00"),
        (NIGHT, "2026-11-19T05:59:59Z", "2026-11-19T06:00:00+00:00"),
        (NIGHT, "2026-11-19T06:00:00Z", None),
        ({"from": "00:00", "until": "00:00"}, "2026-11-18T12:00:00Z", "2026-11-19T00:00:00+00:00"),
        (WEEKEND, "2026-11-21T23:00:00Z", "2026-11-22T06:00:00+00:00"),  # Saturday
        (WEEKEND, "2026-11-23T05:00:00Z", "2026-11-23T06:00:00+00:00"),  # Sunday's, on Monday
        (WEEKEND, "2026-11-20T23:00:00Z", None),  # Friday
        (WEEKEND, "2026-06-20T21:30:00Z", "2026-06-21T05:00:00+00:00"),  # 22:30 in summer
        (WEEKEND, "2026-06-20T20:30:00Z", None),
        # Clocks in London go forward in the night to 29 March 2026, back in that to 25 October.
        (WEEKEND, "2026-03-28T23:00:00Z", "2026-03-29T05:00:00+00:00"),
        (WEEKEND, "2026-10-24T21:00:00Z", "2026-10-25T06:00:00+00:00"),
    ],
)
def test_a_window_holds_from_its_start_until_its_end(
    hours: dict[str, Any], at: str, ends: str | None
) -> None:
    assert until(hours, at) == ends


def test_a_window_in_the_hour_that_summer_time_skips_begins_behind_it() -> None:
    gap = {"from": "01:30", "until": "03:00", "timezone": "Europe/London"}
    assert until(gap, "2026-03-29T00:59:00Z") is None
    assert until(gap, "2026-03-29T01:30:00Z") == "2026-03-29T02:00:00+00:00"


def test_the_days_are_those_of_the_calendar() -> None:
    assert DAYS[datetime(2026, 11, 18, tzinfo=UTC).weekday()] == "wed"


@pytest.mark.parametrize(
    "hours",
    [
        {"from": "24:00", "until": "06:00"},
        {"from": "9:00", "until": "17:00"},
        {"from": "09:00"},
        {**NIGHT, "days": []},
        {**NIGHT, "days": ["Monday"]},
        {**NIGHT, "timezone": "Mars/Base"},
        {**NIGHT, "timezone": "../../etc/passwd"},
        {**NIGHT, "extra": 1},
    ],
)
def test_hours_that_make_no_sense_are_refused(hours: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Hours.model_validate(hours)
