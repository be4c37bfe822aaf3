"""Halves: requests and responses of model servers that arrive apart, made one prediction by id.

An inference logger sends what went in and what came out as two events, often in two requests. The
one that comes first waits, in the state that the journal gives back; when the other comes both are
one prediction, made at the time of its request. What waits too long, or is one too many, goes on as
it is: a request alone has features, a response alone an output, and nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import (
    INPUT,
    NO_ROWS,
    OUTPUT,
    PREDICTION,
    Bools,
    Categories,
    EventBatch,
    Value,
)
from service.ingest.frame import from_frame, to_frame
from service.limits import HALVES

Indices = npt.NDArray[np.intp]

WAIT_SECONDS: Final = 300  # of the wall clock; what is logged of one call comes within moments
_MICROS: Final = 1_000_000


def is_half(batch: EventBatch) -> Bools:
    """Which rows are one half of a prediction."""
    halves: Bools = (batch.kind & (INPUT | OUTPUT)) != 0
    return halves


@dataclass(frozen=True, slots=True)
class Met:
    """What became of a batch's halves."""

    wholes: EventBatch  # predictions that are whole now
    rows: Indices  # row of the batch at which each became so, ascending
    repeated: Indices  # rows of the batch that wait already
    released: EventBatch  # what went on alone to make room


class Halves:
    """The halves of one model that wait for each other, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: list[EventBatch] = []
        self._received_at: list[int] = []  # of each row
        self._ids: set[str] = set()
        self.n_overflowed = 0  # went on alone to make room, since this process started

    def __len__(self) -> int:
        return len(self._ids)

    def meet(self, batch: EventBatch, received_at: int) -> Met:
        """Take a batch's halves in, and give the predictions that they complete."""
        rows = np.flatnonzero(is_half(batch))
        halves = replace(batch.take(rows), positions=None)
        ids = set(halves.ids)
        if len(ids) == rows.size and ids.isdisjoint(self._ids):  # each is the first of its two
            self._parts.append(halves)
            self._received_at += [received_at] * rows.size
            self._ids |= ids
            met, repeated = _Pairs([], [], []), np.empty(0, np.intp)
            wholes, at = NO_ROWS, repeated
        else:
            waiting = self._settle()
            n = len(waiting)
            pool = EventBatch.concatenate([waiting, halves])
            met = _pairs(pool)
            wholes, at = met.joined(pool), rows[np.array(met.second, np.intp) - n]
            repeated = rows[np.array(met.repeated, np.intp) - n]
            self._received_at += [received_at] * rows.size
            self._parts = [pool]
            self._keep(np.array(met.alone, np.intp))
        released = self._take_oldest(len(self) - HALVES.limit)
        self.n_overflowed += len(released)
        return Met(wholes, at, repeated, released)

    def release(self, now: int) -> EventBatch:
        """The halves that have waited too long, as they are."""
        due = now - WAIT_SECONDS * _MICROS
        return self._take_oldest(sum(at <= due for at in self._received_at))

    def _settle(self) -> EventBatch:
        """All that waits as one batch."""
        self._parts = [EventBatch.concatenate(self._parts)] if self._parts else [NO_ROWS]
        return self._parts[0]

    def _take_oldest(self, n: int) -> EventBatch:
        """The `n` that have waited longest, as predictions of their own."""
        if n <= 0:
            return NO_ROWS
        waiting = self._settle()
        self._keep(np.arange(n, len(waiting)))
        return _alone(waiting.take(np.arange(n)))

    def _keep(self, rows: Indices) -> None:
        kept = replace(self._settle().take(rows), positions=None)
        self._parts = [kept]
        self._received_at = [self._received_at[row] for row in rows.tolist()]
        self._ids = set(kept.ids)

    def save(self) -> dict[str, Any]:
        """The state."""
        return {"frame": to_frame(self._settle().canonical()), "received_at": self._received_at}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Halves:
        """The halves that `save` gave."""
        halves = cls()
        batch, _ = from_frame(state["frame"])
        halves._parts, halves._ids = [batch], set(batch.ids)
        halves._received_at = list(state["received_at"])
        return halves


def join_halves(batch: EventBatch) -> EventBatch:
    """The rows of a whole set: its halves joined, and those that have no other alone."""
    half = is_half(batch)
    if not half.any():
        return batch
    pool = batch.take(np.flatnonzero(half))
    pairs = _pairs(pool)
    alone = _alone(pool.take(np.array(pairs.alone, np.intp)))
    return EventBatch.concatenate([batch.take(np.flatnonzero(~half)), pairs.joined(pool), alone])


def _alone(batch: EventBatch) -> EventBatch:
    """Halves as predictions of which no more is known."""
    return replace(batch, kind=np.full(len(batch), PREDICTION, np.uint8))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Rows of a batch of halves."""

    pairs: list[tuple[int, int]]  # the first of two and the second, in the order of the seconds
    alone: list[int]
    repeated: list[int]  # those of which the same half is there before

    @property
    def second(self) -> list[int]:
        return [second for _, second in self.pairs]

    def joined(self, pool: EventBatch) -> EventBatch:
        if not self.pairs:
            return NO_ROWS
        first, second = np.array(self.pairs, np.intp).T
        return _joined(pool.take(first), pool.take(second))


def _pairs(pool: EventBatch) -> _Pairs:
    open_: dict[tuple[str, int], int] = {}
    found = _Pairs([], [], [])
    kinds, models = pool.kind.tolist(), pool.model.codes.tolist()
    for row, key in enumerate(zip(pool.ids, models, strict=True)):
        first = open_.get(key)
        if first is None:
            open_[key] = row
        elif kinds[first] == kinds[row]:
            found.repeated.append(row)
        else:
            found.pairs.append((first, row))
            del open_[key]
    found.alone.extend(open_.values())
    return found


def _joined(first: EventBatch, second: EventBatch) -> EventBatch:
    """Predictions of which each batch has one half, row by row; what the request says counts."""
    n = len(first)
    rows = np.arange(n)
    is_input = (first.kind & INPUT) != 0
    both = EventBatch.concatenate([first, second])
    asked = both.take(np.where(is_input, rows, rows + n))
    said = both.take(np.where(is_input, rows + n, rows))
    names = dict.fromkeys([*both.attributes, *both.features])
    return replace(
        said,
        kind=np.full(n, PREDICTION, np.uint8),
        time=asked.time,
        version=_either(asked.version, said.version),
        attributes={
            name: _either(asked.attributes[name], said.attributes[name])
            for name in names
            if name in both.attributes
        },
        features={
            name: _either_value(asked.features[name], said.features[name], n)
            for name in names
            if name in both.features
        },
        positions=None if both.positions is None else asked.positions,
    )


def _either(first: Categories, second: Categories) -> Categories:
    """Each row's text of the first, else of the second; both have the same values."""
    merged = Categories.concatenate([first, second])
    mine, other = np.split(merged.codes, 2)
    return Categories(np.where(mine >= 0, mine, other), merged.values)


def _either_value(first: Value, second: Value, n: int) -> Value:
    """Each row's value of the first, else of the second."""
    rows = np.arange(n)
    return Value.concatenate([first, second], [n, n]).take(
        np.where(first.present(n), rows, rows + n)
    )
