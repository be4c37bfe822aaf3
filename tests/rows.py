"""Rows: batches and journal entries of which a test says only what it is about.

`a_prediction`, `a_label` and `a_batch` are for a handful of rows; `Stream` draws thousands, with a
slice that gets worse at a known moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from service.alerts.alert import Alert, Transition
from service.engine.fold import Fold
from service.engine.ports import BATCH, CONFIGURE, REFERENCE, Entry
from service.ingest.events import (
    LABEL,
    PREDICTION,
    Categories,
    EventBatch,
    Floats,
    Rejected,
    Value,
)
from service.ingest.frame import to_frame

SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
START: Final = 1_772_409_600 * SECOND  # Monday 2026-03-02, 00:00 UTC
LATER: Final = START + 400 * DAY  # when rows are received, behind all of their times

Row = dict[str, Any]


def a_prediction(id_: str, at: int = START, **stated: Any) -> Row:
    """A prediction as a row: `output`, `confidence`, `cluster`, `attributes`, `features`..."""
    return {"id": id_, "time": at, "kind": PREDICTION, "output": "a", **stated}


def a_label(id_: str, at: int = START, **stated: Any) -> Row:
    """A label as a row: `truth`, or `loss`, or `errors` and `total`."""
    return {"id": id_, "time": at, "kind": LABEL, **({"truth": "a"} if not stated else stated)}


def both(id_: str, at: int = START, **stated: Any) -> Row:
    """A prediction with its truth inside."""
    return a_prediction(id_, at, **stated) | {"kind": PREDICTION | LABEL}


def a_batch(rows: Sequence[Row]) -> EventBatch:
    """The rows as columns."""

    def text(name: str) -> Categories:
        return Categories.of([row.get(name) for row in rows])

    def floats(name: str) -> Floats | None:
        column = [row.get(name) for row in rows]
        if all(value is None for value in column):
            return None
        return np.array([np.nan if value is None else value for value in column], np.float64)

    def nested(name: str) -> dict[str, list[Any]]:
        names = dict.fromkeys(key for row in rows for key in row.get(name, {}))
        return {key: [row.get(name, {}).get(key) for row in rows] for key in names}

    return EventBatch(
        ids=[row["id"] for row in rows],
        kind=np.array([row["kind"] for row in rows], np.uint8),
        time=np.array([row["time"] for row in rows], np.int64),
        model=Categories.of([row.get("model", "m") for row in rows]),
        version=text("version"),
        attributes={k: Categories.of(column) for k, column in nested("attributes").items()},
        features={k: a_value(column) for k, column in nested("features").items()},
        output=a_value([row.get("output") for row in rows]),
        truth=a_value([row.get("truth") for row in rows]),
        cluster=text("cluster"),
        confidence=floats("confidence"),
        loss=floats("loss"),
        errors=floats("errors"),
        total=floats("total"),
        inclusion_probability=floats("inclusion_probability"),
    )


def a_value(column: Sequence[Any]) -> Value:
    """Numbers, texts, booleans and None as a column."""
    texts = [str(v).lower() if isinstance(v, bool) else v for v in column]
    numbers = [
        v if isinstance(v, int | float) and not isinstance(v, bool) else None for v in column
    ]
    return Value(
        np.array([np.nan if v is None else v for v in numbers], np.float64)
        if any(v is not None for v in numbers)
        else None,
        Categories.of([v if isinstance(v, str) else None for v in texts]),
    )


def an_entry(
    batch: EventBatch | Sequence[Row],
    tenant: str = "acme",
    received_at: int = LATER,
    batch_id: str | None = None,
    rejected: Sequence[Rejected] = (),
) -> Entry:
    """A journal entry of a request."""
    columns = batch if isinstance(batch, EventBatch) else a_batch(batch)
    return Entry(tenant, BATCH, to_frame(columns, rejected), received_at, batch_id)


def a_configuration(
    config: Mapping[str, Any], model: str = "m", tenant: str = "acme", received_at: int = START
) -> Entry:
    """A journal entry of `PUT /v1/models/{model}`."""
    body = msgspec.json.encode({"model": model, "config": config})
    return Entry(tenant, CONFIGURE, body, received_at)


def a_reference(batch: EventBatch, model: str = "m", tenant: str = "acme") -> Entry:
    """A journal entry of an uploaded reference."""
    head = msgspec.json.encode({"model": model})
    return Entry(tenant, REFERENCE, head + b"\n" + to_frame(batch), LATER)


@dataclass(frozen=True, slots=True)
class Stream:
    """Classifications of three dimensions, labelled late; one slice gets worse at a known time."""

    n_predictions: int = 3_000
    seed: int = 1
    error_rate: float = 0.1
    bad: Mapping[str, str] | None = None  # the slice that gets worse; None: nobody does
    bad_rate: float = 0.5
    rest_rate: float | None = None  # of all others from then on; None: as before
    onset: float = 0.4  # when it does, as a share of the stream
    until: float = 1.0  # and when it is over
    apart: int = 60 * SECOND  # between predictions
    delay: int = 2 * HOUR  # labels come within twice this

    def rows(self) -> EventBatch:
        """Predictions and labels by time, none twice."""
        n, draw = self.n_predictions, np.random.default_rng(self.seed)
        floor, accent, device = (draw.integers(k, size=n) for k in (4, 3, 2))
        attributes = {
            "floor": Categories(floor.astype(np.int32), ["1", "2", "3", "4"]),
            "accent": Categories(accent.astype(np.int32), ["north", "south", "west"]),
            "device": Categories(device.astype(np.int32), ["desk", "phone"]),
        }
        inside = np.full(n, self.bad is not None or self.bad_rate == 0)
        for name, value in (self.bad or {}).items():
            inside &= attributes[name].codes == attributes[name].values.index(value)
        at = np.arange(n) / n
        since = (at >= self.onset) & (at < self.until)
        others = self.error_rate if self.rest_rate is None else self.rest_rate
        changed = np.where(inside, self.bad_rate, others)
        wrong = draw.random(n) < np.where(since, changed, self.error_rate)
        time = START + np.arange(n) * self.apart
        predictions = EventBatch(
            ids=[f"p{i}" for i in range(n)],
            kind=np.full(n, PREDICTION, np.uint8),
            time=time,
            model=Categories(np.zeros(n, np.int32), ["m"]),
            version=Categories(np.zeros(n, np.int32), ["1"]),
            attributes=attributes,
            output=Value(text=Categories(np.zeros(n, np.int32), ["yes"])),
        )
        labels = EventBatch(
            ids=predictions.ids,
            kind=np.full(n, LABEL, np.uint8),
            time=time + (draw.random(n) * 2 * self.delay).astype(np.int64),
            model=predictions.model,
            version=Categories.absent(n),
            truth=Value(text=Categories(wrong.astype(np.int32), ["yes", "no"])),
        )
        return by_time(EventBatch.concatenate([predictions, labels]))


def by_time(batch: EventBatch) -> EventBatch:
    """The same rows in the order of their times."""
    return without_positions(batch.take(np.argsort(batch.time, kind="stable")))


def without_positions(batch: EventBatch) -> EventBatch:
    """The same rows as a request of their own."""
    return replace(batch, positions=None)


def in_requests(batch: EventBatch, size: int) -> Iterator[EventBatch]:
    """The rows cut into requests of `size`."""
    for start in range(0, len(batch), size):
        yield without_positions(batch.take(np.arange(start, min(start + size, len(batch)))))


def shuffled(batch: EventBatch, rows: npt.NDArray[np.bool_], seed: int) -> EventBatch:
    """The same batch, `rows` of it in another order among themselves."""
    places = np.flatnonzero(rows)
    order = np.arange(len(batch))
    order[places] = np.random.default_rng(seed).permutation(places)
    return without_positions(batch.take(order))


def fold_in(
    fold: Fold, batch: EventBatch, size: int = 500, tenant: str = "acme"
) -> list[Transition]:
    """Fold the rows in, cut into requests, and give the transitions."""
    found: list[Transition] = []
    for request in in_requests(batch, size):
        found += fold.apply(an_entry(request, tenant)).transitions
    return found


def fired(transitions: Sequence[Transition]) -> list[Alert]:
    """The alerts that fired, as they then were."""
    return [t.alert for t in transitions if t.type == "alert.firing"]
