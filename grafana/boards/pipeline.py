"""Pipeline: whether rows come in, are stored, folded and told of."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import timeseries

from grafana.board import board
from grafana.panels import AMBER, GREEN, RED, ROWS_A_SECOND, lines, number, rows
from grafana.selectors import TENANT


def pipeline() -> dashboards.Dashboard:
    """Is it finding, and is it telling?"""
    return board(
        "pipeline",
        "Pipeline",
        "Whether rows come in, are stored, folded and told of: is Slicewatch finding, and telling?",
        {
            "": _now(),
            "Rows in": _rows_in(),
            "Engine": _engine(),
            "Out": _out(),
            "Limits": _limits(),
        },
    )


def _now() -> list[object]:
    return [
        number(
            "Up",
            "Instances that answer Prometheus.",
            'sum(up{job=~".*slicewatch.*"})',
            "none",
            ((None, RED), (1, GREEN)),
        ),
        number(
            "Ready",
            "1 while all of them take rows in.",
            "min(slicewatch_ready)",
            "none",
            ((None, RED), (1, GREEN)),
        ),
        number(
            "Since the last tick",
            "A tick is due every minute once there are rows.",
            "max(time() - (slicewatch_tick_timestamp_seconds > 0))",
            "s",
            ((None, GREEN), (120, AMBER), (300, RED)),
        ),
        number(
            "Batches, 99 of 100 within",
            "From receipt until stored and folded.",
            "histogram_quantile(0.99, sum by (le) "
            "(rate(slicewatch_batch_seconds_bucket[$__rate_interval])))",
            "s",
            ((None, GREEN), (0.25, AMBER), (1, RED)),
            decimals=2,
        ),
        number(
            "In quarantine",
            "Batches that are stored and could not be folded.",
            "sum(slicewatch_entries_quarantined_total) or vector(0)",
            "none",
            ((None, GREEN), (1, RED)),
        ),
        number(
            "Disk left",
            "Nothing is accepted below the floor.",
            "min(slicewatch_disk_free_bytes)",
            "bytes",
            ((None, RED), (512 * 2**20, AMBER), (2 * 2**30, GREEN)),
            decimals=1,
        ),
    ]


def rates(names: Mapping[str, str], by: str = "") -> dict[str, str]:
    """A rate for each counter, by its legend."""
    grouped = f"sum by ({by}) " if by else "sum "
    return {
        legend: f"{grouped}(rate({counter}[$__rate_interval]))" for legend, counter in names.items()
    }


def quantiles(histogram: str) -> dict[str, str]:
    """The median and the 99th percentile of a histogram."""
    return {
        words: f"histogram_quantile({share}, sum by (le) "
        f"(rate({histogram}_bucket[$__rate_interval])))"
        for words, share in (("half", 0.5), ("99 of 100", 0.99))
    }


def _rows_in() -> list[object]:
    return [
        lines(
            "Rows by what became of them",
            "received = accepted + duplicates + rejected, a second.",
            rates(
                {
                    word: f"slicewatch_rows_{name}_total{{{TENANT}}}"
                    for word, name in (
                        *(("received", "received"), ("accepted", "accepted")),
                        *(("duplicates", "duplicate"), ("rejected", "rejected")),
                    )
                }
            ),
            ROWS_A_SECOND,
            span=8,
        ),
        lines(
            "Refused, by the field at fault",
            "Rows refused one by one; GET /v1/rejected has each with its reason.",
            rates(
                {"{{tenant}}: {{reason}}": f"slicewatch_rows_rejected_total{{{TENANT}}}"},
                "tenant, reason",
            ),
            ROWS_A_SECOND,
            span=8,
        ),
        lines(
            "Requests by answer",
            "429 and 503 ask to retry; 4xx else is for the sender to mend.",
            rates({"{{status}} {{route}}": "slicewatch_requests_total"}, "status, route"),
            "reqps",
            span=8,
        ),
    ]


def _engine() -> list[object]:
    stages: tuple[tuple[str, str, str], ...] = (
        ("Batches", "From a batch's receipt until it was stored and folded.", "batch"),
        ("Commits", "A group commit: what the disk takes.", "journal_commit"),
        ("Folds", "One entry folded into the state.", "fold"),
    )
    return [
        *(_stage(*stage) for stage in stages),
        lines(
            "Waiting for the engine",
            "Against what the cap allows; past it senders are told to retry.",
            {
                "batches": "sum(slicewatch_queue_batches)",
                "allowed": 'max(slicewatch_cap_limit{cap="queue_batches"})',
            },
            "short",
            span=8,
        ),
        lines(
            "Behind the journal",
            "Age, when it was folded, of the newest entry folded: long during a replay.",
            {"{{instance}}": "slicewatch_journal_lag_seconds"},
            "s",
            span=8,
        ),
        lines(
            "Journal and snapshots",
            "What was journaled a second, and how large the state is.",
            {
                "journaled a second": "sum(rate(slicewatch_journal_bytes_total[$__rate_interval]))",
                "newest snapshot": "max(slicewatch_snapshot_bytes)",
            },
            "bytes",
            span=8,
        ),
        lines(
            "Publishing for this page",
            "Share of the engine's time spent on what /metrics says of models and slices.",
            {"{{instance}}": "rate(slicewatch_publish_seconds_sum[$__rate_interval])"},
            "percentunit",
            span=8,
        ),
        lines(
            "CPU",
            "Cores in use.",
            {"{{instance}}": "rate(slicewatch_process_cpu_seconds_total[$__rate_interval])"},
            "short",
            span=8,
        ),
        lines(
            "Memory",
            "Resident.",
            {"{{instance}}": "slicewatch_process_resident_memory_bytes"},
            "bytes",
            span=8,
        ),
    ]


def _stage(title: str, words: str, histogram: str) -> timeseries.Panel:
    return lines(title, words, quantiles(f"slicewatch_{histogram}_seconds"), "s", span=8)


def _out() -> list[object]:
    return [
        lines(
            "Changes of alerts",
            "Stored, by type: each is told of in a delivery to every endpoint that wants it.",
            {
                "{{type}}": "sum by (type) (increase(slicewatch_transitions_total"
                f"{{{TENANT}}}[$__rate_interval]))"
            },
            "short",
            span=8,
        ),
        lines(
            "Delivery attempts by result",
            "Retried is tried again by the schedule; failed was given up.",
            rates({"{{result}}": "slicewatch_deliveries_total"}, "result"),
            "reqps",
            span=8,
        ),
        lines(
            "Webhooks waiting",
            "How many, and how long the oldest of them has.",
            {
                "waiting": "max(slicewatch_deliveries_waiting)",
                "age of the oldest, seconds": "max(slicewatch_deliveries_oldest_waiting_seconds)",
            },
            "short",
            span=8,
        ),
    ]


def _limits() -> list[object]:
    return [
        lines(
            "Over a cap",
            "What went over a bound, a second, by the bound's name.",
            rates({"{{cap}}": "slicewatch_overflow_total"}, "cap"),
            "ops",
        ),
        rows(
            "Caps",
            "Every bound, what it allows, and how often more has come.",
            [
                "max by (cap, unit) (slicewatch_cap_limit)",
                "sum by (cap) (slicewatch_overflow_total)",
            ],
            {"cap": "cap", "Value #A": "allows", "unit": "of", "Value #B": "exceeded"},
            unit="short",
            sort_by="exceeded",
            span=12,
            overrides={"exceeded": {"decimals": 0}},
        ),
    ]
