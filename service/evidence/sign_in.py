"""Sign in: a key for a cookie, out again, and the dependency by which pages know who looks."""

# Annotations are evaluated here: FastAPI looks up those of dependencies.
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from service.errors import Forbidden, InvalidRequest, TooLarge, Unauthorized
from service.evidence.answers import HEADERS, PageRoute, path_of_ours, sign_in_page
from service.evidence.sessions import SESSION_SECONDS, Sessions
from service.keys import Key, Scope
from service.services import Services, services

COOKIE: Final = "slicewatch_session"
MAX_FORM_BYTES: Final = 16 * 1024

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Running = Annotated[Services, Depends(services)]


def sessions_of(running: Running) -> Sessions:
    """The sessions of a running server."""
    overflow = running.metrics.overflow.labels("sessions")
    return Sessions(running.database, running.clock, running.keys, overflow.inc)


OurSessions = Annotated[Sessions, Depends(sessions_of)]


def viewer(request: Request, running: Running, sessions: OurSessions) -> Key:
    """The key of whoever looks, by Authorization header or by session, if it may read.

    Raises Unauthorized, Forbidden.
    """
    header, token = request.headers.get("authorization"), request.cookies.get(COOKIE)
    if token is not None and header is None:
        key = sessions.key_of(token)
    else:
        key = running.keys.authenticate(header)
    if not key.scopes & {Scope.READ, Scope.ADMIN}:
        raise Forbidden("the key needs one of the scopes admin, read")
    return key


Viewer = Annotated[Key, Depends(viewer)]


async def form_of(request: Request, running: Running) -> dict[str, str]:
    """The fields of a form that was sent from a page of ours.

    Raises Forbidden for one from elsewhere: the cookie is SameSite=Strict, and this stands behind.
    """
    if not _is_ours(request, running.settings.public_url):
        raise Forbidden("Origin: forms are taken from this server's own pages alone")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise TooLarge(f"body: more than {MAX_FORM_BYTES} bytes")
    try:
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=16, errors="strict"))
    except ValueError:
        raise InvalidRequest("body: not a form") from None


Form = Annotated[dict[str, str], Depends(form_of)]


@router.get("/sign-in")
def ask(
    running: Running, sessions: OurSessions, link: str | None = None, next: str = "/"
) -> Response:
    """The page that asks for a key; with a `link` that was not used yet, a session at once."""
    if link is None:
        return sign_in_page(200, next, None)
    try:
        return _signed_in(running, sessions.exchange(link), next)
    except Unauthorized as error:
        return sign_in_page(401, next, error.detail)


@router.post("/sign-in")
async def sign_in(running: Running, sessions: OurSessions, form: Form) -> Response:
    """A session for a key, and on to where one wanted to be."""
    next_ = form.get("next", "/")
    try:
        key = running.keys.authenticate(f"Bearer {form.get('key', '').strip()}")
    except Unauthorized:
        return sign_in_page(401, next_, "No key reads like this one, or it is revoked.")
    return _signed_in(running, await run_in_threadpool(sessions.begin, key), next_)


@router.post("/sign-out")
async def sign_out(request: Request, sessions: OurSessions, form: Form) -> Response:
    """End the session, here and in the browser."""
    if (token := request.cookies.get(COOKIE)) is not None:
        await run_in_threadpool(sessions.end, token)
    answer = RedirectResponse("/sign-in", 303, HEADERS)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _signed_in(running: Services, token: str, next_: str) -> Response:
    answer = RedirectResponse(path_of_ours(next_), 303, HEADERS)
    answer.set_cookie(
        COOKIE,
        token,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=(running.settings.public_url or "").startswith("https://"),
    )
    return answer


def _is_ours(request: Request, public_url: str | None) -> bool:
    """A browser says where a form comes from; who does not say is none, and has no cookie."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return True
    ours = {request.headers.get("host", ""), urlsplit(public_url or "").netloc}
    return urlsplit(origin).netloc in ours - {""}
