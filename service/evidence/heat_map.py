"""Heat map: loss against due, slice by slice and span by span, and one dimension by another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from service import words
from service.clock import to_rfc3339
from service.engine.views import ModelView
from service.evidence.document import spans
from service.ingest.events import Floats
from service.monitor.findings import Slice
from service.monitor.history import HOUR
from service.monitor.past import Course
from service.monitor.slices import ROOT

ROWS_OF_A_DIMENSION: Final = 12
ROWS_OF_A_PAGE: Final = 40
SIDE_OF_A_MATRIX: Final = 16
RECENT: Final = 0.25  # of the spans shown: what is meant by now

_DIGITS: Final = re.compile(r"([0-9]{1,9})")

# Loss over due, held towards 1 where labels are few: from so much on a span is shaded so.
LEVELS: Final = ((2.0, "worse-4"), (1.5, "worse-3"), (1.25, "worse-2"), (1.1, "worse-1"))
BETTER: Final = ((0.6, "better-2"), (0.85, "better-1"))


@dataclass(frozen=True, slots=True)
class Cell:
    """One span of one slice."""

    place: int
    shade: str  # a class of the style sheet
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One slice over time."""

    slice: Slice
    alert: str | None  # id of its open alert
    rows: int
    labels: int
    loss: float | None  # of the recent spans
    due: float | None
    excess: float
    cells: tuple[Cell, ...]

    @property
    def shade(self) -> str:
        """How it stands now."""
        return shade(self.excess) if self.due is not None else "unknown"

    @property
    def told(self) -> str:
        """The cells in words."""
        n_worse = sum(cell.shade.startswith("worse") for cell in self.cells)
        return f"worse than due in {n_worse} of {len(self.cells)} spans that have labels"


@dataclass(frozen=True, slots=True)
class Group:
    """Slices that belong under one heading, and how many are not shown."""

    title: str
    dimension: str | None
    rows: tuple[Row, ...]
    n_more: int


@dataclass(frozen=True, slots=True)
class Square:
    """One combination of a matrix."""

    shade: str
    loss: float | None
    text: str
    alert: str | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """One dimension's values by another's, recently."""

    down: str
    across: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square | None, ...]], ...]


class HeatMap:
    """What one model's page shows of its slices over the last so many hours."""

    def __init__(self, view: ModelView, hours: int, min_rows: int) -> None:
        self.view = view
        self.names = view.past.names
        self.metric = str(view.about["loss"])
        first, last = view.past.between()
        self.edges = spans(max(first, last - hours), last)
        n_recent = max(1, round(RECENT * (self.edges.size - 1)))
        self.recent = self.edges[[-1 - n_recent, -1]]
        every = np.arange(len(self.names))
        self.course = view.past.course(every, self.edges)
        self.now = view.past.course(every, self.recent)
        self.is_shown = view.standing.rows[: every.size] >= min_rows
        self.worst_first = self._worst_first()

    @property
    def at(self) -> list[str]:
        """When each span begins."""
        return [to_rfc3339(int(hour) * HOUR) for hour in self.edges[:-1]]

    @property
    def n_shown(self) -> int:
        """How many slices may be shown."""
        return int(self.is_shown[1:].sum())

    def everyone(self) -> Row:
        """The whole model."""
        return self._row(ROOT)

    def by_dimension(self) -> list[Group]:
        """Slices of one dimension, the worst of each; their values in order."""
        groups = []
        for dimension in self.view.about["dimensions"] or []:
            found = [i for i in self.worst_first if self._is_of(i, (dimension,))]
            kept = sorted(found[:ROWS_OF_A_DIMENSION], key=lambda i: natural(self.names[i][0][1]))
            if found:
                rows = tuple(self._row(i) for i in kept)
                groups.append(Group(dimension, dimension, rows, len(found) - len(kept)))
        return groups

    def intersections(self) -> Group:
        """Slices of two dimensions and more, the worst first."""
        found = [i for i in self.worst_first if len(self.names[i]) > 1]
        kept = tuple(self._row(i) for i in found[:ROWS_OF_A_DIMENSION])
        return Group("Intersections, worst first", None, kept, len(found) - len(kept))

    def page_of(self, dimension: str | None, start: int) -> Group:
        """Every slice, or every one that fixes a dimension, worst first, from a place on."""
        found = [
            i
            for i in self.worst_first
            if dimension is None or any(name == dimension for name, _ in self.names[i])
        ]
        rows = tuple(self._row(i) for i in found[start : start + ROWS_OF_A_PAGE])
        title = "Every slice, worst first" if dimension is None else f"{dimension}, worst first"
        return Group(title, dimension, rows, max(0, len(found) - start - len(rows)))

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of dimensions that are watched together; that of the worst slice first."""
        pairs = dict.fromkeys(
            (self.names[i][0][0], self.names[i][1][0])
            for i in self.worst_first
            if len(self.names[i]) == 2
        )
        return list(pairs)

    def matrix(self, pair: tuple[str, str]) -> Matrix | None:
        """Loss against due of each combination of two dimensions, recently."""
        found = {self.names[i]: i for i in self.worst_first if self._is_of(i, pair)}
        if not found:
            return None
        down, across = (
            sorted({name[d][1] for name in list(found)}, key=natural)[:SIDE_OF_A_MATRIX]
            for d in (0, 1)
        )
        rows = tuple(
            (
                value,
                tuple(
                    self._square(found.get(((pair[0], value), (pair[1], other))))
                    for other in across
                ),
            )
            for value in down
        )
        return Matrix(*pair, tuple(across), rows)

    def _is_of(self, index: int, dimensions: tuple[str, ...]) -> bool:
        return tuple(name for name, _ in self.names[index]) == dimensions

    def _worst_first(self) -> list[int]:
        """Slices with an open alert, then by evidence, then by how they stand now."""
        open_ = np.array([name in self.view.alerts for name in self.names])
        evidence = np.nan_to_num(self.view.standing.evidence[: len(self.names)])
        excess = np.nan_to_num(self.now.excess[:, 0], nan=1.0)
        order = np.lexsort((-excess, -evidence.round(2), ~open_))
        return [int(i) for i in order if i != ROOT and self.is_shown[i]]

    def _row(self, index: int) -> Row:
        now, name = self.now, self.names[index]
        return Row(
            slice=name,
            alert=self.view.alerts.get(name),
            rows=int(self.course.rows[index].sum()),
            labels=int(self.course.labels[index].sum()),
            loss=_known(now.loss[index]),
            due=_known(now.due[index]),
            excess=float(np.nan_to_num(now.excess[index, 0], nan=1.0)),
            cells=tuple(self._cells(index)),
        )

    def _cells(self, index: int) -> list[Cell]:
        course = self.course
        labelled = np.flatnonzero(course.labels[index] > 0).tolist()
        return [
            Cell(
                place,
                shade(float(course.excess[index, place])),
                f"{words.day_and_time(self.at_of(place))}: {self._figures(course, index, place)}",
            )
            for place in labelled
        ]

    def at_of(self, place: int) -> str:
        """When a span begins."""
        return to_rfc3339(int(self.edges[place]) * HOUR)

    def _square(self, index: int | None) -> Square | None:
        if index is None or not self.now.labels[index, 0]:
            return None
        return Square(
            shade(float(self.now.excess[index, 0])),
            _known(self.now.loss[index]),
            self._figures(self.now, index, 0),
            self.view.alerts.get(self.names[index]),
        )

    def _figures(self, course: Course, index: int, place: int) -> str:
        """`15.2 %, due 7.9 %, 21 labels`."""
        loss = words.amount(self.metric, float(course.loss[index, place]))
        due = float(course.due[index, place])
        told = "" if np.isnan(due) else f", due {words.amount(self.metric, due)}"
        n = int(course.labels[index, place])
        return f"{loss}{told}, {n:,} label{'' if n == 1 else 's'}"


def shade(excess: float) -> str:
    """The class of the style sheet for a loss so many times its due."""
    if np.isnan(excess):
        return "unknown"
    for least, name in LEVELS:
        if excess >= least:
            return name
    return next((name for most, name in BETTER if excess <= most), "as-due")


def natural(text: str) -> list[tuple[int, str]]:
    """A key by which `floor 10` comes behind `floor 9`."""
    parts = _DIGITS.split(text)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def _known(values: Floats) -> float | None:
    value = float(values[0])
    return None if np.isnan(value) else value
