"""Drawing: figures as lines, bands and bars, in units that a page can be stretched by.

A plot is 1000 × 1000 whatever the size at which it is shown: lines are paths in it, and stay thin
by a rule of the style sheet. Text and dots are placed beside it, by percentages, and keep theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from service.words import amount

SIDE: Final = 1000.0
HEADROOM: Final = 1.12
STEPS: Final = (1, 2, 2.5, 5, 10)  # of a readable axis

Column = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis, in percent of it, and what is written there."""

    at: float
    text: str
    is_major: bool = True  # the others are left out where there is little room


@dataclass(frozen=True, slots=True)
class Line:
    """One subject over time."""

    path: str
    band: str  # its intervals, as one closed path
    dots: tuple[tuple[float, float], ...]  # (x, y) in percent
    last: tuple[float, float] | None  # where its name is written


@dataclass(frozen=True, slots=True)
class Bars:
    """Rows a span, and of them labelled, as two paths."""

    rows: str
    labels: str
    most: int


@dataclass(frozen=True, slots=True)
class Chart:
    """A course, ready to be drawn."""

    slice: Line
    rest: Line | None
    due: str
    bars: Bars
    heights: tuple[Mark, ...]  # losses
    days: tuple[Mark, ...]
    onset: float | None  # x in percent
    onset_between: tuple[float, float] | None
    noticed: float | None
    resolved: float | None
    reference_until: float | None


def chart(evidence: Mapping[str, Any]) -> Chart:
    """The course of an alert's slice and of the rest."""
    course = evidence["course"]
    own, rest = course["slice"], course["rest"]
    time = _Time(course)
    top = _top([own, *([rest] if rest else [])])
    earliest, latest = (time.percent(at) for at in evidence["onset_interval"])
    return Chart(
        slice=_line(own, top),
        rest=_line(rest, top) if rest else None,
        due=_steps(own["due"], top),
        bars=_bars(own),
        heights=tuple(
            Mark(round(100 - 100 * v / top, 2), amount(evidence["loss"], v)) for v in _ticks(top)
        ),
        days=tuple(time.days()),
        onset=time.inside(evidence["onset"]),
        onset_between=(max(earliest, 0.0), min(latest, 100.0)) if latest > 0 else None,
        noticed=time.inside(evidence["detected_at"]),
        resolved=time.inside(evidence["resolved_at"]),
        reference_until=time.inside(evidence["reference_until"]),
    )


def sparkline(course: Mapping[str, Any], onset: str) -> tuple[str, str, float | None]:
    """The losses of a slice and of the rest as two paths on one scale, and where the onset is."""
    own, rest = course["slice"], course["rest"]
    losses = [*own["loss"], *(rest["loss"] if rest else [])]
    top = HEADROOM * max((v for v in losses if v is not None), default=1.0) or 1.0
    other = _path(rest["loss"], top) if rest else ""
    return _path(own["loss"], top), other, _Time(course).inside(onset)


def days_of(at: Sequence[str]) -> list[Mark]:
    """The midnights of spans that begin at these instants."""
    span = datetime.fromisoformat(at[-1]) - datetime.fromisoformat(at[0])
    seconds = span.total_seconds() / max(len(at) - 1, 1) or 3600
    return list(_Time({"at": at, "span_seconds": seconds}).days())


class _Time:
    """The axis of a course's instants."""

    def __init__(self, course: Mapping[str, Any]) -> None:
        self.start = datetime.fromisoformat(course["at"][0])
        self.span = timedelta(seconds=course["span_seconds"])
        self.whole = self.span * len(course["at"])

    def percent(self, at: str) -> float:
        """How far along an instant is."""
        return 100 * ((datetime.fromisoformat(at) - self.start) / self.whole)

    def inside(self, at: str | None) -> float | None:
        """How far along, where it is on the axis at all."""
        percent = -1.0 if at is None else self.percent(at)
        return round(percent, 2) if 0 <= percent <= 100 else None

    def days(self) -> Iterator[Mark]:
        """Midnights, no more than ten; every other one is minor."""
        first = self.start.astimezone(UTC).replace(hour=0, minute=0, second=0)
        step = max(1, math.ceil(self.whole / timedelta(days=1) / 10))
        for place in range(0, 400, step):
            day = first + timedelta(days=place)
            percent = 100 * ((day - self.start) / self.whole)
            if percent > 97:
                return
            if percent >= 0:
                yield Mark(round(percent, 2), f"{day.day} {day:%b}", place // step % 2 == 1)


def _top(subjects: Sequence[Mapping[str, Column]]) -> float:
    """The greatest loss that is drawn: bands may be cut off, lines may not."""
    losses = [v for subject in subjects for v in subject["loss"] if v is not None]
    uppers = sorted(v for subject in subjects for v in subject["loss_upper"] if v is not None)
    most = max(losses, default=0.0)
    usual = uppers[int(0.75 * (len(uppers) - 1))] if uppers else 0.0
    return HEADROOM * max(most, min(usual, 2 * most)) or 1.0


def _ticks(top: float) -> list[float]:
    rough = top / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * s for s in STEPS if power * s >= rough)
    return [step * i for i in range(1, int(top / step) + 1)]


def _line(subject: Mapping[str, Column], top: float) -> Line:
    loss = subject["loss"]
    dots = tuple(
        (round(x / SIDE * 100, 2), round(100 - 100 * value / top, 2))
        for x, value in zip(_middles(len(loss)), loss, strict=True)
        if value is not None
    )
    return Line(
        path=_path(loss, top),
        band=_band(subject["loss_lower"], subject["loss_upper"], top),
        dots=dots,
        last=dots[-1] if dots else None,
    )


def _middles(n: int) -> list[float]:
    return [SIDE * (i + 0.5) / n for i in range(n)]


def _y(value: float, top: float) -> float:
    return SIDE * (1 - min(value / top, 1.0))


def _path(values: Column, top: float) -> str:
    """A line through the values; spans without one are passed over."""
    points = [
        f"{x:.0f},{_y(value, top):.0f}"
        for x, value in zip(_middles(len(values)), values, strict=True)
        if value is not None
    ]
    return f"M{'L'.join(points)}" if points else ""


def _band(lower: Column, upper: Column, top: float) -> str:
    known = [
        (x, low, high)
        for x, low, high in zip(_middles(len(lower)), lower, upper, strict=True)
        if low is not None and high is not None
    ]
    if not known:
        return ""
    over = [f"{x:.0f},{_y(high, top):.0f}" for x, _, high in known]
    under = [f"{x:.0f},{_y(low, top):.0f}" for x, low, _ in reversed(known)]
    return f"M{'L'.join(over + under)}Z"


def _steps(values: Column, top: float) -> str:
    """A level for each span, joined where they follow each other."""
    width = SIDE / max(len(values), 1)
    parts = [
        f"M{i * width:.0f},{_y(value, top):.0f}H{(i + 1) * width:.0f}"
        for i, value in enumerate(values)
        if value is not None
    ]
    return "".join(parts)


def _bars(subject: Mapping[str, Any]) -> Bars:
    most = max([*subject["rows"], 1])

    def drawn(counts: Sequence[int]) -> str:
        width = SIDE / max(len(counts), 1)
        return "".join(
            f"M{(i + 0.12) * width:.1f},1000V{SIDE * (1 - n / most):.0f}h{width * 0.76:.1f}V1000Z"
            for i, n in enumerate(counts)
            if n
        )

    return Bars(drawn(subject["rows"]), drawn(subject["labels"]), most)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval on a scale, all in percent."""

    name: str
    when: str
    subject: str  # "slice" or "rest"
    value: float
    lower: float
    upper: float
    text: float  # the figure itself


def intervals(gap: Mapping[str, Any]) -> tuple[list[Interval], float]:
    """The slice and the rest, before and since, on one scale; and the loss at its end."""
    found = []
    for subject in ("slice", "rest"):
        for when in ("before", "since"):
            value, pair = gap[when][subject], gap[when][f"{subject}_interval"]
            if value is not None and pair is not None:
                found.append((subject, when, value, *pair))
    top = HEADROOM * max((min(high, 2 * value) for *_, value, _, high in found), default=1.0) or 1.0
    return [
        Interval(
            name=subject,
            when=when,
            subject=subject,
            value=round(100 * value / top, 2),
            lower=round(100 * low / top, 2),
            upper=round(min(100 * high / top, 100), 2),
            text=value,
        )
        for subject, when, value, low, high in found
    ], top


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of a feature: shares before and since."""

    name: str
    at: float  # its left edge, in percent of the width
    width: float
    before: float  # heights, in percent of the greatest
    since: float
    before_share: float
    since_share: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """One feature, ready to be drawn."""

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]  # cuts between numbers, or the names of values


def histogram(feature: Mapping[str, Any]) -> Histogram:
    """The bins of a feature that hold anything, the missing ones last."""
    names = [*feature["bins"], "missing"]
    both = zip(names, feature["before"], feature["since"], strict=True)
    is_numeric = feature["kind"] == "numeric"
    kept = [
        (name, before or 0.0, since or 0.0)
        for name, before, since in both
        if before or since or (is_numeric and name != "missing")
    ]
    most = max((max(before, since) for _, before, since in kept), default=1.0) or 1.0
    width = 100 / max(len(kept), 1)
    bars = tuple(
        Bar(
            name,
            round(i * width, 2),
            round(width, 2),
            round(100 * before / most, 1),
            round(100 * since / most, 1),
            before,
            since,
        )
        for i, (name, before, since) in enumerate(kept)
    )
    return Histogram(bars, tuple(_cuts(bars) if is_numeric else _names(bars)))


def _cuts(bars: Sequence[Bar]) -> Iterator[Mark]:
    for bar in bars:
        if " to " in bar.name or bar.name.endswith(" and more"):
            yield Mark(bar.at, bar.name.split(" ")[0])
        elif bar.name == "missing":
            yield Mark(bar.at + bar.width / 2, "none")


def _names(bars: Sequence[Bar]) -> Iterator[Mark]:
    longest = max(4, 36 // max(len(bars), 1))
    for bar in bars:
        text = bar.name if len(bar.name) <= longest else f"{bar.name[: longest - 1]}…"
        yield Mark(bar.at + bar.width / 2, text)
