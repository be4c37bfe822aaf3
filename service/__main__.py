"""Commands: `slicewatch serve`, `demo`, `replay`, `backtest`, `report`, `apply`, and many more.

Each command imports what it needs when it runs, so that `slicewatch --help` answers at once. What
a command prints on standard output is its answer; progress and problems go to standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service import endpoint_commands
from service.console import problems_told as _problems_told
from service.console import settings_of as _settings
from service.management import register

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from service.ingest.events import Rejected
    from service.replay import Source

app = typer.Typer(
    name="slicewatch",
    help="Which slices of a model's users are getting worse unevenly, since when, by how much.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
register(app)
app.add_typer(endpoint_commands.app, name="endpoints")


class Form(StrEnum):
    """How an answer is printed."""

    TEXT = "text"
    JSON = "json"


class ReportForm(StrEnum):
    """How a report is written."""

    MARKDOWN = "markdown"
    HTML = "html"


RowsFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="Parquet, CSV, NDJSON, or captures of SageMaker, Azure ML, BentoML; a directory or a"
        " pattern stands for the files that it holds.",
    ),
]
Mapping = Annotated[
    list[str], typer.Option("--map", metavar="COLUMN=FIELD", help="Read a column as a field.")
]
Model = Annotated[str | None, typer.Option(help="The model of rows that name none.")]
Url = Annotated[str, typer.Option(envvar="SLICEWATCH_URL", help="Where the service is.")]
KeyOption = Annotated[
    str, typer.Option(envvar="SLICEWATCH_KEY", help="Better kept in the environment.")
]
LEFT_OUT_SHOWN = 5  # rows of a file, one by one
DEFAULT_URL = "http://127.0.0.1:8080"


def main() -> None:
    """The `slicewatch` command."""
    app()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.")] = None,
) -> None:
    """Run the service: API, engine and deliveries in one process on SQLite."""
    import signal
    import sys

    # Asked to end while it still loads and replays, it ends: nothing was acknowledged yet.
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_, lambda *_: sys.exit(0))
    from service.heap import hold_less

    hold_less()
    from service.app import serve as run

    with _problems_told():
        settings = _settings(host=host, port=port)
        run(settings)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End by itself: 0 where the slice was found, else 1.")
    ] = False,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
) -> None:
    """Serve, replay a hospital's recordings, receive our own webhooks, say what was found."""
    from service.demo.run import run

    raise typer.Exit(run(once, port))


@app.command()
def replay(
    files: RowsFiles,
    key: KeyOption,
    url: Url = DEFAULT_URL,
    speed: Annotated[
        str, typer.Option(help="`max`, or how many seconds of the stream a second.")
    ] = "max",
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Rows a request.")] = 500,
    map_: Mapping = [],  # noqa: B006 - typer copies it
    model: Model = None,
    bookmark: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Remembers how far it came; run again, it goes on."),
    ] = None,
) -> None:
    """Send files of rows through the API, in the order of their times."""
    from service.ingest.events import PREDICTION
    from service.ingest.files import count_rows
    from service.replay import Bookmark, Sender
    from service.replay import replay as run
    from service.terminal import progress

    with _problems_told():
        source = _source(files, map_, model)
        with (
            progress("replayed", count_rows(source.paths), _stderr()) as advance,
            Sender(url, key) as sender,
        ):
            replayed = run(
                source,
                sender,
                speed=_speed(speed),
                batch_rows=batch,
                bookmark=Bookmark(bookmark),
                progress=lambda rows: advance(int((rows.kind & PREDICTION).sum())),
            )
    _tell_left_out(replayed.left_out)
    typer.echo(
        f"accepted {replayed.accepted}, duplicates {replayed.duplicates}, "
        f"rejected {replayed.rejected} in {replayed.requests} requests"
    )


@app.command()
def backtest(
    files: RowsFiles,
    monitor: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="As `apply -f` takes it.")
    ] = None,
    map_: Mapping = [],  # noqa: B006
    format_: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.TEXT,
    model: Model = None,
) -> None:
    """Every alert that files would have raised, when, how late, and how many a week."""
    from service.backtest import backtest as run
    from service.clock import SystemClock
    from service.ingest.events import PREDICTION
    from service.ingest.files import count_rows
    from service.monitors import read_monitors
    from service.terminal import backtest_report, progress, wide_stdout

    with _problems_told():
        monitors = () if monitor is None else read_monitors(monitor)
        source = _source(files, map_, model)
        with progress("folded in", count_rows(source.paths), _stderr()) as advance:
            result = run(
                source,
                SystemClock(),
                monitors=monitors,
                progress=lambda rows: advance(int((rows.kind & PREDICTION).sum())),
            )
    _tell_left_out(result.left_out)
    if format_ is Form.JSON:
        typer.echo(result.to_json())
    else:
        wide_stdout().print(backtest_report(result))


@app.command()
def report(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    key: KeyOption,
    url: Url = DEFAULT_URL,
    from_: Annotated[
        str | None, typer.Option("--from", help="2026-03-02, or an instant; default 28 days ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Default: up to the newest row.")] = None,
    format_: Annotated[
        ReportForm | None, typer.Option("--format", help="Default: by the name of the output.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", dir_okay=False, help="A file; default: print.")
    ] = None,
) -> None:
    """A dated report of every slice: how it was served, with intervals, and what is not known."""
    from datetime import UTC, datetime

    from service.clock import SystemClock
    from service.report import Source, make
    from service.report_forms import html, markdown

    since, until_ = _instant(from_, "--from"), _instant(until, "--until")
    now = datetime.fromtimestamp(SystemClock().now() / 1e6, UTC)
    with _problems_told(), Source(url, key) as source:
        card = make(source, model, since, until_, now)
    named_html = output is not None and output.suffix in (".html", ".htm")
    wanted = format_ or (ReportForm.HTML if named_html else ReportForm.MARKDOWN)
    text = html(card) if wanted is ReportForm.HTML else markdown(card)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@app.command()
def apply(
    file: Annotated[Path, typer.Option("-f", "--file", exists=True, dir_okay=False, help="YAML.")],
    key: KeyOption,
    url: Url = DEFAULT_URL,
) -> None:
    """State how models are watched, from a file of monitors."""
    from service.monitors import put_monitors, read_monitors

    with _problems_told():
        for model in put_monitors(read_monitors(file), url, key):
            typer.echo(f"{model}: applied")


@app.command()
def acoustics(
    file: Annotated[Path, typer.Argument(metavar="FILE.wav", exists=True, dir_okay=False)],
    format_: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.TEXT,
) -> None:
    """What a clip sounds like, in the figures that a prediction may carry as `features`."""
    import json

    from detectors.acoustics import ClipError, describe
    from service.errors import InvalidRequest
    from service.terminal import acoustics_table, wide_stdout
    from service.wav import read_wav

    with _problems_told():
        samples, rate_hz = read_wav(file)
        try:
            found = describe(samples, rate_hz)
        except ClipError as error:
            raise InvalidRequest(str(error)) from None
    if format_ is Form.JSON:
        typer.echo(json.dumps({name: round(value, 4) for name, value in found.features().items()}))
    else:
        wide_stdout().print(acoustics_table(found))


def _source(files: list[str], pairs: list[str], model: str | None) -> Source:
    """The files that the arguments name, and how they are read."""
    from service.errors import InvalidRequest
    from service.ingest.paths import files_of
    from service.replay import Source

    try:
        return Source(files_of(files), _mapping(pairs), model)
    except InvalidRequest as error:
        raise typer.BadParameter(error.detail, param_hint="FILE") from None


def _instant(text: str | None, option: str) -> datetime | None:
    """The instant that an option gives."""
    from service.report import instant_of

    try:
        return None if text is None else instant_of(text)
    except ValueError:
        raise typer.BadParameter("must be a date or an instant", param_hint=option) from None


def _mapping(pairs: list[str]) -> dict[str, str]:
    """`["spoken_at=time"]` as `{"spoken_at": "time"}`."""
    mapping = {}
    for pair in pairs:
        column, equals, field = pair.partition("=")
        if not (column and equals and field):
            raise typer.BadParameter("must be COLUMN=FIELD", param_hint="--map")
        mapping[column] = field
    return mapping


def _speed(text: str) -> float | None:
    """None for `max`, else the factor."""
    if text == "max":
        return None
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise typer.BadParameter("must be max or a number above 0", param_hint="--speed")
    return factor


def _tell_left_out(rows: Sequence[Rejected]) -> None:
    """Say which rows of a file were left out and why: the first of them, and how many."""
    for row in rows[:LEFT_OUT_SHOWN]:
        typer.echo(f"row {row.index} left out: {row.reason}", err=True)
    if len(rows) > LEFT_OUT_SHOWN:
        typer.echo(f"and {len(rows) - LEFT_OUT_SHOWN} more rows left out", err=True)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


if __name__ == "__main__":
    main()
