"""Words: the figures of an alert as people say them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

_SHARES: Final = frozenset({"wer", "cer", "zero_one"})  # losses; others are named share_of_...

METRIC_NAMES: Final = {
    "wer": "WER",
    "cer": "CER",
    "zero_one": "error rate",
    "brier": "Brier score",
    "given": "loss",
}

PublicAlert = Mapping[str, Any]  # an alert in the contract's form


def is_share(metric: str) -> bool:
    """Whether it is a share, which is shown as a percentage."""
    return metric in _SHARES or metric.startswith("share_")


def slice_text(alert: PublicAlert) -> str:
    """`floor=7, accent=scottish`; `everyone` for the whole model."""
    return ", ".join(f"{name}={value}" for name, value in alert["slice"].items()) or "everyone"


def delay(alert: PublicAlert) -> str:
    """How long after its onset an alert was raised."""
    return duration(
        datetime.fromisoformat(alert["detected_at"]) - datetime.fromisoformat(alert["onset"])
    )


def duration(span: timedelta) -> str:
    """`2 d 4 h`, `7 h 18 min`, `40 s`: the two largest units."""
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    largest = next(i for i, (n, _) in enumerate(parts) if n)
    return " ".join(f"{n} {unit}" for n, unit in parts[largest : largest + 2] if n)


def instant(rfc3339: str) -> str:
    """`2026-03-09 09:42`, UTC."""
    return f"{datetime.fromisoformat(rfc3339):%Y-%m-%d %H:%M}"


def day_and_time(rfc3339: str) -> str:
    """`9 Mar 09:42`, UTC: of an instant whose year one knows."""
    at = datetime.fromisoformat(rfc3339)
    return f"{at.day} {at:%b %H:%M}"


def amount(metric: str, value: float) -> str:
    """A loss: `8.3 %` of a share, else the number."""
    return f"{value * 100:.1f} %" if is_share(metric) else f"{value:.3g}"


def points(metric: str, value: float) -> str:
    """A difference of losses: `+7.9 points` of a share, else the number."""
    if is_share(metric):
        return f"{value * 100:+.1f} points".replace("-", "−")
    return f"{value:+.3g}".replace("-", "−")


def points_between(metric: str, lower: float, upper: float) -> str:
    """`+4.0 to +12.0 points`."""
    unit = " points" if is_share(metric) else ""
    return f"{points(metric, lower).removesuffix(unit)} to {points(metric, upper)}"


def count(n: float) -> str:
    """`12,345`."""
    return f"{n:,.0f}"


def metric_name(metric: str) -> str:
    """`WER`, `error rate`: a loss as people call it."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def change(effect: Mapping[str, Any]) -> str:
    """`8.3 % → 16.3 %`, of the slice."""
    metric = effect["metric"]
    return f"{amount(metric, effect['before'])} → {amount(metric, effect['after'])}"


def rest_change(effect: Mapping[str, Any]) -> str:
    """`8.1 % → 8.3 %`, of everyone else; nothing where there is no rest."""
    before, after = effect["rest_before"], effect["rest_after"]
    if before is None or after is None:
        return ""
    return f"{amount(effect['metric'], before)} → {amount(effect['metric'], after)}"


def widening(effect: Mapping[str, Any]) -> str:
    """`+7.9 points (+5.1 to +10.4)`: of the gap to the rest, or of the loss where there is none."""
    by = effect["gap_widened_by"]
    if by is None:
        by = effect["after"] - effect["before"]
    factor, unit = (100, " points") if is_share(effect["metric"]) else (1, "")
    text = f"{by * factor:+.3g}{unit}"
    if effect["interval"] is None:
        return text
    low, high = effect["interval"]
    return f"{text} ({low * factor:+.3g} to {high * factor:+.3g})"


def likely(cause: Mapping[str, Any]) -> str:
    """`tone_hz: 574 → 620, since 9 Mar 09:42`: a likely cause; its kind where it is no input."""
    what = cause.get("feature") or str(cause.get("kind", "")).replace("_", " ")
    how = f": {cause['moved']}" if cause.get("moved") else ""
    since = f", since {day_and_time(cause['since'])}" if cause.get("since") else ""
    return f"{what}{how}{since}"
