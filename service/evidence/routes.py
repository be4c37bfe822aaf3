"""Routes of pages: what is open, a model's heat map, an alert's evidence (also as JSON)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from service.alerts import routes as alerts_api
from service.clock import from_datetime, to_rfc3339
from service.engine.fold import Fold
from service.engine.views import ModelView, inputs_view, model_json, model_view
from service.errors import Forbidden, NotFound, TryLater
from service.evidence import advice, drawing
from service.evidence.answers import HEADERS, PageRoute, html, wants_html
from service.evidence.document import NOTHING, course_json, figures_of, slice_of, spans
from service.evidence.heat_map import HeatMap
from service.evidence.incidents import Incident, incidents
from service.evidence.sign_in import Form, Running, Viewer
from service.evidence.sign_in import router as sign_in
from service.ingest.events import NAME
from service.keys import Key, Scope
from service.monitor.findings import State
from service.pages import DEFAULT_LIMIT, OnePage, Page
from service.services import Services

T = TypeVar("T")

MAX_ALERTS: Final = 500  # that the first page reads
MAX_DRAWN: Final = 12  # incidents of the first page that have a drawing
DAYS: Final = (1, 3, 7, 14, 35)

router = APIRouter(route_class=PageRoute)
pages = APIRouter(route_class=PageRoute, include_in_schema=False)

Known = tuple[list[dict[str, Any]], dict[str, ModelView | None]]  # models; views of some

AlertId = Annotated[str, PathParameter(max_length=64)]
ModelName = Annotated[str, PathParameter(pattern=NAME)]


def static_files() -> StaticFiles:
    """The style sheet and the icon."""
    return StaticFiles(directory=str(files("service.evidence") / "static"))


@pages.get("/")
async def first_page(key: Viewer, running: Running) -> Response:
    """What is open now, worst first."""
    everything = await run_in_threadpool(
        alerts_api.list_alerts, key.tenant, running, Page(limit=MAX_ALERTS), [State.FIRING]
    )
    over = await run_in_threadpool(
        alerts_api.list_alerts,
        key.tenant,
        running,
        Page(limit=8),
        [State.RESOLVED, State.RETRACTED],
    )
    open_ = incidents(everything["alerts"])
    named = list(dict.fromkeys(incident.head["model"] for incident in open_[:MAX_DRAWN]))

    def read(fold: Fold) -> Known:
        known = fold.tenants.get(key.tenant)
        models = [] if known is None else list(known.models.items())
        return (
            [model_json(name, model) for name, model in models],
            {name: model_view(fold, key.tenant, name) for name in named},
        )

    nothing: Known = ([], {})
    models, views = await _asked(running, read, nothing)
    return await run_in_threadpool(
        html,
        "first.html",
        incidents=open_,
        drawings=_sparklines(open_[:MAX_DRAWN], views),
        over=[alert for alert in over["alerts"] if alert["explained_by"] is None],
        models=models,
        is_starting=running.engine.why_not_ready() is not None,
        now=to_rfc3339(running.clock.now() // 1_000_000 * 1_000_000),
        key=key,
    )


@pages.get("/models/{model:path}")
async def model_page(
    key: Viewer,
    running: Running,
    model: ModelName,
    days: Annotated[int, Query(ge=1, le=35)] = 14,
    dimension: Annotated[str | None, Query(max_length=64)] = None,
    show: Literal["all"] | None = None,
    start: Annotated[int, Query(ge=0, le=100_000)] = 0,
    down: Annotated[str | None, Query(max_length=64)] = None,
    across: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Every slice over time, loss against due, and one dimension by another."""
    view, about = await running.engine.ask(
        lambda fold: (model_view(fold, key.tenant, model), _about(fold, key, model))
    )
    if about is None:
        raise NotFound("no such model")
    if dimension is not None and dimension not in (about["dimensions"] or []):
        raise NotFound("no such dimension")
    alerts = await run_in_threadpool(
        alerts_api.list_alerts, key.tenant, running, Page(limit=MAX_ALERTS), [State.FIRING], model
    )
    return await run_in_threadpool(
        _model_page, key, about, view, alerts["alerts"], days, dimension, show, start, down, across
    )


def _model_page(
    key: Key,
    about: dict[str, Any],
    view: ModelView | None,
    alerts: list[dict[str, Any]],
    days: int,
    dimension: str | None,
    show: str | None,
    start: int,
    down: str | None,
    across: str | None,
) -> Response:
    shown: dict[str, Any] = {"heat": None, "groups": [], "matrix": None, "pairs": []}
    if view is not None:
        heat = HeatMap(view, days * 24, 0 if Scope.ADMIN in key.scopes else view.publish_min_rows)
        is_all = show is not None or dimension is not None
        pairs = heat.pairs()
        pair = (down or "", across or "")
        groups = (
            [heat.page_of(dimension, start)]
            if is_all
            else [*heat.by_dimension(), heat.intersections()]
        )
        shown = {
            "heat": heat,
            "groups": groups,
            "matrix": heat.matrix(pair if pair in pairs else pairs[0]) if pairs else None,
            "pairs": pairs,
            "days_marks": drawing.days_of(heat.at),
        }
    return html(
        "model.html",
        about=about,
        incidents=incidents(alerts),
        days=days,
        all_days=DAYS,
        dimension=dimension,
        show=show,
        start=start,
        key=key,
        **shown,
    )


@pages.get("/alerts/{alert_id}")
async def alert_page(key: Viewer, running: Running, alert_id: AlertId) -> Response:
    """The evidence of one alert, to be read."""
    return await _evidence_page(key, running, alert_id)


@pages.post("/alerts/{alert_id}/acknowledge")
async def acknowledge(key: Viewer, running: Running, alert_id: AlertId, form: Form) -> Response:
    """Note who has taken the alert in hand, as `POST /v1/alerts/{id}/acknowledge` does."""
    if Scope.ADMIN not in key.scopes:
        raise Forbidden("the key needs one of the scopes admin")
    note = alerts_api.Acknowledgement(comment=form.get("comment", "")[:2000].replace("\0", ""))
    await run_in_threadpool(alerts_api.acknowledge, key, running, alert_id, note)
    return RedirectResponse(f"/alerts/{alert_id}", 303, HEADERS)


@router.get(
    "/v1/alerts/{alert_id}/evidence",
    tags=["alerts"],
    response_model=None,
    responses={200: {"content": {"text/html": {}}}},
)
async def evidence(
    request: Request, key: Viewer, running: Running, alert_id: AlertId, page: OnePage
) -> Response | dict[str, Any]:
    """The figures behind the alert, how they came to be, and what speaks for it; or a page of it.

    By the Accept header: JSON unless HTML is asked for first.
    """
    if wants_html(request):
        return await _evidence_page(key, running, alert_id)
    return await _evidence(key, running, alert_id, page)


async def _evidence(key: Key, running: Services, alert_id: str, page: Page) -> dict[str, Any]:
    alert = await run_in_threadpool(alerts_api.get, key.tenant, running, alert_id)
    changes = await run_in_threadpool(alerts_api.history, key.tenant, running, alert_id, page)

    def read(fold: Fold) -> Any:
        model = alert["model"]
        view = model_view(fold, key.tenant, model)
        onset = from_datetime(datetime.fromisoformat(alert["onset"]))
        return view, inputs_view(fold, key.tenant, model, slice_of(alert), onset)

    view, inputs = await _asked(running, read, (None, []))
    figures = NOTHING if view is None else await run_in_threadpool(figures_of, alert, view, inputs)
    history = [{**change, **_figures(change.pop("alert"))} for change in changes["history"]]
    return {**alert, **figures, "history": history, "next": changes["next"]}


def _figures(alert: dict[str, Any]) -> dict[str, Any]:
    return {name: alert[name] for name in ("state", "effect", "evidence", "explained_by")}


async def _evidence_page(key: Key, running: Services, alert_id: str) -> Response:
    document = await _evidence(key, running, alert_id, Page(limit=DEFAULT_LIMIT))
    related = [document["explained_by"], *document["explains"][:MAX_DRAWN]]
    incident = [
        await run_in_threadpool(alerts_api.get, key.tenant, running, each)
        for each in related
        if each is not None
    ]
    return await run_in_threadpool(_drawn, document, incident, key, running)


def _drawn(
    document: dict[str, Any], incident: list[dict[str, Any]], key: Key, running: Services
) -> Response:
    head = incident[0] if document["explained_by"] else None
    drawn = [(feature, drawing.histogram(feature)) for feature in document["inputs"]]
    n_foremost = min(2, len(advice.strange_inputs(document)))
    return html(
        "alert.html",
        alert=document,
        head=head,
        explained=incident[1:] if head else incident,
        changed=advice.what_changed(document),
        to_do=advice.what_to_do(document),
        chart=drawing.chart(document) if document["course"] else None,
        intervals=drawing.intervals(document["gap"]) if document["gap"] else ([], 1.0),
        foremost=drawn[:n_foremost],
        others=drawn[n_foremost:],
        may_acknowledge=Scope.ADMIN in key.scopes and document["state"] == State.FIRING,
        key=key,
        is_starting=running.engine.why_not_ready() is not None,
    )


async def _asked(running: Services, read: Callable[[Fold], T], otherwise: T) -> T:
    """What the engine says; `otherwise` while it starts or stops, for a page without it is one."""
    try:
        return await running.engine.ask(read)
    except TryLater:
        return otherwise


def _about(fold: Fold, key: Key, name: str) -> dict[str, Any] | None:
    known = fold.model(key.tenant, name)
    return None if known is None else model_json(name, known[0])


def _sparklines(
    shown: list[Incident], views: dict[str, ModelView | None]
) -> dict[str, tuple[str, str, float | None]]:
    """By the head's id: the slice, the rest, and where on the way the onset is."""
    drawn = {}
    for incident in shown:
        view, slice_ = views.get(incident.head["model"]), slice_of(incident.head)
        if view is not None and slice_ in view.past.names:
            first, last = view.past.between()
            course = course_json(
                view, view.past.names.index(slice_), spans(max(first, last - 14 * 24), last)
            )
            drawn[incident.head["id"]] = drawing.sparkline(course, incident.head["onset"])
    return drawn


for part in (sign_in, pages):
    router.include_router(part)
