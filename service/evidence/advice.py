"""Advice: what to look at first, and what to do, for someone who was woken up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service import words

# What comes first where losses are not what is wrong, or not yet.
_OF_KIND: Final = {
    "input_shift": "Have some of its rows labelled now: its inputs moved, and only labels tell "
    "whether it is served worse.",
    "composition": "Nobody is served worse than such rows were before: more of them are of a kind "
    "that the model serves worse. Help that kind, or expect this loss from now on.",
    "version": "Compare the versions slice by slice before the new one goes further; for this "
    "slice, going back is the safe side.",
    "labels": "Ask whoever labels what changed: until that is known, a change of its losses says "
    "little about the model.",
    "data_quality": "Ask whoever sends it: values like these are a mistake on the way more often "
    "than a change of the world.",
    "silence": "See whether its senders run, and whether they reach this service: nothing can be "
    "said of a slice that sends nothing.",
}

STRANGE: Final = 0.1  # share of rows that moved here beyond what moved elsewhere

Evidence = Mapping[str, Any]


def what_changed(evidence: Evidence) -> list[str]:
    """Likely causes, the strongest first; what moved in the slice's inputs and not elsewhere."""
    own = {**evidence["effect"], "kind": evidence["kind"]}
    causes = [words.likely(cause) for cause in ([own] if own.get("moved") else [])]
    causes += [words.likely(cause) for cause in evidence["likely_causes"]]
    return causes + [moved(i) for i in strange_inputs(evidence) if i["moved"]][:2]


def strange_inputs(evidence: Evidence) -> list[Evidence]:
    """Features that moved in this slice, and clearly less elsewhere."""
    return [
        feature
        for feature in evidence["inputs"]
        if feature["distance"] - (feature["rest_distance"] or 0.0) >= STRANGE
    ]


def moved(feature: Evidence) -> str:
    """`tone_hz above 620: 10 % → 63 % of its rows; 1 % of the others' rows moved`."""
    move = feature["moved"]
    told = f"{feature['feature']} {move['share']}: {_percent(move['from'])} → "
    told += f"{_percent(move['to'])} of its rows"
    if feature["rest_distance"] is None:
        return told
    return f"{told}; {_percent(feature['rest_distance'])} of the others' rows moved"


def what_to_do(evidence: Evidence) -> list[str]:
    """At most four things, the first first."""
    if evidence["state"] != "firing":
        return ["Nothing. It is over; what is below says how it went."]
    of_kind = _OF_KIND.get(evidence["kind"])
    if of_kind is not None:
        return [of_kind, *_ask_around(evidence)]
    return [
        *_ask_around(evidence),
        *(_compare(feature) for feature in strange_inputs(evidence)[:1]),
        *_protect(evidence),
    ]


def _ask_around(evidence: Evidence) -> list[str]:
    if not evidence["slice"] and evidence["kind"] == "input_shift":
        return [
            "Everyone's inputs changed: look at what all callers share first (a client, a codec, "
            "a step before the model), then at who calls."
        ]
    if not evidence["slice"]:
        return [
            "It is so for everyone: look at the model's version, its host and its settings first, "
            "then at what all callers share."
        ]
    earliest, latest = map(words.day_and_time, evidence["onset_interval"])
    whom = " and ".join(f"{dimension} {value}" for dimension, value in evidence["slice"].items())
    return [
        f"Ask what changed for {whom} between {earliest} and {latest} UTC: equipment, rooms, "
        f"clients, routing, a new version for some."
    ]


def _compare(feature: Evidence) -> str:
    return (
        f"Take a few inputs of each side of that time and compare them by eye and ear; start with "
        f"{feature['feature']}, which moved here and hardly elsewhere."
    )


def _protect(evidence: Evidence) -> list[str]:
    if not evidence["rows_an_hour"] or evidence["effect"]["because"] is None:
        return []  # without labels nobody knows what they are served at
    after = words.amount(evidence["effect"]["metric"], evidence["effect"]["after"])
    name = words.metric_name(evidence["effect"]["metric"])
    an_hour = evidence["rows_an_hour"]
    pace = f"{an_hour:,.0f} predictions an hour" if an_hour >= 1 else f"{an_hour * 24:,.0f} a day"
    return [
        f"Until it is mended, about {pace} are served at {name} {after}: warn those who rely on "
        f"them, have them checked, or fall back."
    ]


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
