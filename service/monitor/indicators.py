"""Indicators: what is asked of each signal's value, as shares of rows and in words.

Of numbers: does it lie above this cut, or outside of the outer ones? Of texts: is it this one? Of
both: is it missing?
"""

from __future__ import annotations

from typing import Final

import numpy as np

from detectors import Shares
from detectors.shares import NO_CUTS
from service.ingest.events import Floats, Ints
from service.monitor.signals import Indices, Signal

_PLAIN: Final = {
    "another": "share of other values",
    "new": "share of values never seen in the reference",
}


class Indicators:
    """All indicators of a model's signals, one signal's after another's."""

    def __init__(self, signals: tuple[Signal, ...]) -> None:
        self.all = signals
        self.bins = _offsets([signal.n_bins for signal in signals])  # where each signal's begin
        self.starts = _offsets([_n_indicators(signal) for signal in signals])
        self.outside: Indices = np.concatenate(  # as the fleets take it
            [start + cuts_outside(of) for start, of in zip(self.starts, signals, strict=False)]
            or [NO_CUTS]
        )
        self.signals: Indices = np.repeat(np.arange(len(signals)), np.diff(self.starts))

    @property
    def n_bins(self) -> int:
        """How many bins all signals have."""
        return int(self.bins[-1])

    def shares(self, counts: Ints) -> Shares:
        """Of counts per bin, shape (n, n_bins): hits and rows, shape (n, n_indicators)."""
        parts = [
            shares_of(signal, counts[:, self.bins[s] : self.bins[s + 1]])
            for s, signal in enumerate(self.all)
        ]
        if not parts:
            return Shares(np.zeros((len(counts), 0)), np.zeros((len(counts), 0)))
        return Shares(
            np.concatenate([part.hits for part in parts], axis=1),
            np.concatenate([part.rows for part in parts], axis=1),
        )

    def words(self, s: int, indicator: int) -> str:
        """What is asked, of one signal's indicators: `share above the reference's P90 (12.5)`."""
        signal = self.all[s]
        if indicator == _n_indicators(signal) - 1:
            return "share without a value"
        if signal.kind == "categorical":
            name = signal.bin_names[indicator]
            if indicator >= len(signal.values):
                return _PLAIN[name]
            return f"share of {name}"
        if indicator == len(signal.cuts):
            low, high = (f"{signal.cuts[end]:.4g}" for end in (0, -1))
            first, last = signal.percents[0], signal.percents[-1]
            return f"share outside the reference's P{first} to P{last} ({low} to {high})"
        cut = f"{signal.cuts[indicator]:.4g}"
        if signal.percents:
            return f"share above the reference's P{signal.percents[indicator]} ({cut})"
        if indicator == len(signal.cuts) - 1:
            return f"share above {cut}, the highest of the first rows"
        return f"share at {cut} or above"


def shares_of(signal: Signal, counts: Ints | Floats) -> Shares:
    """One signal's indicators of counts per bin, shape (..., n_bins)."""
    everything = counts.sum(axis=-1, keepdims=True, dtype=np.float64)
    missing = counts[..., -1:].astype(np.float64)
    present = counts[..., :-1].astype(np.float64)
    if signal.kind == "numeric":
        above = np.cumsum(present[..., ::-1], axis=-1)[..., ::-1][..., 1:]
        outside = present[..., :1] + above[..., -1:]
        present = np.concatenate([above, outside], axis=-1) if asks_outside(signal) else above
    hits = np.concatenate([present, missing], axis=-1)
    rows = np.repeat(everything - missing, present.shape[-1], axis=-1)
    return Shares(hits, np.concatenate([rows, everything], axis=-1))


def asks_outside(signal: Signal) -> bool:
    """Whether its outer cuts are quantiles: more on both sides of them is a wider distribution."""
    return len(signal.percents) > 1


def cuts_outside(signal: Signal) -> Indices:
    """Of one signal, which indicator is of what is outside of which two others' cuts."""
    n = len(signal.cuts)
    return np.array([[n, 0, n - 1]]) if asks_outside(signal) else NO_CUTS


def _n_indicators(signal: Signal) -> int:
    return signal.n_bins - (signal.kind == "numeric") + asks_outside(signal)


def _offsets(sizes: list[int]) -> Indices:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)
