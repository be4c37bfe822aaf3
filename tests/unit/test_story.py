"""The demo's words and its receiver: what a person reads, and what the receiver believes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from service.clock import SystemClock
from service.demo.receiver import receiving
from service.demo.story import tell, was_found
from service.notify.webhook import new_secret, sign
from service.words import amount, duration, widening

SECRET = new_secret(bytes(range(32)))


def alert(id_: str = "al_1", **stated: Any) -> dict[str, Any]:
    """An alert in the contract's form."""
    return {
        "id": id_,
        "model": "transcribe-medical",
        "kind": "disparity",
        "state": "firing",
        "severity": "critical",
        "slice": {"floor": "7"},
        "onset": "2026-03-09T09:42:00Z",
        "onset_interval": ["2026-03-09T09:00:00Z", "2026-03-09T12:00:00Z"],
        "detected_at": "2026-03-09T17:00:00Z",
        "effect": {
            "metric": "wer",
            "before": 0.083,
            "after": 0.163,
            "rest_before": 0.081,
            "rest_after": 0.083,
            "gap_widened_by": 0.078,
            "interval": [0.051, 0.104],
            "rows": 2412,
            "labels": 824,
        },
        "explained_by": None,
        "explains": [],
        "likely_causes": [],
        "summary": "WER on floor 7 rose.",
        **stated,
    }


def test_an_incident_says_what_since_when_how_much_and_where() -> None:
    narrower = alert("al_2", slice={"accent": "us", "floor": "7"}, explained_by="al_1")
    head = alert(
        explains=["al_2", "al_of_another_page"],
        likely_causes=[{"kind": "input_shift", "feature": "tone_hz", "moved": "574 → 620"}],
    )
    assert list(tell([head, narrower], "http://here")) == [
        "CRITICAL  disparity  floor=7  (firing)",
        "  WER on floor 7 rose.",
        "  since      2026-03-09 09:42 UTC, between 2026-03-09 09:00 and 2026-03-09 12:00",
        "  noticed    2026-03-09 17:00 UTC, 7 h 18 min after it began",
        "  how much   8.3 % → 16.3 %",
        "  the rest   8.1 % → 8.3 %",
        "  widened    +7.8 points (+5.1 to +10.4)",
        "  out of     2,412 predictions since then, 824 labelled",
        "  explains   accent=us, floor=7 and 1 more",
        "  likely by  tone_hz: 574 → 620",
        "  look at    http://here/alerts/al_1",
        "",
    ]


def test_an_incident_without_a_rest_speaks_of_none() -> None:
    effect = alert()["effect"] | dict.fromkeys(
        ["rest_before", "rest_after", "gap_widened_by", "interval"]
    )
    lines = list(tell([alert(kind="error_rate", slice={}, effect=effect)], "http://here"))
    assert lines[0] == "CRITICAL  error_rate  everyone  (firing)"
    assert not any("rest" in line for line in lines)
    assert "  widened    +8 points" in lines


def test_no_alert_is_said_in_words() -> None:
    assert list(tell([], "http://here")) == ["Nothing was flagged."]


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({}, True),
        ({"slice": {"floor": "7", "accent": "us"}}, True),
        ({"state": "resolved"}, True),
        ({"state": "retracted"}, False),
        ({"state": "pending"}, False),
        ({"slice": {"floor": "3"}}, False),
        ({"slice": {}}, False),
        ({"kind": "error_rate"}, False),
    ],
)
def test_only_a_disparity_on_floor_7_counts_as_found(stated: dict[str, Any], found: bool) -> None:
    assert was_found([alert(**stated)]) is found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7 * 3600 + 18 * 60, "7 h 18 min"),
        (2 * 86400, "2 d"),
        (2 * 86400 + 4 * 3600 + 59 * 60, "2 d 4 h"),
    ],
)
def test_a_duration_is_its_two_largest_units(seconds: int, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_a_share_is_a_percentage_and_an_error_is_a_number() -> None:
    assert amount("wer", 0.0834) == "8.3 %"
    assert amount("absolute_error", 12.34) == "12.3"
    effect = {"metric": "absolute_error", "gap_widened_by": 1.5, "interval": [1, 2]}
    assert widening(effect) == "+1.5 (+1 to +2)"


def test_the_receiver_keeps_what_is_signed_once_and_refuses_the_rest() -> None:
    now = SystemClock().now() // 1_000_000
    body = json.dumps({"type": "alert.firing", "data": {"id": "al_1"}}).encode()
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign("msg_1", now, body, [SECRET]),
    }
    forged = signed | {"webhook-signature": sign("msg_1", now, body, [new_secret(b"x" * 32)])}
    with receiving(SystemClock()) as receiver, httpx2.Client(trust_env=False) as http:

        def post(headers: dict[str, str], content: bytes) -> int:
            return http.post(receiver.url, headers=headers, content=content).status_code

        assert post(signed, body) == 503  # it does not know the secret yet
        receiver.trust(SECRET)
        assert post({}, body) == 401
        assert post(forged, body) == 401
        assert post(signed, body.replace(b"al_1", b"al_2")) == 401
        assert receiver.received == []
        assert post(signed, body) == 204
        assert post(signed, body) == 204
        (received,) = receiver.received
        assert (received.type, received.data) == ("alert.firing", {"id": "al_1"})
        assert receiver.wait_for({"msg_1"}, timeout_seconds=0)
        assert not receiver.wait_for({"msg_1", "msg_2"}, timeout_seconds=0)
