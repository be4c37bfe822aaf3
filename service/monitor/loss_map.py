"""Loss map: what a prediction loses as far as its confidence tells, learnt from labelled ones.

CBPE where confidence is a probability that the reference's labels bear out: then it says itself how
often the model is wrong. Else the loss regressed on the bin of the confidence, and on the cell
beside it (direct loss estimation), by dimensions whose values lose differently though the model is
as sure of them: some are misheard more than it knows. Both are blind to a model that is wrong and
as sure as ever, and that is why the estimate is held against labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import chi2

from detectors.reference import MAIN_EFFECT_PRIOR, CellRates, fit_cell_rates
from service.ingest.events import Bools, Codes, Floats
from service.monitor.scores import N_BINS, NO_SCORE
from service.monitor.slices import Slices
from service.monitor.watch import Labelled

Method = Literal["cbpe", "dle"]

ROOM: Final = N_BINS + 1  # bins, that of rows without a score included
MIN_LABELS: Final = 50  # with a score, in the reference; of fewer no map is made
LEAST_ERROR: Final = 0.05  # of an estimate, relative: two weeks' labels show no smaller one
WITHIN_CHANCE: Final = 0.01  # that calibrated confidence is taken for one that is not
SHARE_A_DAY: Final = 1 / 28  # of what the map rests on, at most
_LEAST_COMPOUND: Final = 0.1  # of losses in parts of a unit
_PRIOR: Final = 5.0  # rows, or units of exposure, of the bins around, that each bin is held to
_NEAR: Final = 0.5 ** np.abs(np.subtract.outer(np.arange(ROOM), np.arange(ROOM)))
_ROUNDS: Final = 3  # of fitting bins and cells in turn
_WEIGHT, _LOST, _EXPOSURE, _DUE = range(4)  # columns of the sums by bin


@dataclass(slots=True)
class LossMap:
    """Losses, as the detectors take them, by bin and cell."""

    method: Method
    sums: Floats  # shape (ROOM, 4): weight, loss, exposure, exposure times the cell's ratio
    cells: CellRates | None  # how much more than its bins' a cell loses; None: as much
    stated: Floats | None  # loss by bin, as confidence says it; None: by the sums
    squared: Floats  # shape (ROOM,): squared residual of a row, mean
    dispersion: float  # of sums of residuals, by sessions
    compound: float  # variance of losses over their mean
    differing: Bools  # dimensions whose values lose differently at the same confidence
    lost: Floats  # in the reference by cell, which the cells' ratios rest on
    error: float  # of a slice's estimate, relative, beyond what few rows explain

    @property
    def rates(self) -> Floats:
        """Loss per exposure by bin."""
        if self.stated is not None:
            return self.stated
        return _shrunk(self.sums[:, _LOST], self.sums[:, _DUE])

    @property
    def exposures(self) -> Floats:
        """Exposure of a row by bin."""
        return _shrunk(self.sums[:, _EXPOSURE], self.sums[:, _WEIGHT])

    def ratios(self, slices: Slices) -> Floats:
        """How much more than its bins say each cell loses, shape (n_cells,)."""
        return (
            np.ones(slices.n_cells)
            if self.cells is None
            else self.cells.predict(self.levels(slices))
        )

    def levels(self, slices: Slices) -> Codes:
        """Cells by the dimensions that make a difference; in the others all are alike."""
        return np.where(self.differing, slices.levels, 0).astype(np.int32)

    def doubt(self, members: csr_array, slices: Slices) -> Floats:
        """Relative variance of slices' estimates, by how little their values' ratios rest on."""
        doubt = np.full(members.shape[0], self.error**2)
        n = min(members.shape[1], self.lost.size)
        lost = self.lost[:n] + _LEAST_COMPOUND  # a slice that lost nothing has its cells' parts
        for dimension in np.flatnonzero(self.differing).tolist():
            codes = slices.levels[:n, dimension]
            of_value = _by(codes, self.lost[:n], int(codes.max()) + 1)
            parts = members[:, :n] @ csr_array((lost, (np.arange(n), codes)))
            whole = parts.sum(axis=1)
            variance = self.compound / (MAIN_EFFECT_PRIOR * self.compound + of_value)
            squares = (parts**2) @ variance
            doubt += np.divide(
                squares, whole**2, out=np.full(whole.size, 1 / MAIN_EFFECT_PRIOR), where=whole > 0
            )
        return doubt

    def due(self, rows: Labelled, ratios: Floats) -> Floats:
        """What is expected of each row."""
        due: Floats = rows.exposure * self.rates[rows.bin] * ratios[rows.cell]
        return due

    def learn(self, day: Floats) -> None:
        """Take up a day's sums: slowly, so that what goes wrong today is not normal tomorrow."""
        whole, more = float(self.sums[:, _WEIGHT].sum()), float(day[:, _WEIGHT].sum())
        if more > 0:
            share = min(SHARE_A_DAY, more / whole)
            self.sums = (1.0 - share) * self.sums + share * whole / more * day

    def save(self) -> dict[str, Any]:
        """The map as plain values."""
        cells = self.cells
        return {
            "method": self.method,
            "sums": self.sums,
            "cells": cells and [cells.base, cells.effects, cells.own, cells.own_weight],
            "stated": self.stated,
            "squared": self.squared,
            "differing": self.differing,
            "lost": self.lost,
            "numbers": [self.dispersion, self.compound, self.error],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> LossMap:
        """The map that `save` gave."""
        cells = state["cells"]
        return cls(
            method=state["method"],
            sums=np.array(state["sums"]),
            cells=cells and CellRates(cells[0], list(cells[1]), cells[2], cells[3]),
            stated=state["stated"],
            squared=np.array(state["squared"]),
            dispersion=state["numbers"][0],
            compound=state["numbers"][1],
            differing=np.array(state["differing"]),
            lost=np.array(state["lost"]),
            error=state["numbers"][2],
        )


def sums_by_bin(rows: Labelled, ratios: Floats) -> Floats:
    """What a map learns from rows, shape (ROOM, 4)."""
    w = rows.evidence_weight
    columns = (w, w * rows.capped, w * rows.exposure, w * rows.exposure * ratios[rows.cell])
    return np.stack([np.bincount(rows.bin, column, ROOM) for column in columns], axis=1)


def learn_map(reference: Labelled, slices: Slices, stated: Floats | None) -> LossMap | None:
    """A map by the reference's rows; None where too few of them have a confidence.

    `stated` is what the confidence of each bin says that it loses, where it is a probability.
    """
    use = (reference.bin != NO_SCORE) & (reference.evidence_weight > 0)
    rows = reference.take(np.flatnonzero(use))
    if len(rows) < MIN_LABELS:
        return None
    w = rows.evidence_weight
    rows = replace(rows, evidence_weight=w / float(w.mean()))  # a row of it counts as one
    if stated is not None and _bear_out(rows, stated):
        found = _described(rows, slices, _unfitted(rows, slices, "cbpe", stated))
        found.error = _error(found, rows, slices)
        return found
    found = _fitted(rows, slices)
    found.error = LEAST_ERROR
    half = rows.hour % 2 == 0  # sessions are of an hour, as a rule
    first, second = (rows.take(np.flatnonzero(each)) for each in (half, ~half))
    if min(len(first), len(second)) >= MIN_LABELS:
        held_out = _described(second, slices, _fitted(first, slices))
        found.error = _error(held_out, second, slices)
        found.squared, found.dispersion = held_out.squared, held_out.dispersion
        found.compound = held_out.compound
    return found


def _fitted(rows: Labelled, slices: Slices) -> LossMap:
    """Bins and cells in turn, each given the other."""
    found = _described(rows, slices, _unfitted(rows, slices, "dle", None))
    found.differing = _differing(found, rows, slices)
    w, lost = rows.evidence_weight, rows.evidence_weight * rows.capped
    observed = _by(rows.cell, lost, slices.n_cells)
    for _ in range(_ROUNDS):
        due = w * rows.exposure * found.rates[rows.bin]
        by_cell = _by(rows.cell, due, slices.n_cells)
        fitted = fit_cell_rates(found.levels(slices), observed, by_cell, found.compound)
        # what is particular to one cell is mostly chance, beside its bins and its values
        found.cells = replace(fitted, own=np.ones(fitted.own.size))
        found.sums = sums_by_bin(rows, found.ratios(slices))
        found = _described(rows, slices, found)
    return found


def _unfitted(rows: Labelled, slices: Slices, method: Method, stated: Floats | None) -> LossMap:
    sums = sums_by_bin(rows, np.ones(slices.n_cells))
    lost = _by(rows.cell, rows.evidence_weight * rows.capped, slices.n_cells)
    alike = np.zeros(slices.levels.shape[1], np.bool_)
    return LossMap(method, sums, None, stated, np.zeros(ROOM), 1.0, 1.0, alike, lost, 0.0)


def _differing(found: LossMap, rows: Labelled, slices: Slices) -> Bools:
    """Dimensions whose values lost more or less than their bins say, beyond chance."""
    w, due = rows.evidence_weight, found.due(rows, found.ratios(slices))
    off = w * (rows.capped - due)
    scatter = found.dispersion * w**2 * found.squared[rows.bin]
    differing = []
    for codes in slices.levels[rows.cell].T:
        there = np.flatnonzero(np.bincount(codes))
        squares, spread = np.bincount(codes, off)[there] ** 2, np.bincount(codes, scatter)[there]
        distance = float((squares / np.maximum(spread, 1e-12)).sum())
        differing.append(there.size > 1 and chi2.sf(distance, there.size - 1) < WITHIN_CHANCE)
    return np.array(differing, np.bool_)


def _described(rows: Labelled, slices: Slices, found: LossMap) -> LossMap:
    """The same map, with how far rows scatter around it, and how far sessions do beyond rows."""
    residual = rows.capped - found.due(rows, found.ratios(slices))
    w = rows.evidence_weight
    found.squared = _shrunk(_by(rows.bin, w * residual**2, ROOM), _by(rows.bin, w, ROOM))
    unit = np.where(rows.cluster != 0, rows.cluster, rows.hour.astype(np.uint64))
    _, unit = np.unique(unit, return_inverse=True)
    alone = float(((w * residual) ** 2).sum())
    together = float((np.bincount(unit, w * residual) ** 2).sum())
    found.dispersion = max(1.0, together / alone) if alone > 0 else 1.0
    lost = float((w * rows.capped).sum())
    found.compound = max(found.dispersion * alone / lost, _LEAST_COMPOUND) if lost > 0 else 1.0
    return found


def _by(place: npt.NDArray[Any], values: Floats, n: int) -> Floats:
    """Sums of the values at each place."""
    sums: Floats = np.bincount(place, values, n).astype(np.float64)
    return sums


def _shrunk(sums: Floats, exposure: Floats) -> Floats:
    """Rates by bin, held by a few units of exposure to those of the bins around."""
    around = _NEAR @ exposure
    near = np.divide(_NEAR @ sums, around, out=np.zeros(ROOM), where=around > 0)
    rates: Floats = (sums + _PRIOR * near) / (exposure + _PRIOR)
    return rates


def _bear_out(rows: Labelled, stated: Floats) -> bool:
    """Whether bins lost what their confidence said, but for chance."""
    w = rows.evidence_weight
    residual = w * (rows.capped - rows.exposure * stated[rows.bin])
    off = np.bincount(rows.bin, residual, ROOM)
    within = np.bincount(rows.bin, w**2 * stated[rows.bin] * (1.0 - stated[rows.bin]), ROOM)
    spread = np.maximum(within, np.bincount(rows.bin, residual**2, ROOM))
    there = spread > 0
    distance = float((off[there] ** 2 / spread[there]).sum())
    return bool(chi2.sf(distance, np.count_nonzero(there)) > WITHIN_CHANCE)


def singles(slices: Slices) -> tuple[Bools, csr_array]:
    """The whole model and the slices of one dimension, and which cells they hold."""
    few = slices.orders() <= 1
    return few, slices.membership()[np.flatnonzero(few), :]


def _error(found: LossMap, rows: Labelled, slices: Slices) -> float:
    """How far slices' losses are from what the map says of them, beyond what rows scatter."""
    w, due = rows.evidence_weight, found.due(rows, found.ratios(slices))
    by_cell = (w * rows.capped, w * due, w**2 * found.squared[rows.bin])
    _, members = singles(slices)
    lost, expected, scatter = (
        members @ np.bincount(rows.cell, each, slices.n_cells) for each in by_cell
    )
    squares = (lost - expected) ** 2 - found.dispersion * scatter
    squares -= found.doubt(members, slices) * expected**2
    weight = np.maximum(expected, 0.0)[1:]  # everyone's is nought by the fit
    relative = np.divide(
        squares[1:], expected[1:] ** 2, out=np.zeros(weight.size), where=weight > 0
    )
    total = float(weight.sum())
    if total <= 0:
        return LEAST_ERROR
    mean = float(weight @ relative) / total
    unsure = float(np.sqrt(weight**2 @ (relative - mean) ** 2)) / total  # slices are few
    return max(LEAST_ERROR, float(np.sqrt(max(mean + unsure, 0.0))))
