"""Routes of versions: two of a model's versions, slice by slice."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from service.auth import Scope
from service.engine.fold import Fold
from service.engine.routes import Cursor, Limit, ModelName, Reader, Running, span
from service.engine.views import as_number, as_pair
from service.errors import InvalidRequest, NotFound
from service.monitor.compare import Comparison, Side, compare
from service.monitor.monitor import Monitor

router = APIRouter(tags=["models"])

_VERSIONS: Final = "^[^,]{1,128},[^,]{1,128}$"


@router.get("/v1/models/{model:path}/compare")
async def compare_versions(
    key: Reader,
    running: Running,
    model: ModelName,
    versions: Annotated[str, Query(pattern=_VERSIONS, description="two, as in `1.0,1.1`")],
    order: Annotated[int | None, Query(ge=0, le=3)] = None,
    dimension: Annotated[str | None, Query(max_length=64)] = None,
    sort: Literal["difference", "standardised_difference", "rows"] = "difference",
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """How each slice fares under either version, the most that the second is worse by first.

    Where they ran side by side only the hours are counted in which both did (`basis`).
    """
    a, b = versions.split(",")
    if a == b:
        raise InvalidRequest("versions: must be two different ones")
    start, between = int(cursor or 0), span(since, until)

    def read(fold: Fold) -> dict[str, Any]:
        known = fold.model(key.tenant, model)
        if known is None:
            raise NotFound("no such model")
        monitor = known[0].monitor
        numbers = [monitor.versions.number(v) for v in (a, b)] if monitor else [None]
        if monitor is None or None in numbers:
            raise NotFound("versions: the model has had no such version")
        first, second = (number or 0 for number in numbers)
        found = compare(monitor, first, second, *between)
        min_rows = 0 if Scope.ADMIN in key.scopes else known[0].config.publish_min_rows
        chosen = _chosen(monitor, found, order, dimension, sort, min_rows)
        return {
            "versions": [a, b],
            "basis": "side_by_side" if found.side_by_side else "before_after",
            "slices": [_slice(monitor, found, s) for s in chosen[start : start + limit]],
            "next": str(start + limit) if len(chosen) > start + limit else None,
        }

    answer: dict[str, Any] = await running.engine.ask(read)
    return answer


def _chosen(
    monitor: Monitor,
    found: Comparison,
    order: int | None,
    dimension: str | None,
    sort: str,
    min_rows: int,
) -> list[int]:
    fewer = np.minimum(found.a.rows, found.b.rows)
    wanted = fewer >= max(min_rows, 1)
    orders, names = monitor.slices.orders(), monitor.slices.names
    if order is not None:
        wanted &= orders == order
    if dimension is not None:
        wanted &= np.array([any(d == dimension for d, _ in name) for name in names])
    keys = {
        "difference": found.difference,
        "standardised_difference": found.standardised,
        "rows": fewer,
    }
    greatest = np.nan_to_num(keys[sort], nan=-np.inf)
    ranked = np.lexsort((np.arange(len(names)), orders, -greatest))
    return [int(s) for s in ranked if wanted[s]]


def _slice(monitor: Monitor, found: Comparison, index: int) -> dict[str, Any]:
    return {
        "slice": dict(monitor.slices.names[index]),
        "a": _side(found.a, index),
        "b": _side(found.b, index),
        "difference": as_number(found.difference[index]),
        "difference_interval": as_pair(
            found.difference_lower[index], found.difference_upper[index]
        ),
        "standardised_difference": as_number(found.standardised[index]),
        "standardised_difference_interval": as_pair(
            found.standardised_lower[index], found.standardised_upper[index]
        ),
    }


def _side(side: Side, index: int) -> dict[str, Any]:
    return {
        "rows": int(side.rows[index]),
        "labels": int(side.labels[index]),
        "loss": as_number(side.loss[index]),
        "loss_interval": as_pair(side.loss_lower[index], side.loss_upper[index]),
    }
