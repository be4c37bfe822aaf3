"""Hours: a window that comes every week, in a time zone: maintenance, or a receiver's quiet hours.

`{"days": ["sat", "sun"], "from": "22:00", "until": "06:00", "timezone": "Europe/London"}` begins on
Saturday and Sunday evenings and ends the next mornings, by the clocks on the wall there.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Final, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final = get_args(Day)

_MICROS: Final = 1_000_000


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("must be a time zone of the IANA database, as in Europe/London")
    return name


class Hours(BaseModel):
    """From one wall-clock time until another; where `until` is not later, until the next day's."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    days: list[Day] = Field(default=list(DAYS), min_length=1, max_length=7)
    from_: str = Field(alias="from", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    until: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    timezone: Annotated[str, Field(max_length=64), AfterValidator(_known_zone)] = "UTC"

    def until_when(self, now: int) -> int | None:
        """When the window that `now` is in ends; None outside any. Instants in microseconds."""
        zone = ZoneInfo(self.timezone)
        today = datetime.fromtimestamp(now // _MICROS, zone).date()
        for day in (today - timedelta(days=1), today):
            if DAYS[day.weekday()] in self.days:
                begins, ends = self._window(day, zone)
                if begins <= now < ends:
                    return ends
        return None

    def _window(self, day: date, zone: ZoneInfo) -> tuple[int, int]:
        begins, ends = time.fromisoformat(self.from_), time.fromisoformat(self.until)
        last = day if begins < ends else day + timedelta(days=1)
        return _instant(day, begins, zone), _instant(last, ends, zone)


def _instant(day: date, at: time, zone: ZoneInfo) -> int:
    local = datetime.combine(day, at, tzinfo=zone)  # an hour that DST skips ends up behind the gap
    return round(local.astimezone(UTC).timestamp()) * _MICROS
