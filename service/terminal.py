"""Terminal: progress that suits a person or a log, and the table of a backtest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from service.alerts.public import public_alert
from service.backtest import Backtest
from service.words import change, delay, instant, slice_text, widening

LINES_WITHOUT_A_TERMINAL: Final = 10
WIDTH_OF_FILES: Final = 160  # characters


def wide_stdout() -> Console:
    """Standard output; wide enough for a table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_OF_FILES)


@contextmanager
def progress(what: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told of rows done: a bar on a terminal, else ten plain lines."""
    if not console.is_terminal:
        yield _plain_progress(what, total, console)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda rows: bar.advance(task, rows)


def _plain_progress(what: str, total: int, console: Console) -> Callable[[int], None]:
    done = said = 0

    def advance(rows: int) -> None:
        nonlocal done, said
        done += rows
        tenths = LINES_WITHOUT_A_TERMINAL * done // max(total, 1)
        if tenths > said:
            said = tenths
            console.print(f"{what}: {done:,} of {total:,} rows", highlight=False)

    return advance


def backtest_report(result: Backtest) -> Group:
    """When each alert would have fired, how late, for whom, how much; and how many a week."""
    table = Table(box=None, pad_edge=False)
    for heading in ("fired", "began", "late by", "kind", "slice", "loss", "widened by", "now"):
        table.add_column(heading, overflow="fold")
    for alert in map(public_alert, result.alerts):
        table.add_row(
            instant(alert["detected_at"]),
            instant(alert["onset"]),
            delay(alert),
            alert["kind"],
            slice_text(alert) + (" (explained)" if alert["explained_by"] else ""),
            change(alert["effect"]),
            widening(alert["effect"]),
            alert["state"],
        )
    speed = result.rows / max(result.seconds, 1e-9)
    figures = (
        f"{result.rows:,} rows, {result.labels:,} labels in {result.seconds:.1f} s "
        f"({speed:,.0f} rows/s): {len(result.alerts)} alerts, "
        f"{result.alerts_a_week:.2g} a week that someone is told of"
    )
    return Group(table, "", figures) if result.alerts else Group(figures)
