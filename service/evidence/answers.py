"""Answers: templates as HTML responses that load nothing from elsewhere, problems among them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
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
        points_between=lambda pair, metric: words.points_between(metric, *pair),
        instant=words.instant,
        when=words.day_and_time,
        count=words.count,
        metric_name=words.metric_name,
        titled=lambda text: text[:1].upper() + text[1:],
        delay=words.delay,
        widening=words.widening,
        share=lambda value: f"{value:.1%}".replace("%", " %"),
    )
    made.globals["style_version"] = _style_version()
    return made


def _style_version() -> str:
    """Changes with the style sheet, so that browsers may keep each for good."""
    style = files("service.evidence") / "static" / "slicewatch.css"
    return blake2b(style.read_bytes(), digest_size=6).hexdigest()


class PageRoute(APIRoute):
    """A route whose problems are pages where a person looks, and problem documents elsewhere."""

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
    """A person looks: HTML is the first type that is accepted, as browsers have it."""
    first = request.headers.get("accept", "").split(",")[0]
    return first.split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def _problem_page(request: Request, error: Exception) -> Response:
    if isinstance(error, Unauthorized):
        return _to_sign_in(request)
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


def _to_sign_in(request: Request) -> Response:
    """Off to the sign-in page, from which one comes back to where one wanted to be.

    A browser keeps its cookie to itself where a link on another site, as in a chat, led here. It is
    then asked to come again, from a page of ours.
    """
    here = "/"
    if request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        here = path_of_ours(quote(request.url.path, safe="/~:@!$'()*+,=") + query)
        if request.headers.get("sec-fetch-site") == "cross-site":
            return html("again.html", 200, {"Refresh": f"0; url={here}"}, here=here)
    return RedirectResponse(f"/sign-in?{urlencode({'next': here})}", 303, HEADERS)


def sign_in_page(status: int, next_: str, problem: str | None) -> Response:
    """The page that asks for a key."""
    return html("sign_in.html", status, next=path_of_ours(next_), problem=problem)


def path_of_ours(path: str) -> str:
    """The path if it leads to a page of this server, else that of the first page."""
    leads_away = not path.startswith("/") or path.startswith(("//", "/sign-"))
    is_odd = not path.isascii() or not path.isprintable() or "\\" in path or " " in path
    return "/" if leads_away or is_odd else path
