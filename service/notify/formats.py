"""Formats: a stored body in the form that its endpoint asked for, the same bytes at each attempt.

| format | made by | for |
|---|---|---|
| `standard` | nothing: the stored body is it | receivers of Standard Webhooks |
| `cloudevents` | `_cloudevent` | CloudEvents 1.0, structured mode |
| `pagerduty` | `_pagerduty` | Events API v2 |
| `alertmanager` | `service.notify.alertmanager` | consumers of its webhooks, or an Alertmanager |
| `slack`, `teams` | `service.notify.chat` | people |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from service.notify import alertmanager, chat
from service.notify.endpoints import Private
from service.notify.telling import Document, tell
from service.notify.wants import Format

_JSON: Final = "application/json"
_SUMMARY: Final = 1024  # characters of PagerDuty's summary


@dataclass(frozen=True, slots=True)
class Message:
    """What goes over the wire."""

    body: bytes
    content_type: str = _JSON


def render(format_: Format, body: str, id_: str, endpoint_id: str, private: Private) -> Message:
    """The message for a stored body; `id_` is the delivery's."""
    if format_ is Format.STANDARD:
        return Message(body.encode())
    document = msgspec.json.decode(body)
    match format_:
        case Format.CLOUDEVENTS:
            content_type = "application/cloudevents+json; charset=utf-8"
            return Message(_encoded(_cloudevent(document, id_, endpoint_id)), content_type)
        case Format.PAGERDUTY:
            return Message(_encoded(_pagerduty(document, id_, private.routing_key or "")))
        case Format.ALERTMANAGER if alertmanager.is_api(private.url):
            return Message(_encoded(alertmanager.postable(document)))
        case Format.ALERTMANAGER:
            return Message(_encoded(alertmanager.webhook(document, endpoint_id)))
        case Format.SLACK:
            return Message(_encoded(chat.slack(document)))
        case Format.TEAMS:
            return Message(_encoded(chat.teams(document)))


def _cloudevent(document: Document, id_: str, endpoint_id: str) -> dict[str, Any]:
    """`id` is the delivery's, so that a retry is the same event; `subject` is the alert."""
    return {
        "specversion": "1.0",
        "id": id_,
        "source": "/slicewatch",
        "type": f"slicewatch.{document['type']}",
        "time": document["timestamp"],
        "subject": document["data"].get("id", endpoint_id),
        "datacontenttype": _JSON,
        "data": document["data"],
    }


def _pagerduty(document: Document, id_: str, routing_key: str) -> dict[str, Any]:
    """One incident an alert, from its firing to its end: `dedup_key` is the alert's id."""
    data, told = document["data"], tell(document)
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "resolve" if told.is_over else "trigger",
        "dedup_key": data.get("id", id_),
        "client": "Slicewatch",
        "payload": {
            "summary": chat.cut(f"{told.title}: {told.text}", _SUMMARY),
            "source": data.get("model", "slicewatch"),
            "severity": told.severity,
            "timestamp": document["timestamp"],
            "component": data.get("model", "slicewatch"),
            "class": data.get("kind", document["type"]),
            "custom_details": dict(told.facts),
        },
    }
    if told.url is not None:
        event["client_url"] = told.url
        event["links"] = [{"href": told.url, "text": "Evidence"}]
    return event


def _encoded(document: Any) -> bytes:
    return msgspec.json.encode(document)
