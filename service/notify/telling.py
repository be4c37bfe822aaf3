"""Telling: what a body says in a few plain words, for formats that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.notify.webhook import TEST_TYPE
from service.words import change, instant, likely, rest_change, slice_text, widening

Document = Mapping[str, Any]  # a body: {"type", "timestamp", "data"}

SHOWN: Final = 10  # alerts of a digest that are named one by one

_MARKS: Final = {
    "alert.firing": "",
    "alert.revised": "Revised: ",
    "alert.resolved": "Resolved: ",
    "alert.retracted": "Retracted: ",
}
OVER: Final = frozenset({"alert.resolved", "alert.retracted"})


@dataclass(frozen=True, slots=True)
class Telling:
    """One piece of news, as a person reads it."""

    title: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()
    url: str | None = None  # where to look
    severity: str = "info"
    is_over: bool = False


def tell(document: Document) -> Telling:
    """The words for a body of any type."""
    type_, data = document["type"], document["data"]
    if type_ in _MARKS:
        return _alert(type_, data)
    if type_ == TEST_TYPE:
        return Telling("Test from Slicewatch", "This endpoint is reached.")
    if type_ == "endpoint.disabled":
        text = f"Endpoint {data['endpoint']} is told no more: {data['reason']}."
        return Telling("An endpoint was disabled", text, severity="warning")
    return _digest(data)


def _alert(type_: str, data: Mapping[str, Any]) -> Telling:
    mark, kind = _MARKS[type_], data["kind"].replace("_", " ")
    return Telling(
        title=f"{mark}{kind if mark else kind.capitalize()} in {data['model']}, {slice_text(data)}",
        text=data["summary"],
        facts=tuple(_facts(data)),
        url=data.get("url"),
        severity=data["severity"],
        is_over=type_ in OVER,
    )


def _facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    effect = data.get("effect") or {}
    yield "Severity", data["severity"]
    yield "Since", f"{instant(data['onset'])} UTC"
    if data.get("resolved_at"):
        yield "Until", f"{instant(data['resolved_at'])} UTC"
    if effect.get("before") is not None and effect.get("after") is not None:
        yield "How much", change(effect)
        if rest := rest_change(effect):
            yield "The rest", rest
        yield "Widened", widening(effect)
        yield "Out of", f"{effect['rows']} predictions since then, {effect['labels']} labelled"
    if data["explains"]:
        yield "Explains", f"{len(data['explains'])} more"
    for cause in data["likely_causes"][:3]:
        yield "Likely cause", likely(cause)
    if data.get("acknowledged"):
        yield "In hand", data["acknowledged"]["by"]


def _digest(data: Mapping[str, Any]) -> Telling:
    """A day: what is open, what ended, what could not be watched."""
    facts = [
        *(("Open", line) for line in _lines(data["open"])),
        *(("Ended", line) for line in _lines(data["ended"])),
        *(("Not watched", f"{each['model']}: {each['reason']}") for each in data["not_watched"]),
    ]
    text = (
        f"{data['n_open']} open, {data['n_ended']} ended, "
        f"{len(data['not_watched'])} models not watched."
    )
    since, until = instant(data["since"]), instant(data["until"])
    title = f"Slicewatch, {since} to {until} UTC"
    return Telling(title, text, tuple(facts[: 3 * SHOWN]), data.get("url"))


def _lines(alerts: list[Mapping[str, Any]]) -> Iterator[str]:
    for alert in alerts[:SHOWN]:
        yield f"{alert['severity']}: {alert['summary']}"
