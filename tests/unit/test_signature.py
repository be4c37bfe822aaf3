"""Signatures: one sound's name, off rows whose tones and pulses are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from service.monitor.signature import (
    FIGURES,
    Heard,
    comb_spacing,
    is_acoustic,
    pulse_rate,
    signature,
)

Floats = npt.NDArray[np.float64]


def speech(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Tones that lie anywhere and pulses of syllables."""
    return rng.uniform(200.0, 6_000.0, n), rng.gamma(4.0, 0.5, n)


def heard(tones: Floats, pulses: Floats, prominence: float) -> Heard:
    figures = np.full((tones.size, len(FIGURES)), np.nan)
    figures[:, 0], figures[:, 1], figures[:, 3] = tones, prominence, pulses
    return Heard(np.zeros(tones.size, np.int64), np.zeros(tones.size, np.intp), figures)


@pytest.mark.parametrize("spacing", [310.0, 620.0, 975.0])
@pytest.mark.parametrize("rate", [3.5, 5.5, 9.0])
def test_the_spacing_of_a_comb_and_its_pulse_are_read_off_the_peaks(
    spacing: float, rate: float
) -> None:
    rng = np.random.default_rng(3)
    tones, pulses = speech(rng, 200)
    hit = rng.random(200) < 0.6
    order = rng.integers(1, 7, 200)
    tones = np.where(hit, order * spacing + rng.normal(0.0, 1.5, 200), tones)
    pulses = np.where(hit, rate * rng.normal(1.0, 0.01, 200), pulses)
    before = speech(rng, 1_000)
    found, n_lines = comb_spacing(tones, before[0])
    assert found == pytest.approx(spacing, rel=0.03)
    assert n_lines > 1
    assert pulse_rate(pulses, before[1]) == pytest.approx(rate, rel=0.10)
    told = signature(heard(tones, pulses, 24.0), heard(*before, 10.0))
    assert told.startswith("a pulsed tone: pulses at ")
    assert "14 dB more prominent" in told


def test_one_line_is_a_tone_and_no_comb() -> None:
    rng = np.random.default_rng(4)
    tones, pulses = speech(rng, 200)
    tones = np.where(rng.random(200) < 0.6, 960.0 + rng.normal(0.0, 1.5, 200), tones)
    before = speech(rng, 1_000)
    assert signature(heard(tones, pulses, 10.0), heard(*before, 10.0)) == "a tone: at 960 Hz"


@pytest.mark.parametrize("n", [5, 40, 200])
def test_what_sounds_as_it_did_has_no_signature(n: int) -> None:
    named = [
        signature(heard(*speech(rng, n), 10.0), heard(*speech(rng, 1_000), 10.0))
        for rng in map(np.random.default_rng, range(20))
    ]
    assert named == [""] * 20


def test_features_are_acoustic_by_their_names() -> None:
    assert all(map(is_acoustic, ("tone_hz", "band_3_db", "noise_floor_0_db", "snr_db")))
    assert not any(map(is_acoustic, ("age", "codec", "confidence", "output length")))
