"""Routes of models: what is watched, how its slices stand, and stating how it is to be watched."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from pydantic import AwareDatetime

from service.auth import Scope, Tenant, requires, requires_key
from service.engine.fold import Fold
from service.engine.ports import CONFIGURE, REFERENCE, Entry
from service.engine.views import SliceQuery, model_json, slices_json
from service.errors import InvalidRequest, NotFound
from service.ingest.bodies import decoded_by
from service.ingest.events import NAME
from service.ingest.frame import to_frame
from service.ingest.routes import decoder
from service.keys import Key
from service.monitor.config import MonitorConfig
from service.services import Services, services

router = APIRouter(tags=["models"])

Running = Annotated[Services, Depends(services)]
Reader = Annotated[Key, Depends(requires_key(Scope.READ, Scope.ADMIN))]
Admin = Annotated[Tenant, Depends(requires(Scope.ADMIN))]
ModelName = Annotated[str, PathParameter(pattern=NAME)]
Limit = Annotated[int, Query(ge=1, le=2_000)]
Cursor = Annotated[str | None, Query(pattern=r"^\d{1,9}$")]

_NO_MODEL: Final = "no such model"


@router.get("/v1/models")
async def list_models(
    key: Reader, running: Running, limit: Limit = 100, cursor: Cursor = None
) -> dict[str, Any]:
    """The models of the tenant, in the order of their first rows."""

    def read(fold: Fold) -> list[dict[str, Any]]:
        known = fold.tenants.get(key.tenant)
        models = [] if known is None else list(known.models.items())
        return [model_json(name, model) for name, model in models[start : start + limit + 1]]

    start = int(cursor or 0)
    return _page("models", await running.engine.ask(read), start, limit)


@router.put("/v1/models/{model:path}/reference")
async def put_reference(
    tenant: Admin, running: Running, model: ModelName, request: Request
) -> dict[str, Any]:
    """Upload labelled rows, in any form that `/v1/events` takes, as what normal was."""
    now = running.clock.now()
    decode = decoder(request, running.settings, now)
    batch, rejected = await decoded_by(request, running, tenant, decode)
    body = msgspec.json.encode({"model": model}) + b"\n" + to_frame(batch, rejected)
    entry = Entry(tenant, REFERENCE, body, now)
    receipt = await running.engine.submit(entry)
    return {
        "accepted": receipt.accepted,
        "rejected": receipt.rejected,
        "errors": [msgspec.to_builtins(row) for row in receipt.errors],
    }


@router.get("/v1/models/{model:path}/slices")
async def list_slices(
    key: Reader,
    running: Running,
    model: ModelName,
    order: Annotated[int | None, Query(ge=0, le=3)] = None,
    dimension: Annotated[str | None, Query(max_length=64)] = None,
    sort: Literal["disparity", "loss", "rows", "labels", "evidence"] = "disparity",
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """How the slices stand, the greatest of `sort` first; order 0 is the whole model.

    `estimated_loss` is what the model's own confidence says that the slice's predictions of the
    last fortnight lost, labelled or not; `estimated_loss_interval` is where that is held to be.
    `estimate_coverage` says how often of late such intervals held what labels said: under 0.8
    distrust it. All are null where predictions have no confidence. It is never an alert.
    """
    start, (first, last) = int(cursor or 0), span(since, until)

    def read(fold: Fold) -> list[dict[str, Any]] | None:
        known = fold.model(key.tenant, model)
        if known is None:
            return None
        is_admin = Scope.ADMIN in key.scopes
        query = SliceQuery(
            order=order,
            dimension=dimension,
            sort=sort,
            since=first,
            until=last,
            min_rows=0 if is_admin else known[0].config.publish_min_rows,
        )
        return slices_json(fold, key.tenant, model, query, start, limit + 1)

    return _page("slices", _found(await running.engine.ask(read)), start, limit)


# A model's name may hold slashes; the longer paths above are matched first.


@router.get("/v1/models/{model:path}")
async def get_model(key: Reader, running: Running, model: ModelName) -> dict[str, Any]:
    """One model: its state, what was learnt or stated, and how much of it has come."""

    def read(fold: Fold) -> dict[str, Any] | None:
        known = fold.model(key.tenant, model)
        return None if known is None else model_json(model, known[0])

    answer: dict[str, Any] = _found(await running.engine.ask(read))
    return answer


@router.put("/v1/models/{model:path}")
async def put_model(
    tenant: Admin, running: Running, model: ModelName, config: MonitorConfig
) -> dict[str, Any]:
    """State how a model is watched; a model that has no rows yet comes to be."""
    stated = {"model": model, "config": config.model_dump(mode="json", by_alias=True)}
    body = msgspec.json.encode(stated)
    await running.engine.submit_control(CONFIGURE, tenant, body)

    def read(fold: Fold) -> dict[str, Any] | None:
        known = fold.model(tenant, model)
        return None if known is None else model_json(model, known[0])

    answer: dict[str, Any] = _found(await running.engine.ask(read))
    return answer


def span(since: AwareDatetime | None, until: AwareDatetime | None) -> tuple[int | None, int | None]:
    """Two instants in microseconds. Raises InvalidRequest where they are not in order."""
    if since is not None and until is not None and since >= until:
        raise InvalidRequest("since: must be before until")
    first, last = (None if at is None else int(at.timestamp() * 1_000_000) for at in (since, until))
    return first, last


def _found(answer: Any) -> Any:
    if answer is None:
        raise NotFound(_NO_MODEL)
    return answer


def _page(name: str, items: list[Any], start: int, limit: int) -> dict[str, Any]:
    """`items` begin at `start` and may hold one more than are shown."""
    more = str(start + limit) if len(items) > limit else None
    return {name: items[:limit], "next": more}
