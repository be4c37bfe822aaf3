"""Board: what all dashboards share: variables, links, annotations, and how panels are laid out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana.panels import DATASOURCE, GREY, RED, Properties
from grafana.selectors import MODEL, TENANT

SLICEWATCH_URL: Final = "http://localhost:8080"  # where people reach it; a variable of each board
RUNBOOK_URL: Final = "http://localhost:3000/public/slicewatch/RUNBOOK.md"
OTHERS: Final = {"oncall": "On call", "model": "Model", "slice": "Slice", "pipeline": "Pipeline"}

# What is chosen, and where its values are found; each narrows those behind it.
VARIABLES: Final = {
    "tenant": "label_values(slicewatch_model_info, tenant)",
    "model": f"label_values(slicewatch_model_info{{{TENANT}}}, model)",
    "metric": f"label_values(slicewatch_model_info{{{MODEL}}}, metric)",
    "slice": f"label_values(slicewatch_slice_rows{{{MODEL}}}, slice)",
}


def board(
    name: str,
    title: str,
    words: str,
    sections: Mapping[str, Sequence[Any]],
    annotate: bool = False,
    first: str | None = None,
) -> dashboards.Dashboard:
    """A dashboard of rows of panels, by their headings; panels without a heading come first.

    `annotate`: with a mark where an incident opened. `first`: the slice that is chosen at first.
    """
    made = (
        dashboards.Dashboard(f"Slicewatch / {title}")
        .uid(f"slicewatch-{name}")
        .description(words)
        .tags(["slicewatch"])
        .timezone("utc")
        .time("now-6h", "now")
        .refresh("15s")
        .readonly()
        .with_variable(_datasource())
    )
    for variable, query in VARIABLES.items():
        chosen = first if variable == "slice" else None
        made = made.with_variable(_chosen(variable, query, chosen))
    for variable, url in (("slicewatch_url", SLICEWATCH_URL), ("runbook_url", RUNBOOK_URL)):
        made = made.with_variable(_stated(variable, url))
    made = made.link(_link("Open in Slicewatch", "${slicewatch_url}/"))
    made = made.link(_link("Runbook", "${runbook_url}"))
    for other, other_title in OTHERS.items():
        if other != name:
            made = made.link(_link(other_title, f"/d/slicewatch-{other}"))
    if annotate:
        made = made.annotation(_opened())
    ids = itertools.count(1)
    for heading, panels in sections.items():
        if heading:
            made = made.with_row(dashboards.Row(heading).id(next(ids)))
        for panel in panels:
            made = made.with_panel(panel.id(next(ids)))
    return made


def _datasource() -> dashboards.DatasourceVariable:
    return dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _chosen(name: str, query: str, first: str | None) -> dashboards.QueryVariable:
    current = VariableOption(selected=True, text=[first or "All"], value=[first or "$__all"])
    return (
        dashboards.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(current)
    )


def _stated(name: str, value: str) -> dashboards.TextBoxVariable:
    return (
        dashboards.TextBoxVariable(name)
        .hide(VariableHide.HIDE_VARIABLE)
        .default_value(value)
        .current(VariableOption(selected=True, text=value, value=value))
    )


def _link(title: str, url: str) -> dashboards.DashboardLink:
    is_board = url.startswith("/d/")
    return (
        dashboards.DashboardLink(title)
        .type(DashboardLinkType.LINK)
        .icon("dashboard" if is_board else "external link")
        .url(url)
        .include_vars(is_board)
        .keep_time(is_board)
        .target_blank(not is_board)
    )


def _opened() -> dashboards.AnnotationQuery:
    """A mark where an incident opened."""
    heads = f'slicewatch_alert_info{{{MODEL},head=""}}'
    return (
        dashboards.AnnotationQuery()
        .name("Incidents open")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(RED)
        .expr(f"{heads} unless on (alert) ({heads} offset 1m)")
    )


def dashed() -> dict[str, object]:
    """A thin broken line."""
    return {"custom.lineStyle": {"fill": "dash", "dash": [6, 6]}, "custom.lineWidth": 1}


def fixed(color: str) -> Properties:
    """A line of this colour."""
    return {"color": {"mode": "fixed", "fixedColor": color}}


def shades(color: str) -> dict[str, object]:
    """Lines in shades of this colour."""
    return {"color": {"mode": "shades", "fixedColor": color}}


def band() -> dict[str, Properties]:
    """An interval: thin ends, by the legends that say so."""
    return {
        "^(upper|lower) end.*": {
            "custom.lineWidth": 1,
            "custom.lineStyle": {"fill": "dot", "dash": [2, 4]},
            "color": {"mode": "fixed", "fixedColor": GREY},
        }
    }
