"""Calibration: the budget spent whole, by what the detectors do in weeks in which nothing happens.

The proven hazards hold for any losses and any dependence between slices, and pay for that in
delay: on most data they raise a third to a fortieth of the false alarms that they may. Where null
weeks can be drawn (a model's own reference, resampled), the evidence that such weeks reach says by
how much hazards may be raised until the promise is what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from detectors.contract import Floats, State
from detectors.disparity import Disparity
from detectors.summary import Outcomes

FEWEST: Final = 10.0  # peaks that a level is read from; rarer levels are extrapolated
KEPT: Final = 1_000  # peaks, of either kind of evidence
FACTORS: Final = (0.05, 50.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What evidence null weeks reach, and so what hazards spend a budget.

    Attributes
    ----------
    own, rest : float64, shape (at most KEPT,)
        The greatest evidence that a slice reached in a null week, per false alert a week that all
        hazards come to, greatest first: against its own reference, and against the rest.
    weeks : float
        How many null weeks they are of.

    Notes
    -----
    Evidence is linear in the hazard but for what a suspicious slice does not learn, so one run at a
    budget near those that are asked for tells what any of them would have done: a slice's evidence
    reaches 1 in a week where factor x budget x peak does.

    Each kind has a factor of its own, by which it alone comes to the budget. What everybody shares
    moves the one, what the others do the other, and an alarm that needs both is then left with one
    guard, which holds; where neither is moved, it comes about three quarters as often. What is
    moved in the reference itself (a season scatters everybody's counts, and no share) lowers the
    factor of its own kind alone, and the other goes on spending what it may.

    Examples
    --------
    >>> peaks = 1 / np.arange(1.0, 101.0)           # the k-th highest peak is 1 / k
    >>> calibration = Calibration(own=2 * peaks, rest=peaks, weeks=50.0)
    >>> own, rest = calibration.factors(1.0)        # 50 weeks: 50 peaks of either kind may be had
    >>> round(own, 6), round(rest, 6)
    (25.0, 50.0)
    """

    own: Floats
    rest: Floats
    weeks: float

    def factors(self, alerts_a_week: float) -> tuple[float, float]:
        """By how much hazards are multiplied that come to this budget in a week, for each kind."""
        return self._factor(self.own, alerts_a_week), self._factor(self.rest, alerts_a_week)

    def _factor(self, peaks: Floats, alerts_a_week: float) -> float:
        level = max(alerts_a_week * self.weeks, FEWEST)
        peak = _at(peaks, level)
        return float(np.clip(self.weeks / (level * peak), *FACTORS)) if peak > 0 else FACTORS[1]

    @classmethod
    def of_peaks(cls, peaks: list[tuple[Floats, Floats]], alerts_a_week: float) -> Calibration:
        """The calibration that null weeks give, a pair of `peaks` each, run at this budget."""
        own, rest = (
            np.sort(np.concatenate(kind))[::-1][:KEPT] / alerts_a_week
            for kind in zip(*peaks, strict=True)
        )
        return cls(own, rest, float(len(peaks)))

    def save(self) -> State:
        """The state as arrays."""
        return {"own": self.own, "rest": self.rest, "weeks": np.array([self.weeks])}

    @classmethod
    def restore(cls, state: State) -> Calibration:
        """The calibration that `save` gave."""
        return cls(state["own"], state["rest"], float(state["weeks"][0]))


def _at(falling: Floats, level: float) -> float:
    """The peak that `level` of them reach; 0 where fewer were seen at all."""
    place = int(level) - 1
    return float(falling[place]) if place < falling.size else 0.0


def settle(fleet: Disparity, observed: Floats, expected: Floats, hazard: Floats) -> None:
    """Run a fleet through a week, so that it stands as it would after any.

    Each kind of evidence begins again by itself where it is at 1, as if it alone raised an alarm.

    Parameters
    ----------
    fleet, observed, expected, hazard
        As of `peaks_of`.
    """
    for tick_observed, tick_expected in zip(observed, expected, strict=True):
        fleet.gather(Outcomes(tick_observed, tick_expected), hazard)
        for kind in (fleet.own, fleet):
            kind.evidence[kind.meter >= 1.0] = 0.0


def peaks_of(
    fleet: Disparity, observed: Floats, expected: Floats, hazard: Floats
) -> tuple[Floats, Floats]:
    """Run a fleet through a week; give the greatest evidence that each slice reached in it.

    Parameters
    ----------
    fleet : Disparity
        Is carried on by it.
    observed, expected : float64, shape (n_ticks, n_slices)
        Column 0 is the whole model.
    hazard : float64, shape (n_slices,)

    Returns
    -------
    own, rest : float64, shape (n_slices,)
        Evidence against the own reference, and against the rest.
    """
    own, rest = np.zeros(hazard.size), np.zeros(hazard.size)
    for tick_observed, tick_expected in zip(observed, expected, strict=True):
        fleet.gather(Outcomes(tick_observed, tick_expected), hazard)
        np.maximum(own, fleet.own.meter, out=own)
        np.maximum(rest, fleet.meter, out=rest)
    return own, rest
