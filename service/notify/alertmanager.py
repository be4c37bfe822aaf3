"""Alertmanager: our news as its webhooks have them (v4), and as its own API v2 takes alerts.

Which of the two is told by the URL: one that ends in `/api/v2/alerts` is an Alertmanager, any
other is something that an Alertmanager would have called.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from service.notify.telling import OVER, Document, tell
from service.notify.webhook import TEST_TYPE
from service.words import slice_text

API_PATH: Final = "/api/v2/alerts"
NOT_YET: Final = "0001-01-01T00:00:00Z"  # what v4 has for the end of what still fires
OPEN_FOR: Final = timedelta(days=30)  # the API forgets what has no end within minutes
TEST_FOR: Final = timedelta(minutes=5)
SEVERITIES: Final = ("info", "warning", "critical")

_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


def is_api(url: str) -> bool:
    """Whether a URL is that of an Alertmanager's API."""
    return url.partition("?")[0].rstrip("/").endswith(API_PATH)


def webhook(document: Document, receiver: str) -> dict[str, Any]:
    """The body of a webhook, version 4, with one alert: the head of its incident."""
    alert = _alert(document)
    is_over = document["type"] in OVER
    status = "resolved" if is_over else "firing"
    if not is_over:
        alert["endsAt"] = NOT_YET
    labels, annotations = alert["labels"], alert["annotations"]
    group = {"alertname": labels["alertname"]}
    incident = document["data"].get("explained_by") or document["data"].get("id", receiver)
    return {
        "receiver": receiver,
        "status": status,
        "alerts": [{"status": status, **alert, "fingerprint": _fingerprint(labels)}],
        "groupLabels": group,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": document["data"].get("url", "").partition("/alerts/")[0],
        "version": "4",
        "groupKey": f'{{}}:{{alertname="{group["alertname"]}", incident="{incident}"}}',
        "truncatedAlerts": 0,
    }


def postable(document: Document) -> list[dict[str, Any]]:
    """What `POST /api/v2/alerts` takes.

    An alert is there what its labels are, severity among them: where that may have changed, the
    alert at each other severity is ended too, lest it stay beside this one.
    """
    alert = _alert(document)
    if document["type"] in (TEST_TYPE, "alert.firing"):
        return [alert]
    others = [each for each in SEVERITIES if each != alert["labels"]["severity"]]
    return [alert, *(_ended(alert, severity, document["timestamp"]) for severity in others)]


def _alert(document: Document) -> dict[str, Any]:
    """One alert; its end is when it ended, or when it is to be forgotten if nobody ends it."""
    data, told = document["data"], tell(document)
    is_test = document["type"] == TEST_TYPE
    at = datetime.fromisoformat(document["timestamp"])
    ends = at + (TEST_FOR if is_test else OPEN_FOR)
    annotations = {"summary": told.title, "description": told.text}
    if not is_test:
        annotations["alert"] = data["id"]
    return {
        "labels": {"alertname": "SlicewatchTest", "severity": "info"} if is_test else _labels(data),
        "annotations": annotations | {_name(name): value for name, value in told.facts},
        "startsAt": document["timestamp"] if is_test else data["onset"],
        "endsAt": data["resolved_at"] if told.is_over else _rfc3339(ends),
        "generatorURL": told.url or "",
    }


def _name(words: str) -> str:
    """A name as annotations may have it: `how_much`."""
    return _LABEL.sub("_", words.lower())


def _labels(data: Document) -> dict[str, str]:
    name = "Slicewatch" + "".join(part.capitalize() for part in data["kind"].split("_"))
    return {
        **{f"slice_{_LABEL.sub('_', each)}": value for each, value in data["slice"].items()},
        "alertname": name,
        "kind": data["kind"],
        "model": data["model"],
        "severity": data["severity"],
        "slice": slice_text(data),
    }


def _ended(alert: dict[str, Any], severity: str, at: str) -> dict[str, Any]:
    return {**alert, "labels": {**alert["labels"], "severity": severity}, "endsAt": at}


def _fingerprint(labels: dict[str, str]) -> str:
    encoded = msgspec.json.encode(labels, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=8).hexdigest()


def _rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
