"""Sounds whose truth is known: speech, noise, tones that beep, equipment that knocks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.io import wavfile
from scipy.signal import fftconvolve

Floats = npt.NDArray[np.float64]

RATE_HZ: Final = 16_000
CLIPS: Final = sorted((Path(__file__).parent / "data" / "clips").glob("*.wav"))


def clip(n: int) -> Floats:
    """Clean speech at unit RMS."""
    samples = wavfile.read(CLIPS[n % len(CLIPS)])[1] / 32768
    return np.asarray(samples / samples.std())


def speech(rng: np.random.Generator, n: int) -> Floats:
    """So many samples of speech at unit RMS, clips in any order and beginning anywhere."""
    every = np.concatenate([clip(i) for i in rng.permutation(len(CLIPS)).tolist()])
    some = np.resize(np.roll(every, -int(rng.integers(every.size))), n)
    return np.asarray(some / some.std())


def pink_noise(rng: np.random.Generator, n: int) -> Floats:
    """Noise with as much power in each octave, unit RMS."""
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    lines = rng.normal(size=hz.size) + 1j * rng.normal(size=hz.size)
    lines[0], lines[1:] = 0.0, lines[1:] / np.sqrt(hz[1:])
    noise = np.fft.irfft(lines, n)
    return np.asarray(noise / noise.std())


def beeps(rng: np.random.Generator, n: int, tone_hz: float, rate_hz: float) -> Floats:
    """A tone that is on half of the time, at unit RMS while it is, with edges of 10 ms."""
    time = np.arange(n) / RATE_HZ
    on = ((time * rate_hz + rng.random()) % 1 < 0.5).astype(float)
    edge = np.hanning(161)
    return np.asarray(
        np.sqrt(2) * np.sin(2 * np.pi * tone_hz * time) * np.convolve(on, edge / edge.sum(), "same")
    )


def knocks(rng: np.random.Generator, n: int, comb_hz: float, rate_hz: float) -> Floats:
    """Bursts of up to eight harmonics of unequal strength that decay, at unit RMS."""
    time = np.arange(n) / RATE_HZ
    orders = np.arange(1, 9)
    orders = orders[orders * comb_hz < 0.45 * RATE_HZ]
    phases = 2 * np.pi * (np.outer(orders * comb_hz, time) + rng.random((orders.size, 1)))
    chord = rng.uniform(0.3, 1.0, orders.size) @ np.sin(phases)
    into = (time * rate_hz + rng.random()) % 1
    envelope = fftconvolve(np.exp(-5.0 * into) * (into < 0.6), np.hanning(81) / 40, "same")
    burst = chord * envelope
    return np.asarray(burst / burst.std())


def decibels(level_db: float) -> float:
    """The factor of an amplitude."""
    return float(10 ** (level_db / 20))
