"""Forms of a report: the same card as one HTML file that needs nothing else, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, Final

import pandas as pd
from markupsafe import Markup

from service import words
from service.evidence.answers import environment
from service.report import Card

HEADROOM: Final = 1.05

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def html(card: Card) -> str:
    """One file, its style inside."""
    style = (files("service.evidence") / "static" / "slicewatch.css").read_text()
    return (
        environment()
        .get_template("report.html")
        .render(
            card=card,
            figures=Figures(card),
            in_short=list(in_short(card)),
            groups=list(groups(card)),
            left_out=list(left_out(card)),
            how_to_read=HOW_TO_READ,
            style=Markup(style),  # noqa: S704 - our own file
        )
    )


def markdown(card: Card) -> str:
    """The same in Markdown, with tables."""
    figures = Figures(card)
    lines = [
        f"# Service card: {escaped(card.about['model'])}",
        "",
        f"{card.since:%Y-%m-%d %H:%M} to {card.until:%Y-%m-%d %H:%M} UTC; "
        f"made {card.made_at:%Y-%m-%d %H:%M} UTC by Slicewatch.",
        "",
        "## In short",
        "",
        *(f"- {escaped(sentence)}" for sentence in in_short(card)),
    ]
    for title, slices in groups(card):
        lines += ["", f"## {escaped(title)}", "", *_table(HEADINGS, figures.rows(slices))]
    if card.alerts:
        lines += ["", "## Incidents", "", *_table(ALERT_HEADINGS, figures.alerts())]
    lines += ["", "## What could not be judged, and why", ""]
    lines += [f"- {escaped(sentence)}" for sentence in left_out(card)]
    lines += ["", "## How to read it", "", *(f"- {escaped(line)}" for line in HOW_TO_READ), ""]
    return "\n".join(lines)


HEADINGS: Final = (
    *("Slice", "Predictions", "Labels", "Loss", "Interval", "In the reference"),
    *("Against the rest", "Interval", "Trend a week"),
)
ALERT_HEADINGS: Final = ("Slice", "Kind", "Since", "State", "Loss", "The rest")
HOW_TO_READ: Final = (
    "Loss is the mean over labelled predictions, each weighted by the inverse of the chance with "
    "which it was chosen for labelling.",
    "Against the rest: the slice's loss minus that of every prediction outside the slice. It says "
    "how unevenly people are served, not why.",
    "Intervals hold 95 % each, whenever one looks. Of a hundred of them a few miss the truth, so a "
    "table this long shows some differences that are none; alerts are held to a stricter rule.",
    "Trend: the change of the loss in a week, with its interval; steady where it may be none.",
)


class Figures:
    """The figures of a card as people read them."""

    def __init__(self, card: Card) -> None:
        self.card = card
        uppers = card.judged["loss_upper"].dropna()
        self.top = HEADROOM * float(uppers.max()) if len(uppers) else 1.0

    def amount(self, value: float) -> str:
        """A loss."""
        return "–" if pd.isna(value) else words.amount(self.card.metric, value)

    def points(self, value: float) -> str:
        """A difference of losses."""
        return "–" if pd.isna(value) else words.points(self.card.metric, value)

    def amounts(self, lower: float, upper: float) -> str:
        """An interval of a loss."""
        return "–" if pd.isna(lower) else f"{self.amount(lower)} to {self.amount(upper)}"

    def points_between(self, lower: float, upper: float) -> str:
        """An interval of a difference."""
        return "–" if pd.isna(lower) else words.points_between(self.card.metric, lower, upper)

    def trend(self, row: Any) -> str:
        """`rising, +0.4 points`, or steady."""
        if pd.isna(row.trend):
            return "–"
        if row.trend_lower <= 0 <= row.trend_upper:
            return "steady"
        return f"{'rising' if row.trend > 0 else 'falling'}, {self.points(row.trend)}"

    def percent(self, value: float) -> float:
        """Where a loss lies on the scale of the whole card."""
        return round(max(0.0, min(100.0, 100 * value / self.top)), 2)

    def rows(self, slices: pd.DataFrame) -> Iterator[tuple[str, ...]]:
        """One row a slice, under `HEADINGS`."""
        for row in rows_of(slices):
            yield (
                row.slice,
                words.count(row.rows),
                words.count(row.labels),
                self.amount(row.loss),
                self.amounts(row.loss_lower, row.loss_upper),
                self.amount(row.reference_loss),
                self.points(row.disparity),
                self.points_between(row.disparity_lower, row.disparity_upper),
                self.trend(row),
            )

    def alerts(self) -> Iterator[tuple[str, ...]]:
        """One row an alert, under `ALERT_HEADINGS`."""
        for alert in self.card.alerts:
            yield (
                words.slice_text(alert),
                str(alert["kind"]).replace("_", " "),
                words.instant(alert["onset"]),
                str(alert["state"]),
                words.change(alert["effect"]),
                words.rest_change(alert["effect"]) or "–",
            )


def rows_of(slices: pd.DataFrame) -> Iterator[Any]:
    """The rows of a frame, a name a column."""
    yield from slices.itertuples()


def groups(card: Card) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every slice: a table a dimension, then a table a pair of them; judged ones alone."""
    judged = card.judged
    for (order, dimension), slices in judged.groupby(["order", "dimension"], sort=True):
        title = str(dimension) if order == 1 else str(dimension).replace(", ", " and ")
        yield title, slices.sort_values("disparity", ascending=False)


def in_short(card: Card) -> Iterator[str]:
    """What someone who reads three lines should know."""
    about, whole, figures = card.about, card.whole, Figures(card)
    name = words.metric_name(card.metric)
    yield (
        f"{words.count(whole['rows'])} predictions were made and "
        f"{words.count(whole['labels'])} of them labelled "
        f"({whole['labels'] / max(whole['rows'], 1) * 100:.1f} %); {name} over all of them is "
        f"{figures.amount(whole['loss'])}."
    )
    worse, rising = card.worse, card.rising
    if len(worse):
        worst = worse.iloc[0]
        yield (
            f"{len(worse)} of {len(card.judged)} slices that can be judged were served worse than "
            f"the rest beyond their interval; most of all {worst['slice']}: "
            f"{figures.amount(worst['loss'])}, {figures.points(worst['disparity'])} to the rest."
        )
    else:
        yield "No slice that can be judged was served worse than the rest beyond its interval."
    if len(rising):
        steepest = rising.iloc[0]
        yield (
            f"{len(rising)} got worse over the span; most of all {steepest['slice']}, by "
            f"{figures.points(steepest['trend'])} a week."
        )
    heads = [alert for alert in card.alerts if alert["explained_by"] is None]
    told = "; ".join(
        f"{words.slice_text(alert)} since {words.instant(alert['onset'])}, {alert['state']}"
        for alert in heads[:3]
    )
    were = "1 incident was" if len(heads) == 1 else f"{len(heads)} incidents were"
    yield f"{were} open{': ' + told if told else ''}."
    if len(about["versions"]) > 1:
        yield f"{len(about['versions'])} versions of the model have been seen."


def left_out(card: Card) -> Iterator[str]:
    """What the card says nothing of, and why."""
    about = card.about
    for reason, slices in card.not_judged.groupby("not_judged"):
        shown = "; ".join(slices["slice"].astype(str)[:20])
        more = f"; and {len(slices) - 20} more" if len(slices) > 20 else ""
        yield f"{len(slices)} slices, {reason}: {shown}{more}."
    if card.n_hidden:
        least = about["config"]["publish_min_rows"]
        yield f"{card.n_hidden} slices with fewer than {least} predictions are not shown."
    if about["reference_until"] is None:
        yield "There is no reference yet, so nothing is compared with what was normal."
    for figure, said in _COUNTED:
        if about[figure]:
            yield f"{words.count(about[figure])} {said}."
    features = ", ".join(card.about["dimensions"] or []) or "none"
    yield f"People in dimensions other than these cannot be told apart: {features}."


_COUNTED: Final = (
    ("rows_other", "predictions of rare combinations count in the whole model alone"),
    ("slices_past_budget", "places in slices past the budget were not given"),
    ("labels_unscored", "labels did not fit their prediction and could not be scored"),
    ("labels_waiting", "labels wait for their prediction"),
)


def escaped(text: str) -> str:
    """Text that Markdown shows literally, HTML in it too."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join('---' if i == 0 else '--:' for i in range(len(headings)))}|"
    for row in rows:
        yield f"| {' | '.join(escaped(cell) for cell in row)} |"
