"""Routes of other protocols: OTLP logs at `/v1/logs`, CloudEvents at `/v1/cloudevents`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final

import orjson
import structlog
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service.auth import Scope, Tenant, requires_quota
from service.errors import InvalidRequest, TryLater, UnsupportedMedia
from service.ingest.bodies import Decoded, media_type, take_in
from service.ingest.cloudevents import BATCH, STRUCTURED, decode_cloudevents
from service.ingest.documents import documents_to_batch
from service.ingest.events import Rejected
from service.ingest.otlp import JSON, PROTOBUF, accepted, decode_otlp, problem
from service.ingest.routes import Ingested, batch_id, counts
from service.services import Services, services

log = structlog.get_logger()

Running = Annotated[Services, Depends(services)]
Sender = Annotated[Tenant, Depends(requires_quota(Scope.INGEST))]

REASONS_SHOWN: Final = 5  # refused records that a partial success tells of; all are counted

# google.rpc.Code of each status that a sender may see.
_CODES: Final = {400: 3, 401: 16, 403: 7, 413: 3, 415: 3, 429: 8, 503: 14}


class OtlpRoute(APIRoute):
    """A route whose every answer is in the request's own type, errors as a `google.rpc.Status`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with what it raises turned into OTLP's answers."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except InvalidRequest as error:
                # Nothing could be decoded: 400 is what the specification has for what is permanent.
                status = 400 if error.status == InvalidRequest.status else error.status
                headers = {"www-authenticate": "Bearer"} if status == 401 else {}
                return _problem(request, status, error.detail, headers)
            except TryLater as error:
                headers = {"retry-after": str(error.retry_after_seconds)}
                return _problem(request, error.status, error.detail, headers)
            except ClientDisconnect:
                raise  # nobody is there to answer
            except Exception:
                log.exception("request failed", route=self.path)
                return _problem(request, 503, "it failed here", {"retry-after": "5"})

        return answered


otlp = APIRouter(tags=["ingest"], route_class=OtlpRoute)
cloudevents = APIRouter(tags=["ingest"])

_LOGS: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "An `ExportLogsServiceRequest`; `Content-Encoding` gzip, deflate or zstd.",
        "content": {
            PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
            JSON: {"schema": {"type": "object"}},
        },
    }
}
_EVENTS: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "An event, binary (its attributes in `ce-*` headers) or structured, or a"
        " batch of them.",
        "content": {
            kind: {"schema": {"type": "object"}} for kind in ("application/json", STRUCTURED)
        }
        | {BATCH: {"schema": {"type": "array", "items": {"type": "object"}}}},
    }
}


@otlp.post("/v1/logs", openapi_extra=_LOGS, response_class=Response)
async def export_logs(request: Request, running: Running, tenant: Sender) -> Response:
    """Take OpenTelemetry's log records in. What is refused of them is a partial success."""
    kind = media_type(request)
    if kind not in (PROTOBUF, JSON):
        raise UnsupportedMedia(f"Content-Type: must be {PROTOBUF} or {JSON}")
    now, settings = running.clock.now(), running.settings

    def decode(body: bytes) -> Decoded:
        documents = decode_otlp(body, kind == JSON, settings.otlp_events)
        return documents_to_batch(documents, now, settings.max_rows_per_request)

    receipt = await take_in(request, running, tenant, decode, now)
    message = _reasons(receipt.errors)
    return Response(accepted(receipt.rejected, message, kind == JSON), media_type=kind)


@cloudevents.post("/v1/cloudevents", responses={200: {"model": Ingested}}, openapi_extra=_EVENTS)
async def take_cloudevents(
    request: Request,
    running: Running,
    tenant: Sender,
    idempotency_key: Annotated[str | None, Header(description="makes a retry answer alike")] = None,
) -> Response:
    """Take events of inference loggers in, and rows of the contract as events."""
    now, settings = running.clock.now(), running.settings

    def decode(body: bytes) -> Decoded:
        documents = decode_cloudevents(body, media_type(request), request.headers)
        return documents_to_batch(documents, now, settings.max_rows_per_request)

    receipt = await take_in(request, running, tenant, decode, now, batch_id(idempotency_key))
    return Response(orjson.dumps(counts(receipt)), media_type="application/json")


def _reasons(rows: Sequence[Rejected]) -> str:
    """What was wrong with the first of them."""
    return "; ".join(f"record {row.index}: {row.reason}" for row in rows[:REASONS_SHOWN])


def _problem(
    request: Request, status: int, message: str, headers: dict[str, str] | None = None
) -> Response:
    is_json = media_type(request) != PROTOBUF
    body = problem(_CODES.get(status, 2), message, is_json)
    return Response(body, status, headers, JSON if is_json else PROTOBUF)
