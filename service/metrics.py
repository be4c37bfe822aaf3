"""Metrics: what Prometheus is told of the pipeline, and of the worst slices.

Counters are counted where things happen. Slice series come from a view that the engine publishes
every few seconds, so a scrape reads an immutable tuple and never waits for ingest.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.limits import Cap

_LABEL_LENGTH: Final = 160
_COMMIT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


@dataclass(frozen=True, slots=True)
class SliceView:
    """One slice of one model as `/metrics` shows it."""

    tenant: str
    model: str
    slice: str  # `floor=7, accent=scottish`, as service.alerts.alert.slice_text has it
    rows: float  # predictions seen
    labels: float  # of them labelled
    loss: float  # mean; NaN where there is none
    disparity: float  # loss minus the rest's; NaN where there is none
    evidence: float  # 1 is where it alarms; what "worst" means


class Metrics:
    """One registry, and the series that the parts of the service count in.

    `Metrics().rows_accepted.labels(tenant).inc(500)`; `body, content_type = metrics.page(accept)`.
    """

    def __init__(self, caps: Sequence[Cap] = (), max_slice_series: int = 200) -> None:
        self.registry = CollectorRegistry()
        self._slices = SliceCollector(max_slice_series)
        self.registry.register(self._slices)

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"slicewatch_{name}", words, labels, registry=self.registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"slicewatch_{name}", words, labels, registry=self.registry)

        # received = accepted + duplicate + rejected; a batch repeated under its Idempotency-Key is
        # answered from memory and counted as a batch alone.
        self.rows_received = counter("rows_received", "Rows in acknowledged batches.", "tenant")
        self.rows_accepted = counter("rows_accepted", "Rows that count.", "tenant")
        self.rows_duplicate = counter("rows_duplicate", "Rows seen before.", "tenant")
        self.rows_rejected = counter("rows_rejected", "Rows refused one by one.", "tenant")
        self.batches_repeated = counter(
            "batches_repeated", "Batches answered again from their receipt.", "tenant"
        )
        self.entries_quarantined = counter(
            "entries_quarantined", "Journaled entries that could not be folded.", "tenant"
        )
        self.requests = counter("requests", "Requests by answer.", "route", "method", "status")
        self.journal_entries = counter("journal_entries", "Entries committed.", "codec")
        self.journal_bytes = counter("journal_bytes", "Bytes of entries committed.")
        self.commit_seconds = Histogram(
            "slicewatch_journal_commit_seconds",
            "How long a group commit takes.",
            buckets=_COMMIT_BUCKETS,
            registry=self.registry,
        )
        self.snapshots = counter("snapshots", "Snapshots of the state stored.")
        self.snapshot_bytes = gauge("snapshot_bytes", "Size of the newest snapshot.")
        self.transitions = counter("transitions", "Changes of alerts stored.", "tenant", "type")
        self.deliveries = counter("deliveries", "Delivery attempts by result.", "result")
        self.deliveries_waiting = gauge("deliveries_waiting", "Deliveries not yet made.")
        self.deliveries_oldest = gauge(
            "deliveries_oldest_waiting_seconds", "Age of the oldest delivery not yet made."
        )
        self.endpoints_disabled = counter(
            "endpoints_disabled", "Endpoints disabled by what they answered."
        )
        self.queue_batches = gauge("queue_batches", "Batches waiting for the engine.")
        self.queue_bytes = gauge("queue_bytes", "Bytes waiting for the engine.")
        self.ready = gauge("ready", "1 while the engine accepts work.")
        self.journal_offset = gauge("journal_offset", "Offset of the newest entry folded.")
        self.job_runs = counter("job_runs", "Slots of jobs by result.", "job", "result")
        self.job_done_at = gauge("job_done_at_seconds", "When a job was last done.", "job")
        self.overflow = counter("overflow", "What went over a cap, by the cap's name.", "cap")
        limit = gauge("cap_limit", "What a cap allows.", "cap", "unit")
        for cap in caps:
            limit.labels(cap.name, cap.unit).set(cap.limit)
            self.overflow.labels(cap.name)  # present from the start, at 0

    def publish(self, views: Iterable[SliceView]) -> None:
        """Show these slices from now on; those of before vanish. Any thread may."""
        self._slices.show(views)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The body for an Accept header, OpenMetrics or Prometheus text, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class SliceCollector(Collector):
    """Series of the worst slices, made at scrape from the view that was published last."""

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._views: tuple[SliceView, ...] = ()

    def show(self, views: Iterable[SliceView]) -> None:
        """Keep the worst of each model, and sum the rest."""
        ordered = sorted(views, key=_worst_first)
        self._views = tuple(
            view
            for _, group in groupby(ordered, key=attrgetter("tenant", "model"))
            for view in _bounded(list(group), self._max_series)
        )  # one assignment: a scrape in another thread sees the old tuple or the new

    def collect(self) -> Iterator[Metric]:
        """A family a figure."""
        labelled: dict[tuple[str, ...], SliceView] = {}
        for view in self._views:  # of two that look alike once cut, the worse is shown
            labels = tuple(map(label_value, (view.tenant, view.model, view.slice)))
            labelled.setdefault(labels, view)
        for name, words, figure in _FIGURES:
            family = GaugeMetricFamily(
                f"slicewatch_slice_{name}", words, labels=["tenant", "model", "slice"]
            )
            for labels, view in labelled.items():
                value = float(getattr(view, figure))
                if not math.isnan(value):
                    family.add_metric(labels, value)
            yield family


_FIGURES: Final = (
    ("rows", "Predictions of the slice.", "rows"),
    ("labels", "Labelled predictions of the slice.", "labels"),
    ("loss", "Mean loss of the slice.", "loss"),
    ("disparity", "Loss of the slice minus that of the rest.", "disparity"),
    ("evidence_ratio", "Evidence against the slice; it alarms at 1.", "evidence"),
)


def _worst_first(view: SliceView) -> tuple[str, str, float, str]:
    evidence = -math.inf if math.isnan(view.evidence) else view.evidence
    return view.tenant, view.model, -evidence, view.slice


def _bounded(views: list[SliceView], limit: int) -> list[SliceView]:
    shown, rest = views[:limit], views[limit:]
    if not rest:
        return shown
    labels = sum(view.labels for view in rest)
    loss = sum(view.loss * view.labels for view in rest if view.labels)
    other = SliceView(
        tenant=rest[0].tenant,
        model=rest[0].model,
        slice="other",
        rows=sum(view.rows for view in rest),
        labels=labels,
        loss=loss / labels if labels else math.nan,
        disparity=math.nan,
        evidence=math.nan,
    )
    return [*shown, other]


def label_value(text: str) -> str:
    """Text as a label's value: no control characters, no lone surrogates, at most 160 characters.

    One lone surrogate would break the page for every series on it.
    """
    if text.isascii() and text.isprintable() and len(text) <= _LABEL_LENGTH:
        return text
    cut = text[:_LABEL_LENGTH]
    return "".join("\ufffd" if unicodedata.category(c) in _UNSAFE else c for c in cut)


_UNSAFE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
