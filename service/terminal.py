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

from detectors.acoustics import OCTAVES_HZ, Acoustics
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


ACOUSTIC_WORDS: Final = {
    "level_dbfs": "RMS of the clip; 0 is a square wave at full scale",
    "snr_db": "what rises above the noise floor, against it (minimum statistics, Martin 2001)",
    "centroid_hz": "mean frequency, by power",
    "flatness": "0 is one tone, 1 is white noise",
    "bandwidth_hz": "up to where the spectrum is within 60 dB of its peak",
    "clipped_share": "of samples, in runs at the clip's extreme",
    "tone_hz": "the most prominent line",
    "tone_prominence_db": "over the sixth of an octave around it (after ECMA-418-1)",
    "comb_hz": "spacing of the lines, where three or more are harmonics of one",
    "pulse_hz": "how often a second the lines, or else the whole, come and go",
    "pulse_prominence": "of that rate's line in the envelope's spectrum, times the median line",
    "modulation_depth_db": "L5 - L95 of the level at that rate (IOA AMWG 2016)",
}


def acoustics_table(found: Acoustics) -> Table:
    """A clip's figures and what they are; levels and noise floor octave by octave."""
    table = Table(box=None, pad_edge=False)
    table.add_column("feature")
    table.add_column("value", justify="right")
    table.add_column("")
    words = dict(ACOUSTIC_WORDS)
    for i, centre in enumerate(OCTAVES_HZ.tolist()):
        words[f"band_{i}_db"] = f"level of the octave around {centre:g} Hz"
        words[f"noise_floor_{i}_db"] = f"noise floor of the octave around {centre:g} Hz"
    for name, value in found.features().items():
        table.add_row(name, f"{value:.4g}", words[name])
    return table
