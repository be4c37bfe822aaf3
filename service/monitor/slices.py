"""Slices: which cell a row is in, and which slices each cell belongs to.

A *cell* is one combination of the values of all dimensions; a *slice* fixes some of them. Rows are
given a cell by a few array operations; slices are made when a cell is first seen, up to a budget.
Past the caps on a dimension's values and on combinations rows go to `other`, counted: a value
without a place is in no slice of its dimension, a combination past its cap in the model alone.

Where the budget does not reach, `settle` gives its places to the slices with most rows, and one
without any is retired: it keeps its place until another needs it, and spends nothing.

The stratum that a label was drawn from parts cells too, behind the dimensions, and makes no slices:
rows of one stratum have a rate of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from service.ingest.events import Codes, EventBatch, Floats, Hashes
from service.limits import SLICES
from service.monitor import admission
from service.monitor.admission import ABSENT, FIRST, OTHER, Values
from service.monitor.bands import Bands
from service.monitor.findings import Slice

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

MAX_CELLS: Final = 50_000  # combinations; more fall into the cell whose every value is `other`
MAX_SLICES: Final = SLICES.limit
ROOT: Final = 0  # the slice of all rows
STAYING: Final = 2.0  # times its rows that a slice which has a place counts for

# Odd multipliers that mix the codes of a cell's dimensions into one 64-bit key.
_MULTIPLIERS: Final = np.array(
    [pow(0x9E3779B97F4A7C15, power, 2**64) | 1 for power in range(1, 33)], np.uint64
)


class Slices:
    """The catalogue of one model: dimensions, values, cells and slices, in order of appearance."""

    def __init__(
        self,
        dimensions: list[str],
        order: int,
        max_slices: int = MAX_SLICES,
        bands: Mapping[str, Bands] | None = None,
    ) -> None:
        self.dimensions = sorted(dimensions)
        self.order = order
        self.max_slices = max_slices
        self.bands = dict(bands or {})  # of dimensions whose values are numbers
        self.names: list[Slice] = [()]
        # (n_cells, n_dimensions + 1), the stratum last
        self.levels: Codes = np.array([[*(OTHER for _ in self.dimensions), ABSENT]], np.int32)
        self.n_rows_other = (
            0  # rows that have a value without a place, or are past the cap on cells
        )
        self.n_past_budget = 0  # memberships that were not given, a cell and slice each
        self._values = [Values() for _ in (*self.dimensions, "stratum")]
        self._n_in_stretch = 0  # rows since values were last admitted
        self._is_refused = False  # whether a membership was not given since the slices were settled
        self._retired: Bools = np.zeros(1, np.bool_)
        self._members = [ROOT]  # slices of the cells, one cell after another
        self._n_members = [1]  # of each cell
        self._orders = np.zeros(1, np.intp)
        self._index: dict[Slice, int] = {(): ROOT}
        self._keys: Hashes = self._key(self.levels)
        self._cell_of_key: npt.NDArray[np.intp] = np.zeros(1, np.intp)
        self._matrix: csr_array | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def n_cells(self) -> int:
        """How many cells have been seen; cell 0 is the one whose every value is `other`."""
        return len(self.levels)

    @property
    def values(self) -> list[list[str]]:
        """The values of each dimension that have a place, the strata last."""
        return [values.names for values in self._values]

    def assign(self, batch: EventBatch) -> npt.NDArray[np.intp]:
        """The cell of each row, shape (n_rows,)."""
        return self.place(self.levels_of(batch))

    def place(self, levels: Codes) -> npt.NDArray[np.intp]:
        """The cell of each row by its value codes; rows that go to `other` are counted."""
        cells = self.cells_of(levels)
        if self.dimensions:
            is_other = (levels[:, : len(self.dimensions)] == OTHER).any(axis=1) | (cells == 0)
            self.n_rows_other += int(np.count_nonzero(is_other))
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
        """The value codes of each row, shape (n_rows, n_dimensions + 1).

        Values are admitted behind every so many rows, wherever the batch begins and ends.
        """
        levels = np.full((len(batch), len(self._values)), ABSENT, np.int32)
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + admission.STRETCH_ROWS - self._n_in_stretch)
            self._fill(levels, batch, start, stop)
            self._n_in_stretch += stop - start
            if self._n_in_stretch >= admission.STRETCH_ROWS:
                self._n_in_stretch = 0
                for values in self._values:
                    values.end_stretch()
            start = stop
        return levels

    def _fill(self, levels: Codes, batch: EventBatch, start: int, stop: int) -> None:
        columns = [*map(batch.attributes.get, self.dimensions), batch.stratum]
        names = [*self.dimensions, ""]
        for d, (name, column) in enumerate(zip(names, columns, strict=True)):
            if column is None:
                continue
            # rows cut from a request share its table of values: only what they have is seen
            row_codes = column.codes[start:stop]
            n_rows = np.bincount(row_codes + 1, minlength=len(column.values) + 1)[1:]
            bands, values = self.bands.get(name), self._values[d]
            codes = np.full(len(column.values) + 1, ABSENT, np.int32)
            for place in np.flatnonzero(n_rows).tolist():
                value = column.values[place]
                told = value if bands is None else bands.name(value)
                codes[place] = OTHER if told is None else values.code(told, int(n_rows[place]))
            levels[start:stop, d] = codes[row_codes]

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

    def _key(self, levels: Codes) -> Hashes:
        columns = levels.T.astype(np.uint64, order="C")  # numpy is slow at rows of a few
        mixed = (columns + np.uint64(1)) * _MULTIPLIERS[: len(columns), None]
        keys: Hashes = np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(29)), axis=0)
        return keys

    def _add(self, levels: Codes, keys: Hashes) -> None:
        """Make cells of value codes not seen before, in order of their first row."""
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first)[: MAX_CELLS - self.n_cells]
        if not first.size:
            return
        self._make(levels[first], keys[first])
        for row in levels[first].tolist():
            self._join(self._named(row))
        self._matrix = None

    def _make(self, levels: Codes, keys: Hashes) -> None:
        """Cells of these value codes, which are members of nothing yet."""
        cells = np.arange(self.n_cells, self.n_cells + len(levels))
        self.levels = np.concatenate([self.levels, levels])
        self._keys = np.concatenate([self._keys, keys])
        self._cell_of_key = np.concatenate([self._cell_of_key, cells])
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._cell_of_key = self._keys[order], self._cell_of_key[order]

    def _named(self, levels: list[int]) -> list[Slice]:
        """The slices that a cell would belong to, small orders first."""
        given = [
            (self.dimensions[d], self._values[d].names[code - FIRST])
            for d, code in enumerate(levels[: len(self.dimensions)])
            if code >= FIRST
        ]
        orders = range(1, self.order + 1)
        return [name for order in orders for name in combinations(given, order)]

    def _join(self, names: list[Slice]) -> None:
        """Make the next cell a member of these slices; new ones are made while the budget lasts."""
        members = [ROOT]
        for name in names:
            index = self._index.get(name)
            if index is None and len(self.names) <= self.max_slices:
                index = self._index[name] = len(self.names)
                self.names.append(name)
            if index is None:
                self.n_past_budget += 1
                self._is_refused = True
            else:
                members.append(index)
        self._members += members
        self._n_members.append(len(members))

    def live(self) -> Bools:
        """Which slices are not retired, shape (n_slices,)."""
        live = np.ones(len(self), np.bool_)
        live[: self._retired.size] = ~self._retired
        return live

    def settle(self, rows: Floats, kept: Indices | None = None) -> Indices:
        """Retire slices without rows; where the budget did not reach, give places to the busiest.

        `rows` are those of each cell of late; slices in `kept` keep their place, and one of a
        single dimension gives its own to one of a single dimension. Gives the places in which
        another slice stands now.
        """
        of_slices = self.membership() @ rows
        changed: list[int] = []
        if self._is_refused:
            self._is_refused = False
            wanted = self._busiest(rows)
            stays = {ROOT, *(() if kept is None else kept.tolist())}
            places = [
                place
                for place in np.argsort(of_slices, kind="stable").tolist()
                if place not in stays and self.names[place] not in wanted
            ]
            missing = [name for name in wanted if name not in self._index]
            singles, others = (
                zip(
                    [name for name in missing if (len(name) == 1) == is_single],
                    [place for place in places if (len(self.names[place]) == 1) == is_single],
                    strict=False,
                )
                for is_single in (True, False)
            )
            for name, place in [*singles, *others]:
                del self._index[self.names[place]]
                self._index[name], self.names[place] = place, name
                changed.append(place)
            if changed:
                self._rejoin()
                of_slices = self.membership() @ rows
        self._retired = of_slices == 0
        self._retired[ROOT] = False
        return np.array(sorted(changed), np.intp)

    def _busiest(self, rows: Floats) -> dict[Slice, float]:
        """As many slices as there are places for, by their rows; what holds others is first."""
        found: list[tuple[float, int, tuple[int, ...], tuple[int, ...]]] = []
        busy = np.flatnonzero(rows)
        for order in range(1, self.order + 1):
            for dimensions in combinations(range(len(self.dimensions)), order):
                codes = self.levels[busy][:, dimensions]
                whole = (codes >= FIRST).all(axis=1)
                each, place = np.unique(codes[whole], axis=0, return_inverse=True)
                n_rows = np.bincount(place.ravel(), rows[busy[whole]], minlength=len(each))
                most = np.argsort(-n_rows, kind="stable")[: 2 * self.max_slices].tolist()
                found += [(-float(n_rows[k]), order, dimensions, tuple(each[k])) for k in most]
        named = {}
        for lost, order, dimensions, codes_ in found:
            name = tuple(
                (self.dimensions[d], self._values[d].names[code - FIRST])
                for d, code in zip(dimensions, codes_, strict=True)
            )
            named[name] = (lost * (STAYING if name in self._index else 1.0), order, name)
        ranked = sorted(named.values())[: self.max_slices]
        return {name: -lost for lost, _, name in ranked}

    def _rejoin(self) -> None:
        """Give every cell its slices again: those that have a place, and no new ones."""
        self._members, self._n_members = [ROOT], [1]
        for row in self.levels[1:].tolist():
            known = (self._index.get(name) for name in self._named(row))
            members = [ROOT, *(index for index in known if index is not None)]
            self._members += members
            self._n_members.append(len(members))
        self._orders = self._orders[:1]
        self._matrix = None

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "dimensions": self.dimensions,
            "order": self.order,
            "max_slices": self.max_slices,
            "bands": {name: bands.save() for name, bands in self.bands.items()},
            "values": [values.save() for values in self._values],
            "names": [[list(part) for part in name] for name in self.names],
            "levels": self.levels,
            "retired": self._retired,
            "numbers": [self.n_rows_other, self.n_past_budget, self._n_in_stretch],
            "is_refused": self._is_refused,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Slices:
        """The catalogue that `save` gave: its cells are made again in the same order."""
        bands = {name: Bands.restore(saved) for name, saved in state["bands"].items()}
        slices = cls(state["dimensions"], state["order"], state["max_slices"], bands)
        slices._values = [Values.restore(values) for values in state["values"]]
        slices.names = [tuple((d, value) for d, value in name) for name in state["names"]]
        slices._index = {name: index for index, name in enumerate(slices.names)}
        slices._retired = np.array(state["retired"])
        slices._is_refused = state["is_refused"]
        slices.n_rows_other, slices.n_past_budget, slices._n_in_stretch = state["numbers"]
        levels = np.array(state["levels"], np.int32)[1:]
        if len(levels):
            slices._make(levels, slices._key(levels))
        slices._rejoin()
        return slices
