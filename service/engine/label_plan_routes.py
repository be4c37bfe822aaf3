"""Routes of labelling: where the next labels tell most."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.auth import Scope
from service.engine.fold import Fold
from service.engine.routes import Limit, ModelName, Reader, Running
from service.errors import NotFound
from service.monitor.admission import FIRST
from service.monitor.config import Duration, seconds
from service.monitor.detectable import Detectable, detectable, detectable_json
from service.monitor.label_plan import LabelPlan, label_plan
from service.monitor.monitor import Monitor

router = APIRouter(tags=["models"])

MAX_BUDGET = 10_000_000


class Leaf(BaseModel):
    """Rows that are labelled with another chance than the others: all dimensions fixed."""

    slice: dict[str, str] = Field(description="every dimension that such a row has, no other")
    inclusion_probability: float


class PlannedSlice(BaseModel):
    """What a slice gets of the plan."""

    slice: dict[str, str]
    rows: float = Field(description="expected in `per`, if they come as in the last week")
    labels: float = Field(description="expected of them")
    by_traffic: float = Field(description="what it would get if all rows had one chance")
    suspicion: float = Field(description="0 to 1: how far on its way to an alarm")
    detectable: dict[str, Any] | None = Field(
        description="what it takes to see its loss double, at the present rate of labels"
    )


class Plan(BaseModel):
    """A plan for labelling. A row's chance is its leaf's, or else `inclusion_probability`.

    Draw each row with its chance, and send the chance back with its label.
    """

    model: str
    budget: int
    per: str
    rows: float = Field(description="expected of the whole model")
    labels: float = Field(description="expected: the budget, or all rows where there are fewer")
    inclusion_probability: float = Field(description="of every row that is in no leaf below")
    leaves: list[Leaf]
    slices: list[PlannedSlice]
    next: str | None = Field(description="the cursor of more slices")


@router.get("/v1/models/{model:path}/label-plan")
async def get_label_plan(
    key: Reader,
    running: Running,
    model: ModelName,
    budget: Annotated[int, Query(ge=1, le=MAX_BUDGET, description="labels to be had in `per`")],
    per: Annotated[Duration, Query(description="the stretch that is planned")] = "24h",
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,9}$")] = None,
) -> Plan:
    """Where the next labels tell most: half go by traffic, half by suspicion."""
    start, sees_all = int(cursor or 0), Scope.ADMIN in key.scopes

    def read(fold: Fold) -> Plan | None:
        known = fold.model(key.tenant, model)
        if known is None:
            return None
        monitor = known[0].monitor
        if monitor is None:
            return Plan(
                model=model, budget=budget, per=per, rows=0, labels=0,
                inclusion_probability=1.0, leaves=[], slices=[], next=None,
            )  # fmt: skip
        plan = label_plan(monitor, budget, seconds(per))
        most = 0 if sees_all else known[0].config.publish_min_rows
        slices = _slices(monitor, plan, most)
        return Plan(
            model=model,
            budget=budget,
            per=per,
            rows=_rounded(float(plan.rows.sum())),
            labels=_rounded(float(plan.chance @ plan.rows)),
            inclusion_probability=_rounded(plan.common),
            leaves=[_leaf(monitor, plan, cell) for cell in plan.leaves],
            slices=slices[start : start + limit],
            next=str(start + limit) if len(slices) > start + limit else None,
        )

    answer = await running.engine.ask(read)
    if answer is None:
        raise NotFound("no such model")
    return answer


def _leaf(monitor: Monitor, plan: LabelPlan, cell: int) -> Leaf:
    slices = monitor.slices
    levels = slices.levels[cell, :-1].tolist()
    name = {
        dimension: slices.values[d][code - FIRST]
        for d, (dimension, code) in enumerate(zip(slices.dimensions, levels, strict=True))
        if code >= FIRST
    }
    return Leaf(slice=name, inclusion_probability=_rounded(float(plan.chance[cell])))


def _slices(monitor: Monitor, plan: LabelPlan, min_rows: int) -> list[PlannedSlice]:
    """The slices that labels go to, those with most beyond their share by traffic first."""
    membership = monitor.slices.membership()
    shown = plan.n_rows_seen(monitor) >= min_rows
    rows, labels = membership @ plan.rows, membership @ (plan.chance * plan.rows)
    by_traffic = rows * (labels[0] / rows[0] if rows[0] > 0 else 0.0)
    could = detectable(monitor)
    order = np.lexsort((-labels, by_traffic - labels))
    return [
        _slice(monitor, could, int(s), rows, labels, by_traffic, plan)
        for s in order
        if shown[s] and rows[s] > 0
    ]


def _slice(
    monitor: Monitor,
    could: Detectable,
    index: int,
    rows: np.ndarray[Any, np.dtype[np.float64]],
    labels: np.ndarray[Any, np.dtype[np.float64]],
    by_traffic: np.ndarray[Any, np.dtype[np.float64]],
    plan: LabelPlan,
) -> PlannedSlice:
    return PlannedSlice(
        slice=dict(monitor.slices.names[index]),
        rows=_rounded(float(rows[index])),
        labels=_rounded(float(labels[index])),
        by_traffic=_rounded(float(by_traffic[index])),
        suspicion=_rounded(float(plan.suspicion[index])),
        detectable=detectable_json(monitor, could, index),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
