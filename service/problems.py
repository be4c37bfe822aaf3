"""Problems: RFC 9457 documents for whatever goes wrong, which never echo what was sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, NothingDecoded, TryLater
from service.metrics import Metrics

log = structlog.get_logger()

ERRORS_SHOWN: Final = 100  # rows named in one answer; their number is exact all the same
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def problem(
    status: int,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """The answer that says what is wrong."""
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        **members,
    }
    return Response(orjson.dumps(document), status, headers, "application/problem+json")


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error of an app with a problem document, and count every answer."""
    app.add_exception_handler(InvalidRequest, _invalid_request)
    app.add_exception_handler(TryLater, _try_later)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Answers, metrics=metrics)


class Answers:
    """Counts answers by route, and turns what nobody handled into 503.

    Senders drop their data on 500, and what failed here may pass once it is mended.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application around another."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            pass  # nobody is there to answer
        except Exception:
            log.exception("request failed", route=_route(scope))
            if status:
                raise  # half an answer is out; the connection must break
            unavailable = problem(
                503, "Service unavailable", "it failed here", {"retry-after": "5"}
            )
            await unavailable(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(_route(scope), method, str(status)).inc()


def _route(scope: Scope) -> str:
    """The path as the route has it, so that ids in it make no series."""
    return getattr(scope.get("route"), "path", "other")


async def _invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequest)  # noqa: S101 - the handler's key
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    if isinstance(error, NothingDecoded):
        rows = [
            {"index": row.index, "id": row.id, "reason": row.reason}
            for row in error.rejected[:ERRORS_SHOWN]
        ]
        return problem(
            error.status, error.title, error.detail, rejected=len(error.rejected), errors=rows
        )
    return problem(error.status, error.title, error.detail, headers)


async def _try_later(_: Request, error: Exception) -> Response:
    assert isinstance(error, TryLater)  # noqa: S101 - the handler's key
    retry_after = {"retry-after": str(error.retry_after_seconds)}
    return problem(error.status, error.title, error.detail, retry_after)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's key
    title = HTTPStatus(error.status_code).phrase
    return problem(error.status_code, title, title, error.headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the handler's key
    known = frozenset(_names(request.app.openapi()))
    detail = "; ".join(_sentence(each, known) for each in error.errors()[:10])
    return problem(422, InvalidRequest.title, detail)


def _sentence(error: Mapping[str, Any], known: frozenset[str]) -> str:
    """`body.reference.rows: Input should be ...`: names only fields that the schema has.

    What else stands in a location, as the name of a field too many, came from the caller.
    """
    location: Sequence[str | int] = error["loc"]
    if error["type"] == "json_invalid":
        return "body: not JSON"
    path = [str(part) for part in location if isinstance(part, int) or part in known]
    return f"{'.'.join(path)}: {error['msg']}"


def _names(schema: Any) -> Iterator[str]:
    """Where a value may come from, and every parameter and property of an OpenAPI document."""
    yield from ("body", "query", "path", "header")
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if isinstance(node.get("properties"), dict):
                yield from node["properties"]
            if isinstance(node.get("name"), str) and "in" in node:
                yield node["name"]
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
