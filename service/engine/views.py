"""Views: what is read of the running state, as JSON-ready values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from service.clock import to_rfc3339
from service.engine.fold import Fold
from service.monitor.detectable import detectable, detectable_json
from service.monitor.estimate import Estimated, estimate_json
from service.monitor.findings import Slice
from service.monitor.inputs import Histogram
from service.monitor.losses import RATIO_LOSSES
from service.monitor.model import Model
from service.monitor.monitor import Monitor
from service.monitor.past import Past
from service.monitor.standing import Standing, standing

SORTS: Final = ("disparity", "loss", "rows", "labels", "evidence")


@dataclass(frozen=True, slots=True)
class SliceQuery:
    """Which slices are asked for, and in what order."""

    order: int | None = None
    dimension: str | None = None
    sort: str = "disparity"  # the greatest first
    since: int | None = None
    until: int | None = None
    min_rows: int = 0  # slices with fewer are left out


def model_json(name: str, model: Model) -> dict[str, Any]:
    """A model as `GET /v1/models/{model}` has it."""
    monitor = model.monitor
    return {
        "model": name,
        "state": _state(model),
        "rows": monitor.n_predictions if monitor else 0,
        "labels": monitor.n_labels if monitor else 0,
        "labels_waiting": monitor.join.n_waiting_labels if monitor else 0,
        "labels_unscored": monitor.n_unscored if monitor else 0,
        "loss": monitor.schema.loss if monitor else model.config.loss,
        "normaliser": _normaliser(model),
        "dimensions": list(monitor.slices.dimensions) if monitor else model.config.dimensions,
        "features": monitor.schema.features if monitor else {},
        "slices": len(monitor.slices) if monitor else 0,
        "rows_other": monitor.slices.n_rows_other if monitor else 0,
        "slices_past_budget": monitor.slices.n_past_budget if monitor else 0,
        "versions": dict(model.versions),
        "discovered": _discovered(model),
        "estimate": estimate_json(monitor) if monitor else None,
        "last_row_at": to_rfc3339(model.last_row_at) if model.last_row_at else None,
        "reference_until": (
            to_rfc3339(monitor.reference_until) if monitor and monitor.watch else None
        ),
        "config": model.config.model_dump(mode="json", by_alias=True),
    }


def _discovered(model: Model) -> list[dict[str, Any]]:
    """Slices that a search found and that are tested on later rows; small ones are not told."""
    if model.monitor is None:
        return []
    told = model.monitor.discovered.told()
    return [each for each in told if each["rows"] >= model.config.publish_min_rows]


def _normaliser(model: Model) -> str | None:
    """What the texts went through that the loss compares; None where it compares none."""
    loss = model.monitor.schema.loss if model.monitor else model.config.loss
    return model.config.normaliser if loss in RATIO_LOSSES else None


def _state(model: Model) -> str:
    """`waiting` for rows, `learning` its schema, gathering its `reference`, or `watching`."""
    if model.monitor is None:
        return "waiting"
    if model.is_learning:
        return "learning"
    return "reference" if model.monitor.watch is None else "watching"


def slices_json(
    fold: Fold, tenant: str, name: str, query: SliceQuery, start: int, limit: int
) -> list[dict[str, Any]]:
    """Slices of a model, from place `start` on, as `GET /v1/models/{model}/slices` has them."""
    known = fold.model(tenant, name)
    monitor = None if known is None else known[0].monitor
    if known is None or monitor is None:
        return []
    ledger = known[1]
    now = standing(monitor, query.since, query.until)
    alerts: dict[Any, list[str]] = {}
    for alert in ledger.open.values():
        alerts.setdefault(alert.slice, []).append(alert.id)
    could = detectable(monitor)
    guess = monitor.estimate.estimated(monitor.slices, monitor.loss_unit, query.since, query.until)
    selected = _selected(monitor, now, query)[start : start + limit]
    shifts = monitor.inputs.shifts(monitor.slices.membership(), np.array(selected, np.intp))
    return [
        _slice_json(monitor, now, index, shift, alerts)
        | _estimated_json(guess, index)
        | {"detectable": detectable_json(monitor, could, index)}
        for index, shift in zip(selected, shifts, strict=True)
    ]


def _selected(monitor: Monitor, now: Standing, query: SliceQuery) -> list[int]:
    wanted = now.rows >= query.min_rows
    orders = monitor.slices.orders()
    if query.order is not None:
        wanted &= orders == query.order
    if query.dimension is not None:
        named = [any(d == query.dimension for d, _ in name) for name in monitor.slices.names]
        wanted &= np.array(named)
    key = np.nan_to_num(getattr(now, query.sort), nan=-np.inf)
    ordered = np.lexsort((np.arange(key.size), orders, -key))
    return [int(index) for index in ordered if wanted[index]]


def _slice_json(
    monitor: Monitor,
    now: Standing,
    index: int,
    shift: dict[str, Any] | None,
    alerts: dict[Any, list[str]],
) -> dict[str, Any]:
    name = monitor.slices.names[index]
    return {
        "slice": dict(name),
        "rows": int(now.rows[index]),
        "labels": int(now.labels[index]),
        "loss": as_number(now.loss[index]),
        "loss_interval": as_pair(now.loss_lower[index], now.loss_upper[index]),
        "reference_loss": as_number(now.reference_loss[index]),
        "disparity": as_number(now.disparity[index]),
        "disparity_interval": as_pair(now.disparity_lower[index], now.disparity_upper[index]),
        "evidence": as_number(now.evidence[index]),
        "shift": shift,
        "alerts": alerts.get(name, []),
    }


def _estimated_json(guess: Estimated, index: int) -> dict[str, Any]:
    return {
        "estimated_loss": as_number(guess.loss[index]),
        "estimated_loss_interval": as_pair(guess.lower[index], guess.upper[index]),
        "estimate_coverage": as_number(guess.coverage[index]),
    }


def as_number(value: float) -> float | None:
    """Six significant digits; None where it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def as_pair(lower: float, upper: float) -> list[float | None] | None:
    """An interval; None where it has no ends."""
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return None
    return [as_number(lower), as_number(upper)]


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as pages draw it; it stays as it is while the fold goes on."""

    about: dict[str, Any]  # as `GET /v1/models/{model}` has it
    past: Past
    standing: Standing
    alerts: dict[Slice, str]  # of the open alerts, the id by slice
    publish_min_rows: int
    last_row_at: int


def model_view(fold: Fold, tenant: str, name: str) -> ModelView | None:
    """A model of which rows have come."""
    known = fold.model(tenant, name)
    monitor = None if known is None else known[0].monitor
    if known is None or monitor is None:
        return None
    model, ledger = known
    return ModelView(
        about=model_json(name, model),
        past=Past.of(monitor),
        standing=standing(monitor),
        alerts={alert.slice: alert.id for alert in ledger.open.values()},
        publish_min_rows=model.config.publish_min_rows,
        last_row_at=model.last_row_at,
    )


def inputs_view(
    fold: Fold, tenant: str, name: str, slice_: Slice, since: int | None = None
) -> list[Histogram]:
    """Every feature of one slice of a model and of everyone else, in the reference and since then.

    Without an instant: since the reference.
    """
    known = fold.model(tenant, name)
    monitor = None if known is None else known[0].monitor
    index = None if monitor is None else monitor.slices.find(slice_)
    if monitor is None or index is None:
        return []
    return monitor.inputs.histograms(monitor.slices.membership(), index, since)
