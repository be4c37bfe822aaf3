"""Streams whose truth is known: counts of disjoint slices of one model, drawn, never pasted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson

from detectors import Detections, Outcomes

Floats = npt.NDArray[np.float64]
Alarm = tuple[int, int]  # tick, slice

WEEK_HOURS = 168


def with_root(per_slice: Floats) -> Floats:
    """The whole model before its disjoint slices: shape (..., n) becomes (..., 1 + n)."""
    return np.concatenate([per_slice.sum(axis=-1, keepdims=True), per_slice], axis=-1)


def ticks(observed: Floats, expected: Floats) -> list[Outcomes]:
    """A tick a row of `observed`, shape (n_ticks, n_slices); `expected` the same, or one row."""
    due = np.broadcast_to(expected, observed.shape)
    return [Outcomes(with_root(x), with_root(e)) for x, e in zip(observed, due, strict=True)]


def alarms(update: Callable[[Outcomes], Detections], stream: Iterable[Outcomes]) -> list[Alarm]:
    """What a detector reports over a stream, in order."""
    return [
        (tick, int(slice_))
        for tick, outcomes in enumerate(stream)
        for slice_ in update(outcomes).slices
    ]


def at_most(budget: float, error: float = 0.01) -> int:
    """The most alarms that a promise of `budget` allows, wrongly refused with chance `error`.

    Alarms come further apart than a Poisson process's, for evidence begins again after each.
    """
    return int(poisson.ppf(1 - error, budget))


def clusters(
    rng: np.random.Generator, shape: tuple[int, ...], size: int, p: float, correlation: float
) -> Floats:
    """Errors in `shape` sessions of `size` rows each: beta-binomial.

    Their variance over their mean is (1 - p) (1 + (size - 1) correlation).
    """
    concentration = (1 - correlation) / correlation
    rate = rng.beta(p * concentration, (1 - p) * concentration, shape)
    return rng.binomial(size, rate).astype(np.float64)
