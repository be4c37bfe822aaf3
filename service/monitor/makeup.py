"""Makeup: of whom each slice is made up, and how far off what is expected of it may be for that.

What a slice has lost so far tells how its rows fare as it was made up then, however little is known
of each cell. Made up otherwise, it is held to its cells' rates alone, and those are fitted, by a
few errors each: the leeway is what they may be off by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_array

from service.ingest.events import Floats
from service.monitor.by_cell import padded

MEMORY_SECONDS: Final = 24 * 3600.0  # over which "now" is: a day has all its hours
DEVIATIONS: Final = 2.0  # of what is due; of many slices some are off by more than one


@dataclass(slots=True)
class Makeup:
    """What was due by cell, shape (n_cells,) each: of all that was learnt from, and now."""

    learnt: Floats
    now: Floats
    squares: Floats  # sums of squares over units of what `now` is the sum of

    @classmethod
    def of_reference(cls, due: Floats) -> Makeup:
        """As the reference's rows are."""
        return cls(due.copy(), np.zeros(due.size), np.zeros(due.size))

    def add(self, due: Floats, squares: Floats, seconds: float) -> None:
        """Take in a tick, which is so long: what was due of each cell.

        `squares` are sums, over the units that came there by themselves, of its squares.
        """
        self.learnt, self.now, self.squares = (
            padded(sums, due.size) for sums in (self.learnt, self.now, self.squares)
        )
        kept = np.exp(-seconds / MEMORY_SECONDS)
        self.learnt = self.learnt + due
        self.now = kept * self.now + due
        self.squares = kept**2 * self.squares + squares

    def leeway(self, doubt: Floats, membership: csr_array) -> Floats:
        """By what ratio more may be due of each slice than is expected, shape (n_slices,).

        Parameters
        ----------
        doubt : float64, shape (n_cells,)
            Relative variance of what each cell's rate is known by.
        membership : csr_array, shape (n_slices, n_cells)

        Notes
        -----
        With shares w of what is due of a slice now and v of what was due of it, errors e of the
        rates put what is expected off by `sum (w - v) e` against what the slice has learnt, of
        variance `sum (w - v)^2 doubt`. What w scatters by for being of few units is taken off: that
        comes and goes. The whole model's is added, for a slice is held to the rest.
        """
        now, learnt = membership @ self.now, membership @ self.learnt
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = (
                membership @ ((self.now**2 - self.squares) * doubt) / now**2
                - 2 * (membership @ (self.now * self.learnt * doubt)) / (now * learnt)
                + membership @ (self.learnt**2 * doubt) / learnt**2
            )
        variance = np.where(np.isfinite(variance), np.maximum(variance, 0.0), 0.0)
        leeway: Floats = 1.0 + DEVIATIONS * np.sqrt(variance + variance[0])
        return leeway

    def save(self) -> dict[str, Any]:
        """The state."""
        return {"learnt": self.learnt, "now": self.now, "squares": self.squares}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Makeup:
        """What `save` gave."""
        return cls(state["learnt"], state["now"], state["squares"])
