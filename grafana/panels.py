"""Panels: a query, a unit and a description make each of them, so none can be without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

ROWS_A_SECOND: Final = "suffix: rows/s"  # a unit of our own, as Grafana takes them
GREEN: Final = "#73BF69"
AMBER: Final = "#FF9830"
RED: Final = "#F2495C"
GREY: Final = "#8E8E8E"
BLUE: Final = "#5794F2"

Steps: TypeAlias = Sequence[tuple[float | None, str]]
Labelled: TypeAlias = Mapping[str, str]  # a query each, by what its legend says
Properties: TypeAlias = Mapping[str, object]

CALM: Final[Steps] = ((None, GREEN),)
ANY_IS_BAD: Final[Steps] = ((None, GREEN), (1, RED))


def query(expression: str, legend: str, ref_id: str = "A") -> prometheus.Dataquery:
    """A query over the time that is shown."""
    return (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .ref_id(ref_id)
        .expr(expression)
        .legend_format(legend)
        .range()
    )


def instant(expression: str, ref_id: str = "A", legend: str = "") -> prometheus.Dataquery:
    """A query of the newest values, as a table where there is no legend."""
    made = query(expression, legend or "__auto", ref_id).instant()
    return made if legend else made.format(PromQueryFormat.TABLE)


def thresholds(steps: Steps) -> dashboards.ThresholdsConfig:
    """Colours from these values on."""
    return (
        dashboards.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value, color) for value, color in steps])
    )


def color(mode: FieldColorModeId, fixed: str = "") -> dashboards.FieldColor:
    """How a field is coloured."""
    made = dashboards.FieldColor().mode(mode)
    return made.fixed_color(fixed) if fixed else made


def properties(stated: Properties) -> list[DynamicConfigValue]:
    """Overrides of a field's configuration, by their paths."""
    return [DynamicConfigValue(id_val=name, value=value) for name, value in stated.items()]


def number(
    title: str,
    words: str,
    expression: str,
    unit: str,
    steps: Steps = CALM,
    span: int = 4,
    decimals: int = 0,
) -> stat.Panel:
    """One figure, now."""
    return (
        stat.Panel()
        .title(title)
        .description(words)
        .datasource(DATASOURCE)
        .with_target(instant(expression, legend=title))
        .unit(unit)
        .decimals(decimals)
        .thresholds(thresholds(steps))
        .color_scheme(color(FieldColorModeId.THRESHOLDS))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE)
        .reduce_options(parts.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("–")
        .span(span)
        .height(3)
    )


def lines(
    title: str,
    words: str,
    queries: Labelled,
    unit: str,
    span: int = 12,
    height: int = 8,
    overrides: Mapping[str, Properties] | None = None,
    steps: Steps | None = None,
) -> timeseries.Panel:
    """Lines over time; `overrides` by a regular expression of the legend, `steps` as lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(words)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(span)
        .height(height)
        .color_scheme(color(FieldColorModeId.PALETTE_CLASSIC))
        .line_width(2)
        .fill_opacity(0)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            parts.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(
            parts.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    for ref_id, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        panel = panel.with_target(query(expression, legend, ref_id))
    for pattern, stated in (overrides or {}).items():
        panel = panel.override_by_regexp(pattern, properties(stated))
    if steps is not None:
        style = parts.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(thresholds(steps)).thresholds_style(style)
    return panel


def rows(
    title: str,
    words: str,
    queries: Sequence[str],
    columns: Mapping[str, str],
    unit: str,
    sort_by: str,
    height: int = 8,
    span: int = 24,
    overrides: Mapping[str, Properties] | None = None,
) -> table.Panel:
    """A table of instant queries that share their labels.

    `columns` names labels and values (`Value #A`) as they are shown, in that order; others are
    hidden. `overrides` are by shown name.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(words)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(span)
        .height(height)
        .sort_by([parts.TableSortByFieldState().display_name(sort_by).desc(True)])
        .footer(parts.TableFooterOptions().show(False).reducer(["sum"]))
        .cell_height(common.TableCellHeight.SM)
        .no_value("none")
    )
    for ref_id, expression in zip("ABCDEFGHIJ", queries, strict=False):
        panel = panel.with_target(instant(expression, ref_id))
    panel = panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"names": list(columns)}}
        )
    )
    panel = panel.with_transformation(
        DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {},
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": dict(columns),
            },
        )
    )
    for name, stated in (overrides or {}).items():
        panel = panel.override_by_name(name, properties(stated))
    return panel


def bars(
    title: str,
    words: str,
    expression: str,
    legend: str,
    unit: str,
    steps: Steps,
    span: int = 12,
    most: float | None = None,
) -> bargauge.Panel:
    """A bar a series, now."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(words)
        .datasource(DATASOURCE)
        .with_target(instant(expression, legend=legend))
        .unit(unit)
        .min(0)
        .thresholds(thresholds(steps))
        .color_scheme(color(FieldColorModeId.THRESHOLDS))
        .orientation(common.VizOrientation.HORIZONTAL)
        .display_mode(common.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .reduce_options(parts.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(span)
        .height(8)
    )
    return panel if most is None else panel.max(most)


def states(title: str, words: str, expression: str, legend: str, span: int) -> statetimeline.Panel:
    """When each of these series was there."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(words)
        .datasource(DATASOURCE)
        .with_target(query(expression, legend))
        .unit("short")
        .thresholds(thresholds(((None, GREY), (1, AMBER), (2, RED))))
        .color_scheme(color(FieldColorModeId.THRESHOLDS))
        .show_value(common.VisibilityMode.NEVER)
        .legend(
            parts.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(False)
            .calcs([])
        )
        .span(span)
        .height(8)
    )


def buckets(title: str, words: str, expression: str, unit: str, span: int) -> heatmap.Panel:
    """A histogram over time; `expression` keeps the label `le`."""
    return (
        heatmap.Panel()
        .title(title)
        .description(words)
        .datasource(DATASOURCE)
        .with_target(query(expression, "{{le}}").format(PromQueryFormat.HEATMAP))
        .unit(unit)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .span(span)
        .height(8)
    )
