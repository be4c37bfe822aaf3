"""Answers: templates as HTML responses that load nothing from elsewhere, problems among them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from service import words
from service.errors import InvalidRequest, TryLater, Unauthorized

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def html(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **shown: Any
) -> HTMLResponse:
    """A page; every name and text in it is escaped."""
    page = environment().get_template(template).render(**shown)
    return HTMLResponse(page, status, {**HEADERS, **(headers or {})})


@cache
def environment() -> Environment:
    """The templates of this package, with the service's words as filters."""
    made = Environment(
        loader=PackageLoader("service.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        amount=lambda value, metric: "–" if value is None else words.amount(metric, value),
        points=lambda value, metric: "–" if value is None else words.points(metric, value),
        instant=words.instant,
        when=when,
        count=words.count,
        metric_name=words.metric_name,
        delay=words.delay,
        widening=words.widening,
        share=lambda value: "–" if value is None else f"{value:.1%}".replace("%", " %"),
    )
    made.globals["style_version"] = _style_version()
    return made


def when(rfc3339: str) -> str:
    """`8 Mar 22:00`: an instant whose year one knows."""
    at = datetime.fromisoformat(rfc3339)
    return f"{at.day} {at:%b %H:%M}"


def _style_version() -> str:
    """Changes with the style sheet, so that browsers may keep each for good."""
    style = files("service.evidence") / "static" / "slicewatch.css"
    return blake2b(style.read_bytes(), digest_size=6).hexdigest()


class PageRoute(APIRoute):
    """A route whose problems are pages too, for whoever asks for pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, with an answer for what it raises."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (InvalidRequest, TryLater, RequestValidationError) as error:
                if not wants_html(request):
                    raise
                return _problem_page(request, error)

        return handled


def wants_html(request: Request) -> bool:
    """A page is asked for: the path is one's, or the first type accepted is HTML."""
    if not request.url.path.startswith("/v1/"):
        return True
    types = request.headers.get("accept", "").split(",")
    return types[0].split(";")[0].strip() in ("text/html", "application/xhtml+xml")


def _problem_page(request: Request, error: Exception) -> Response:
    if isinstance(error, Unauthorized):
        return _ask_to_sign_in(request, error)
    if isinstance(error, TryLater):
        headers = {"Retry-After": str(error.retry_after_seconds)}
        return html(
            "problem.html", error.status, headers, title="Not just now", detail=error.detail
        )
    if isinstance(error, InvalidRequest):
        return html("problem.html", error.status, title=error.title, detail=error.detail)
    return html(
        "problem.html", 422, title=InvalidRequest.title, detail="the address makes no sense here"
    )


def _ask_to_sign_in(request: Request, error: Unauthorized) -> Response:
    """The sign-in page, from which one goes on to where one wanted to be.

    A browser keeps its cookie to itself where a link on another site, as in a chat, led here. It is
    then asked to come again, from a page of ours.
    """
    here = "/"
    if request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        here = path_of_ours(quote(request.url.path, safe="/~:@!$'()*+,=") + query)
        if request.headers.get("sec-fetch-site") == "cross-site":
            return html("again.html", 200, {"Refresh": f"0; url={here}"}, here=here)
    return sign_in_page(401, here, error.detail if request.cookies else None)


def sign_in_page(status: int, next_: str, problem: str | None) -> Response:
    """The page that asks for a key."""
    return html("sign_in.html", status, next=path_of_ours(next_), problem=problem)


def path_of_ours(path: str) -> str:
    """The path if it leads to a page of this server, else that of the first page."""
    leads_away = not path.startswith("/") or path.startswith(("//", "/sign-"))
    is_odd = not path.isascii() or not path.isprintable() or "\\" in path or " " in path
    return "/" if leads_away or is_odd else path
