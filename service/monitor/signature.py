"""Signature: what the acoustic features of a slice have in common, as one sound, in words.

Twenty features that move together are one piece of equipment. Its tone, the spacing of its
harmonics and its pulse are read off the latest rows, beside those of the reference: what both have
is speech. It names an alert and raises none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import Bools, EventBatch, Floats, Ints

Indices = npt.NDArray[np.intp]

# What `detectors.acoustics` calls the figures of a clip.
TONE, PROMINENCE, COMB, PULSE = "tone_hz", "tone_prominence_db", "comb_hz", "pulse_hz"
FIGURES: Final = (TONE, PROMINENCE, COMB, PULSE)
_STEMS: Final = ("tone_", "comb_", "pulse_", "modulation_", "band_", "noise_floor_")
_WHOLE: Final = frozenset({"snr_db", "level_dbfs", "centroid_hz", "flatness", "bandwidth_hz"})

MAX_ROWS: Final = 20_000  # the latest that are kept, and as many of the reference
MIN_ROWS: Final = 20  # of a slice
MIN_EXCESS: Final = 0.25  # share of rows that have it now and had it not
LOUDER_DB: Final = 3.0
_PULSE_WIDTH: Final = 0.06  # of a rate, to either side
_SPACINGS: Final = np.geomspace(100.0, 4_000.0, 3_700)  # Hz, 0.1 % apart: a sixth line stays near
_LISTENED_ROWS: Final = 1_500  # of all rows, for a spacing
_TONE_WIDTH_HZ: Final = 6.0  # to either side of a harmonic: a line and a half of a spectrum
_MOST_OF: Final = 0.85  # of the best spacing's rows: then the widest spacing is meant


def is_acoustic(feature: str) -> bool:
    """Whether a feature is called as those of a clip of sound are."""
    return feature in _WHOLE or feature.startswith(_STEMS)


@dataclass(frozen=True, slots=True)
class Heard:
    """The acoustic figures of rows, as columns; NaN where a row has none."""

    at: Ints  # microseconds
    cell: Indices
    figures: Floats  # shape (n_rows, len(FIGURES))

    @classmethod
    def none(cls) -> Heard:
        """Of no rows."""
        return cls(np.empty(0, np.int64), np.empty(0, np.intp), np.empty((0, len(FIGURES))))

    @classmethod
    def join(cls, parts: Iterable[Heard]) -> Heard:
        """One after another."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__))

    def take(self, rows: Bools | slice) -> Heard:
        """Some of the rows."""
        return Heard(self.at[rows], self.cell[rows], self.figures[rows])

    def column(self, name: str) -> Floats:
        """One figure, where rows have it."""
        values = self.figures[:, FIGURES.index(name)]
        return values[np.isfinite(values) & (values > 0)]


class Sounds:
    """The latest rows' figures, and the reference's."""

    def __init__(self) -> None:
        self._reference = [Heard.none()]
        self._latest = [Heard.none()]

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Take in the predictions at `rows` of the batch."""
        columns = [batch.features.get(name) for name in FIGURES]
        if not any(column is not None and column.number is not None for column in columns):
            return
        figures = np.full((rows.size, len(FIGURES)), np.nan)
        for i, column in enumerate(columns):
            if column is not None and column.number is not None:
                figures[:, i] = column.number[rows]
        heard = Heard(batch.time[rows], cells, figures)
        if in_reference:
            self._reference = [_first(Heard.join([*self._reference, heard]))]
            return
        self._latest.append(heard)
        if sum(part.at.size for part in self._latest) > 2 * MAX_ROWS:
            self._latest = [self.latest]

    @property
    def reference(self) -> Heard:
        """The first rows of the reference."""
        return self._reference[0]

    @property
    def latest(self) -> Heard:
        """The latest rows since."""
        return Heard.join(self._latest).take(slice(-MAX_ROWS, None))

    def forget(self) -> None:
        """Begin again with the reference."""
        self._reference = [Heard.none()]

    def save(self) -> dict[str, Any]:
        """The state."""
        both = {"reference": self.reference, "latest": self.latest}
        return {name: [h.at, h.cell, h.figures] for name, h in both.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self._reference = [Heard(*state["reference"])]
        self._latest = [Heard(*state["latest"])]


def _first(heard: Heard) -> Heard:
    return heard.take(slice(0, MAX_ROWS))


def signature(now: Heard, before: Heard) -> str:
    """`a pulsed tone: pulses at 5.5 Hz, comb spacing 620 Hz, 14 dB more prominent`; or nothing."""
    pulse = pulse_rate(now.column(PULSE), before.column(PULSE))
    spacing, n_lines = _spacing(now, before)
    louder = _median(now.column(PROMINENCE)) - _median(before.column(PROMINENCE))
    told = []
    if pulse is not None:
        told.append(f"pulses at {pulse:.1f} Hz")
    if spacing is not None:
        told.append(f"comb spacing {spacing:.0f} Hz" if n_lines > 1 else f"at {spacing:.0f} Hz")
    if not told:
        return ""
    if louder >= LOUDER_DB:
        told.append(f"{louder:.0f} dB more prominent")
    name = "a tone" if pulse is None else "a pulse" if spacing is None else "a pulsed tone"
    return f"{name}: {', '.join(told)}"


def pulse_rate(now: Floats, before: Floats) -> float | None:
    """The rate about which most rows gather that did not before, Hz."""
    if now.size < MIN_ROWS:
        return None
    centres = np.unique(now)
    excess = _near(now, centres) - _near(before, centres)
    best = float(centres[np.argmax(excess)])
    if excess.max() < _enough(now.size):
        return None
    return float(np.median(now[np.abs(now / best - 1.0) <= _PULSE_WIDTH]))


def comb_spacing(now: Floats, before: Floats) -> tuple[float | None, int]:
    """The spacing of which most rows' peaks are multiples that were not before, Hz.

    Any part of a spacing has the same multiples and more, so of those that explain about as many
    rows the widest is meant. Beside it of how many different multiples there are peaks: of one
    alone, it is a tone and not a comb.
    """
    if now.size < MIN_ROWS:
        return None, 0
    now, before = (of[:: 1 + of.size // _LISTENED_ROWS] for of in (now, before))
    excess = _on_lines(now) - _on_lines(before)
    if excess.max() < _enough(now.size):
        return None, 0
    good = np.flatnonzero(excess >= _MOST_OF * excess.max())
    last = good[-1]
    while last - 1 in good and excess[last - 1] >= excess[last]:  # to the top of the widest
        last -= 1
    spacing = float(_SPACINGS[last])
    for _ in range(3):  # least squares over the peaks that it explains
        order = np.maximum(np.rint(now / spacing), 1.0)
        near = np.abs(now - order * spacing) <= _TONE_WIDTH_HZ
        if not near.any():
            return None, 0
        spacing = float((order * now)[near].sum() / (order**2)[near].sum())
    lines, counts = np.unique(order[near], return_counts=True)
    lines = lines[counts >= max(2.0, 0.05 * near.sum())]
    if lines.size > 1:
        return spacing, int(lines.size)
    tone = spacing * float(lines[0]) if lines.size else spacing
    alone = [
        float((np.abs(of - tone) <= _TONE_WIDTH_HZ).sum()) / max(of.size, 1) for of in (now, before)
    ]
    return (tone, 1) if alone[0] - alone[1] >= _enough(now.size) else (None, 0)


def _spacing(now: Heard, before: Heard) -> tuple[float | None, int]:
    """As clips say it themselves, where they do, else from their tones."""
    combs = pulse_rate(now.column(COMB), before.column(COMB))  # about which most gather, as well
    if combs is not None:
        return combs, 2
    return comb_spacing(now.column(TONE), before.column(TONE))


def _near(values: Floats, centres: Floats) -> Floats:
    """The share of values within some per cent of each centre."""
    if not values.size:
        return np.zeros(centres.size)
    ordered = np.sort(values)
    upper = np.searchsorted(ordered, centres * (1 + _PULSE_WIDTH), side="right")
    lower = np.searchsorted(ordered, centres * (1 - _PULSE_WIDTH), side="left")
    shares: Floats = (upper - lower) / values.size
    return shares


def _on_lines(tones: Floats) -> Floats:
    """The share of tones near a multiple of each spacing, less what chance would put there."""
    if not tones.size:
        return np.zeros(_SPACINGS.size)
    order = np.maximum(np.rint(tones[:, None] / _SPACINGS), 1.0)
    on_line = (np.abs(tones[:, None] - order * _SPACINGS) <= _TONE_WIDTH_HZ).mean(axis=0)
    chance = 2 * _TONE_WIDTH_HZ / _SPACINGS
    beyond: Floats = np.maximum((on_line - chance) / (1.0 - chance), 0.0)
    return beyond


def _enough(n_rows: int) -> float:
    """The share of rows that is more than chance, sought for among many rates or spacings."""
    return MIN_EXCESS + 1.0 / float(np.sqrt(n_rows))


def _median(values: Floats) -> float:
    return float(np.median(values)) if values.size else 0.0
