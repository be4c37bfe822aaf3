"""Slice: one slice beside the rest of its model."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import table, timeseries

from grafana.board import band, board, dashed, fixed
from grafana.panels import (
    GREY,
    RED,
    lines,
    rows,
)
from grafana.selectors import (
    EVIDENCE,
    LOSS_WORDS,
    SHARES,
    of_alerts,
    of_slice,
    whole,
)

TOLD: Final = {
    "slice": "slice",
    "change": "its loss",
    "rest": "the rest's",
    "widened": "gap widened by",
    "Value #A": "since",
    "Value #B": "found",
    "Value #C": "rows since",
    "Value #D": "labels since",
    "cause": "likely cause",
    "head": "explained by",
    "alert": "alert",
}


def slice_() -> dashboards.Dashboard:
    """One slice beside the rest."""
    return board(
        "slice",
        "Slice",
        "One slice beside the rest of its model: loss, gap, evidence, inputs and its alerts.",
        {"": [_alerts(), *_against_the_rest(), *_grounds()]},
        annotate=True,
        first="everyone",
    )


def _alerts() -> table.Panel:
    here = 'slice=~"$slice"'
    return rows(
        "Its alerts",
        "Open alerts of the slices chosen. Follow the alert to its evidence.",
        [
            *(
                f"1000 * ({of_alerts(f'slicewatch_alert_{at}_seconds', here)})"
                for at in ("onset_timestamp", "detected_timestamp")
            ),
            of_alerts("slicewatch_alert_rows", here),
            of_alerts("slicewatch_alert_labels", here),
        ],
        TOLD,
        unit="short",
        sort_by="since",
        height=6,
        overrides={
            "since": {"unit": "dateTimeAsIso"},
            "found": {"unit": "dateTimeAsIso"},
            "alert": {"links": [EVIDENCE]},
        },
    )


def _against_the_rest() -> list[timeseries.Panel]:
    return [
        lines(
            "Loss, with its interval",
            f"Over the window of /metrics, beside everyone's. {LOSS_WORDS}",
            {
                "{{slice}}": of_slice("loss"),
                "upper end, {{slice}}": of_slice("loss_upper"),
                "lower end, {{slice}}": of_slice("loss_lower"),
                "in the reference, {{slice}}": of_slice("reference_loss"),
                "everyone": whole("loss"),
            },
            "short",
            overrides=band() | {"^in the reference.*": dashed(), "^everyone$": fixed(GREY)},
        ),
        lines(
            "Gap to the rest, with its interval",
            f"Loss of the slice minus that of the rest. {LOSS_WORDS}",
            {
                "{{slice}}": of_slice("disparity"),
                "upper end, {{slice}}": of_slice("disparity_upper"),
                "lower end, {{slice}}": of_slice("disparity_lower"),
            },
            "short",
            overrides=band(),
        ),
    ]


def _grounds() -> list[timeseries.Panel]:
    return [
        lines(
            "Evidence",
            SHARES,
            {"{{slice}}": f"clamp_max({of_slice('evidence_ratio')}, 10)"},
            "none",
            span=8,
            steps=((None, "transparent"), (1, RED)),
        ),
        lines(
            "Rows and labels in the window",
            "What the figures above rest on.",
            {
                "rows, {{slice}}": of_slice("rows"),
                "labels, {{slice}}": of_slice("labels"),
            },
            "short",
            span=8,
        ),
        lines(
            "The input that moved most",
            "Share by which it moved since the reference.",
            {"{{slice}}: {{feature}}": of_slice("input_shift_ratio")},
            "percentunit",
            span=8,
        ),
    ]
