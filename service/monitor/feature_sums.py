"""FeatureSums: what the features of rows are by type and size, as sums per cell or per slice.

Whole numbers throughout, so that they are the same however requests are cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from service.ingest.events import EventBatch, Floats, Ints, Value

Indices = npt.NDArray[np.intp]
T = TypeVar("T", bound=np.generic)

NUMBER: Final = 0  # rows in which the feature is a number, a text, an array
TEXT: Final = 1
VECTOR: Final = 2
NEGATIVE: Final = 3
NONZERO: Final = 4
SIZE: Final = 5  # sum of log10 |x| over those that are not 0, in thousandths
SIZE_SQUARED: Final = 6
FAR: Final = 7  # ten ranges and more outside what the reference holds
PAIRS: Final = 8  # rows whose forerunner in their cell has the feature too,
SAME: Final = 9  # and with the same value
_N_SUMS: Final = 10


class FeatureSums:
    """Sums of `n_features` over the rows of each cell, or of each slice; they grow as needed."""

    def __init__(self, n: int = 0, n_features: int = 0) -> None:
        self.rows: Ints = np.zeros(n, np.int64)
        self.behind: Ints = np.zeros(n, np.int64)  # rows older than what came before them
        self.sums: Ints = np.zeros((n, n_features, _N_SUMS), np.int64)
        self.low: Floats = np.full((n, n_features), np.inf)  # the least value, texts by their hash
        self.high: Floats = np.full((n, n_features), -np.inf)

    def __len__(self) -> int:
        return self.rows.size

    def grow(self, n: int, n_features: int) -> None:
        """Make room for so many cells and features at least."""
        n_more = max(n - len(self), 0)
        more = max(n_features - self.low.shape[1], 0)
        if not (n_more or more):
            return
        shape = len(self) + n_more, self.low.shape[1] + more
        self.rows = enlarged(self.rows, shape[:1], 0)
        self.behind = enlarged(self.behind, shape[:1], 0)
        self.sums = enlarged(self.sums, (*shape, _N_SUMS), 0)
        self.low = enlarged(self.low, shape, np.inf)
        self.high = enlarged(self.high, shape, -np.inf)

    def rolled_up(self, membership: csr_array, slices: Indices) -> FeatureSums:
        """The sums of slices, of which each holds some of these cells."""
        total = FeatureSums(slices.size, self.low.shape[1])
        if not len(self):
            return total
        members = membership[slices, : len(self)]
        total.rows = np.asarray(members @ self.rows).astype(np.int64)
        total.behind = np.asarray(members @ self.behind).astype(np.int64)
        flat = np.asarray(members @ self.sums.reshape(len(self), total.sums[0].size))
        total.sums = flat.astype(np.int64).reshape(total.sums.shape)
        some = np.flatnonzero(np.diff(members.indptr))
        if some.size:
            starts, cells = members.indptr[some], members.indices
            total.low[some] = np.minimum.reduceat(self.low[cells], starts, axis=0)
            total.high[some] = np.maximum.reduceat(self.high[cells], starts, axis=0)
        return total

    def include(self, other: FeatureSums) -> None:
        """Add others of the same slices, or of more of them."""
        self.grow(len(other), other.low.shape[1])
        n, f = other.low.shape
        self.rows[:n] += other.rows
        self.behind[:n] += other.behind
        self.sums[:n, :f] += other.sums
        self.low[:n, :f] = np.minimum(self.low[:n, :f], other.low)
        self.high[:n, :f] = np.maximum(self.high[:n, :f], other.high)

    def take(self, places: Indices) -> FeatureSums:
        """Those at these places."""
        taken = FeatureSums()
        for name, column in self.save().items():
            setattr(taken, name, column[places])
        return taken

    def of_one(self, place: int, feature: int) -> FeatureSums:
        """One feature at one place."""
        some = self.take(np.array([place]))
        for name in ("sums", "low", "high"):
            setattr(some, name, getattr(some, name)[:, [feature]])
        return some

    def clear(self, places: Indices) -> None:
        """Begin anew at these places."""
        self.rows[places] = self.behind[places] = 0
        self.sums[places] = 0
        self.low[places], self.high[places] = np.inf, -np.inf

    def count(self, cells: Indices, columns: Columns, behind: npt.NDArray[np.bool_]) -> None:
        """Add rows: their cells, their features, and which of them are behind."""
        self.grow(int(cells.max(initial=-1)) + 1, int(columns.features.max(initial=-1)) + 1)
        self.rows += np.bincount(cells, minlength=len(self))
        self.behind += np.bincount(cells[behind], minlength=len(self))
        if not (cells.size and columns.features.size):
            return
        order = np.argsort(cells, kind="stable")
        used, starts = np.unique(cells[order], return_index=True)
        place = np.ix_(used, columns.features)
        for which, values in columns.counted().items():
            self.sums[..., which][place] += np.add.reduceat(values[:, order], starts, axis=1).T
        tokens = columns.tokens[:, order]
        low = np.minimum.reduceat(np.where(np.isnan(tokens), np.inf, tokens), starts, axis=1)
        high = np.maximum.reduceat(np.where(np.isnan(tokens), -np.inf, tokens), starts, axis=1)
        self.low[place] = np.minimum(self.low[place], low.T)
        self.high[place] = np.maximum(self.high[place], high.T)

    def save(self) -> dict[str, Any]:
        """The sums."""
        return {name: getattr(self, name) for name in ("rows", "behind", "sums", "low", "high")}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> FeatureSums:
        """The sums that `save` gave."""
        sums = cls()
        for name, column in state.items():
            setattr(sums, name, np.array(column))
        return sums


def enlarged(array: npt.NDArray[T], shape: tuple[int, ...], fill: float) -> npt.NDArray[T]:
    """The same array at the beginning of a larger one."""
    if array.shape == shape:
        return array
    whole = np.full(shape, fill, array.dtype)
    whole[tuple(map(slice, array.shape))] = array
    return whole


class Columns:
    """Features of some rows as matrices, shape (n_features, n_rows), NaN where there is no value.

    `features` are their numbers in the catalogue; a token is a number, or the hash of a text.
    """

    def __init__(self, batch: EventBatch, rows: Indices, named: Sequence[tuple[int, str]]) -> None:
        values = [batch.features[name] for _, name in named]
        self.features = np.array([number for number, _ in named], np.intp)
        self.numbers = _matrix([value.number for value in values], rows)
        self.texts = _matrix([_hashes(value) for value in values], rows)
        self.vectors = np.zeros(self.numbers.shape, np.bool_)
        for f, value in enumerate(values):
            if value.vector is not None:
                self.vectors[f] = np.diff(value.vector.offsets)[rows] > 0
        self.tokens = np.where(np.isnan(self.numbers), self.texts, self.numbers)
        self.extra: dict[int, npt.NDArray[Any]] = {}

    def extend(self, known: Floats) -> Floats:
        """A range of each feature's numbers, shape (2, n_features), with these in it."""
        known = known.copy()
        if self.features.size and self.numbers.size:
            least, most = np.fmin.reduce(self.numbers, axis=1), np.fmax.reduce(self.numbers, axis=1)
            known[0, self.features] = np.fmin(known[0, self.features], least)
            known[1, self.features] = np.fmax(known[1, self.features], most)
        return known

    def compare_with(self, known: Floats) -> None:
        """Count also what is far outside of this range of each feature."""
        low, high = known[:, self.features, None]
        reach = 10.0 * (high - low)
        self.extra[FAR] = (self.numbers < low - reach) | (self.numbers > high + reach)

    def follow(self, cells: Indices, last: Floats) -> None:
        """Count also which rows are like the one before in their cell.

        `last`, shape (n_cells, n_features), has each cell's newest token, and is kept up to date.
        """
        order = np.argsort(cells, kind="stable")
        tokens, sorted_cells = self.tokens[:, order], cells[order]
        before = np.full_like(tokens, np.nan)
        first = np.append(True, np.diff(sorted_cells) != 0)
        before[:, 1:] = tokens[:, :-1]
        before[:, first] = last[np.ix_(sorted_cells[first], self.features)].T
        pairs, same = (np.empty(tokens.shape, np.bool_) for _ in range(2))
        pairs[:, order] = ~(np.isnan(tokens) | np.isnan(before))
        same[:, order] = tokens == before
        self.extra |= {PAIRS: pairs, SAME: same}
        ends = np.append(first[1:], True)
        last[np.ix_(sorted_cells[ends], self.features)] = tokens[:, ends].T

    def counted(self) -> dict[int, npt.NDArray[Any]]:
        """Each sum's part of each row."""
        is_number = ~np.isnan(self.numbers)
        nonzero = is_number & (self.numbers != 0.0)
        size = np.zeros(self.numbers.shape, np.int64)
        size[nonzero] = np.round(1000.0 * np.log10(np.abs(self.numbers[nonzero])))
        parts = {
            NUMBER: is_number,
            TEXT: ~np.isnan(self.texts),
            VECTOR: self.vectors,
            NEGATIVE: self.numbers < 0.0,
            NONZERO: nonzero,
            SIZE: size,
            SIZE_SQUARED: size * size,
            **self.extra,
        }
        return {which: part.astype(np.int64, copy=False) for which, part in parts.items()}


def _matrix(columns: list[Floats | None], rows: Indices) -> Floats:
    matrix = np.full((len(columns), rows.size), np.nan)
    for f, column in enumerate(columns):
        if column is not None:
            matrix[f] = column[rows]
    return matrix


def _hashes(value: Value) -> Floats | None:
    """Texts as numbers, the same for the same text."""
    if value.text is None:
        return None
    hashes = [float(zlib.crc32(text.encode())) for text in value.text.values]
    return np.array([*hashes, np.nan])[value.text.codes]
