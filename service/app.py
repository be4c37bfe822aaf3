"""App: the composition root, where the parts are made and handed to each other, and the server."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hmac import compare_digest
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import prometheus_client
import structlog
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from service import audit, logs, problems
from service.alerts import routes as alerts
from service.alerts import silence_routes as silences
from service.body_cap import BodyCap
from service.clock import Clock, SystemClock
from service.database import Database
from service.deadlines import protocol
from service.engine import compare_routes as comparing
from service.engine import label_plan_routes as labelling
from service.engine import routes as models
from service.engine.coverage import not_watched
from service.engine.discovery import Discovery
from service.engine.engine import Engine, Phase
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.processor import Processor
from service.engine.series import series
from service.engine.state_store import SqlStateStore
from service.errors import StorageFailed, TryLater, Unauthorized
from service.evidence import routes as evidence
from service.hold import held
from service.ingest import foreign_routes as foreign
from service.ingest import routes as ingest
from service.keys import Keys
from service.limits import caps
from service.metrics import Metrics
from service.notify import digest
from service.notify import routes as notify
from service.notify.egress import Egress
from service.notify.endpoints import Endpoints
from service.notify.outbox import enqueue
from service.notify.worker import Worker
from service.quotas import Quotas
from service.retention import Retention
from service.schedule import Schedule
from service.seal import Seal
from service.services import Services, services
from service.settings import Settings

READY_WAIT_SECONDS: Final = 2.0  # a start is silent for so long; a longer replay answers 503
GC_ALLOCATIONS: Final = 100_000  # containers made, less those freed, between collections
ASK_SECONDS: Final = 10.0  # for the engine to answer a job
GRACE_SECONDS: Final = 2  # for requests in flight, before the engine drains

log = structlog.get_logger()
router = APIRouter(tags=["operations"])

Running = Annotated[Services, Depends(services)]


def create_app(settings: Settings, clock: Clock | None = None) -> FastAPI:
    """The whole service as one ASGI application; its lifespan starts and stops the engine.

    Makes the data directory and the tables. Raises Conflict at the start of its lifespan where
    another server has the directory.
    """
    clock = clock or SystemClock()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database.of(settings, on_failed=_end_for_storage)
    database.create_tables()
    metrics = Metrics(caps(settings))
    metrics.disk_floor_bytes.set(settings.min_free_disk_bytes)
    egress = Egress(
        settings.egress_allow,
        settings.egress_http,
        deadline_seconds=settings.delivery_deadline_seconds,
        ca_file=settings.egress_ca_file,
    )
    seal = Seal.from_keys([key.get_secret_value() for key in settings.secrets_keys])
    worker = Worker(
        database,
        clock,
        egress,
        seal,
        schedule_seconds=settings.retry_schedule_seconds,
        rng=random.Random(),  # noqa: S311 - jitter, not a secret
        metrics=metrics,
        max_at_once=settings.max_deliveries_at_once,
        disable_after_seconds=settings.disable_endpoint_after_seconds,
    )
    processor = Processor(
        SqlEventLog(database),
        SqlStateStore(database, clock, partial(enqueue, public_url=settings.public_url)),
        Fold,
        clock,
        settings,
        metrics,
        series=partial(
            series,
            window_seconds=settings.metrics_window_seconds,
            max_slices=settings.max_slice_series,
        ),
        free_bytes=partial(_free_bytes, settings.data_dir),
        on_transitions=worker.wake,
    )
    engine = Engine(processor, clock, settings, metrics)
    discovery = Discovery(
        SqlEventLog(database),
        partial(engine.ask_and_wait, timeout_seconds=ASK_SECONDS),
        partial(engine.submit_and_wait, timeout_seconds=ASK_SECONDS),
        on_found=lambda tenant, n: metrics.slices_discovered.labels(tenant).inc(n),
    )
    schedule = Schedule(
        database,
        [
            Retention(database, settings).job(),
            discovery.job(),
            digest.job(partial(_not_watched, engine), settings.public_url),
        ],
        clock,
        metrics,
        holder=secrets.token_hex(8),
        may_run=lambda: engine.phase is Phase.READY,
    )
    app = FastAPI(
        title="Slicewatch",
        version=version("slicewatch"),
        lifespan=partial(
            _lifespan, settings=settings, engine=engine, background=(worker.run, schedule.run)
        ),
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
    )
    app.state.services = Services(
        settings=settings,
        clock=clock,
        database=database,
        keys=Keys(database, clock),
        engine=engine,
        metrics=metrics,
        quotas=Quotas(metrics),
        seal=seal,
        outbox_wake=worker.wake,
    )
    app.add_middleware(BodyCap, metrics=metrics)
    app.add_middleware(audit.Audit, services=lambda: app.state.services)
    for part in (ingest, comparing, labelling, models, alerts, silences, notify, audit, evidence):
        app.include_router(part.router)
    app.include_router(foreign.otlp)
    app.include_router(foreign.cloudevents)
    app.include_router(router)
    app.mount("/static", evidence.static_files())
    problems.install(app, metrics)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain; prints where it listens.

    Raises Conflict where another server has the data directory.
    """
    logs.configure()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    app = create_app(settings)
    with held(settings.data_dir):
        pass  # it is told here in plain words; the lifespan takes it again, and keeps it
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=protocol(settings, app.state.services.metrics),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    if threading.current_thread() is threading.main_thread():
        # Before uvicorn listens it ends at once; and uvicorn raises the signal again once it has
        # stopped: by then it has been obeyed.
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_, lambda *_: sys.exit(0))
    # Decoding makes rows by the thousand and drops them at once, none of them in a cycle: at the
    # default threshold the collector would walk them several times a request for nothing.
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    _Server(config).run()


class _Server(uvicorn.Server):
    """Says where it listens."""

    def _log_started_message(self, listeners: object) -> None:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        at = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"listening on http://{at}:{port}\n")
        sys.stdout.flush()


@router.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    """Looks at nothing but the event loop."""
    return {"status": "alive"}


@router.get("/readyz", summary="The service takes work in")
async def readyz(running: Running) -> dict[str, str]:
    """503 while it starts, drains, or its storage takes nothing; tells of stopped tenants."""
    reason = running.engine.why_not_ready()
    if reason is not None:
        raise TryLater(reason, retry_after_seconds=5)
    n_stopped = running.engine.n_stopped
    if n_stopped:
        return {"status": "ready", "detail": f"{n_stopped} tenant stopped: damaged journal"}
    return {"status": "ready"}


@router.get("/metrics", summary="Prometheus text or OpenMetrics", response_class=Response)
async def metrics_page(request: Request, running: Running) -> Response:
    """By the Accept header; asks for `metrics_token` where that is set."""
    token = running.settings.metrics_token
    if token is not None:
        given = request.headers.get("authorization", "")
        if not compare_digest(given.encode(), f"Bearer {token.get_secret_value()}".encode()):
            raise Unauthorized("Authorization: expected Bearer and the metrics token")
    accept = request.headers.get("accept", "")
    body, content_type = await asyncio.to_thread(running.metrics.page, accept)
    return Response(body, headers={"content-type": content_type})


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    settings: Settings,
    engine: Engine,
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]],
) -> AsyncIterator[None]:
    running: Services = app.state.services
    with held(settings.data_dir):
        _reseal(running)
        engine.start()
        await asyncio.to_thread(engine.wait_until_ready, READY_WAIT_SECONDS)
        tasks = [asyncio.create_task(run()) for run in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if await asyncio.to_thread(engine.stop):
                running.database.close()


def _not_watched(engine: Engine, at: int) -> digest.NotWatched:
    return engine.ask_and_wait(partial(not_watched, now=at), ASK_SECONDS)


def _reseal(running: Services) -> None:
    """Put endpoints' secrets under the newest key, and say so where there is none."""
    n = Endpoints(running.database, running.clock, running.seal).reseal()
    if n:
        log.info("endpoints_resealed", endpoints=n)
    if not running.seal.has_keys:
        log.warning("endpoint_secrets_not_sealed", because="secrets_keys is not set")


def _end_for_storage(failure: StorageFailed) -> None:
    """End the process, whoever met it: what failed for I/O is never retried."""
    log.critical("storage failed", reason=str(failure))
    os._exit(os.EX_IOERR)


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


_PROBLEM: Final = {
    "description": "A problem document (RFC 9457).",
    "content": {"application/problem+json": {"schema": problems.SCHEMA}},
}
