"""Bands: an attribute whose values are numbers, in quarters of the rows it was learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from service.ingest.events import Floats

QUARTERS: Final = (0.25, 0.5, 0.75)
FIGURES: Final = 4  # of a cut: 34 and 51.25, not 34.000001


@dataclass(frozen=True, slots=True)
class Bands:
    """Cuts, rising; a number on a cut is in the band above it."""

    cuts: tuple[float, ...]

    @classmethod
    def of(cls, numbers: Floats) -> Bands:
        """The bands that hold a quarter of these numbers each; fewer where they are few."""
        cuts = {float(f"{cut:.{FIGURES}g}") for cut in np.quantile(numbers, QUARTERS).tolist()}
        return cls(tuple(sorted(cut for cut in cuts if cut > numbers.min())))

    def name(self, value: str) -> str | None:
        """`below 34`, `34–51` or `from 51`; None where the value is no number."""
        number = as_number(value)
        if number is None:
            return None
        place = sum(number >= cut for cut in self.cuts)
        return self._names()[place]

    def _names(self) -> list[str]:
        if not self.cuts:
            return ["any"]
        cuts = [f"{cut:g}" for cut in self.cuts]
        between = [f"{low}–{high}" for low, high in pairwise(cuts)]
        return [f"below {cuts[0]}", *between, f"from {cuts[-1]}"]

    def save(self) -> list[float]:
        """The cuts."""
        return list(self.cuts)

    @classmethod
    def restore(cls, state: list[float]) -> Bands:
        """The bands that `save` gave."""
        return cls(tuple(state))


def as_number(value: str) -> float | None:
    """A finite number, as it is written in decimal digits; else None."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
