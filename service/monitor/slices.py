"""Slices: which cell a row is in, and which slices each cell belongs to.

A *cell* is one combination of the values of all dimensions; a *slice* fixes some of them. Rows are
given a cell by a few array operations; slices are made when a cell is first seen, up to a budget.
Past the caps on a dimension's values and on combinations rows go to `other`, counted: a value past
its cap is in no slice of its dimension, a combination past its cap in the whole model alone.

The stratum that a label was drawn from parts cells too, behind the dimensions, and makes no slices:
rows of one stratum have a rate of their own.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from service.ingest.events import Codes, EventBatch, Hashes
from service.monitor.findings import Slice

ABSENT: Final = 0  # codes of a dimension's values
OTHER: Final = 1
FIRST: Final = 2

MAX_VALUES: Final = 1_000  # a dimension's values; more are `other`
MAX_CELLS: Final = 50_000  # combinations; more fall into the cell whose every value is `other`
MAX_SLICES: Final = 2_000
ROOT: Final = 0  # the slice of all rows

# Odd multipliers that mix the codes of a cell's dimensions into one 64-bit key.
_MULTIPLIERS: Final = np.array(
    [pow(0x9E3779B97F4A7C15, power, 2**64) | 1 for power in range(1, 33)], np.uint64
)


class Slices:
    """The catalogue of one model: dimensions, values, cells and slices, in order of appearance."""

    def __init__(self, dimensions: list[str], order: int, max_slices: int = MAX_SLICES) -> None:
        self.dimensions = sorted(dimensions)
        self.order = order
        self.max_slices = max_slices
        self.values: list[list[str]] = [[] for _ in (*self.dimensions, "stratum")]
        self.names: list[Slice] = [()]
        # (n_cells, n_dimensions + 1), the stratum last
        self.levels: Codes = np.array([[*(OTHER for _ in self.dimensions), ABSENT]], np.int32)
        self.n_rows_other = 0  # rows of combinations past the cap: in the whole model alone
        self.n_past_budget = 0  # memberships that were not given, a cell and slice each
        self._members = [ROOT]  # slices of the cells, one cell after another
        self._n_members = [1]  # of each cell
        self._orders = np.zeros(1, np.intp)
        self._index: dict[Slice, int] = {(): ROOT}
        self._codes: list[dict[str, int]] = [{} for _ in self.values]
        self._keys: Hashes = self._key(self.levels)
        self._cell_of_key: npt.NDArray[np.intp] = np.zeros(1, np.intp)
        self._matrix: csr_array | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def n_cells(self) -> int:
        """How many cells have been seen; cell 0 is the one whose every value is `other`."""
        return len(self.levels)

    def assign(self, batch: EventBatch) -> npt.NDArray[np.intp]:
        """The cell of each row, shape (n_rows,)."""
        return self.place(self.levels_of(batch))

    def place(self, levels: Codes) -> npt.NDArray[np.intp]:
        """The cell of each row by its value codes; rows that go to `other` are counted."""
        cells = self.cells_of(levels)
        if self.dimensions:
            self.n_rows_other += int(np.count_nonzero(cells == 0))
        return cells

    def new_cells_at(self, levels: Codes) -> npt.NDArray[np.intp]:
        """The rows, in order, with which `place` would make a cell."""
        keys = self._key(levels)
        place = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
        unknown = np.flatnonzero(self._keys[place] != keys)
        if not unknown.size:
            return unknown
        _, first = np.unique(keys[unknown], return_index=True)
        return unknown[np.sort(first)[: MAX_CELLS - self.n_cells]]

    def levels_of(self, batch: EventBatch) -> Codes:
        """The value codes of each row, shape (n_rows, n_dimensions + 1)."""
        levels = np.full((len(batch), len(self.values)), ABSENT, np.int32)
        columns = [*map(batch.attributes.get, self.dimensions), batch.stratum]
        for d, column in enumerate(columns):
            if column is not None:
                # rows cut from a request share its table of values: only what they have is seen
                used = np.bincount(column.codes + 1, minlength=len(column.values) + 1)[1:] > 0
                codes = [
                    self._code(d, value) if seen else ABSENT
                    for value, seen in zip(column.values, used.tolist(), strict=True)
                ]
                levels[:, d] = np.array([*codes, ABSENT], np.int32)[column.codes]
        return levels

    def cells_of(self, levels: Codes) -> npt.NDArray[np.intp]:
        """The cells of these value codes; those not seen before are made."""
        keys = self._key(levels)
        place = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
        known = self._keys[place] == keys
        if not known.all():
            self._add(levels[~known], keys[~known])
            place = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
        return np.where(self._keys[place] == keys, self._cell_of_key[place], 0)

    def membership(self) -> csr_array:
        """Which cells each slice holds: a 0/1 matrix of shape (n_slices, n_cells)."""
        if self._matrix is None:
            columns = np.repeat(np.arange(self.n_cells), self._n_members)
            self._matrix = csr_array(
                (np.ones(columns.size), (np.array(self._members), columns)),
                shape=(len(self), self.n_cells),
            )
        return self._matrix

    def find(self, slice_: Slice) -> int | None:
        """The index of a slice that is watched."""
        return self._index.get(slice_)

    def orders(self) -> npt.NDArray[np.intp]:
        """How many dimensions each slice fixes, shape (n_slices,)."""
        new = [len(name) for name in self.names[self._orders.size :]]
        if new:
            self._orders = np.concatenate([self._orders, np.array(new, np.intp)])
        return self._orders

    def _code(self, dimension: int, value: str) -> int:
        codes = self._codes[dimension]
        code = codes.get(value)
        if code is None:
            if len(codes) >= MAX_VALUES:
                return OTHER
            code = codes[value] = len(codes) + FIRST
            self.values[dimension].append(value)
        return code

    def _key(self, levels: Codes) -> Hashes:
        mixed = (levels.astype(np.uint64) + np.uint64(1)) * _MULTIPLIERS[: levels.shape[1]]
        keys: Hashes = np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(29)), axis=1)
        return keys

    def _add(self, levels: Codes, keys: Hashes) -> None:
        """Make cells of value codes not seen before, in order of their first row."""
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first)[: MAX_CELLS - self.n_cells]
        if not first.size:
            return
        cells = np.arange(self.n_cells, self.n_cells + first.size)
        self.levels = np.concatenate([self.levels, levels[first]])
        self._keys = np.concatenate([self._keys, keys[first]])
        self._cell_of_key = np.concatenate([self._cell_of_key, cells])
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._cell_of_key = self._keys[order], self._cell_of_key[order]
        for row in levels[first]:
            members = self._slices_of(row.tolist())
            self._members += members
            self._n_members.append(len(members))
        self._matrix = None

    def _slices_of(self, levels: list[int]) -> list[int]:
        """The slices that a new cell belongs to; new ones are made while the budget lasts."""
        members = [ROOT]
        given = [
            (self.dimensions[d], self.values[d][code - FIRST])
            for d, code in enumerate(levels[: len(self.dimensions)])
            if code >= FIRST
        ]
        for order in range(1, self.order + 1):
            for name in combinations(given, order):
                index = self._index.get(name)
                if index is None:
                    if len(self.names) > self.max_slices:
                        self.n_past_budget += 1
                        continue
                    index = self._index[name] = len(self.names)
                    self.names.append(name)
                members.append(index)
        return members

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "dimensions": self.dimensions,
            "order": self.order,
            "max_slices": self.max_slices,
            "values": self.values,
            "levels": self.levels,
            "n_rows_other": self.n_rows_other,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Slices:
        """The catalogue that `save` gave: its cells are made again in the same order."""
        slices = cls(state["dimensions"], state["order"], state["max_slices"])
        for d, values in enumerate(state["values"]):
            for value in values:
                slices._code(d, value)
        slices.n_rows_other = state["n_rows_other"]
        levels = np.array(state["levels"], np.int32)[1:]
        if len(levels):
            slices._add(levels, slices._key(levels))
        return slices
