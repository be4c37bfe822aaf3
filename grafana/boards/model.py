"""Model: how the slices of one model stand, and whether enough is known to say so."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap, table, timeseries

from grafana.board import band, board, dashed
from grafana.panels import (
    RED,
    ROWS_A_SECOND,
    buckets,
    lines,
    rows,
)
from grafana.selectors import (
    LOSS_WORDS,
    MEASURED,
    MODEL,
    SHARES,
    TENANT,
    THE_SLICE,
    most,
    whole,
)

NAME: Final = "{{slice}}"
FIGURES: Final = (
    *("evidence", "loss", "from", "to", "in the reference"),
    *("disparity", "disparity from", "disparity to"),
)
SHOWN: Final = {
    "slice": "slice",
    **{
        f"Value #{ref}": name
        for ref, name in zip("ABCDEFGHIJ", (*FIGURES, "rows", "labels"), strict=True)
    },
    "model": "model",
}


def model() -> dashboards.Dashboard:
    """One model: how its slices stand, and whether enough is known to say so."""
    return board(
        "model",
        "Model",
        "One model: its slices worst first, its labels, and how far it has come in its own time.",
        {"Slices": _slices(), "Labels": _labels(), "Rows": _rows()},
        annotate=True,
    )


def _slices() -> list[timeseries.Panel | table.Panel]:
    return [
        lines(
            "Loss of everyone, and in the reference",
            f"The whole model, with its 95 % interval. {LOSS_WORDS}",
            {
                "{{model}}": whole("loss"),
                "upper end, {{model}}": whole("loss_upper"),
                "lower end, {{model}}": whole("loss_lower"),
                "in the reference, {{model}}": whole("reference_loss"),
            },
            "short",
            overrides=band() | {"^in the reference.*": dashed()},
        ),
        lines(
            "Disparity, the widest at the end",
            f"Loss of a slice minus that of the rest. {LOSS_WORDS}",
            {NAME: most(6, "disparity")},
            "short",
        ),
        _standing(),
        lines(
            "Evidence, the most at the end",
            f"{SHARES} A meter starts anew when it has alarmed; while the alert is open it "
            "is shown at what it alarmed with.",
            {NAME: f"clamp_max({most(6, 'evidence_ratio')}, 10)"},
            "none",
            steps=((None, "transparent"), (1, RED)),
        ),
        lines(
            "Inputs that moved",
            "Share by which the feature that moved most did since the reference, by slice.",
            {"{{slice}}: {{feature}}": most(6, "input_shift_ratio")},
            "percentunit",
        ),
    ]


def _standing() -> table.Panel:
    return rows(
        "Slices, worst first",
        f"How each slice stands over the window of /metrics. {LOSS_WORDS}",
        [
            # without the metric's name, or the queries would have no labels in common
            f"max by (tenant, model, slice) (slicewatch_slice_{figure}{{{MODEL}}} {MEASURED})"
            for figure in (
                *("evidence_ratio", "loss", "loss_lower", "loss_upper", "reference_loss"),
                *("disparity", "disparity_lower", "disparity_upper", "rows", "labels"),
            )
        ],
        SHOWN,
        unit="short",
        sort_by="evidence",
        height=10,
        overrides={"slice": {"links": [THE_SLICE], "custom.width": 240}}
        | {name: {"decimals": 0, "custom.width": 80} for name in ("rows", "labels")}
        | {name: {"decimals": 3, "custom.width": 125} for name in FIGURES},
    )


def _labels() -> list[timeseries.Panel | heatmap.Panel]:
    return [
        lines(
            "Labels: coverage and completeness",
            "Coverage: share of the window's predictions that is labelled. Completeness: "
            "labels there over those that should be by now; 1 is as in the reference.",
            {
                "completeness, {{model}}": (f"slicewatch_label_completeness_ratio{{{MODEL}}}"),
                "coverage, {{model}}": f"slicewatch_label_coverage_ratio{{{MODEL}}}",
            },
            "percentunit",
            span=8,
        ),
        lines(
            "Label delay",
            "How long after their predictions labels come: half of them, and nine in ten.",
            {
                f"{words}, {{{{model}}}}": (
                    f"histogram_quantile({share}, sum by (tenant, model, le) "
                    f"(slicewatch_label_delay_seconds_bucket{{{MODEL}}}))"
                )
                for words, share in (("half", 0.5), ("nine in ten", 0.9))
            },
            "s",
            span=8,
        ),
        buckets(
            "Labels by delay",
            "Labels that came in each stretch of time, by how long they took.",
            "sum by (le) (increase(slicewatch_label_delay_seconds_bucket"
            f"{{{MODEL}}}[$__rate_interval]))",
            "s",
            span=8,
        ),
    ]


def _rows() -> list[timeseries.Panel]:
    return [
        lines(
            "Predictions and labels",
            "Rows that count, a second.",
            {
                "predictions, {{model}}": (
                    f"rate(slicewatch_predictions_total{{{MODEL}}}[$__rate_interval])"
                ),
                "labels, {{model}}": (
                    f"rate(slicewatch_labels_total{{{MODEL}}}[$__rate_interval])"
                ),
            },
            ROWS_A_SECOND,
            span=8,
        ),
        lines(
            "How far behind the model's own time is",
            "Wall time minus the watermark. A replay of the past is far behind, and well.",
            {
                f"{of}s, {{{{model}}}}": (
                    f"time() - slicewatch_{of}_watermark_timestamp_seconds{{{MODEL}}}"
                )
                for of in ("prediction", "label")
            },
            "s",
            span=8,
        ),
        lines(
            "Left out",
            "Labels that wait for their prediction, that do not fit it, that came past the "
            "horizon; rows past the cap on combinations; predictions forgotten by the cap.",
            {
                "labels waiting, {{model}}": f"slicewatch_labels_waiting{{{MODEL}}}",
                "unscored, {{model}}": f"slicewatch_labels_unscored_total{{{MODEL}}}",
                "labels late, {{tenant}}": f"slicewatch_labels_late_total{{{TENANT}}}",
                "rows other, {{model}}": f"slicewatch_rows_other_total{{{MODEL}}}",
                "forgotten, {{model}}": (f"slicewatch_predictions_forgotten_total{{{MODEL}}}"),
            },
            "short",
            span=8,
        ),
    ]
