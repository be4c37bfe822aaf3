"""Commands of endpoints: `slicewatch endpoints list, create, test, pause, resume, rotate, …`.

They ask a running service with a key, as `apply` does, so they work from anywhere and do what the
key's tenant may. Ids and secrets are printed alone on a line of standard output.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from service.console import problems_told

app = typer.Typer(help="Say where alerts are posted, and try it.", no_args_is_help=True)

DEFAULT_URL: Final = "http://127.0.0.1:8080"
TRY_WITHIN_SECONDS: Final = 20.0  # for the first attempt of a test to be answered

Url = Annotated[str, typer.Option(envvar="SLICEWATCH_URL", help="Where the service is.")]
KeyOption = Annotated[
    str, typer.Option(envvar="SLICEWATCH_KEY", help="Better kept in the environment.")
]
Id = Annotated[str, typer.Argument(metavar="ENDPOINT-ID")]
Names = Annotated[list[str], typer.Option(help="May be given several times.")]


@app.command("list")
def list_(key: KeyOption, url: Url = DEFAULT_URL) -> None:
    """Print each endpoint's id, state, format and URL."""
    with _service(url, key) as ask:
        cursor: str | None = ""
        while cursor is not None:
            page = ask("GET", f"/v1/endpoints?cursor={cursor}" if cursor else "/v1/endpoints")
            for each in page["endpoints"]:
                why = each["state_reason"] or ""
                line = (each["id"], each["state"], each["format"], each["url"], why)
                typer.echo("\t".join(line).rstrip())
            cursor = page["next"]


@app.command()
def create(
    to: Annotated[str, typer.Argument(metavar="RECEIVER-URL", help="Where to post.")],
    key: KeyOption,
    url: Url = DEFAULT_URL,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="standard, alertmanager, pagerduty, slack, teams or cloudevents."
        ),
    ] = "standard",
    model: Names = [],  # noqa: B006 - typer copies it
    kind: Names = [],  # noqa: B006
    severity: Names = [],  # noqa: B006
    slice_: Annotated[
        list[str],
        typer.Option("--slice", metavar="DIM=VALUE[,DIM=VALUE]", help="Any of these."),
    ] = [],  # noqa: B006
    routing_key: Annotated[
        str | None, typer.Option(envvar="SLICEWATCH_ROUTING_KEY", help="Of PagerDuty.")
    ] = None,
) -> None:
    """Make an endpoint; print its id, and its signing secret once."""
    filters = {
        "models": model,
        "kinds": kind,
        "severities": severity,
        "slices": [_slice(text) for text in slice_],
    }
    settings = {
        "url": to,
        "format": format_,
        "filters": {name: wanted for name, wanted in filters.items() if wanted},
        "routing_key": routing_key,
    }
    with _service(url, key) as ask:
        made = ask("POST", "/v1/endpoints", settings)
    typer.echo("The secret is shown once; the service keeps it to sign with.", err=True)
    typer.echo(made["id"])
    typer.echo(made["secret"])


@app.command()
def test(endpoint_id: Id, key: KeyOption, url: Url = DEFAULT_URL) -> None:
    """Post an `endpoint.test` and say what was answered; exit 1 unless it was taken."""
    with _service(url, key) as ask:
        sent = ask("POST", f"/v1/endpoints/{endpoint_id}/test")["id"]
        attempt = _first_attempt(ask, endpoint_id, sent)
    if attempt is None:
        typer.echo("not attempted yet; see the endpoint's deliveries", err=True)
        raise typer.Exit(1)
    answered = attempt["error"] or f"answered {attempt['status']}"
    typer.echo(f"{answered} after {attempt['seconds']:.3f} s")
    if attempt["error"] or not 200 <= attempt["status"] < 300:
        raise typer.Exit(1)


@app.command()
def deliveries(
    endpoint_id: Id,
    key: KeyOption,
    url: Url = DEFAULT_URL,
    state: Annotated[str | None, typer.Option(help="waiting, delivered, failed, …")] = None,
) -> None:
    """Print the newest deliveries: when, what, of which alert, their state, their attempts."""
    with _service(url, key) as ask:
        query = f"?state={state}" if state else ""
        found = ask("GET", f"/v1/endpoints/{endpoint_id}/deliveries{query}")["deliveries"]
    for each in found:
        tried = " ".join(str(one["status"] or one["error"]) for one in each["attempts"])
        about = each["alert"] or ""
        line = (each["id"], each["created_at"], each["type"], about, each["state"], tried)
        typer.echo("\t".join(line).rstrip())


@app.command()
def replay(
    endpoint_id: Id,
    key: KeyOption,
    since: Annotated[str, typer.Option(help="RFC 3339.")],
    until: Annotated[str, typer.Option(help="RFC 3339.")],
    url: Url = DEFAULT_URL,
    state: Annotated[list[str], typer.Option(help="May be given several times.")] = ["failed"],  # noqa: B006
) -> None:
    """Send again what was made in a span of time, by default what failed."""
    span = {"since": since, "until": until, "states": state}
    with _service(url, key) as ask:
        n = ask("POST", f"/v1/endpoints/{endpoint_id}/replay", span)["replayed"]
    typer.echo(f"{n} deliveries go out again")


@app.command()
def pause(endpoint_id: Id, key: KeyOption, url: Url = DEFAULT_URL) -> None:
    """Tell it nothing until it is resumed."""
    _do(url, key, endpoint_id, "pause")


@app.command()
def resume(endpoint_id: Id, key: KeyOption, url: Url = DEFAULT_URL) -> None:
    """Tell it again, paused or disabled."""
    _do(url, key, endpoint_id, "resume")


@app.command()
def rotate(endpoint_id: Id, key: KeyOption, url: Url = DEFAULT_URL) -> None:
    """Print a new signing secret; the old one signs beside it for a day."""
    with _service(url, key) as ask:
        secret = ask("POST", f"/v1/endpoints/{endpoint_id}/rotate")["secret"]
    typer.echo("This secret is shown once; the old one signs beside it for a day.", err=True)
    typer.echo(secret)


@app.command()
def delete(endpoint_id: Id, key: KeyOption, url: Url = DEFAULT_URL) -> None:
    """Forget it, and all that was sent to it."""
    with _service(url, key) as ask:
        ask("DELETE", f"/v1/endpoints/{endpoint_id}")
    typer.echo(f"{endpoint_id}: deleted", err=True)


class _Ask:
    """Asks the service, and raises what it says in words."""

    def __init__(self, url: str, key: str) -> None:
        import httpx2

        self.url = url
        self.http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,  # a key goes where --url says, not to a proxy of the environment
            timeout=30.0,
        )

    def __call__(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        import httpx2

        from service.errors import InvalidRequest, TryLater
        from service.replay import problem

        try:
            answer = self.http.request(method, path, json=body)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise TryLater(f"{self.url}: no answer ({type(error).__name__})") from None
        if not answer.is_success:
            raise InvalidRequest(problem(answer))
        return answer.json() if answer.content else None


@contextmanager
def _service(url: str, key: str) -> Iterator[_Ask]:
    """The service at a URL; problems are told."""
    ask = _Ask(url, key)
    try:
        with problems_told():
            yield ask
    finally:
        ask.http.close()


def _do(url: str, key: str, endpoint_id: str, verb: str) -> None:
    with _service(url, key) as ask:
        state = ask("POST", f"/v1/endpoints/{endpoint_id}/{verb}")["state"]
    typer.echo(f"{endpoint_id}: {state}", err=True)


def _first_attempt(ask: _Ask, endpoint_id: str, sent: str) -> Any:
    ends = time.monotonic() + TRY_WITHIN_SECONDS
    while time.monotonic() < ends:
        found = ask("GET", f"/v1/endpoints/{endpoint_id}/deliveries")["deliveries"]
        attempts: list[Any] = next((one["attempts"] for one in found if one["id"] == sent), [])
        if attempts:
            return attempts[0]
        time.sleep(0.1)
    return None


def _slice(text: str) -> dict[str, str]:
    """`floor=7,accent=scottish` as `{"floor": "7", "accent": "scottish"}`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals and value for name, equals, value in pairs):
        raise typer.BadParameter("must be DIM=VALUE[,DIM=VALUE]", param_hint="--slice")
    return {name: value for name, _, value in pairs}
