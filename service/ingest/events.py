"""EventBatch: the rows of one request as columns.

One codec for every door: a decoder (JSON, Arrow, OTLP, a file) makes an `EventBatch`, the journal
keeps its frame (`service.ingest.frame`), and everything behind the journal reads columns.
`Categories` hold text: a code a row and each distinct value once, which is small for an attribute
and no worse than a list for a transcript.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

PREDICTION: Final = 1  # bits of EventBatch.kind; a row with its truth inside carries both
LABEL: Final = 2
ANNOTATOR: Final = "annotator"  # the attribute of a label that names who gave it
INPUT: Final = 4  # of a prediction that comes in two rows: what went in, without PREDICTION
OUTPUT: Final = 8  # and what came out

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$"  # of models and versions
FIELD_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,63}$"  # of dimensions and features

_FEW_VALUES: Final = 64  # sharing so many values costs less than finding out which are used


def hash_ids(ids: Sequence[str]) -> Hashes:
    """64-bit xxh3 of each id: the same on every machine and in every process."""
    digests = map(xxhash.xxh3_64_intdigest, map(str.encode, ids))
    return np.fromiter(digests, np.uint64, len(ids))


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of text: `values[codes[i]]`, or absent where the code is -1."""

    codes: Codes
    values: list[str]

    @classmethod
    def of(cls, column: Sequence[str | None]) -> Categories:
        """Code a column in order of first appearance."""
        # A value not seen before has the next place.
        places: defaultdict[str | None, int] = defaultdict(count(1).__next__, {None: 0})
        codes = np.fromiter(map(places.__getitem__, column), np.int32, len(column))
        _, *values = places
        return cls(codes - np.int32(1), values)  # type: ignore[arg-type]

    @classmethod
    def absent(cls, n: int) -> Categories:
        """A column in which no row has a value."""
        return cls(np.full(n, -1, np.int32), [])

    @property
    def present(self) -> Bools:
        """Which rows have a value."""
        return self.codes >= 0

    def used(self) -> list[str]:
        """The distinct values that rows have; `values` may hold more."""
        return [self.values[code] for code in np.unique(self.codes).tolist() if code >= 0]

    def tolist(self) -> list[str | None]:
        """The values row by row."""
        table: list[str | None] = [*self.values, None]
        return [table[code] for code in self.codes.tolist()]

    def take(self, rows: npt.NDArray[np.intp]) -> Categories:
        """The same column at `rows`; of many values only those that these use."""
        codes = self.codes[rows]
        if len(self.values) <= max(_FEW_VALUES, 2 * rows.size):
            return Categories(codes, self.values)
        used, inverse = np.unique(codes, return_inverse=True)
        if used.size and used[0] == -1:
            return Categories((inverse - 1).astype(np.int32), [self.values[i] for i in used[1:]])
        return Categories(inverse.astype(np.int32), [self.values[i] for i in used])

    @staticmethod
    def concatenate(columns: Sequence[Categories]) -> Categories:
        """One column after another, values merged."""
        index: dict[str, int] = {}
        parts = []
        for column in columns:
            merged = [index.setdefault(value, len(index)) for value in column.values]
            lookup = np.array([*merged, -1], np.int32)
            parts.append(lookup[column.codes])
        return Categories(np.concatenate(parts) if parts else np.empty(0, np.int32), list(index))


@dataclass(frozen=True, slots=True)
class Vectors:
    """Ragged float32 arrays: row i is `values[offsets[i]:offsets[i + 1]]`, empty where absent."""

    offsets: Ints  # shape (n + 1,)
    values: npt.NDArray[np.float32]

    def take(self, rows: npt.NDArray[np.intp]) -> Vectors:
        """The same column at `rows`."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Vectors(offsets, self.values[np.repeat(self.offsets[rows], lengths) + within])


@dataclass(frozen=True, slots=True)
class Value:
    """Numbers and texts in one column, as outputs, truths and features are; both absent is null.

    A boolean is the text "true" or "false".
    """

    number: Floats | None = None  # NaN where the row has none
    text: Categories | None = None
    vector: Vectors | None = None

    def take(self, rows: npt.NDArray[np.intp]) -> Value:
        """The same column at `rows`."""
        return Value(
            None if self.number is None else self.number[rows],
            None if self.text is None else self.text.take(rows),
            None if self.vector is None else self.vector.take(rows),
        )

    def present(self, n: int) -> Bools:
        """Which rows have a value of any type."""
        there = np.zeros(n, np.bool_)
        if self.number is not None:
            there |= ~np.isnan(self.number)
        if self.text is not None:
            there |= self.text.present
        if self.vector is not None:
            there |= np.diff(self.vector.offsets) > 0
        return there

    @staticmethod
    def concatenate(columns: Sequence[Value], sizes: Sequence[int]) -> Value:
        """One column of so many rows after another."""
        return Value(
            _concatenate_numbers([column.number for column in columns], sizes),
            _concatenate_texts([column.text for column in columns], sizes),
            _concatenate_vectors([column.vector for column in columns], sizes),
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was refused; the others of its request were not."""

    index: int  # the row's place in the request, from 0
    id: str | None  # its id, where one could be read and is well formed
    reason: str  # names the field and the problem, never the value
    model: str | None = None  # its model, likewise


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Predictions and labels of one tenant's request as columns, in the order they were sent."""

    ids: list[str]
    kind: npt.NDArray[np.uint8]  # PREDICTION | LABEL
    time: Ints  # microseconds since 1970, UTC: of the inference, or of the labelling
    model: Categories
    version: Categories
    attributes: dict[str, Categories] = field(default_factory=dict)
    features: dict[str, Value] = field(default_factory=dict)
    output: Value = Value()
    truth: Value = Value()
    cluster: Categories | None = None
    stratum: Categories | None = None
    confidence: Floats | None = None  # NaN where absent, as in all that follow
    loss: Floats | None = None
    errors: Floats | None = None
    total: Floats | None = None
    inclusion_probability: Floats | None = None
    positions: Ints | None = None  # each row's index in its request; None: 0, 1, 2, ...

    def __len__(self) -> int:
        return len(self.ids)

    def position(self, row: int) -> int:
        """The index that a row had in its request."""
        return row if self.positions is None else int(self.positions[row])

    def has_label(self) -> Bools:
        """Which rows give a truth, a loss or errors."""
        given = self.truth.present(len(self))
        for column in (self.loss, self.errors):
            if column is not None:
                given |= ~np.isnan(column)
        return given

    def take(self, rows: npt.NDArray[np.intp]) -> EventBatch:
        """The rows at these places, in that order."""

        def some(column: Floats | None) -> Floats | None:
            return None if column is None else column[rows]

        return EventBatch(
            ids=[self.ids[i] for i in rows.tolist()],
            kind=self.kind[rows],
            time=self.time[rows],
            model=self.model.take(rows),
            version=self.version.take(rows),
            attributes={name: column.take(rows) for name, column in self.attributes.items()},
            features={name: column.take(rows) for name, column in self.features.items()},
            output=self.output.take(rows),
            truth=self.truth.take(rows),
            cluster=None if self.cluster is None else self.cluster.take(rows),
            stratum=None if self.stratum is None else self.stratum.take(rows),
            confidence=some(self.confidence),
            loss=some(self.loss),
            errors=some(self.errors),
            total=some(self.total),
            inclusion_probability=some(self.inclusion_probability),
            positions=rows.astype(np.int64) if self.positions is None else self.positions[rows],
        )

    def canonical(self) -> EventBatch:
        """The same rows as they would be had nothing else come with them.

        Text is coded in order of first appearance; attributes and features that no row has are
        left out, the others sorted by name.
        """

        def text(column: Categories) -> Categories:
            return Categories.of(column.tolist())

        def value(column: Value) -> Value:
            return column if column.text is None else replace(column, text=text(column.text))

        attributes = {name: c for name, c in self.attributes.items() if c.present.any()}
        features = {name: v for name, v in self.features.items() if v.present(len(self)).any()}
        return replace(
            self,
            model=text(self.model),
            version=text(self.version),
            attributes={name: text(attributes[name]) for name in sorted(attributes)},
            features={name: value(features[name]) for name in sorted(features)},
            output=value(self.output),
            truth=value(self.truth),
            cluster=None if self.cluster is None else text(self.cluster),
            stratum=None if self.stratum is None else text(self.stratum),
            positions=None,
        )

    def labels_only(self) -> EventBatch:
        """The same rows with no more than what a label gives, and who gave it."""
        by = self.attributes.get(ANNOTATOR)
        return EventBatch(
            ids=self.ids,
            kind=self.kind,
            time=self.time,
            model=self.model,
            version=self.version,
            attributes={} if by is None else {ANNOTATOR: by},
            truth=self.truth,
            stratum=self.stratum,
            loss=self.loss,
            errors=self.errors,
            total=self.total,
            inclusion_probability=self.inclusion_probability,
        )

    @staticmethod
    def concatenate(batches: Sequence[EventBatch]) -> EventBatch:
        """One batch after another; a column that some of them lack is absent there."""
        if len(batches) == 1:
            return batches[0]
        sizes = [len(batch) for batch in batches]

        def floats(name: str) -> Floats | None:
            return _concatenate_numbers([getattr(batch, name) for batch in batches], sizes)

        def texts(columns: Sequence[Categories | None]) -> Categories:
            return _concatenate_texts(columns, sizes) or Categories.absent(sum(sizes))

        def values(columns: Sequence[Value]) -> Value:
            return Value.concatenate(columns, sizes)

        attributes = dict.fromkeys(name for batch in batches for name in batch.attributes)
        features = dict.fromkeys(name for batch in batches for name in batch.features)
        return EventBatch(
            ids=[i for batch in batches for i in batch.ids],
            kind=np.concatenate([batch.kind for batch in batches]),
            time=np.concatenate([batch.time for batch in batches]),
            model=texts([batch.model for batch in batches]),
            version=texts([batch.version for batch in batches]),
            attributes={
                name: texts([batch.attributes.get(name) for batch in batches])
                for name in attributes
            },
            features={
                name: values([batch.features.get(name, Value()) for batch in batches])
                for name in features
            },
            output=values([batch.output for batch in batches]),
            truth=values([batch.truth for batch in batches]),
            cluster=_concatenate_texts([batch.cluster for batch in batches], sizes),
            stratum=_concatenate_texts([batch.stratum for batch in batches], sizes),
            confidence=floats("confidence"),
            loss=floats("loss"),
            errors=floats("errors"),
            total=floats("total"),
            inclusion_probability=floats("inclusion_probability"),
        )


NO_ROWS: Final = EventBatch(
    ids=[],
    kind=np.empty(0, np.uint8),
    time=np.empty(0, np.int64),
    model=Categories.absent(0),
    version=Categories.absent(0),
)


def _concatenate_numbers(columns: Sequence[Floats | None], sizes: Sequence[int]) -> Floats | None:
    if all(column is None for column in columns):
        return None
    return np.concatenate(
        [
            np.full(n, np.nan) if column is None else column
            for n, column in zip(sizes, columns, strict=True)
        ]
    )


def _concatenate_texts(
    columns: Sequence[Categories | None], sizes: Sequence[int]
) -> Categories | None:
    if all(column is None for column in columns):
        return None
    return Categories.concatenate(
        [
            Categories.absent(n) if column is None else column
            for n, column in zip(sizes, columns, strict=True)
        ]
    )


def _concatenate_vectors(columns: Sequence[Vectors | None], sizes: Sequence[int]) -> Vectors | None:
    if all(column is None for column in columns):
        return None
    lengths = np.concatenate(
        [
            np.zeros(n, np.int64) if column is None else np.diff(column.offsets)
            for n, column in zip(sizes, columns, strict=True)
        ]
    )
    values = [column.values for column in columns if column is not None]
    return Vectors(np.concatenate(([0], np.cumsum(lengths))), np.concatenate(values))
