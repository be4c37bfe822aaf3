"""Chat: our news as Slack and Microsoft Teams show them.

Whatever comes from a tenant's data is text there, never a link, a mention or a format.
"""

from __future__ import annotations

import re
from typing import Any, Final

from service.notify.telling import Document, Telling, tell

_SLACK_HEADER: Final = 150  # characters, as are all of these
_SLACK_TEXT: Final = 3000
_SLACK_FIELD: Final = 2000
_SLACK_FIELDS: Final = 10  # of one section
_TEAMS_TEXT: Final = 5000
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>~-])")


def slack(document: Document) -> dict[str, Any]:
    """The body of an incoming webhook: `text` for notifications, `blocks` for the channel."""
    told = tell(document)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": cut(told.title, _SLACK_HEADER)}},
        {"type": "section", "text": _mrkdwn(_escaped(told.text), _SLACK_TEXT)},
    ]
    fields = [_mrkdwn(f"*{name}*\n{_escaped(value)}", _SLACK_FIELD) for name, value in told.facts]
    blocks += [
        {"type": "section", "fields": fields[start : start + _SLACK_FIELDS]}
        for start in range(0, len(fields), _SLACK_FIELDS)
    ]
    if told.url is not None:
        button = {"type": "plain_text", "text": "Look at the evidence"}
        element = {"type": "button", "text": button, "url": told.url, "action_id": "evidence"}
        blocks.append({"type": "actions", "elements": [element]})
    text = cut(f"{_escaped(told.title)}: {_escaped(told.text)}", _SLACK_TEXT)
    return {"text": text, "blocks": blocks}


def teams(document: Document) -> dict[str, Any]:
    """A message with one Adaptive Card, as Teams' workflows and incoming webhooks take it."""
    told = tell(document)
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            _block(told.title, size="Medium", weight="Bolder", color=_color(told)),
            _block(told.text),
            {
                "type": "FactSet",
                "facts": [{"title": name, "value": _plain(value)} for name, value in told.facts],
            },
        ],
    }
    if told.url is not None:
        link = {"type": "Action.OpenUrl", "title": "Look at the evidence", "url": told.url}
        card["actions"] = [link]
    return {
        "type": "message",
        "attachments": [
            {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
        ],
    }


def cut(text: str, length: int) -> str:
    """The text, ended with … where it is too long."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _mrkdwn(text: str, length: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": cut(text, length)}


def _escaped(text: str) -> str:
    """Text that Slack shows as it is: `<` begins its links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _block(text: str, **more: str) -> dict[str, Any]:
    return {"type": "TextBlock", "text": _plain(text), "wrap": True, **more}


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", cut(text, _TEAMS_TEXT))


def _color(told: Telling) -> str:
    if told.is_over:
        return "Good"
    return {"critical": "Attention", "warning": "Warning"}.get(told.severity, "Default")
