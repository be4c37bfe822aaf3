"""The /metrics page, read back by Prometheus' own parsers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from service.limits import caps
from service.metrics import FAMILIES, MODEL, SLICE, Metrics, Table, label_set
from service.settings import Settings

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def slices(rows: Mapping[str, float], column: str = "rows", model: str = "speech") -> Table:
    """A figure of slices of tenant acme."""
    labels = [label_set(SLICE, ("acme", model, name)) for name in rows]
    return Table(labels, {f"slicewatch_slice_{column}": list(rows.values())})


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric by the values of their labels."""
    page = metrics.page("")[0].decode()
    return {
        tuple(sample.labels.values()): sample.value
        for family in prometheus(page)
        for sample in family.samples
        if sample.name == f"slicewatch_{name}"
    }


def test_the_page_is_prometheus_text_or_openmetrics_as_asked() -> None:
    metrics = Metrics()
    metrics.rows_accepted.labels("acme").inc(3)
    metrics.publish(
        [
            slices({"floor=7": 0.25}, "loss"),
            Table([label_set(MODEL, ("acme", "m"))], {"slicewatch_predictions_total": [5.0]}),
        ]
    )
    text, text_type = metrics.page("text/plain")
    open_text, open_type = metrics.page(OPENMETRICS)
    assert text_type.startswith("text/plain") and "openmetrics" in open_type
    assert open_text.endswith(b"# EOF\n") and open_text.count(b"# EOF") == 1
    for families in (
        prometheus(text.decode()),
        openmetrics(open_text.decode()),  # type: ignore[no-untyped-call]
    ):
        shown = {
            (s.name, *s.labels.values()): s.value for family in families for s in family.samples
        }
        assert shown["slicewatch_rows_accepted_total", "acme"] == 3
        assert shown["slicewatch_predictions_total", "acme", "m"] == 5
        assert shown["slicewatch_slice_loss", "acme", "speech", "floor=7"] == 0.25


def test_a_histogram_of_a_table_is_one_to_both_parsers() -> None:
    metrics, name = Metrics(), "slicewatch_label_delay_seconds"
    bounds = [label_set((*MODEL, "le"), ("acme", "m", le)) for le in ("60.0", "+Inf")]
    metrics.publish(
        [
            Table(
                [*bounds, label_set(MODEL, ("acme", "m"))],
                {
                    f"{name}_bucket": [2.0, 3.0, math.nan],
                    f"{name}_count": [math.nan, math.nan, 3.0],
                    f"{name}_sum": [math.nan, math.nan, 200.0],
                },
            )
        ]
    )
    for families in (
        list(prometheus(metrics.page("")[0].decode())),
        list(openmetrics(metrics.page(OPENMETRICS)[0].decode())),  # type: ignore[no-untyped-call]
    ):
        (family,) = (f for f in families if f.name == name)
        assert family.type == "histogram"
        assert [s.value for s in family.samples] == [2, 3, 3, 200]


def test_every_name_has_the_prefix() -> None:
    names = {family.name for family in prometheus(Metrics(caps(Settings())).page("")[0].decode())}
    assert names and all(name.startswith("slicewatch_") for name in names)


def test_series_that_vanish_from_the_tables_vanish_from_the_page() -> None:
    metrics = Metrics()
    metrics.publish([slices({"floor=7": 10, "floor=8": 10})])
    metrics.publish([slices({"floor=8": 10})])
    assert samples(metrics, "slice_rows") == {("acme", "speech", "floor=8"): 10}


def test_a_figure_that_is_not_known_has_no_series() -> None:
    metrics = Metrics()
    metrics.publish([slices({"floor=7": math.nan, "floor=8": 0.5}, "loss")])
    assert samples(metrics, "slice_loss") == {("acme", "speech", "floor=8"): 0.5}


def test_a_value_keeps_every_digit() -> None:
    metrics, value = Metrics(), 1_773_049_321.123456
    metrics.publish([slices({"floor=7": value, "floor=8": 1e-17})])
    assert list(samples(metrics, "slice_rows").values()) == [value, 1e-17]


HOSTILE = [
    'quote="\\',
    "line\nbreak",
    "lone \ud800 surrogate",
    "nul \x00",
    "separator \u2028",
    "<script>",
    "ward=Ärzte 東京 🚑",
    "x" * 5_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_slices_leave_the_page_whole(text: str) -> None:
    metrics = Metrics()
    metrics.publish([slices({text: 10, "floor=7": 10})])
    rows = samples(metrics, "slice_rows")
    assert rows["acme", "speech", "floor=7"] == 10
    assert len(rows) == 2
    assert all(len(value) <= 160 for labels in rows for value in labels)


@pytest.mark.parametrize("text", ["ward=Ärzte 東京 🚑", 'say "hi"', "back\\slash", "\\n"])
def test_text_without_harm_is_shown_as_it_is(text: str) -> None:
    metrics = Metrics()
    metrics.publish([slices({text: 1})])
    assert list(samples(metrics, "slice_rows")) == [("acme", "speech", text)]


def test_slices_that_look_alike_once_cut_make_one_series() -> None:
    metrics = Metrics()
    metrics.publish([slices({"x" * 200 + "1": 2, "floor=7": 3, "x" * 200 + "2": 1})])
    assert list(samples(metrics, "slice_rows").values()) == [2, 3]  # the first, which is the worse


def test_caps_and_their_overflows_are_on_the_page() -> None:
    metrics = Metrics(caps(Settings(queue_batches=7)))
    assert samples(metrics, "cap_limit")["queue_batches", "batches waiting"] == 7
    assert samples(metrics, "overflow_total")["queue_batches",] == 0


def test_refused_rows_are_counted_by_the_field_at_fault() -> None:
    metrics = Metrics()
    metrics.rejected("acme", ["time: before 1970", "time: not a time", "made up: x", ""])
    assert samples(metrics, "rows_rejected_total") == {("time", "acme"): 2, ("other", "acme"): 2}


def test_names_of_published_metrics_follow_their_types() -> None:
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.type == "counter"), family.name
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_ten_thousand_slice_series_render_in_20_ms_of_cpu() -> None:
    metrics, seconds = Metrics(), []
    columns = [f.name for f in FAMILIES if f.labels == SLICE]
    names = {f"floor={n}, accent=scottish": n / 7 for n in range(1_000)}
    table = slices(names)
    figures = {name: list(names.values()) for name in columns}
    for _ in range(7):
        metrics.publish([Table(table.labels, figures)])  # a page is kept until the next
        start = time.thread_time()
        page, _ = metrics.page("")
        seconds.append(time.thread_time() - start)
    assert page.count(b"\nslicewatch_slice_") >= 10_000
    assert min(seconds) < 0.020
