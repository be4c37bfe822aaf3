"""Metrics: what Prometheus is told of the pipeline, and of every model, slice and open alert.

Counters are counted where things happen. What follows from the state comes as tables that the
engine publishes every few seconds, so a scrape reads what is there and never waits for ingest.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.limits import Cap

_LABEL_LENGTH: Final = 160
_COMMIT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_WAIT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)

# What a row is refused for, as its reason begins: the contract's fields. Other reasons are "other".
REASONS: Final = frozenset(
    "attributes cluster confidence errors features id inclusion_probability kind loss model output "
    "row stratum time total truth version".split()
)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that is published in tables: one name, its samples and what they mean."""

    name: str  # with _total where it counts, as PromQL has it
    words: str
    labels: tuple[str, ...]
    type: Literal["gauge", "counter", "histogram"] = "gauge"

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of its samples, in the order of the page."""
        if self.type == "histogram":
            return tuple(f"{self.name}{part}" for part in ("_bucket", "_count", "_sum"))
        return (self.name,)

    def head(self, is_openmetrics: bool) -> str:
        """The two lines that precede its samples; OpenMetrics names counters without _total."""
        name = self.name.removesuffix("_total") if is_openmetrics else self.name
        return f"# HELP {name} {self.words}\n# TYPE {name} {self.type}\n"


@dataclass(frozen=True, slots=True)
class Table:
    """Series that share their labels: a row each, a column a sample's name."""

    labels: Sequence[str]  # as `label_set` gives them; of two that are the same the first counts
    columns: Mapping[str, Sequence[float]]  # NaN: there is no such series


def _families(prefix: str, labels: tuple[str, ...], words: Mapping[str, str]) -> Iterator[Family]:
    for name, text in words.items():
        is_counter = name.endswith("_total")
        yield Family(f"{prefix}{name}", text, labels, "counter" if is_counter else "gauge")


TENANT: Final = ("tenant",)
MODEL: Final = ("tenant", "model")
SLICE: Final = ("tenant", "model", "slice")
ALERT: Final = ("tenant", "model", "kind", "slice")

MODEL_INFO: Final = (*MODEL, "metric")
ALERT_INFO: Final = (
    *(*ALERT, "alert", "severity", "metric", "because", "head", "cause"),
    *("change", "rest", "widened"),
)

_MODEL_WORDS: Final = {
    "predictions_total": "Predictions counted.",
    "labels_total": "Labels that met their prediction and could be scored.",
    "labels_unscored_total": "Labels that met their prediction and do not fit it.",
    "predictions_forgotten_total": "Predictions forgotten before their time, by the cap on them.",
    "rows_other_total": "Rows of combinations past the cap: in no slice but the whole model.",
    "labels_waiting": "Labels whose prediction has not come.",
    "watching": "1 once the reference is complete and the slices are watched.",
    "slices": "Slices known.",
    "newest_row_timestamp_seconds": "Newest time of a row.",
    "prediction_watermark_timestamp_seconds": "How far predictions have come in their own time.",
    "label_watermark_timestamp_seconds": "How far labels have come; detection follows it.",
    "label_coverage_ratio": "Share of the window's predictions that is labelled by now.",
    "label_completeness_ratio": (
        "Labels in the window over those that should be there by now, going by the reference's "
        "share of labels and the delays seen. 1 is as in the reference."
    ),
}
_SLICE_WORDS: Final = {
    "rows": "Predictions of the slice in the window.",
    "labels": "Labelled predictions of the slice in the window.",
    "loss": "Mean loss of the slice in the window.",
    "loss_lower": "Lower end of the 95 % interval of the loss.",
    "loss_upper": "Upper end of the 95 % interval of the loss.",
    "reference_loss": "Mean loss of the slice in the reference.",
    "disparity": "Loss of the slice minus that of the rest, in the window.",
    "disparity_lower": "Lower end of the 95 % interval of the disparity.",
    "disparity_upper": "Upper end of the 95 % interval of the disparity.",
    "evidence_ratio": (
        "Evidence against the slice, over what an alarm takes: it alarms at 1, and stays at what "
        "it alarmed with while the alert is open."
    ),
}
_ALERT_WORDS: Final = {
    "onset_timestamp_seconds": "Since when.",
    "detected_timestamp_seconds": "When it was found out, in the stream's own time.",
    "loss_before": "Loss of the slice in the reference.",
    "loss_after": "Loss of the slice since onset.",
    "rest_loss_before": "Loss of the rest in the reference.",
    "rest_loss_after": "Loss of the rest since onset.",
    "gap_widened": "By how much the gap to the rest widened.",
    "gap_widened_lower": "Lower end of the 95 % interval of the widening.",
    "gap_widened_upper": "Upper end of the 95 % interval of the widening.",
    "rise_ratio": "How many times its loss of before the slice has, over the same of the rest.",
    "rows": "Predictions of the slice since onset, as the alert was last told.",
    "labels": "Of them labelled.",
    "explained_slices": "Alerts of other slices that this one explains.",
}

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "slicewatch_labels_late_total",
        "Labels past their horizon: counted, not joined.",
        TENANT,
        "counter",
    ),
    Family("slicewatch_model_info", "A model, and the loss that is its metric: 1.", MODEL_INFO),
    *_families("slicewatch_", MODEL, _MODEL_WORDS),
    Family(
        "slicewatch_label_delay_seconds",
        "How long after their predictions labels came.",
        (*MODEL, "le"),
        "histogram",
    ),
    *_families("slicewatch_slice_", SLICE, _SLICE_WORDS),
    Family(
        "slicewatch_slice_input_shift_ratio",
        "How far the share of the feature that moved most did since the reference.",
        (*SLICE, "feature"),
    ),
    Family(
        "slicewatch_alert_info",
        "An open alert: 1. `head` is the slice that explains it, nothing where it heads an "
        "incident; `cause` is its likeliest cause; `change` of the slice's loss, of the rest's "
        "and by how much the gap widened, in words.",
        ALERT_INFO,
    ),
    *_families("slicewatch_alert_", ALERT, _ALERT_WORDS),
)


class Metrics:
    """One registry, and the series that the parts of the service count in.

    `Metrics().rows_accepted.labels(tenant).inc(500)`; `body, content_type = metrics.page(accept)`.
    """

    def __init__(self, caps: Sequence[Cap] = ()) -> None:
        self.registry = CollectorRegistry()
        self._published = _Published([])
        ProcessCollector(namespace="slicewatch", registry=self.registry)

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"slicewatch_{name}", words, labels, registry=self.registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"slicewatch_{name}", words, labels, registry=self.registry)

        def histogram(name: str, words: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"slicewatch_{name}", words, buckets=buckets, registry=self.registry)

        gauge("build_info", "The version that runs: 1.", "version").labels(
            version("slicewatch")
        ).set(1)
        # received = accepted + duplicate + rejected; a batch repeated under its Idempotency-Key is
        # answered from memory and counted as a batch alone.
        # accepted = applied + late + quarantined.
        self.rows_received = counter("rows_received", "Rows in acknowledged batches.", "tenant")
        self.rows_accepted = counter("rows_accepted", "Rows that count.", "tenant")
        self.rows_duplicate = counter("rows_duplicate", "Rows seen before.", "tenant")
        self.rows_rejected = counter(
            "rows_rejected", "Rows refused one by one, by the field at fault.", "tenant", "reason"
        )
        self.batches_repeated = counter(
            "batches_repeated", "Batches answered again from their receipt.", "tenant"
        )
        self.entries_quarantined = counter(
            "entries_quarantined", "Journaled entries that could not be folded.", "tenant"
        )
        self.rows_applied = counter("rows_applied", "Accepted rows in the state.", "tenant")
        self.rows_late = counter("rows_late", "Accepted labels past their horizon.", "tenant")
        self.rows_quarantined = counter(
            "rows_quarantined", "Accepted rows of entries in quarantine.", "tenant"
        )
        self.tenant_stopped = gauge(
            "tenant_stopped", "Entry whose damage stopped the tenant.", "tenant"
        )
        self.requests = counter("requests", "Requests by answer.", "route", "method", "status")
        self.batch_seconds = histogram(
            "batch_seconds", "From a batch's receipt until it was stored and folded.", _WAIT_BUCKETS
        )
        self.journal_entries = counter("journal_entries", "Entries committed.", "codec")
        self.journal_bytes = counter("journal_bytes", "Bytes of entries committed.")
        self.commit_seconds = histogram(
            "journal_commit_seconds", "How long a group commit takes.", _COMMIT_BUCKETS
        )
        self.journal_offset = gauge("journal_offset", "Offset of the newest entry folded.")
        self.journal_lag = gauge(
            "journal_lag_seconds", "Age, when it was folded, of the newest entry folded."
        )
        self.tick = gauge("tick_timestamp_seconds", "When a tick was last journaled.")
        self.fold_seconds = histogram(
            "fold_seconds", "How long it takes to fold one entry in.", _COMMIT_BUCKETS
        )
        self.publish_seconds = histogram(
            "publish_seconds",
            "How long the engine takes to publish what follows from the state.",
            _COMMIT_BUCKETS,
        )
        self.snapshots = counter("snapshots", "Snapshots of the state stored.")
        self.snapshot_bytes = gauge("snapshot_bytes", "Size of the newest snapshot.")
        self.transitions = counter("transitions", "Changes of alerts stored.", "tenant", "type")
        self.slices_discovered = counter(
            "slices_discovered", "Slices that a nightly search had adopted.", "tenant"
        )
        self.deliveries = counter("deliveries", "Delivery attempts by result.", "result")
        for result in ("delivered", "retried", "failed"):
            self.deliveries.labels(result)  # present from the start: the first failure is a rise
        self.deliveries_waiting = gauge("deliveries_waiting", "Deliveries not yet made.")
        self.deliveries_oldest = gauge(
            "deliveries_oldest_waiting_seconds", "Age of the oldest delivery not yet made."
        )
        self.endpoints_disabled = counter(
            "endpoints_disabled", "Endpoints disabled by what they answered."
        )
        self.queue_batches = gauge("queue_batches", "Batches waiting for the engine.")
        self.queue_bytes = gauge("queue_bytes", "Bytes waiting for the engine.")
        self.disk_free_bytes = gauge("disk_free_bytes", "Room left where the state lives.")
        self.disk_floor_bytes = gauge("disk_floor_bytes", "With less room nothing is accepted.")
        self.ready = gauge("ready", "1 while the engine accepts work.")
        self.job_runs = counter("job_runs", "Slots of jobs by result.", "job", "result")
        self.job_done_at = gauge("job_done_at_seconds", "When a job was last done.", "job")
        self.overflow = counter("overflow", "What went over a cap, by the cap's name.", "cap")
        limit = gauge("cap_limit", "What a cap allows.", "cap", "unit")
        for cap in caps:
            limit.labels(cap.name, cap.unit).set(cap.limit)
            self.overflow.labels(cap.name)  # present from the start, at 0

    def rejected(self, tenant: str, reasons: Iterable[str]) -> None:
        """Count rows refused for these reasons, by the field that each begins with."""
        for reason in reasons:
            field = reason.partition(":")[0]
            known = field if field in REASONS else "other"
            self.rows_rejected.labels(tenant, known).inc()

    def publish(self, tables: Iterable[Table]) -> None:
        """Show these series from now on; those of before vanish. Any thread may."""
        self._published = _Published(list(tables))  # one assignment: a scrape sees old or new

    def page(self, accept: str) -> tuple[bytes, str]:
        """The body for an Accept header, OpenMetrics or Prometheus text, and its content type."""
        encode, content_type = choose_encoder(accept)
        counted = encode(self.registry)
        if content_type.startswith("application/openmetrics-text"):
            published = self._published.page(is_openmetrics=True)
            return counted.removesuffix(b"# EOF\n") + published + b"# EOF\n", content_type
        return counted + self._published.page(is_openmetrics=False), content_type


class _Published:
    """Tables as a part of the page, made when it is first asked for."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._pages: dict[bool, bytes] = {}

    def page(self, is_openmetrics: bool) -> bytes:
        page = self._pages.get(is_openmetrics)
        if page is None:
            page = "".join(_lines(self._tables, is_openmetrics)).encode()
            self._pages[is_openmetrics] = page
        return page


def _lines(tables: Sequence[Table], is_openmetrics: bool) -> Iterator[str]:
    distinct = [_first_of_each(table) for table in tables]
    for family in FAMILIES:
        yield family.head(is_openmetrics)
        for table in distinct:
            for sample in family.samples:
                column = table.columns.get(sample)
                if column is not None:
                    yield "".join(
                        [
                            f"{sample}{{{labels}}} {value!r}\n"
                            for labels, value in zip(table.labels, column, strict=True)
                            if value == value  # NaN is not
                        ]
                    )


def _first_of_each(table: Table) -> Table:
    """Without rows whose labels came before: texts may look alike once they are cut."""
    first = {labels: row for row, labels in reversed(list(enumerate(table.labels)))}
    if len(first) == len(table.labels):
        return table
    rows = sorted(first.values())
    return Table(
        [table.labels[row] for row in rows],
        {name: [column[row] for row in rows] for name, column in table.columns.items()},
    )


def label_set(names: Sequence[str], values: Sequence[str]) -> str:
    """`tenant="acme",model="speech"`, with what would break the page replaced."""
    pairs = zip(names, values, strict=True)
    return ",".join([f'{name}="{_escaped(label_value(value))}"' for name, value in pairs])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')  # a line feed is not left in any


def label_value(text: str) -> str:
    """Text as a label's value: no control characters, no lone surrogates, at most 160 characters.

    One lone surrogate would break the page for every series on it.
    """
    if text.isascii() and text.isprintable() and len(text) <= _LABEL_LENGTH:
        return text
    cut = text[:_LABEL_LENGTH]
    return "".join("\ufffd" if unicodedata.category(c) in _UNSAFE else c for c in cut)


_UNSAFE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
