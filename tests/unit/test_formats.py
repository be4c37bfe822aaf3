"""Formats: what each receiver gets, held against the parsers and schemas of those receivers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from microsoft_teams.cards import AdaptiveCard
from slack_sdk.models.blocks import Block, HeaderBlock

from service.monitor.findings import State
from service.notify import alertmanager, chat
from service.notify.endpoints import Private
from service.notify.formats import Message, render
from service.notify.wants import Format
from service.notify.webhook import body_for, body_for_test, body_of_news
from tests.builders import NOW, a_transition

DATA = Path(__file__).parent.parent / "data" / "formats"
PUBLIC_URL = "https://slicewatch.example/"
PRIVATE = Private(
    url="https://hooks.example/", secrets=(), headers={}, routing_key="R0KEY", certificate=None
)
API = msgspec.structs.replace(PRIVATE, url="http://am.example:9093/api/v2/alerts")
HOSTILE = "<!channel> *a* [x](http://evil.example) <script>"
SCHEMA = json.loads((DATA / "pagerduty_events_v2.schema.json").read_text())

FIRING = body_for(
    a_transition(
        explains=("al_2",),
        likely_causes=(
            {"kind": "input_shift", "feature": "band_1k_db", "moved": "-44.1 → -31.0 dB"},
        ),
    ),
    {"by": "ann", "at": "2026-11-18T11:00:00Z", "comment": ""},
    PUBLIC_URL,
)
RESOLVED = body_for(
    a_transition(
        "alert.resolved", state=State.RESOLVED, revision=2, resolved_at=NOW, summary="It is back."
    ),
    None,
    PUBLIC_URL,
)
TEST = body_for_test("ep_1", NOW)
DISABLED = body_of_news("endpoint.disabled", NOW, {"endpoint": "ep_2", "reason": "it said 410"})
NASTY = body_for(
    a_transition(slice=(("floor", HOSTILE),), summary=HOSTILE * 400, model="m"), None, None
)
BODIES = {"firing": FIRING, "resolved": RESOLVED, "test": TEST, "nasty": NASTY}


def made(format_: Format, body: str, private: Private = PRIVATE) -> Message:
    return render(format_, body, "msg_1", "ep_1", private)


def document(format_: Format, body: str, private: Private = PRIVATE) -> Any:
    return json.loads(made(format_, body, private).body)


# Golden examples: every one is written out in tests/data/formats, to be read and compared


GOLDEN = [
    (Format.STANDARD, PRIVATE, "standard"),
    (Format.ALERTMANAGER, PRIVATE, "alertmanager_webhook"),
    (Format.ALERTMANAGER, API, "alertmanager_api"),
    (Format.PAGERDUTY, PRIVATE, "pagerduty"),
    (Format.SLACK, PRIVATE, "slack"),
    (Format.TEAMS, PRIVATE, "teams"),
    (Format.CLOUDEVENTS, PRIVATE, "cloudevents"),
]


@pytest.mark.parametrize(("format_", "private", "name"), GOLDEN, ids=[each[2] for each in GOLDEN])
@pytest.mark.parametrize("what", ["firing", "resolved"])
def test_it_is_as_the_example_has_it(
    format_: Format, private: Private, name: str, what: str
) -> None:
    example = json.loads((DATA / f"{name}.{what}.json").read_text())
    assert document(format_, BODIES[what], private) == example


@pytest.mark.parametrize("format_", Format)
@pytest.mark.parametrize("what", BODIES)
def test_the_same_delivery_is_the_same_bytes(format_: Format, what: str) -> None:
    assert made(format_, BODIES[what]) == made(format_, BODIES[what])


@pytest.mark.parametrize("format_", Format)
@pytest.mark.parametrize("what", BODIES)
def test_it_is_short_and_holds_the_link_where_there_is_one(format_: Format, what: str) -> None:
    body = made(format_, BODIES[what]).body
    assert len(body) < 16_384 or what == "nasty"
    assert (b"https://slicewatch.example/alerts/al_1" in body) is (what in ("firing", "resolved"))


# Each format's own rules


@pytest.mark.parametrize("body", [*BODIES.values(), DISABLED])
def test_slack_s_own_models_take_it(body: str) -> None:
    posted = document(Format.SLACK, body)
    blocks = Block.parse_all(posted["blocks"])
    assert isinstance(blocks[0], HeaderBlock)
    for block in blocks:
        assert block is not None
        block.validate_json()
    assert len(posted["text"]) <= 3000


def test_slack_shows_what_a_tenant_sent_as_text() -> None:
    posted = document(Format.SLACK, NASTY)
    texts = [
        text
        for block in posted["blocks"]
        for text in [block.get("text", {}), *block.get("fields", [])]
    ]
    marked_up = [text["text"] for text in texts if text.get("type") == "mrkdwn"]
    assert "&lt;!channel&gt;" in marked_up[0]
    assert all("<" not in text for text in [posted["text"], *marked_up])


@pytest.mark.parametrize("body", [*BODIES.values(), DISABLED])
def test_teams_own_models_take_it(body: str) -> None:
    posted = document(Format.TEAMS, body)
    (attachment,) = posted["attachments"]
    assert posted["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = AdaptiveCard.model_validate(attachment["content"])
    assert card.version == "1.4"
    assert card.body is not None and len(card.body) >= 2
    assert len(made(Format.TEAMS, body).body) < 28_000  # what Teams takes


def test_teams_shows_what_a_tenant_sent_as_text() -> None:
    assert chat._plain("[x](http://a) *b* <c>") == r"\[x\]\(http://a\) \*b\* \<c\>"
    assert "](http" not in made(Format.TEAMS, NASTY).body.decode().replace("\\\\", "\\")


@pytest.mark.parametrize("body", BODIES.values())
def test_pagerduty_s_schema_takes_it(body: str) -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(document(Format.PAGERDUTY, body))


@pytest.mark.parametrize(
    ("where", "value"),
    [("event_action", "shout"), ("dedup_key", "x" * 256), ("routing_key", None), ("payload", {})],
)
def test_pagerduty_s_schema_refuses_what_it_should(where: str, value: object) -> None:
    event = {**document(Format.PAGERDUTY, FIRING), where: value}
    assert not jsonschema_rs.validator_for(SCHEMA).is_valid(event)


def test_an_incident_of_pagerduty_ends_under_the_key_it_began_with() -> None:
    began, ended = document(Format.PAGERDUTY, FIRING), document(Format.PAGERDUTY, RESOLVED)
    assert (began["event_action"], ended["event_action"]) == ("trigger", "resolve")
    assert began["dedup_key"] == ended["dedup_key"] == "al_1"
    assert began["routing_key"] == "R0KEY"


@pytest.mark.parametrize("body", [*BODIES.values(), DISABLED])
def test_cloudevents_own_library_takes_it(body: str) -> None:
    message = made(Format.CLOUDEVENTS, body)
    event = from_structured_event(
        HTTPMessage(headers={"content-type": message.content_type}, body=message.body)
    )
    told = json.loads(body)
    assert event.get_id() == "msg_1"
    assert event.get_type() == f"slicewatch.{told['type']}"
    assert event.get_data() == told["data"]
    assert event.get_time() is not None


def test_an_alertmanager_s_api_is_told_by_its_path() -> None:
    assert alertmanager.is_api("http://am:9093/api/v2/alerts")
    assert alertmanager.is_api("http://am:9093/prefix/api/v2/alerts/?x=1")
    assert not alertmanager.is_api("http://consumer/hook?next=/api/v2/alerts")
    assert isinstance(document(Format.ALERTMANAGER, FIRING, API), list)
    assert document(Format.ALERTMANAGER, FIRING)["version"] == "4"


def test_a_severity_that_changed_leaves_no_alert_behind_at_the_alertmanager() -> None:
    revised = body_for(a_transition("alert.revised", revision=2))
    posted = document(Format.ALERTMANAGER, revised, API)
    by_severity = {each["labels"]["severity"]: each["endsAt"] for each in posted}
    now = "2026-11-18T11:06:40Z"
    assert by_severity.pop("critical") > now
    assert by_severity == {"info": now, "warning": now}


if __name__ == "__main__":  # writes the examples anew; look at what changed
    for format_, private, name in GOLDEN:
        for what in ("firing", "resolved"):
            example = document(format_, BODIES[what], private)
            text = json.dumps(example, indent=2, ensure_ascii=False)
            (DATA / f"{name}.{what}.json").write_text(text + "\n")
