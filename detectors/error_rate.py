"""Has this slice's loss risen? `ErrorRate` asks it of each slice, `Everyone` of the whole model.

Method: a Gamma-Poisson predictive e-value against the slice's own past, gathered by a
Shiryaev-Roberts e-detector. Guarantee: the expected number of false alarms is at most the hazard
spent, on average over baselines, without a baseline ever being plugged in.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.confidence import (
    WEIGHTS,
    accumulate,
    blocks,
    gathered,
    log_e_own_reference,
    ratios_for,
)
from detectors.contract import Detections, Floats, ShapeError, State
from detectors.reference import MAIN_EFFECT_PRIOR
from detectors.summary import Outcomes

# Effective errors by which a slice is held to what its cells lost before: the prior with which
# those rates were fitted, for a slice's ratio to them is known no better than they are. Scatter
# over slices cannot tell: fitted to the same counts, the ratios of the reference are all near 1.
PRIOR: Final = MAIN_EFFECT_PRIOR
# Evidence from which a slice no longer learns: it may be learning harm. To stop sooner is to leave
# out of the baseline just those stretches in which a slice was unlucky, and breaks the promise.
QUARANTINE: Final = 0.5


class ErrorRate:
    """Each slice against its own reference.

    Parameters
    ----------
    tolerance : float
        Ratio that is not held against a slice: 1.1 ignores one that is up to 10 % worse.
    downwards : bool
        Ask whether the loss has fallen instead: against the same ratios' inverses.

    Examples
    --------
    >>> fleet = ErrorRate()
    >>> fleet.grow(np.ones(2))
    >>> calm = Outcomes(observed=np.array([50., 50.]), expected=np.array([50., 50.]))
    >>> worse = Outcomes(observed=np.array([50., 100.]), expected=np.array([50., 50.]))
    >>> hazard = np.full(2, 1e-4)
    >>> for tick in [calm] * 20 + [worse] * 3:
    ...     detections = fleet.update(tick, hazard)
    >>> detections.slices
    array([1])
    """

    def __init__(self, tolerance: float = 1.0, downwards: bool = False) -> None:
        self.tolerance = tolerance
        self.downwards = downwards
        self.dispersion: Floats = np.empty(0)
        self.shape: Floats = np.empty(0)  # Gamma posterior of observed over expected
        self.rate: Floats = np.empty(0)
        self.evidence: Floats = np.empty((0, 5))
        self.ratios: Floats = np.empty((0, 5))

    def __len__(self) -> int:
        return self.dispersion.size

    @property
    def meter(self) -> Floats:
        """Evidence against each slice, shape (n_slices,); an alarm is due at 1."""
        return gathered(self.evidence)

    def grow(
        self, dispersion: Floats, observed: Floats | None = None, expected: Floats | None = None
    ) -> None:
        """Watch more slices.

        Parameters
        ----------
        dispersion : float64, shape (n_new,)
            What their counts are to be divided by.
        observed, expected : float64, shape (n_new,), optional
            Their counts in the reference, to learn from.
        """
        n = dispersion.size
        zeros = np.zeros(n)
        seen = zeros if observed is None else observed / dispersion
        due = zeros if expected is None else expected / dispersion
        self.dispersion = np.concatenate([self.dispersion, dispersion])
        self.shape = np.concatenate([self.shape, PRIOR + seen])
        self.rate = np.concatenate([self.rate, PRIOR + due])
        self.ratios = np.concatenate([self.ratios, self._alternatives(dispersion)])
        self.evidence = np.concatenate([self.evidence, np.zeros((n, self.ratios.shape[1]))])

    def _alternatives(self, dispersion: Floats) -> Floats:
        ratios = ratios_for(dispersion)
        return 1.0 / ratios if self.downwards else ratios

    def gather(self, outcomes: Outcomes, hazard: Floats, quiet: npt.NDArray[np.bool_]) -> None:
        """Add one tick's evidence; slices that are not suspicious and not `quiet` learn from it.

        Parameters
        ----------
        outcomes : Outcomes
            observed, expected of shape (n_slices,).
        hazard : float64, shape (n_slices,)
        quiet : bool, shape (n_slices,)
            Slices that are not to be tested now: an incident is open on them.

        Raises
        ------
        ShapeError
            `outcomes` has another number of slices than are watched.
        """
        if outcomes.observed.size != len(self):
            raise ShapeError(f"{outcomes.observed.size} slices given, {len(self)} watched")
        for active in blocks(np.flatnonzero((outcomes.expected > 0) & ~quiet)):
            self._gather(active, outcomes, hazard)

    def _gather(self, active: npt.NDArray[np.intp], outcomes: Outcomes, hazard: Floats) -> None:
        scale = outcomes.divisors(active, self.dispersion[active])
        x, e = outcomes.observed[active] / scale, outcomes.expected[active] / scale
        log_e = log_e_own_reference(
            x,
            outcomes.tolerated(active, self.tolerance, self.downwards) * e,
            self.shape[active],
            self.rate[active],
            self.ratios.take(active, axis=0),
        )
        evidence = accumulate(self.evidence.take(active, axis=0), log_e, hazard[active], WEIGHTS)
        self.evidence[active] = evidence
        learns = gathered(evidence) < QUARANTINE
        self.shape[active] += np.where(learns, x, 0.0)
        self.rate[active] += np.where(learns, e, 0.0)

    def reset(self, slices: npt.NDArray[np.intp]) -> None:
        """Begin again with these slices, after an alarm or a recovery."""
        self.evidence[slices] = 0.0

    def renew(self, slices: npt.NDArray[np.intp], dispersion: float) -> None:
        """Watch others in the places of these slices, of whom nothing is known yet."""
        self.reset(slices)
        self.dispersion[slices] = dispersion
        self.ratios[slices] = self._alternatives(np.full(slices.size, dispersion))
        self.shape[slices] = self.rate[slices] = PRIOR

    def update(self, outcomes: Outcomes, hazard: Floats) -> Detections:
        """Fold one tick in and report slices whose loss has risen.

        Parameters
        ----------
        outcomes : Outcomes
            observed, expected: float64, shape (n_slices,), capped loss and what was due.
        hazard : float64, shape (n_slices,)
            False alarms that each slice may spend on this tick.

        Returns
        -------
        Detections
            One row per slice that crossed; empty arrays if none did.

        Raises
        ------
        ShapeError
            `outcomes` has another number of slices than are watched.
        """
        self.gather(outcomes, hazard, np.zeros(len(self), np.bool_))
        meter = self.meter
        crossed = np.flatnonzero(meter >= 1.0)
        self.reset(crossed)
        return Detections(crossed, meter[crossed], None)

    def save(self) -> State:
        """The state as arrays."""
        return {
            "dispersion": self.dispersion.copy(),
            "shape": self.shape.copy(),
            "rate": self.rate.copy(),
            "evidence": self.evidence.copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.dispersion = state["dispersion"].copy()
        self.shape = state["shape"].copy()
        self.rate = state["rate"].copy()
        self.evidence = state["evidence"].copy()
        self.ratios = self._alternatives(self.dispersion)


class Everyone:
    """Has the loss risen for the model at large, and not for one slice of it alone?

    Stream 0 is the whole model, each further stream the model without one of its slices; an alarm
    needs all of them. What one slice explains is that slice's story (`Disparity` tells it), and
    the minimum of e-detectors keeps the hazard of any one of them.

    Examples
    --------
    >>> fleet = Everyone()
    >>> fleet.grow(np.ones(3))
    >>> one_slice = Outcomes(np.array([150., 150., 50.]), np.array([100., 100., 50.]))
    >>> all_of_it = Outcomes(np.array([200., 150., 100.]), np.array([100., 75., 50.]))
    >>> hazard = np.full(3, 1e-4)
    >>> [len(fleet.update(one_slice, hazard)) for _ in range(10)].count(1)
    0
    >>> [len(fleet.update(all_of_it, hazard)) for _ in range(3)]
    [0, 0, 1]
    """

    def __init__(self, tolerance: float = 1.0) -> None:
        self.own = ErrorRate(tolerance)
        self.open = False

    def __len__(self) -> int:
        return len(self.own)

    @property
    def meter(self) -> float:
        """Evidence that everyone is worse off; an alarm is due at 1."""
        return float(self.own.meter.min(initial=np.inf)) if len(self.own) else 0.0

    def grow(
        self, dispersion: Floats, observed: Floats | None = None, expected: Floats | None = None
    ) -> None:
        """Watch more streams, as in `ErrorRate.grow`."""
        self.own.grow(dispersion, observed, expected)

    def update(self, outcomes: Outcomes, hazard: Floats) -> Detections:
        """Fold one tick in; report row 0 if every stream's evidence is at 1.

        Parameters
        ----------
        outcomes : Outcomes
            observed, expected: float64, shape (n_streams,).
        hazard : float64, shape (n_streams,)
            The same for each: what a global alarm may spend on this tick.

        Returns
        -------
        Detections
            One row with slice 0, or none.
        """
        self.own.gather(outcomes, hazard, np.full(len(self.own), self.open))
        meter = self.meter
        if meter < 1.0 or not len(self.own):
            return Detections(np.empty(0, np.intp), np.empty(0), None)
        self.own.reset(np.arange(len(self.own)))
        return Detections(np.zeros(1, np.intp), np.array([meter]), None)

    def save(self) -> State:
        """The state as arrays."""
        return {**self.own.save(), "open": np.array([self.open])}

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.own.restore(state)
        self.open = bool(state["open"][0])


class Recovery:
    """Has a slice with an open incident come back?

    Method: an e-detector downwards, against the geometric mean of the degraded and the due rate:
    while the slice is still worse than half-way, closing is a false alarm. Guarantee: a slice that
    stays degraded is closed once in `patience` times what detecting it took.

    Examples
    --------
    >>> recovery = Recovery()
    >>> recovery.grow(1)
    >>> recovery.open(np.array([0]), np.array([2.0]))
    >>> back = Outcomes(np.array([30.0]), np.array([30.0]))
    >>> [len(recovery.update(back, np.ones(1))) for _ in range(3)]
    [0, 1, 0]
    """

    patience = 20.0  # times the evidence that a detection takes
    detection_nats = 15.0  # what a detection takes, typically: ln(K / h)

    def __init__(self) -> None:
        self.midpoint: Floats = np.empty(0)  # ratio to due half-way; 0 where no incident is open
        self.evidence: Floats = np.empty(0)

    def __len__(self) -> int:
        return self.midpoint.size

    def grow(self, n_new: int) -> None:
        """Make room for more slices, none with an incident."""
        self.midpoint = np.concatenate([self.midpoint, np.zeros(n_new)])
        self.evidence = np.concatenate([self.evidence, np.zeros(n_new)])

    def open(self, slices: npt.NDArray[np.intp], ratio: Floats) -> None:
        """Begin to look for the recovery of `slices`, which are `ratio` times worse than due."""
        self.midpoint[slices] = np.sqrt(np.maximum(ratio, 1.1))
        self.evidence[slices] = 0.0

    def close(self, slices: npt.NDArray[np.intp]) -> None:
        """Stop looking."""
        self.midpoint[slices] = 0.0
        self.evidence[slices] = 0.0

    def update(self, outcomes: Outcomes, dispersion: Floats) -> Detections:
        """Fold one tick in; report and close the slices that are back.

        Parameters
        ----------
        outcomes : Outcomes
            observed, expected: float64, shape (n_slices,); expected as of today, the common
            movement of the others included.
        dispersion : float64, shape (n_slices,)

        Returns
        -------
        Detections
            One row per slice that came back.

        Raises
        ------
        ShapeError
            `outcomes` has another number of slices than are watched.
        """
        if outcomes.observed.size != len(self):
            raise ShapeError(f"{outcomes.observed.size} slices given, {len(self)} watched")
        active = np.flatnonzero((self.midpoint > 0) & (outcomes.expected > 0))
        middle = self.midpoint[active]
        scale = outcomes.divisors(active, dispersion[active])
        x, e = outcomes.observed[active] / scale, outcomes.expected[active] / scale
        ratio = middle**2
        takes = self.detection_nats / (ratio * np.log(ratio) - ratio + 1)  # in expected errors
        hazard = np.minimum(e / (self.patience * takes), 1.0)
        log_e = (-x * np.log(middle) + (middle - 1.0) * e)[:, None]
        gathered = accumulate(self.evidence[active, None], log_e, hazard)[:, 0]
        self.evidence[active] = gathered
        crossed = active[gathered >= 1.0]
        detections = Detections(crossed, self.evidence[crossed], None)
        self.close(crossed)
        return detections

    def save(self) -> State:
        """The state as arrays."""
        return {"midpoint": self.midpoint.copy(), "evidence": self.evidence.copy()}

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.midpoint = state["midpoint"].copy()
        self.evidence = state["evidence"].copy()
