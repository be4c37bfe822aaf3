"""What the hour of the week does to everybody's losses, learnt once there are weeks enough."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.contract import Floats, State

HOURS_A_WEEK: Final = 168
WEEKS_TO_KNOW: Final = 3  # of each hour: before, what moves everybody counts as dispersion alone
PRIOR: Final = 20.0  # effective errors that hold an hour's factor at 1


class Season:
    """A factor of what is due for each hour of the week, the same for all slices.

    `Disparity`'s share needs none, for what moves everybody cancels in it; what is compared with a
    slice's own past does: at night there may be other people, other work, and other losses.

    Examples
    --------
    >>> season, hours = Season(), np.arange(4 * 168)
    >>> night = hours % 24 < 8
    >>> season.learn(hours, np.where(night, 30.0, 60.0), np.full(hours.size, 50.0))
    >>> season.factors(np.array([3, 12])).round(1)
    array([0.6, 1.2])
    """

    def __init__(self, dispersion: float = 1.0) -> None:
        self.dispersion = dispersion
        self.observed: Floats = np.zeros(HOURS_A_WEEK)
        self.expected: Floats = np.zeros(HOURS_A_WEEK)
        self.since = -1  # the first hour and the last, of the epoch; -1 before there is one
        self.until = -1

    @property
    def is_known(self) -> bool:
        """Whether each hour of the week may have been seen often enough."""
        return self.until - self.since >= WEEKS_TO_KNOW * HOURS_A_WEEK - 1

    def learn(self, hours: npt.NDArray[np.int64], observed: Floats, expected: Floats) -> None:
        """Take in losses of the whole model.

        Parameters
        ----------
        hours : int64, shape (n,)
            Of the epoch; which weekday the epoch began with does not matter.
        observed, expected : float64, shape (n,)
            What was lost, and what was due of the same rows without this season.
        """
        if not hours.size:
            return
        first = int(hours.min())
        self.since = first if self.since < 0 else min(self.since, first)
        self.until = max(self.until, int(hours.max()))
        of_week = hours % HOURS_A_WEEK
        self.observed = self.observed + np.bincount(of_week, observed, minlength=HOURS_A_WEEK)
        self.expected = self.expected + np.bincount(of_week, expected, minlength=HOURS_A_WEEK)

    def factors(self, hours: npt.NDArray[np.int64]) -> Floats:
        """By how much more than usual is due in these hours; 1 until it is known.

        Returns
        -------
        float64, shape (n,)
            1 on average over what was seen: how everybody fares at large is no season.
        """
        if not self.is_known:
            return np.ones(hours.size)
        level = self.observed.sum() / max(self.expected.sum(), 1e-300)
        if level <= 0:
            return np.ones(hours.size)
        prior = PRIOR * self.dispersion
        factor = (prior + self.observed / level) / (prior + self.expected)
        return np.asarray(factor[hours % HOURS_A_WEEK])

    def save(self) -> State:
        """The state as arrays."""
        return {
            "observed": self.observed.copy(),
            "expected": self.expected.copy(),
            "span": np.array([self.since, self.until]),
            "dispersion": np.array([self.dispersion]),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.observed, self.expected = state["observed"].copy(), state["expected"].copy()
        self.since, self.until = (int(hour) for hour in state["span"])
        self.dispersion = float(state["dispersion"][0])
