"""The budget: X expected false alerts a week for a whole model, spent over slices, signals, looks.

A promise of a *rate*, not of a false discovery rate: any monitor that will one day alarm on a
quiet stream has a worst-case FDR of 1 in the long run (Dandapanthula and Ramdas, arXiv
2501.04130), so nobody can promise that. `E[false alerts in a week] <= X` holds for any dependence
between slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Orders = npt.NDArray[np.intp]

WEEK_SECONDS: Final = 604_800.0
SHARES: Final[Mapping[str, float]] = MappingProxyType(
    # "process" is how rows and labels come: silence, labelling, composition
    {"everyone": 0.1, "process": 0.05, "slices": 0.6, "inputs": 0.25}
)


@dataclass(frozen=True, slots=True)
class Budget:
    """Shares of one false-alert budget.

    Parameters
    ----------
    alerts_a_week : float
        X: how many false alerts are expected at most.
    shares : mapping of str to float
        How the budget is split between classes of streams; shares of classes that watch nothing
        go to the others.

    Examples
    --------
    >>> budget = Budget(1.0)
    >>> hazard = budget.hazard("slices", np.ones(100, int), 600.0, ("process", "slices"))
    >>> float((hazard.sum() * WEEK_SECONDS / 600).round(3))
    0.923
    """

    alerts_a_week: float
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)

    def hazard(
        self, name: str, orders: Orders, seconds: float, watching: tuple[str, ...]
    ) -> Floats:
        """What each stream of a class may spend on a tick.

        Parameters
        ----------
        name : str
            The class.
        orders : int, shape (n_streams,)
            How many dimensions each stream's slice fixes.
        seconds : float
            Stream time that the tick stands for; a gap in the data is not worth more than one tick.
        watching : tuple of str
            Classes that watch at least one stream now.

        Returns
        -------
        float64, shape (n_streams,)
            They sum to X x share x seconds / week. Each order has as much as each other, and
            its streams share equally: slices of one dimension are fewer and larger, and what is
            wrong is as likely to be one of them as one of the many small ones.
        """
        whole = sum(self.shares[other] for other in watching)
        spend = self.alerts_a_week * self.shares[name] / whole * seconds / WEEK_SECONDS
        counts = np.bincount(orders)
        hazard: Floats = spend / (np.count_nonzero(counts) * counts[orders])
        return hazard
