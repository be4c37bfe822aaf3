"""House rules of the boards, as a function of their JSON that names what breaks one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import Any, Final

BOARDS: Final = {"oncall", "model", "slice", "pipeline"}
CHOSEN: Final = ("tenant", "model", "metric", "slice")
TYPES: Final = frozenset(
    {"stat", "timeseries", "table", "bargauge", "state-timeline", "heatmap", "row"}
)
_METRIC: Final = re.compile(r"\bslicewatch_\w+|\b\w+:slicewatch_\w+:\w+")
_RANGE: Final = re.compile(r"\[([^\]]+)\]")

Json = dict[str, Any]


def panels(board: Json) -> Iterator[Json]:
    """Every panel but the headings of rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def expressions(board: Json) -> Iterator[tuple[str, str]]:
    """Every query of a board, and where it stands."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}, query {target['refId']}", target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]
    for annotation in board["annotations"].get("list", []):
        yield f"annotation {annotation['name']!r}", annotation["expr"]


def metrics(expression: str) -> set[str]:
    """The names of our metrics in a query."""
    return set(_METRIC.findall(expression))


def offences(board: Json, exported: Set[str]) -> Iterator[str]:
    """What breaks a rule of the house; `exported` are the names of samples and recording rules."""
    if board.get("uid", "").removeprefix("slicewatch-") not in BOARDS:
        yield f"uid {board.get('uid')!r}: is not one that links know"
    yield from _variables(board)
    yield from _links(board)
    for panel in panels(board):
        for what in _panel(panel):
            yield f"panel {panel.get('title')!r}: {what}"
    for where, expression in expressions(board):
        for unknown in sorted(metrics(expression) - exported):
            yield f"{where}: {unknown} is not exported"
        for range_ in _RANGE.findall(expression):
            if range_ != "$__rate_interval":
                yield f"{where}: a fixed range [{range_}], not $__rate_interval"


def _variables(board: Json) -> Iterator[str]:
    by_name = {variable["name"]: variable for variable in board["templating"]["list"]}
    if by_name.get("datasource", {}).get("type") != "datasource":
        yield "no variable chooses the data source"
    for name in CHOSEN:
        variable = by_name.get(name, {})
        if not (variable.get("multi") and variable.get("includeAll")):
            yield f"variable {name}: must take several, and All"


def _links(board: Json) -> Iterator[str]:
    urls = {link["url"] for link in board["links"]}
    if not any("runbook_url" in url for url in urls):
        yield "no link to the runbook"
    if not any("slicewatch_url" in url for url in urls):
        yield "no link to the evidence pages"


def _panel(panel: Json) -> Iterator[str]:
    if panel["type"] not in TYPES:
        yield f"of type {panel['type']}, which is not drawn or checked here"
    if not panel.get("title"):
        yield "no title"
    if len(panel.get("description", "")) < 8:
        yield "no description"
    if not panel.get("fieldConfig", {}).get("defaults", {}).get("unit"):
        yield "no unit"
    if not panel.get("targets"):
        yield "no query"
    for source in (panel, *panel.get("targets", [])):
        if source.get("datasource", {}).get("uid") != "${datasource}":
            yield "a data source that is not the variable's"
