"""Bodies: what every door does with a request, from its bytes to its receipt.

A body is read up to the cap, inflated up to the cap, decoded, and given to the engine; what is
large or compressed is decoded in a thread, so that the event loop goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastapi import Request

from service.errors import NothingDecoded, TooLarge
from service.ingest.events import NO_ROWS, EventBatch, Rejected
from service.ingest.frame import to_frame
from service.ingest.inflate import inflate
from service.services import Services

if TYPE_CHECKING:
    from service.engine.fold import Receipt

IN_LOOP_BYTES: Final = 256 * 1024  # decoded at once; what is larger or compressed, in a thread

BLOCKING: Final = frozenset({"application/vnd.apache.parquet"})  # read in a process of its own

Decoded = tuple[EventBatch, list[Rejected]]
Decode = Callable[[bytes], Decoded]


async def decoded_by(request: Request, running: Services, tenant: str, decode: Decode) -> Decoded:
    """What `decode` makes of a request's body without its codings, taken off the tenant's quota.

    Raises UnsupportedMedia, TooLarge and what `decode` raises.
    """
    max_bytes = running.settings.max_body_bytes
    encoding = request.headers.get("content-encoding")
    body = await _read(request, max_bytes)
    running.quotas.charge(tenant, n_bytes=len(body))
    if encoding is None and len(body) <= IN_LOOP_BYTES and media_type(request) not in BLOCKING:
        rows = decode(body)
    else:
        rows = await asyncio.to_thread(lambda: decode(inflate(body, encoding, max_bytes)))
    running.quotas.charge(tenant, n_rows=len(rows[0]) + len(rows[1]))
    return rows


async def take_in(
    request: Request,
    running: Services,
    tenant: str,
    decode: Decode,
    received_at: int,
    batch_id: str | None = None,
) -> Receipt:
    """The receipt of a request's rows, once those accepted are on stable storage.

    Raises NothingDecoded where each was refused; they are journaled all the same, to be counted
    and kept.
    """
    nothing: NothingDecoded | None = None
    try:
        batch, refused = await decoded_by(request, running, tenant, decode)
    except NothingDecoded as error:
        batch, refused, nothing = NO_ROWS, list(error.rejected), error
    frame = to_frame(batch, refused)
    receipt = await running.engine.submit_batch(tenant, frame, received_at, batch_id, refused)
    if nothing is not None:
        raise nothing
    return receipt


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body as it was sent, no more than `max_bytes` of it."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"the body is over {max_bytes} bytes")
    return bytes(body)


def media_type(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
