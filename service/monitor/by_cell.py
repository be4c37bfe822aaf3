"""By cell: one number for each cell, where cells come as they are first seen."""

from __future__ import annotations

import numpy as np

from service.ingest.events import Floats


def grown(by_cell: Floats, n_cells: int) -> Floats:
    """The same, with room for cells seen since."""
    if by_cell.size >= n_cells:
        return by_cell
    return np.concatenate([by_cell, np.zeros(n_cells - by_cell.size + by_cell.size // 2)])


def padded(by_cell: Floats, n_cells: int) -> Floats:
    """One number for each cell that is known by now."""
    whole = np.zeros(n_cells)
    n = min(n_cells, by_cell.size)
    whole[:n] = by_cell[:n]
    return whole
