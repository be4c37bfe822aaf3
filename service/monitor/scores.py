"""Scores: how sure a model says it is of a prediction, in a few bins, and what that says it loses.

Bins are quantiles of the first rows' confidence, and some below them all, for a model that is less
sure than it ever was; where the output is a probability it is its own confidence.
A prediction keeps its bin, one byte, until its label comes; 0 is that of rows without confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import EventBatch, Floats
from service.monitor.config import LossName
from service.monitor.losses import outputs_of

Bins = npt.NDArray[np.uint8]

N_BINS: Final = 16
NO_SCORE: Final = 0  # the bin of rows that have none; the others are 1 to N_BINS
N_BELOW: Final = 4  # of them, below nearly all of the first rows
MIN_SCORED: Final = 100  # first rows with a confidence; of fewer no bins are made
STATING: Final = frozenset({"zero_one", "brier", "log_loss"})  # a probability says what is lost
_SMALLEST: Final = 1e-6
_NEARLY_ALL: Final = 0.02  # of the first rows are less sure


@dataclass(frozen=True, slots=True)
class Scores:
    """Where the bins of one model begin, and what their confidence says that they lose."""

    cuts: Floats  # rising, N_BINS - 1 at most: fewer where values repeat
    stated: Floats | None  # mean loss by bin, NO_SCORE's first; None: the loss is no probability's

    def bins_of(self, loss: LossName, batch: EventBatch) -> Bins:
        """The bin of each row."""
        score = score_of(loss, batch)
        if score is None:
            return np.full(len(batch), NO_SCORE, np.uint8)
        bins = np.searchsorted(self.cuts, score, side="right").astype(np.uint8) + np.uint8(1)
        bins[np.isnan(score)] = NO_SCORE
        return bins

    def save(self) -> list[Any]:
        """The bins as plain values."""
        return [self.cuts.tolist(), None if self.stated is None else self.stated.tolist()]

    @classmethod
    def restore(cls, state: list[Any] | None) -> Scores | None:
        """The bins that `save` gave."""
        if state is None:
            return None
        cuts, stated = state
        return cls(np.array(cuts), None if stated is None else np.array(stated))


def learn_scores(loss: LossName, rows: EventBatch) -> Scores | None:
    """Bins by the first rows; None where too few of them say how sure the model was."""
    score = score_of(loss, rows)
    known = np.empty(0) if score is None else score[~np.isnan(score)]
    if known.size < MIN_SCORED or known.min() == known.max():
        return None
    cuts = _cuts(known)
    if loss not in STATING or known.min() < 0 or known.max() > 1:
        return Scores(cuts, None)
    bins = np.searchsorted(cuts, known, side="right") + 1
    n = np.bincount(bins, minlength=N_BINS + 1)
    lost = np.bincount(bins, stated_loss(loss, known), minlength=N_BINS + 1)
    ends = np.concatenate([[np.nan, 2 * cuts[0] - cuts[1]], cuts, np.full(N_BINS, cuts[-1])])
    middle = (ends[: N_BINS + 1] + ends[1 : N_BINS + 2]) / 2
    unseen = stated_loss(loss, np.clip(middle, 0.0, 1.0))
    return Scores(cuts, np.where(n > 0, lost / np.maximum(n, 1), np.nan_to_num(unseen)))


def _cuts(known: Floats) -> Floats:
    """Quantiles, and below nearly all of them even steps: who gets worse is less sure than ever."""
    lowest, median = np.quantile(known, [_NEARLY_ALL, 0.5])
    step = max(float(median - lowest), 1e-9) / 2
    below = lowest - step * np.arange(N_BELOW - 1, -1, -1)
    n_inside = N_BINS - N_BELOW
    cuts: Floats = np.unique(
        np.concatenate([below, np.quantile(known, np.arange(1, n_inside) / n_inside)])
    )
    return cuts


def score_of(loss: LossName, batch: EventBatch) -> Floats | None:
    """How sure the model says it is of each row, NaN where it doesn't; None: of no row."""
    if loss not in ("brier", "log_loss"):
        return batch.confidence
    number = outputs_of(loss, batch).number  # the confidence, or an output that is a probability
    return np.maximum(number, 1.0 - number) if batch.confidence is None else number


def stated_loss(loss: LossName, confidence: Floats) -> Floats:
    """What is lost on average, if the model is right as often as it says."""
    wrong = np.clip(1.0 - confidence, 0.0, 1.0)
    if loss == "zero_one":
        return wrong
    if loss == "brier":
        return wrong * (1.0 - wrong)
    right = 1.0 - wrong
    of_wrong = -wrong * np.log(np.maximum(wrong, _SMALLEST))
    entropy: Floats = of_wrong - right * np.log(np.maximum(right, _SMALLEST))
    return entropy
