"""Routes of ingest: `POST /v1/events`, and the rows that were refused at `GET /v1/rejected`."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import and_, or_, select

from service.auth import Scope, Tenant, requires, requires_quota
from service.clock import to_rfc3339
from service.errors import InvalidRequest, UnsupportedMedia
from service.ingest.arrow_bodies import decode_arrow, decode_parquet
from service.ingest.bodies import Decode, media_type, take_in
from service.ingest.events import NAME
from service.ingest.json_rows import Row, decode_json
from service.pages import DEFAULT_LIMIT, MAX_LIMIT
from service.services import Services, services
from service.settings import Settings
from service.tables import rejected

if TYPE_CHECKING:
    from service.engine.fold import Receipt

router = APIRouter(tags=["ingest"])

Running = Annotated[Services, Depends(services)]
Sender = Annotated[Tenant, Depends(requires_quota(Scope.INGEST))]
Reader = Annotated[Tenant, Depends(requires(Scope.READ, Scope.ADMIN))]

ERRORS_SHOWN: Final = 100  # rows named in an answer; their number is exact all the same

_JSON: Final = frozenset(
    {"", "application/json", "application/x-ndjson", "application/ndjson", "text/plain"}
)
_COLUMNS: Final = {
    "application/vnd.apache.arrow.stream": decode_arrow,
    "application/vnd.apache.parquet": decode_parquet,
}
_CONTENT_TYPE: Final = (
    "Content-Type: must be application/json, application/x-ndjson, another +json, text/plain,"
    " application/vnd.apache.arrow.stream or application/vnd.apache.parquet"
)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_CURSOR: Final = re.compile(r"(\d{1,18})\.(\d{1,9})", re.ASCII)


class RefusedRow(BaseModel):
    """A row that was refused; the others of its request were not."""

    index: int
    id: str | None
    reason: str


class Ingested(BaseModel):
    """What became of the rows of a request: each is counted in exactly one of three."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"accepted": 499, "duplicates": 0, "rejected": 1, "errors": []}
        }
    )

    accepted: int
    duplicates: int
    rejected: int
    errors: list[RefusedRow]


class KeptRow(RefusedRow):
    """A row that was refused, as it is kept for inspection."""

    model: str | None
    received_at: str


class KeptRows(BaseModel):
    """A page of refused rows, the newest first."""

    rejected: list[KeptRow]
    next: str | None


_ROW: Final = msgspec.json.schema(Row)["$defs"]["Row"]
_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "Predictions and labels, mixed, in any order; `Content-Encoding` gzip,"
        " deflate or zstd.",
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        _ROW,
                        {"type": "array", "items": _ROW},
                        {
                            "type": "object",
                            "required": ["events"],
                            "properties": {"events": {"type": "array", "items": _ROW}},
                        },
                    ]
                }
            },
            "application/x-ndjson": {"schema": {"type": "string"}},
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in _COLUMNS},
        },
    }
}


@router.post("/v1/events", responses={200: {"model": Ingested}}, openapi_extra=_BODY)
async def ingest(
    request: Request,
    running: Running,
    tenant: Sender,
    idempotency_key: Annotated[str | None, Header(description="makes a retry answer alike")] = None,
) -> Response:
    """Take rows in. The answer comes when those accepted are on stable storage."""
    now = running.clock.now()
    decode = decoder(request, running.settings, now)
    receipt = await take_in(request, running, tenant, decode, now, batch_id(idempotency_key))
    return Response(orjson.dumps(counts(receipt)), media_type="application/json")


def counts(receipt: Receipt) -> dict[str, Any]:
    """A receipt as senders are told of it."""
    return {
        "accepted": receipt.accepted,
        "duplicates": receipt.duplicates,
        "rejected": receipt.rejected,
        "errors": [
            {"index": row.index, "id": row.id, "reason": row.reason}
            for row in receipt.errors[:ERRORS_SHOWN]
        ],
    }


def decoder(request: Request, settings: Settings, received_at: int) -> Decode:
    """What reads a body of this request's content type; raises UnsupportedMedia where none does."""
    kind = media_type(request)
    if kind in _COLUMNS:
        return partial(
            _COLUMNS[kind],
            received_at=received_at,
            max_rows=settings.max_rows_per_request,
            max_bytes=settings.max_body_bytes,
        )
    if kind in _JSON or kind.endswith("+json"):
        return partial(decode_json, received_at=received_at, max_rows=settings.max_rows_per_request)
    raise UnsupportedMedia(_CONTENT_TYPE)


def batch_id(key: str | None) -> str | None:
    """The Idempotency-Key; the draft standard writes it in quotes, most senders do not."""
    if key is None:
        return None
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if _KEY.fullmatch(bare) is None:
        raise InvalidRequest("Idempotency-Key: must be 1 to 200 visible ASCII characters")
    return bare


@router.get("/v1/rejected", response_model=KeptRows)
def list_rejected(
    tenant: Reader,
    running: Running,
    model: Annotated[str | None, Query(pattern=NAME)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> dict[str, Any]:
    """Refused rows, the newest requests first; a row whose model can't be read has none."""
    table = rejected.c
    query = select(rejected).where(table.tenant == tenant)
    if model is not None:
        query = query.where(table.model == model)
    if cursor is not None:
        seq, index = _position(cursor)
        query = query.where(or_(table.seq < seq, and_(table.seq == seq, table.index > index)))
    with running.database.read(tenant) as connection:
        rows = connection.execute(
            query.order_by(table.seq.desc(), table.index).limit(limit + 1)
        ).all()
    shown = rows[:limit]
    return {
        "rejected": [
            {
                "index": row._mapping["index"],  # `row.index` is a tuple's method
                "id": row.id,
                "model": row.model,
                "reason": row.reason,
                "received_at": to_rfc3339(row.received_at),
            }
            for row in shown
        ],
        "next": f"{shown[-1].seq}.{shown[-1]._mapping['index']}" if len(rows) > limit else None,
    }


def _position(cursor: str) -> tuple[int, int]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidRequest("cursor: must be a `next` that this list gave")
    return int(match[1]), int(match[2])
