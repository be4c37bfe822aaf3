"""Series: the state of every model, its worst slices and its open alerts, as `/metrics` has it.

Made by the engine thread every few seconds, a table at a time: what it costs is a few array
operations a model and a label string a slice that is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from detectors.summary import LABELS, ROWS
from service import words
from service.alerts.alert import Alert
from service.alerts.ledger import Ledger
from service.engine.fold import Fold
from service.ingest.events import Floats
from service.metrics import ALERT, ALERT_INFO, MODEL, MODEL_INFO, SLICE, TENANT, Table, label_set
from service.monitor.findings import slice_text
from service.monitor.history import HOUR
from service.monitor.label_delay import BOUNDS
from service.monitor.model import Model
from service.monitor.monitor import Monitor
from service.monitor.standing import Standing, standing

Indices = npt.NDArray[np.intp]

SECOND: Final = 1_000_000  # microseconds
MIN_LABELS_DUE: Final = 20.0  # fewer due, and nothing is said of how complete they are
OTHER: Final = "other"  # the slice that stands for those past the bound
_FIGURES: Final = {  # of a slice, by what `Standing` calls them
    "rows": "rows",
    "labels": "labels",
    "loss": "loss",
    "loss_lower": "loss_lower",
    "loss_upper": "loss_upper",
    "reference_loss": "reference_loss",
    "disparity": "disparity",
    "disparity_lower": "disparity_lower",
    "disparity_upper": "disparity_upper",
}


def series(fold: Fold, window_seconds: int, max_slices: int) -> Iterator[Table]:
    """Every table of `/metrics`; slices by their rows of the last `window_seconds` of each model,
    worst first, at most `max_slices` of a model, and as many alerts."""
    for tenant, known in fold.tenants.items():
        late = {"slicewatch_labels_late_total": [float(known.accounts.late)]}
        yield Table([label_set(TENANT, (tenant,))], late)
        for name, model in known.models.items():
            yield from _model(tenant, name, model, window_seconds * SECOND)
            if not model.is_learning and model.monitor is not None:
                yield _delays(tenant, name, model.monitor)
                yield from _slices(
                    tenant, name, model, known.ledgers[name], window_seconds * SECOND, max_slices
                )
            yield from _alerts(known.ledgers[name], max_slices)


def _model(tenant: str, name: str, model: Model, window: int) -> Iterator[Table]:
    loss = model.config.loss
    if not model.is_learning and model.monitor is not None:
        loss = model.monitor.schema.loss
    yield Table(
        [label_set(MODEL_INFO, (tenant, name, loss or ""))], {"slicewatch_model_info": [1.0]}
    )
    figures = {
        "newest_row_timestamp_seconds": _since_1970(model.last_row_at),
        "watching": 0.0,
    }
    if not model.is_learning and model.monitor is not None:
        figures |= _monitored(model.monitor, window)
    columns = {f"slicewatch_{name}": [value] for name, value in figures.items()}
    yield Table([label_set(MODEL, (tenant, name))], columns)


def _monitored(monitor: Monitor, window: int) -> dict[str, float]:
    coverage, completeness = _coverage(monitor, monitor.row_clock.now - window)
    return {
        "predictions_total": float(monitor.n_predictions),
        "labels_total": float(monitor.n_labels),
        "labels_unscored_total": float(monitor.n_unscored),
        "predictions_forgotten_total": float(monitor.join.n_forgotten),
        "rows_other_total": float(monitor.slices.n_rows_other),
        "labels_waiting": float(monitor.join.n_waiting_labels),
        "watching": float(monitor.watch is not None),
        "slices": float(len(monitor.slices)),
        "prediction_watermark_timestamp_seconds": _since_1970(monitor.row_clock.now),
        "label_watermark_timestamp_seconds": _since_1970(monitor.clock.now),
        "label_coverage_ratio": coverage,
        "label_completeness_ratio": completeness,
    }


def _coverage(monitor: Monitor, since: int) -> tuple[float, float]:
    """The window's share of labelled predictions, now and against what it should be by now.

    A label is due once it is as old as labels come: rows count by the share of labels that had
    come at their age. What is left of a difference to the reference is not delay.
    """
    hours, sums = monitor.history.totals()
    now = max(monitor.row_clock.now, monitor.clock.now)
    age_seconds = (now - (hours * HOUR + HOUR // 2)) / SECOND
    ripe = sums[:, ROWS] * monitor.delays.share_within(np.maximum(age_seconds, 0.0))
    recent = hours * HOUR > since - HOUR
    normal = hours * HOUR < monitor.reference_until
    n_labels = float(sums[recent, LABELS].sum())
    coverage = _ratio(n_labels, float(sums[recent, ROWS].sum()))
    usual = _ratio(float(sums[normal, LABELS].sum()), float(ripe[normal].sum()))
    due = usual * float(ripe[recent].sum())
    return coverage, _ratio(n_labels, due) if due >= MIN_LABELS_DUE else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _delays(tenant: str, name: str, monitor: Monitor) -> Table:
    """A histogram: a row for each upper bound, one without for count and sum."""
    delays = monitor.delays
    reached = np.cumsum(delays.counts).astype(float).tolist()
    bounds = [*(f"{float(bound)}" for bound in BOUNDS), "+Inf"]
    family, none = "slicewatch_label_delay_seconds", [math.nan] * len(bounds)
    return Table(
        [
            *(label_set((*MODEL, "le"), (tenant, name, bound)) for bound in bounds),
            label_set(MODEL, (tenant, name)),
        ],
        {
            f"{family}_bucket": [*reached, math.nan],
            f"{family}_count": [*none, reached[-1]],
            f"{family}_sum": [*none, float(delays.total_seconds)],
        },
    )


def _slices(
    tenant: str, name: str, model: Model, ledger: Ledger, window: int, limit: int
) -> Iterator[Table]:
    monitor = model.monitor
    assert monitor is not None  # noqa: S101 - asked by the caller
    now = standing(monitor, since=monitor.row_clock.now - window)
    evidence, place = _held_evidence(monitor, ledger, now.evidence)
    publishable = np.flatnonzero(now.rows >= max(model.config.publish_min_rows, 1))
    ordered = publishable[np.lexsort((-evidence[publishable], place[publishable]))]
    shown, rest = ordered[:limit], ordered[limit:]
    names = [slice_text(monitor.slices.names[index]) for index in shown.tolist()]
    columns = {
        "slicewatch_slice_evidence_ratio": evidence[shown].tolist(),
        **{f"slicewatch_slice_{n}": getattr(now, of)[shown].tolist() for n, of in _FIGURES.items()},
    }
    if rest.size:
        names.append(OTHER)
        other = _summed(now, rest)
        columns = {n: [*column, other.get(n, math.nan)] for n, column in columns.items()}
    yield Table([label_set(SLICE, (tenant, name, text)) for text in names], columns)
    if monitor.inputs.signals:
        yield _input_shifts(tenant, name, monitor, shown, names)


def _held_evidence(monitor: Monitor, ledger: Ledger, meters: Floats) -> tuple[Floats, Indices]:
    """What the meters read, or of slices with an open alert alarmed with; and which go first.

    A meter starts anew when it has alarmed. Heads of incidents are 0, what they
    explain 1, others 2.
    """
    evidence, place = meters.copy(), np.full(meters.size, 2)
    for alert in ledger.open.values():
        index = monitor.slices.find(alert.slice)
        if index is None:
            continue
        told = alert.evidence
        held = told.own_reference if told.rest is None else min(told.own_reference, told.rest)
        evidence[index] = max(evidence[index], held)
        place[index] = min(place[index], int(alert.explained_by is not None))
    return evidence, place


def _summed(now: Standing, rest: Indices) -> dict[str, float]:
    """The slices past the bound as one; their loss by labels."""
    labels = now.labels[rest]
    n_labels = float(labels.sum())
    loss = float(np.nansum(now.loss[rest] * labels))
    return {
        "slicewatch_slice_rows": float(now.rows[rest].sum()),
        "slicewatch_slice_labels": n_labels,
        "slicewatch_slice_loss": _ratio(loss, n_labels),
    }


def _input_shifts(
    tenant: str, name: str, monitor: Monitor, shown: Indices, names: Sequence[str]
) -> Table:
    shifts = monitor.inputs.shifts(monitor.slices.membership(), shown)
    rows = zip(names[: shown.size], shifts, strict=True)
    return Table(
        [
            label_set(
                (*SLICE, "feature"), (tenant, name, text, "" if not moved else moved["feature"])
            )
            for text, moved in rows
        ],
        {
            "slicewatch_slice_input_shift_ratio": [
                math.nan if moved is None else abs(moved["to"] - moved["from"]) for moved in shifts
            ]
        },
    )


def _alerts(ledger: Ledger, limit: int) -> Iterator[Table]:
    """Open alerts, heads of incidents first, and of those the one that rose most."""
    by_id = {alert.id: alert for alert in ledger.open.values()}
    worst = sorted(by_id.values(), key=lambda a: (a.explained_by is not None, -_rise(a), a.id))
    shown = worst[:limit]
    if not shown:
        return
    yield Table(
        [label_set(ALERT_INFO, (*_about(a), *_told(a, by_id))) for a in shown],
        {"slicewatch_alert_info": [1.0] * len(shown)},
    )
    figures = [_alert_figures(alert) for alert in shown]
    yield Table(
        [label_set(ALERT, _about(alert)) for alert in shown],
        {f"slicewatch_alert_{name}": [f[name] for f in figures] for name in figures[0]},
    )


def _about(alert: Alert) -> tuple[str, str, str, str]:
    return alert.tenant, alert.model, alert.kind.value, slice_text(alert.slice)


def _told(alert: Alert, by_id: Mapping[str, Alert]) -> tuple[str, ...]:
    head = by_id.get(alert.explained_by or "")
    cause = alert.likely_causes[0] if alert.likely_causes else {}
    effect = msgspec.to_builtins(alert.effect)
    return (
        alert.id,
        alert.severity.value,
        alert.effect.metric,
        alert.effect.because or "",
        "" if head is None else slice_text(head.slice),
        str(cause.get("feature") or cause.get("kind", "")),
        words.change(effect),
        words.rest_change(effect),
        words.widening(effect),
    )


def _alert_figures(alert: Alert) -> dict[str, float]:
    effect = alert.effect
    lower, upper = effect.interval or (math.nan, math.nan)
    return {
        "onset_timestamp_seconds": _since_1970(alert.onset),
        "detected_timestamp_seconds": _since_1970(alert.detected_at),
        "loss_before": effect.before,
        "loss_after": effect.after,
        "rest_loss_before": _number(effect.rest_before),
        "rest_loss_after": _number(effect.rest_after),
        "gap_widened": _number(effect.gap_widened_by),
        "gap_widened_lower": lower,
        "gap_widened_upper": upper,
        "rise_ratio": _rise(alert),
        "rows": float(effect.rows),
        "labels": float(effect.labels),
        "explained_slices": float(len(alert.explains)),
    }


def _rise(alert: Alert) -> float:
    """How many times what it was the slice's loss is, over the same of the rest; 0 if unknown."""
    effect = alert.effect
    own = _ratio(effect.after, effect.before)
    rest = _ratio(_number(effect.rest_after), _number(effect.rest_before))
    rise = own / rest if rest > 0 else own
    return rise if math.isfinite(rise) else 0.0


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _since_1970(instant: int) -> float:
    """Seconds; NaN for the 0 that stands for never."""
    return instant / SECOND if instant else math.nan
