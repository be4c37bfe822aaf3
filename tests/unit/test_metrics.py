"""The /metrics page, read back by Prometheus' own parsers."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from service.limits import caps
from service.metrics import Metrics, SliceView
from service.settings import Settings


def view(
    slice_: str,
    evidence: float = 0.0,
    model: str = "speech",
    tenant: str = "acme",
    rows: float = 10,
    labels: float = 4,
    loss: float = 0.25,
) -> SliceView:
    return SliceView(tenant, model, slice_, rows, labels, loss, 0.125, evidence)


ORDER = ("tenant", "model", "slice", "cap", "unit")


def values(labels: dict[str, str]) -> tuple[str, ...]:
    return tuple(labels[name] for name in ORDER if name in labels)


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric by the values of their labels."""
    page = metrics.page("")[0].decode()
    return {
        values(sample.labels): sample.value
        for family in prometheus(page)
        for sample in family.samples
        if sample.name == f"slicewatch_{name}"
    }


def test_the_page_is_prometheus_text_or_openmetrics_as_asked() -> None:
    metrics = Metrics()
    metrics.rows_accepted.labels("acme").inc(3)
    metrics.publish([view("floor=7")])
    text, text_type = metrics.page("text/plain")
    open_text, open_type = metrics.page("application/openmetrics-text; version=1.0.0")
    assert text_type.startswith("text/plain") and "openmetrics" in open_type
    assert open_text.endswith(b"# EOF\n")
    for families in (
        prometheus(text.decode()),
        openmetrics(open_text.decode()),  # type: ignore[no-untyped-call]
    ):
        shown = {
            (s.name, *values(s.labels)): s.value for family in families for s in family.samples
        }
        assert shown["slicewatch_rows_accepted_total", "acme"] == 3
        assert shown["slicewatch_slice_loss", "acme", "speech", "floor=7"] == 0.25


def test_every_name_has_the_prefix() -> None:
    names = {family.name for family in prometheus(Metrics(caps(Settings())).page("")[0].decode())}
    assert names and all(name.startswith("slicewatch_") for name in names)


def test_slices_that_vanish_from_the_view_vanish_from_the_page() -> None:
    metrics = Metrics()
    metrics.publish([view("floor=7"), view("floor=8")])
    metrics.publish([view("floor=8")])
    assert samples(metrics, "slice_rows") == {("acme", "speech", "floor=8"): 10}


def test_the_worst_of_each_model_are_shown_and_the_rest_is_summed() -> None:
    metrics = Metrics(max_slice_series=2)
    metrics.publish(
        [
            view("a", 0.1, rows=1, labels=1, loss=0.1),
            view("b", 0.9),
            view("c", 0.5),
            view("d", math.nan, rows=2, labels=3, loss=0.5),
            view("a", 0.1, model="text"),
        ]
    )
    rows = samples(metrics, "slice_rows")
    assert rows == {
        ("acme", "speech", "b"): 10,
        ("acme", "speech", "c"): 10,
        ("acme", "speech", "other"): 3,
        ("acme", "text", "a"): 10,
    }
    # Label-weighted: (1 × 0.1 + 3 × 0.5) / 4.
    loss = samples(metrics, "slice_loss")["acme", "speech", "other"]
    assert loss == pytest.approx(0.4)
    assert ("acme", "speech", "other") not in samples(metrics, "slice_evidence_ratio")


def test_a_figure_that_is_not_known_has_no_series() -> None:
    metrics = Metrics()
    metrics.publish([view("floor=7", labels=0, loss=math.nan)])
    assert samples(metrics, "slice_loss") == {}
    assert samples(metrics, "slice_rows") == {("acme", "speech", "floor=7"): 10}


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
    metrics.publish([view(text), view("floor=7")])
    rows = samples(metrics, "slice_rows")
    assert rows["acme", "speech", "floor=7"] == 10
    assert len(rows) == 2
    assert all(len(value) <= 160 for labels in rows for value in labels)


def test_text_without_harm_is_shown_as_it_is() -> None:
    metrics = Metrics()
    metrics.publish([view("ward=Ärzte 東京 🚑")])
    assert list(samples(metrics, "slice_rows")) == [("acme", "speech", "ward=Ärzte 東京 🚑")]


def test_slices_that_look_alike_once_cut_make_one_series() -> None:
    metrics = Metrics()
    metrics.publish([view("x" * 200 + "1", 0.1, rows=1), view("x" * 200 + "2", 0.7, rows=2)])
    assert list(samples(metrics, "slice_rows").values()) == [2]  # the worse


def test_caps_and_their_overflows_are_on_the_page() -> None:
    metrics = Metrics(caps(Settings(queue_batches=7)))
    assert samples(metrics, "cap_limit")["queue_batches", "batches waiting"] == 7
    assert samples(metrics, "overflow_total")["queue_batches",] == 0
