"""Where to label next: half of the labels by traffic, half by suspicion.

A slice of little traffic gets few labels and is found late. Who is suspected already, however
faintly, is looked at more closely; the suspicion is soon gone, or it is an alert. Chances depend on
what was seen before alone, so evidence gathered from such labels keeps its promise.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]

BY_SUSPICION: Final = 0.5  # of the labels
FOR_THE_LEAST: Final = 0.1  # of the labels, at most: that no slice goes without
_POWER: Final = 2  # of suspicion: faint ones are many
_ROUNDS: Final = 60  # of halving; doubles hold no more


def suspicion(evidence: Floats, spent: Floats) -> Floats:
    """How far each slice's evidence is on its way from what was spent on it to an alarm, squared.

    Parameters
    ----------
    evidence, spent : float64, shape (n_slices,)
        What is held against a slice, which alarms at 1, and the hazards of the last days.

    Returns
    -------
    float64, shape (n_slices,)
        `clip(ln(S / H) / ln(1 / H), 0, 1) ** 2`; 0 where nothing may be spent.

    Notes
    -----
    A Shiryaev-Roberts statistic of which nothing was seen is the sum of the hazards, so a slice
    without labels comes to seem half-way to an alarm when it is held to one tick's. Held to what
    was spent on it, it has no suspicion, and labels are not wasted on all the slices like it.

    Examples
    --------
    >>> suspicion(np.array([0.0, 1e-4, 1e-2, 1.0]), np.full(4, 1e-4)).round(3)
    array([0.  , 0.  , 0.25, 1.  ])
    """
    watched = (spent > 0) & (spent < 1) & (evidence > 0)
    h, s = np.where(watched, spent, 0.5), np.where(watched, evidence, 0.5)
    way: Floats = np.clip(np.log(s / h) / -np.log(h), 0.0, 1.0) ** _POWER
    return np.where(watched, way, 0.0)


def inclusion_probabilities(
    n_labels: float, rows: Floats, membership: csr_array, weight: Floats, least: float = 0.0
) -> Floats:
    """The chance with which each cell's rows are to be labelled.

    Parameters
    ----------
    n_labels : float
        Labels to be had, expected.
    rows : float64, shape (n_cells,)
        Rows expected of each cell.
    membership : csr_array, shape (n_slices, n_cells)
        Which cells each slice holds, 0 or 1.
    weight : float64, shape (n_slices,)
        How the half that goes by suspicion is split between slices.
    least : float
        Labels that each slice with so many rows is to have, as far as a tenth of all goes.

    Returns
    -------
    float64, shape (n_cells,)
        At most 1. Each row has one chance, that of its cell: what is due to it by traffic and for
        each of its slices, added. They come to `n_labels`, or to all rows where there are fewer.

    Examples
    --------
    >>> disjoint = csr_array(np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    >>> rows = np.array([8000.0, 1000.0, 1000.0])
    >>> chance = inclusion_probabilities(1000, rows, disjoint, np.array([0.0, 0.0, 0.0, 1.0]))
    >>> chance.round(3), (chance @ rows).round()
    (array([0.05, 0.05, 0.55]), np.float64(1000.0))
    """
    total = float(rows.sum())
    if total <= n_labels or n_labels <= 0:
        return np.full(rows.size, 1.0 if n_labels > 0 else 0.0)
    size = membership @ rows
    some = (size > 0) & (weight > 0)
    share = np.where(some, weight, 0.0)
    by_suspicion = BY_SUSPICION * n_labels * share / max(float(share.sum()), 1e-300)
    base = (n_labels - float(by_suspicion.sum())) / total
    lacking = np.where(size >= least, np.maximum(least - base * size, 0.0), 0.0)
    enough = min(1.0, FOR_THE_LEAST * n_labels / max(float(lacking.sum()), 1e-300))
    extra = by_suspicion + enough * lacking
    each = np.divide(extra, size, out=np.zeros(size.size), where=size > 0)
    return _spent(base + membership.T @ each, rows, n_labels)


def _spent(shape: Floats, rows: Floats, n_labels: float) -> Floats:
    """Chances in proportion to `shape`, and at most 1, that come to `n_labels`."""
    low, high = 0.0, 1.0 / float(shape.min())
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        spent = float(np.minimum(middle * shape, 1.0) @ rows)
        low, high = (middle, high) if spent < n_labels else (low, middle)
    chances: Floats = np.minimum(low * shape, 1.0)
    return chances
