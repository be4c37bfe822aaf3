"""Does a new version of the model serve this slice worse than the old one, and others not?

Method: two e-detectors, as in `Disparity`. What the slice loses under the new version is held to
what it loses under the old one in the same ticks, where both run; else to the slice's own past. And
the slice's share of all that is lost under the new version is held to what it used to be.
Guarantee: expected false alarms at most the hazard, while either null holds throughout.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.confidence import WEIGHTS, accumulate, log_e_share
from detectors.contract import Detections, Floats, State
from detectors.disparity import Disparity
from detectors.error_rate import QUARANTINE
from detectors.summary import Outcomes

EPOCH_WEIGHT: Final = 1_000.0  # effective errors, at most, that the past weighs under a new version
BESIDE: Final = 0.5  # of what was due under the new version, in ticks in which the old one ran too
_KNOWN: Final = 1e9  # rows of one slice and tick are due the same under either version


def bounded(fleet: Disparity, most: float = EPOCH_WEIGHT) -> None:
    """Let a fleet's past weigh at most so many effective errors: what comes may be another model.

    Evidence and open incidents stay as they are.

    Examples
    --------
    >>> fleet = Disparity()
    >>> fleet.grow(np.ones(1), np.ones(1), np.array([5000.0]), np.array([4000.0]))
    >>> bounded(fleet)
    >>> fleet.own.rate.round(), (fleet.own.shape / fleet.own.rate).round(2)
    (array([1000.]), array([1.25]))
    """
    for part in (fleet, fleet.own):
        factor = np.minimum(1.0, most / part.rate)
        part.shape *= factor
        part.rate *= factor


class Rollout(Disparity):
    """Each slice under a new version against the old version, and against the rest.

    Examples
    --------
    >>> fleet = Rollout()
    >>> fleet.grow(np.ones(3), np.ones(3), np.full(3, 1e4), np.full(3, 1e4))
    >>> hazard = np.array([0.0, 1e-4, 1e-4])
    >>> old = Outcomes(np.array([100., 50., 50.]), np.array([100., 50., 50.]))
    >>> new = Outcomes(np.array([105., 80., 25.]), np.array([100., 50., 50.]))
    >>> [fleet.compare(new, old, hazard, False).slices.tolist() for _ in range(5)]
    [[], [], [1], [], []]
    """

    def __init__(self, tolerance: float = 1.0) -> None:
        super().__init__(tolerance)
        self.beside: Floats = np.empty((0, 5))  # evidence against the old version's ticks
        self.due: Floats = np.empty((0, 2))  # under the new version: in all, and beside the old one

    @classmethod
    def of(cls, fleet: Disparity) -> Rollout:
        """A fleet that begins with what another has learnt, and holds nothing against anyone."""
        rollout = cls(fleet.tolerance)
        Disparity.restore(rollout, fleet.save())
        rollout.evidence[:] = 0.0
        rollout.own.evidence[:] = 0.0
        rollout.release(np.arange(len(rollout)))
        bounded(rollout)
        rollout._make_room()
        return rollout

    @property
    def is_beside(self) -> npt.NDArray[np.bool_]:
        """Of which slices both versions run at once, shape (n_slices,)."""
        return (self.due[:, 1] > 0) & (self.due[:, 1] >= BESIDE * self.due[:, 0])

    @property
    def worse(self) -> Floats:
        """Evidence that the new version serves a slice worse, shape (n_slices,)."""
        return np.where(self.is_beside, self.beside.sum(axis=1), self.own.meter)

    def grow(
        self,
        dispersion_own: Floats,
        dispersion_share: Floats,
        observed: Floats | None = None,
        expected: Floats | None = None,
    ) -> None:
        """Watch more slices, as in `Disparity.grow`."""
        super().grow(dispersion_own, dispersion_share, observed, expected)
        self._make_room()

    def _make_room(self) -> None:
        n_new = len(self) - len(self.due)
        self.beside = np.concatenate([self.beside, np.zeros((n_new, self.evidence.shape[1]))])
        self.due = np.concatenate([self.due, np.zeros((n_new, 2))])

    def compare(
        self, new: Outcomes, old: Outcomes, hazard: Floats, everyone_improved: bool
    ) -> Detections:
        """Fold one tick in and report slices that the new version hurts, or leaves behind.

        Parameters
        ----------
        new, old : Outcomes
            observed, expected: float64, shape (n_slices,), of the rows that each version made.
        hazard : float64, shape (n_slices,)
        everyone_improved : bool
            The model at large is better under the new version.

        Returns
        -------
        Detections
            One row per slice; they are not tested again until `release`.
        """
        self.own.gather(new, hazard, self.open)
        self._gather_beside(new, old, hazard)
        self._gather_share(new, hazard)
        own, rest = self.worse, self.meter
        found = (rest >= 1.0) & ((own >= 1.0) | (everyone_improved & (own < QUARANTINE)))
        crossed = np.flatnonzero(found & ~self.open)
        self.hold(crossed)
        self.left_behind[crossed] = own[crossed] < QUARANTINE
        return Detections(crossed, own[crossed], rest[crossed])

    def begin_again(self, slices: npt.NDArray[np.intp]) -> None:
        """Test these slices anew: what was held against them is another's story."""
        self.release(slices)
        self.evidence[slices] = self.beside[slices] = 0.0
        self.own.reset(slices)

    def _gather_beside(self, new: Outcomes, old: Outcomes, hazard: Floats) -> None:
        self.due[:, 0] += new.expected
        active = np.flatnonzero((new.expected > 0) & (old.expected > 0) & ~self.open)
        self.due[active, 1] += new.expected[active]
        log_e = beside(new, old, active, self.own.dispersion[active], self.ratios[active])
        self.beside[active] = accumulate(self.beside[active], log_e, hazard[active], WEIGHTS)

    def save(self) -> State:
        """The state as arrays."""
        return super().save() | {"beside": self.beside.copy(), "due": self.due.copy()}

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        super().restore(state)
        self.beside, self.due = state["beside"].copy(), state["due"].copy()


def beside(
    new: Outcomes,
    old: Outcomes,
    rows: npt.NDArray[np.intp],
    dispersion: Floats,
    ratios: Floats,
) -> Floats:
    """Evidence that the new version loses `ratios` times what the old one does in the same tick.

    What moves both versions' losses alike cancels.

    Parameters
    ----------
    new, old : Outcomes
    rows : intp, shape (n,)
        Of which slices.
    dispersion : float64, shape (n,)
    ratios : float64, shape (n, K)

    Returns
    -------
    float64, shape (n, K)
        log e, by `log_e_share`.
    """
    scale, of_old = new.divisors(rows, dispersion), old.divisors(rows, dispersion)
    known = np.full(rows.size, _KNOWN)
    return log_e_share(
        new.observed[rows] / scale,
        new.expected[rows] / scale,
        old.observed[rows] / of_old,
        old.expected[rows] / of_old,
        known,
        known,
        ratios,
    )
