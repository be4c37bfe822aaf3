"""The table of metrics in grafana/METRICS.md, held against what the service exports.

Run as a program, it writes the table anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from service.metrics import FAMILIES, Metrics

PAGE = Path(__file__).parents[2] / "grafana" / "METRICS.md"
INTRODUCTION = """\
# What Prometheus is told

`GET /metrics`, in Prometheus' text format or OpenMetrics as the Accept header asks. Figures of
slices cover the last `SLICEWATCH_METRICS_WINDOW_SECONDS` of the model's own time (three days), of
the worst `SLICEWATCH_MAX_SLICE_SERIES` slices a model (200): those with an open alert first, then
by evidence. The others are summed as `slice="other"`; the whole model is `slice="everyone"`. A
slice with fewer than `publish_min_rows` predictions in the window has no series. What vanishes from
the state vanishes here, and counters of models go on over a restart, as the state does.

`make format` writes this table from the code.

| metric | type | labels | |
|---|---|---|---|
"""


def exported() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Type, labels and words of every metric, by the name that PromQL has for it."""
    found: dict[str, tuple[str, tuple[str, ...], str]] = {}
    found |= {f.name: (f.type, f.labels, f.words) for f in FAMILIES}
    metrics = Metrics()
    labels = _labels(metrics)
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        stated = labels.get(family.name, ())
        found[name] = (family.type, stated, family.documentation)
    return found


def _labels(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """Label names of what is registered, which a family without samples does not tell."""
    by_name: dict[str, Any] = metrics.registry._names_to_collectors
    return {
        name: collector._labelnames
        for name, collector in by_name.items()
        if isinstance(collector, MetricWrapperBase)
    }


def table() -> str:
    """The table as it should read."""
    return "".join(
        f"| `{name}` | {type_} | {' '.join(labels)} | {words} |\n"
        for name, (type_, labels, words) in sorted(exported().items())
    )


def test_every_metric_is_documented_as_it_is() -> None:
    assert PAGE.read_text() == INTRODUCTION + table(), "`make format` writes it anew"


def test_every_metric_says_what_it_means() -> None:
    for name, (_, _, words) in exported().items():
        assert words.endswith((".", "1.")), name


if __name__ == "__main__":
    PAGE.write_text(INTRODUCTION + table())
