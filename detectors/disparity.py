"""Is this slice getting worse than the rest? Worse than before, and more than others.

Method: `min` of two e-detectors, the slice against its own reference (A) and the slice's share of
all losses (R). What hits everybody moves A and not R; the others' improvement moves R and not A.
Guarantee: expected false alarms at most the hazard, while either null holds throughout.

Where everyone else improved, R alone says that a slice was *left behind*, out of the same hazard.
Each alarm of either kind needs R at 1 and sets it to 0, so while the slice moves as the rest does
the two kinds together are at most R's crossings, which its hazard bounds. While the slice is not
worse than it was, the alarms that say so need A at 1, which A's hazard bounds; that it was left
behind is then true, or R's null holds.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.confidence import WEIGHTS, accumulate, blocks, gathered, log_e_share, ratios_for
from detectors.contract import Detections, Floats, State
from detectors.error_rate import PRIOR, QUARANTINE, ErrorRate
from detectors.summary import Outcomes

REST_PRIOR: Final = 20.0  # errors by which a batch's ratio of the rest is held to 1
REST_RATIO: Final = (0.25, 4.0)


def rest_of(outcomes: Outcomes) -> Outcomes:
    """Everybody outside each slice: the whole model, row 0, less the slice.

    Examples
    --------
    >>> rest_of(Outcomes(np.array([10., 4.]), np.array([9., 3.]))).observed
    array([0., 6.])
    """
    return Outcomes(
        np.maximum(outcomes.observed[0] - outcomes.observed, 0.0),
        np.maximum(outcomes.expected[0] - outcomes.expected, 0.0),
    )


def ratio_of(rest: Outcomes) -> Floats:
    """How the rest fared in a batch, times what was due of it; held to 1 where it is small."""
    ratio = (rest.observed + REST_PRIOR) / (rest.expected + REST_PRIOR)
    clipped: Floats = np.clip(ratio, *REST_RATIO)
    return clipped


class Disparity:
    """Each slice against its own reference and against the rest.

    Parameters
    ----------
    tolerance : float
        Ratio that is not held against a slice, as in `ErrorRate`.

    Examples
    --------
    >>> fleet = Disparity()
    >>> fleet.grow(np.ones(3), np.ones(3))
    >>> hazard = np.full(3, 1e-4)
    >>> calm = Outcomes(np.array([500., 50., 450.]), np.array([500., 50., 450.]))
    >>> bad_day = Outcomes(np.array([1000., 100., 900.]), np.array([500., 50., 450.]))
    >>> widened = Outcomes(np.array([1040., 140., 900.]), np.array([500., 50., 450.]))
    >>> for tick in [calm] * 20 + [bad_day] * 20:
    ...     assert not len(fleet.update(tick, hazard))
    >>> [fleet.update(widened, hazard).slices.tolist() for _ in range(2)]
    [[], [1]]

    Notes
    -----
    What a slice learns is its own ratio over the rest's, by the weights of Mantel and Haenszel
    ("Statistical aspects of the analysis of data from retrospective studies", JNCI 1959): what
    moves everybody cancels within each tick, however few losses it has, so nothing of it is learnt,
    and a slice beside a small rest learns as little as that rest can tell.
    """

    def __init__(self, tolerance: float = 1.0) -> None:
        self.tolerance = tolerance
        self.own = ErrorRate(tolerance)
        self.dispersion: Floats = np.empty(0)
        self.shape: Floats = np.empty(0)
        self.rate: Floats = np.empty(0)
        self.evidence: Floats = np.empty((0, 5))
        self.ratios: Floats = np.empty((0, 5))
        self.open: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self.left_behind: npt.NDArray[np.bool_] = np.empty(0, np.bool_)  # and open for that alone

    def __len__(self) -> int:
        return self.dispersion.size

    @property
    def meter(self) -> Floats:
        """Evidence that each slice's gap to the rest widened, shape (n_slices,)."""
        return gathered(self.evidence)

    def grow(
        self,
        dispersion_own: Floats,
        dispersion_share: Floats,
        observed: Floats | None = None,
        expected: Floats | None = None,
    ) -> None:
        """Watch more slices.

        Parameters
        ----------
        dispersion_own, dispersion_share : float64, shape (n_new,)
            What counts are to be divided by, against the own reference and against the rest.
        observed, expected : float64, shape (n_new,), optional
            Their counts in the reference, to learn from.
        """
        n = dispersion_own.size
        zeros = np.zeros(n)
        self.own.grow(dispersion_own, observed, expected)
        seen = zeros if observed is None else observed / dispersion_share
        due = zeros if expected is None else expected / dispersion_share
        self.dispersion = np.concatenate([self.dispersion, dispersion_share])
        self.shape = np.concatenate([self.shape, PRIOR + seen])
        self.rate = np.concatenate([self.rate, PRIOR + due])
        self.ratios = np.concatenate([self.ratios, ratios_for(dispersion_share)])
        self.evidence = np.concatenate([self.evidence, np.zeros((n, self.ratios.shape[1]))])
        self.open = np.concatenate([self.open, np.zeros(n, np.bool_)])
        self.left_behind = np.concatenate([self.left_behind, np.zeros(n, np.bool_)])

    def update(
        self,
        outcomes: Outcomes,
        hazard: Floats,
        everyone_improved: bool = False,
        hazard_rest: Floats | None = None,
    ) -> Detections:
        """Fold one tick in and report slices that got worse than before and than the rest.

        Parameters
        ----------
        outcomes : Outcomes
            observed, expected: float64, shape (n_slices,); row 0 is the whole model.
        hazard : float64, shape (n_slices,)
        everyone_improved : bool
            The model at large is better than it was: slices whose share grew, and against whom
            nothing else speaks, were left behind.
        hazard_rest : float64, shape (n_slices,), optional
            Of the evidence against the rest, where it has another than that against the own
            reference.

        Returns
        -------
        Detections
            One row per slice in which both kinds of evidence are at 1, and per slice that was left
            behind; empty arrays if there is none. A slice held as left behind is told again once
            it is worse than it was, too.

        Raises
        ------
        ShapeError
            `outcomes` has another number of slices than are watched.
        """
        self.gather(outcomes, hazard, hazard_rest)
        own = self.own.meter
        rest = np.maximum(self.meter, self.left_behind)  # whose share was found to have grown
        worse = (own >= 1.0) & (rest >= 1.0)
        behind = (own < QUARANTINE) & (rest >= 1.0) & ~self.left_behind & everyone_improved
        crossed = np.flatnonzero(worse | behind)
        self.own.reset(crossed)
        self.evidence[crossed] = 0.0
        return Detections(crossed, own[crossed], rest[crossed])

    def gather(self, outcomes: Outcomes, hazard: Floats, hazard_rest: Floats | None = None) -> None:
        """Add one tick's evidence of both kinds, as `update` does, and report nothing of it."""
        self.own.gather(outcomes, hazard, self.open & ~self.left_behind)
        self._gather_share(outcomes, hazard if hazard_rest is None else hazard_rest)

    def renew(
        self, slices: npt.NDArray[np.intp], dispersion_own: float, dispersion_share: float
    ) -> None:
        """Watch others in the places of these slices, of whom nothing is known yet."""
        self.own.renew(slices, dispersion_own)
        self.evidence[slices] = 0.0
        self.dispersion[slices] = dispersion_share
        self.ratios[slices] = ratios_for(np.full(slices.size, dispersion_share))
        self.shape[slices] = self.rate[slices] = PRIOR
        self.release(slices)

    def hold(self, slices: npt.NDArray[np.intp], left_behind: bool = False) -> None:
        """An incident begins: these slices are neither tested nor learnt from until `release`."""
        self.open[slices] = True
        self.left_behind[slices] = left_behind

    def release(self, slices: npt.NDArray[np.intp]) -> None:
        """Their incident is over."""
        self.open[slices] = self.left_behind[slices] = False

    def _gather_share(self, outcomes: Outcomes, hazard: Floats) -> None:
        others = rest_of(outcomes)
        counts = (outcomes.expected > 0) & (others.expected > 0) & ~self.open
        for active in blocks(np.flatnonzero(counts)):
            self._gather_share_of(active, outcomes, others, hazard)

    def _gather_share_of(
        self,
        active: npt.NDArray[np.intp],
        outcomes: Outcomes,
        others: Outcomes,
        hazard: Floats,
    ) -> None:
        # each side by its own scatter: the share of what is left keeps its mean, and so its e-value
        scale = outcomes.divisors(active, self.dispersion[active])
        of_rest = outcomes.divisors(np.zeros_like(active), self.dispersion[active])
        x, e = outcomes.observed[active] / scale, outcomes.expected[active] / scale
        y, rest = others.observed[active] / of_rest, others.expected[active] / of_rest
        shape, rate = self.shape[active], self.rate[active]
        due = outcomes.tolerated(active, self.tolerance) * e
        log_e = log_e_share(x, due, y, rest, shape, rate, self.ratios.take(active, axis=0))
        evidence = accumulate(self.evidence.take(active, axis=0), log_e, hazard[active], WEIGHTS)
        self.evidence[active] = evidence
        learns = gathered(evidence) < QUARANTINE
        self.shape[active] += np.where(learns, x * rest / (e + rest), 0.0)
        self.rate[active] += np.where(learns, y * e / (e + rest), 0.0)

    def save(self) -> State:
        """The state as arrays."""
        return {
            **{f"own.{name}": array for name, array in self.own.save().items()},
            "dispersion": self.dispersion.copy(),
            "shape": self.shape.copy(),
            "rate": self.rate.copy(),
            "evidence": self.evidence.copy(),
            "open": self.open.copy(),
            "left_behind": self.left_behind.copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        own = {n.removeprefix("own."): a for n, a in state.items() if n.startswith("own.")}
        self.own.restore(own)
        self.dispersion = state["dispersion"].copy()
        self.shape = state["shape"].copy()
        self.rate = state["rate"].copy()
        self.evidence = state["evidence"].copy()
        self.open = state["open"].copy()
        self.left_behind = state["left_behind"].copy()
        self.ratios = ratios_for(self.dispersion)
