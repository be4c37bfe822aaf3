"""Document: everything that speaks for an alert, as JSON; the alert's page is a drawing of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import numpy as np

from detectors.confidence import combined_interval
from service.clock import to_rfc3339
from service.engine.views import ModelView
from service.ingest.events import Ints
from service.monitor.findings import Slice
from service.monitor.history import HOUR
from service.monitor.inputs import MIN_ROWS, Histogram
from service.monitor.past import Course
from service.monitor.slices import ROOT

MAX_SPANS: Final = 56
SPAN_HOURS: Final = (1, 2, 3, 4, 6, 8, 12, 24)
MIN_LEAD_HOURS: Final = 72  # shown from before an onset
TAIL_HOURS: Final = 24  # shown from after an alert is over
MAX_FEATURES: Final = 8  # of those that moved

Json = dict[str, Any]
PublicAlert = Mapping[str, Any]


def slice_of(alert: PublicAlert) -> Slice:
    """The slice of an alert in the contract's form."""
    return tuple(sorted(alert["slice"].items()))


def figures_of(alert: PublicAlert, view: ModelView, inputs: Sequence[Histogram]) -> Json:
    """The course of the slice and of the rest, the gap before and since, inputs, labelling."""
    slice_ = slice_of(alert)
    if slice_ not in view.past.names:  # the model is watched anew
        return NOTHING
    index = view.past.names.index(slice_)
    first, last = view.past.between()
    onset = _hour(alert["onset"])
    end = last if alert["resolved_at"] is None else min(last, _hour(alert["resolved_at"]) + 1)
    two = np.array([min(first, onset - 1), onset, max(end, onset + 1)])
    shown = spans(max(first, onset - max(MIN_LEAD_HOURS, end - onset)), min(last, end + TAIL_HOURS))
    own, rest = view.past.course(np.array([index]), two), view.past.rest(index, two)
    return {
        "course": course_json(view, index, shown),
        "gap": {"before": _gap(own, rest, 0), "since": _gap(own, rest, 1)},
        "labelling": {
            "before": _labelling(own, rest, 0),
            "since": _labelling(own, rest, 1),
            "waiting": view.about["labels_waiting"],
            "unscored": view.about["labels_unscored"],
        },
        "rows_an_hour": _number(own.rows[0, 1] / (two[2] - two[1])),
        "inputs": inputs_json(inputs),
        "loss": view.about["loss"],
        "reference_until": view.about["reference_until"],
    }


NOTHING: Final[Json] = {
    "course": None,
    "gap": None,
    "labelling": None,
    "rows_an_hour": None,
    "inputs": [],
    "loss": None,
    "reference_until": None,
}


def spans(start: int, end: int) -> Ints:
    """The edges of at most `MAX_SPANS` spans that cover these hours since 1970."""
    hours = next((h for h in SPAN_HOURS if end - start <= h * (MAX_SPANS - 1)), SPAN_HOURS[-1])
    return np.arange(start // hours * hours, max(end, start + 1) + hours, hours, dtype=np.int64)


def course_json(view: ModelView, index: int, edges: Ints) -> Json:
    """A slice and the rest of its model over time, a value a span."""
    own = view.past.course(np.array([index]), edges)
    return {
        "span_seconds": int(edges[1] - edges[0]) * 3600,
        "at": [to_rfc3339(int(hour) * HOUR) for hour in edges[:-1]],
        "slice": _columns(own),
        "rest": None if index == ROOT else _columns(view.past.rest(index, edges)),
    }


def inputs_json(inputs: Sequence[Histogram]) -> list[Json]:
    """The features that moved most in this slice and least elsewhere, the foremost first."""
    judged = [h for h in inputs if min(h.before.sum(), h.after.sum()) >= MIN_ROWS]
    judged.sort(key=lambda h: h.rest_distance - h.distance)
    return [_feature(histogram) for histogram in judged[:MAX_FEATURES]]


def _feature(histogram: Histogram) -> Json:
    signal = histogram.signal
    return {
        "feature": signal.name,
        "kind": signal.kind,
        "bins": _bins(signal.cuts) if signal.kind == "numeric" else signal.bin_names,
        "before": _shares(histogram.before),
        "since": _shares(histogram.after),
        "rest_before": _shares(histogram.rest_before),
        "rest_since": _shares(histogram.rest_after),
        "moved": histogram.largest_move,
        "distance": _number(histogram.distance),
        "rest_distance": _number(histogram.rest_distance) if histogram.rest_after.any() else None,
    }


def _bins(cuts: Sequence[float]) -> list[str]:
    named = [f"{cut:.4g}" for cut in cuts]
    if not named:
        return ["any"]
    between = [f"{low} to {high}" for low, high in pairwise(named)]
    return [f"under {named[0]}", *between, f"{named[-1]} and more"]


def _shares(counts: Ints) -> list[float | None]:
    """Of each bin, the last those that are missing."""
    total = int(counts.sum())
    return [_number(int(count) / total) if total else None for count in counts]


def _columns(course: Course) -> Json:
    return {
        "rows": [int(n) for n in course.rows[0]],
        "labels": [int(n) for n in course.labels[0]],
        "loss": [_number(v) for v in course.loss[0]],
        "loss_lower": [_number(v) for v in course.lower[0]],
        "loss_upper": [_number(v) for v in course.upper[0]],
        "due": [_number(v) for v in course.due[0]],
    }


def _gap(own: Course, rest: Course, span: int) -> Json:
    """Loss of the slice, of the rest, and between them, each with its interval."""
    both = [[c.loss[0, span], c.lower[0, span], c.upper[0, span]] for c in (own, rest)]
    loss, lower, upper = np.array(both).T
    gap_lower, gap_upper = combined_interval(np.array([1.0, -1.0]), loss, lower, upper)
    return {
        "slice": _number(loss[0]),
        "slice_interval": _pair(lower[0], upper[0]),
        "due": _number(own.due[0, span]),
        "rest": _number(loss[1]),
        "rest_interval": _pair(lower[1], upper[1]),
        "gap": _number(loss[0] - loss[1]),
        "gap_interval": _pair(float(gap_lower), float(gap_upper)),
    }


def _labelling(own: Course, rest: Course, span: int) -> Json:
    return {
        "rows": int(own.rows[0, span]),
        "labels": int(own.labels[0, span]),
        "rest_rows": int(rest.rows[0, span]),
        "rest_labels": int(rest.labels[0, span]),
    }


def _hour(rfc3339: str) -> int:
    return int(datetime.fromisoformat(rfc3339).timestamp()) // 3600


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _pair(lower: float, upper: float) -> list[float | None] | None:
    both = [_number(lower), _number(upper)]
    return None if None in both else both
