"""On call: who is hurt, since when, how much more than the others, what changed, what to do."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import bargauge, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards

from grafana.board import board, dashed, fixed, shades
from grafana.panels import (
    AMBER,
    ANY_IS_BAD,
    GREEN,
    GREY,
    RED,
    ROWS_A_SECOND,
    bars,
    lines,
    number,
    rows,
    states,
)
from grafana.selectors import (
    ALERT,
    EVIDENCE,
    LOSS_WORDS,
    MEASURED,
    MODEL,
    SHARES,
    TENANT,
    THE_SLICE,
    in_incidents,
    of_alerts,
)

SHOWN: Final = {
    "slice": "slice",
    "Value #B": "since",
    "change": "its loss",
    "rest": "the rest's",
    "widened": "gap widened by",
    "Value #A": "rise over the rest",
    "cause": "likely cause",
    "Value #C": "rows since",
    "Value #D": "explains",
    "severity": "severity",
    "alert": "alert",
    "model": "model",
    "tenant": "tenant",
}
WIDTHS: Final = {
    "slice": 230,
    "since": 170,
    "its loss": 140,
    "the rest's": 140,
    "gap widened by": 230,
    "rows since": 100,
    "explains": 90,
    "severity": 90,
    "alert": 130,
}
RISE: Final = {
    "unit": "none",
    "decimals": 2,
    "custom.cellOptions": {"type": "color-text"},
    "thresholds": {
        "mode": "absolute",
        "steps": [{"value": None, "color": AMBER}, {"value": 1.5, "color": RED}],
    },
}


def oncall() -> dashboards.Dashboard:
    """Who is hurt, since when, how much more than the others, what changed, what to do."""
    panels = [
        *_now(),
        _incidents(),
        _losses(),
        _evidence(),
        _explained(),
        _inputs(),
        _over_time(),
    ]
    return board(
        "oncall",
        "On call",
        "What is degrading unevenly now, worst first: who, since when, how much more than the "
        "others, what changed.",
        {"": panels},
        annotate=True,
    )


def _now() -> list[stat.Panel]:
    return [
        number(
            "Open incidents",
            "Alerts that head an incident: what people were told of.",
            how_many('head=""'),
            "none",
            ANY_IS_BAD,
        ),
        number(
            "Slices explained",
            "Alerts of slices that an incident explains: nobody was told of them.",
            how_many('head!=""'),
            "none",
        ),
        number(
            "Models watched",
            "Models whose reference is complete. Others are still learning what is normal.",
            f"sum(slicewatch_watching{{{MODEL}}})",
            "none",
        ),
        number(
            "Labels there",
            "Of the labels that should have come by now, in the model where fewest have. "
            "Under half, findings come late.",
            f"min(slicewatch_label_completeness_ratio{{{MODEL}}})",
            "percentunit",
            ((None, RED), (0.5, AMBER), (0.8, GREEN)),
        ),
        number(
            "Rows arriving",
            "Rows received a second, of all models of the tenants chosen.",
            f"sum(rate(slicewatch_rows_received_total{{{TENANT}}}[$__rate_interval]))",
            ROWS_A_SECOND,
            decimals=1,
        ),
        number(
            "Oldest webhook waiting",
            "How long the oldest webhook that was not taken yet has waited.",
            "max(slicewatch_deliveries_oldest_waiting_seconds)",
            "s",
            ((None, GREEN), (60, AMBER), (900, RED)),
        ),
    ]


def _incidents() -> table.Panel:
    heads = 'head=""'
    return rows(
        "Who is hurt, worst first",
        "An incident a row: the slice that heads it, its loss before and since, that of everyone "
        "else, by how much the gap widened (with its interval), and since when. Follow the slice "
        "to its board, the alert to its evidence.",
        [
            of_alerts("slicewatch_alert_rise_ratio", heads),
            f"1000 * ({of_alerts('slicewatch_alert_onset_timestamp_seconds', heads)})",
            of_alerts("slicewatch_alert_rows", heads),
            of_alerts("slicewatch_alert_explained_slices", heads),
        ],
        SHOWN,
        unit="short",
        sort_by="rise over the rest",
        height=6,
        overrides={name: {"custom.width": width} for name, width in WIDTHS.items()}
        | {
            "slice": {"links": [THE_SLICE], "custom.width": WIDTHS["slice"]},
            "since": {"unit": "dateTimeAsIso", "custom.width": WIDTHS["since"]},
            "alert": {"links": [EVIDENCE], "custom.width": WIDTHS["alert"]},
            "rise over the rest": RISE,
        },
    )


def _losses() -> timeseries.Panel:
    return lines(
        "Loss of the slices hurt, and of everyone",
        "Of the slices that head an incident, over the window of /metrics, beside what "
        f"it was in the reference and that of the whole model. {LOSS_WORDS}",
        {
            "{{slice}}": in_incidents("slicewatch_slice_loss"),
            "{{slice}} in the reference": in_incidents("slicewatch_slice_reference_loss"),
            "everyone, {{model}}": (
                f'slicewatch_slice_loss{{{MODEL},slice="everyone"}} {MEASURED}'
            ),
        },
        "short",
        overrides={
            ".*=.*": shades(RED),
            ".*reference$": dashed() | shades(AMBER),
            "^everyone.*": fixed(GREY),
        },
    )


def _evidence() -> bargauge.Panel:
    return bars(
        "Evidence, slice by slice",
        f"{SHARES} The slices of an open alert stay at what they alarmed with; those "
        "that an incident explains are left out.",
        f"topk(8, clamp_max(slicewatch_slice_evidence_ratio{{{MODEL}}} {MEASURED} "
        'unless on (tenant, model, slice) slicewatch_alert_info{head!=""}, 2))',
        "{{slice}}",
        "none",
        ((None, GREEN), (0.1, AMBER), (1, RED)),
        most=2,
    )


def _explained() -> table.Panel:
    return rows(
        "Explained by them",
        "Slices that are worse too, and for which the incident above is the reason.",
        [of_alerts("slicewatch_alert_rise_ratio", 'head!=""')],
        {
            "slice": "slice",
            "change": "its loss",
            "Value": "rise over the rest",
            "head": "explained by",
            "model": "model",
        },
        unit="short",
        sort_by="rise over the rest",
        span=12,
        overrides={"rise over the rest": {"decimals": 2}, "slice": {"custom.width": 220}},
    )


def _inputs() -> table.Panel:
    return rows(
        "Inputs that moved",
        "The feature of each slice whose values moved most since the reference, and by "
        "which share. It needs no label. A description: it carries no promise.",
        [f"topk(20, slicewatch_slice_input_shift_ratio{{{MODEL}}} {MEASURED})"],
        {"slice": "slice", "feature": "feature", "Value": "moved", "model": "model"},
        unit="percentunit",
        sort_by="moved",
        span=12,
        overrides={"moved": {"decimals": 1}, "slice": {"custom.width": 220}},
    )


def _over_time() -> statetimeline.Panel:
    return states(
        "Open alerts over time",
        "Red: heads an incident. Amber: explained by one.",
        f'max by (slice, model) (slicewatch_alert_info{{{MODEL},metric=~"$metric"}} '
        f'+ on ({ALERT}, alert) group_left () (slicewatch_alert_info{{head=""}} '
        f'or 0 * slicewatch_alert_info{{head!=""}}))',
        "{{slice}}",
        span=24,
    )


def how_many(head: str) -> str:
    """How many alerts are open, 0 where there is none."""
    return f'count(slicewatch_alert_info{{{MODEL},metric=~"$metric",{head}}}) or vector(0)'
