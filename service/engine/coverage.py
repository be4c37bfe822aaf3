"""Coverage: which models cannot be watched as things stand, and why, for a tenant's digest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from service.clock import to_rfc3339
from service.engine.fold import Fold
from service.monitor.model import Model

STALE: Final = 86_400 * 1_000_000  # µs without a row


def not_watched(fold: Fold, now: int) -> dict[str, list[dict[str, str]]]:
    """By tenant, the models that nothing can be said of, each with the reason."""
    found = {
        name: list(_of_models(tenant.models, now)) for name, tenant in sorted(fold.tenants.items())
    }
    return {tenant: models for tenant, models in found.items() if models}


def _of_models(models: dict[str, Model], now: int) -> Iterator[dict[str, str]]:
    for name, model in sorted(models.items()):
        reason = why_not_watched(model, now)
        if reason:
            yield {"model": name, "reason": reason}


def why_not_watched(model: Model, now: int) -> str:
    """Why nothing can be said of a model; "" where something can."""
    monitor = model.monitor
    if not model.last_row_at:
        return "no row has come"
    if now - model.last_row_at > STALE:
        return f"no row since {to_rfc3339(model.last_row_at)}"
    if monitor is None or model.is_learning:
        return "what it is made of is still being learnt"
    if monitor.n_labels == 0:
        return "no label has come"
    if monitor.watch is None:
        return "its reference is not complete"
    return ""
