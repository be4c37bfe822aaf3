"""Which combinations of conditions lose more than is due of them? A search, level by level.

What is found on rows must be tested on others: the best of very many combinations looks bad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

BEAM: Final = 48  # combinations of a level that the next one is built on
_LEAST_GAIN: Final = 1.1  # times the score of its parts, for which a longer combination is worth it


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions that hold together, by their places, and how far their rows exceed their due."""

    conditions: tuple[int, ...]
    score: float


def worst_combinations(
    holds: Bools,
    field: Indices,
    observed: Floats,
    expected: Floats,
    *,
    order: int = 3,
    min_rows: int = 30,
    min_score: float = 4.0,
    most: int = 3,
) -> list[Combination]:
    """Combinations whose rows lose most beyond their due, each without those named before it.

    Parameters
    ----------
    holds : bool, shape (n_conditions, n_rows)
        Which rows fulfil each condition.
    field : intp, shape (n_conditions,)
        What each condition is about; a combination has one of each field at most.
    observed, expected : float64, shape (n_rows,)
        What each row lost, and what was due of it.
    order : int
        How many conditions a combination may have.
    min_rows, min_score, most
        Smaller or fainter combinations are left out, and more than `most`.

    Returns
    -------
    list of Combination
        `score` is (X - E) / sqrt(V) with V the sum of squared residuals about the overall ratio:
        normal under the null, before it was chosen as the greatest.

    Notes
    -----
    Breadth first with a beam, where SliceLine (Sagadeeva and Boehm, SIGMOD 2021) prunes by bounds:
    rows are few once a day, and what is missed tonight is there tomorrow. Scores are of what is
    beyond the due and not of losses, so gaps that are known are not found again.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> holds = rng.random((6, 4000)) < 0.3
    >>> bad = holds[1] & holds[4]
    >>> lost = (rng.random(4000) < np.where(bad, 0.4, 0.1)).astype(float)
    >>> found = worst_combinations(holds, np.arange(6), lost, np.full(4000, 0.1))
    >>> [one.conditions for one in found]
    [(1, 4)]
    """
    left = np.ones(observed.size, np.bool_)
    found: list[Combination] = []
    while len(found) < most:
        best = _worst(holds[:, left], field, observed[left], expected[left], order, min_rows)
        if best is None or best.score < min_score:
            break
        found.append(best)
        left &= ~holds[list(best.conditions)].all(axis=0)
    return found


def _worst(
    holds: Bools, field: Indices, observed: Floats, expected: Floats, order: int, min_rows: int
) -> Combination | None:
    due = float(expected.sum())
    if due <= 0:
        return None
    residual = observed - expected * (float(observed.sum()) / due)
    columns = np.stack([residual, residual**2, np.ones_like(residual)], axis=1)
    best: Combination | None = None
    level: list[tuple[tuple[int, ...], Any]] = [((), np.ones(observed.size, np.bool_))]
    for _ in range(order):
        candidates: dict[tuple[int, ...], float] = {}
        for conditions, rows in level:
            sums = holds[:, rows].astype(np.float64) @ columns[rows]
            scores = sums[:, 0] / np.sqrt(np.maximum(sums[:, 1], 1e-12))
            scores[(sums[:, 2] < min_rows) | np.isin(field, field[list(conditions)])] = -np.inf
            for condition in np.flatnonzero(np.isfinite(scores)).tolist():
                candidates[tuple(sorted((*conditions, condition)))] = float(scores[condition])
        ranked = sorted(candidates.items(), key=lambda one: (-one[1], one[0]))[:BEAM]
        if not ranked:
            break
        threshold = -np.inf if best is None else _LEAST_GAIN * best.score
        if ranked[0][1] > threshold:
            best = Combination(*ranked[0])
        level = [(conditions, np.all(holds[list(conditions)], axis=0)) for conditions, _ in ranked]
    return best
