"""Story: what was found, as a person wants to read it, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from service.words import (
    PublicAlert,
    change,
    delay,
    instant,
    likely,
    rest_change,
    slice_text,
    widening,
)

NAMED_AT_MOST: Final = 6  # explained slices that are named one by one


def was_found(alerts: Sequence[PublicAlert]) -> bool:
    """Floor 7, alone or with more said of it, was flagged as served worse than the rest."""
    return any(
        alert["kind"] == "disparity"
        and alert["slice"].get("floor") == "7"
        and alert["state"] in ("firing", "resolved")
        for alert in alerts
    )


def tell(alerts: Sequence[PublicAlert], url: str) -> Iterator[str]:
    """Each incident: what, since when, how much worse than the rest, what it explains, where."""
    by_id = {alert["id"]: alert for alert in alerts}
    heads = [alert for alert in alerts if alert["explained_by"] is None]
    if not heads:
        yield "Nothing was flagged."
    for alert in heads:
        yield from _incident(alert, by_id, url)
        yield ""


def _incident(alert: PublicAlert, by_id: Mapping[str, PublicAlert], url: str) -> Iterator[str]:
    effect = alert["effect"]
    earliest, latest = map(instant, alert["onset_interval"])
    yield f"{alert['severity'].upper()}  {alert['kind']}  {slice_text(alert)}  ({alert['state']})"
    yield f"  {alert['summary']}"
    yield f"  since      {instant(alert['onset'])} UTC, between {earliest} and {latest}"
    yield f"  noticed    {instant(alert['detected_at'])} UTC, {delay(alert)} after it began"
    yield f"  how much   {change(effect)}"
    if rest := rest_change(effect):
        yield f"  the rest   {rest}"
    yield f"  widened    {widening(effect)}"
    yield f"  out of     {effect['rows']:,} predictions since then, {effect['labels']:,} labelled"
    if alert["explains"]:
        yield f"  explains   {_explained(alert, by_id)}"
    for cause in alert["likely_causes"]:
        yield f"  likely by  {likely(cause)}"
    yield f"  look at    {url}/alerts/{alert['id']}"


def _explained(alert: PublicAlert, by_id: Mapping[str, PublicAlert]) -> str:
    known = [slice_text(by_id[id_]) for id_ in alert["explains"] if id_ in by_id]
    more = len(alert["explains"]) - len(known[:NAMED_AT_MOST])
    return " · ".join(known[:NAMED_AT_MOST]) + (f" and {more} more" if more else "")
