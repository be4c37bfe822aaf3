"""What does a clip sound like, in figures? Level, noise floor, tones and their comb, pulses.

The one part of this library that looks at raw material: it is meant to run beside the model, where
the sound is, so that figures travel and sound does not. `describe` takes one clip and gives an
`Acoustics`, whose `features()` are what a prediction carries.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter, minimum_filter1d
from scipy.signal import lfilter, stft

Floats = npt.NDArray[np.float64]

MIN_SECONDS: Final = 1.0  # of a clip; less holds no pulse and no noise floor
RATES_HZ: Final = (4_000, 384_000)  # between which sampling rates lie
OCTAVES_HZ: Final = 1000.0 * 2.0 ** np.arange(-4, 4)  # centres, 62.5 Hz to 8 kHz (IEC 61260-1)

_TONE_FRAME_SECONDS: Final = 0.256  # long: a tone gains 3 dB on noise with each doubling
_PULSE_FRAME_SECONDS: Final = 0.032  # short: pulses are up to 12 a second
_PULSE_HOP_SECONDS: Final = 0.008
_LOWEST_TONE_HZ: Final = 100.0
_PEAK_DB: Final = (
    6.0  # above its neighbourhood, for a line to be called a tone (ECMA-418-1: 8 to 9)
)
_PEAKS: Final = 12
_COMB_HZ: Final = (100.0, 3_000.0)
_TOLERANCE: Final = 0.03  # of the spacing
_MIN_TEETH: Final = 3
_PULSES_HZ: Final = (1.0, 12.0)
_CLEAR_PULSE: Final = 5.0  # prominence that lines of speech and noise alone seldom reach
_EDGE_DB: Final = 60.0
_FAINT: Final = 1e-20  # power at which silence is said to lie: -200 dB

# Minimum statistics: recursion, window, and M(D) of Martin (2001), table III.
_SMOOTHING: Final = 0.7
_WINDOW_SECONDS: Final = 1.5
_MARTIN_D: Final = (1, 2, 5, 8, 10, 15, 20, 30, 40, 60, 80, 120, 140, 160)
_MARTIN_M: Final = (0, 0.26, 0.48, 0.58, 0.61, 0.668, 0.705, 0.762, 0.8, 0.841, 0.865, 0.89, 0.9, 0.91)  # fmt: skip # noqa: E501


class ClipError(ValueError):
    """A clip that cannot be described: too short, at a rate that is none, or not finite."""


@dataclass(frozen=True, slots=True)
class Acoustics:
    """One clip in figures; NaN where the clip has no such thing.

    Levels are RMS, in dB relative to full scale: 0 is a square wave from -1 to 1.
    """

    level_dbfs: float  # of the whole clip
    snr_db: float  # of what rises above the noise floor, against it
    centroid_hz: float  # mean frequency, by power
    flatness: float  # geometric over arithmetic mean of the spectrum: 0 a tone, 1 white noise
    bandwidth_hz: float  # up to where the spectrum is within 60 dB of its peak
    clipped_share: float  # of samples that stay at the clip's extreme for three or more
    tone_hz: float  # the most prominent line of the spectrum
    tone_prominence_db: float  # above the median of the sixth of an octave to both sides
    comb_hz: float  # spacing of the lines, where three or more are harmonics of one
    pulse_hz: float  # the rate at which the tones, or else the whole, come and go
    pulse_prominence: float  # its line in the spectrum of the envelope, times the median line
    modulation_depth_db: float  # of the level at that rate, between its 5 % and 95 % quantiles
    band_db: Floats  # shape (8,): level by octave, 62.5 Hz to 8 kHz
    noise_floor_db: Floats  # shape (8,): the same of what is always there

    def features(self) -> dict[str, float]:
        """The figures by name, `band_0_db` to `band_7_db` apart; what is NaN is left out."""
        named: dict[str, float] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):
                named[field.name] = value
            else:
                stem = field.name.removesuffix("_db")
                named |= {f"{stem}_{i}_db": float(v) for i, v in enumerate(value)}
        return {name: value for name, value in named.items() if np.isfinite(value)}


def describe(samples: npt.ArrayLike, rate_hz: int) -> Acoustics:
    """Describe one clip.

    Parameters
    ----------
    samples : array_like, shape (n,) or (n, n_channels)
        The sound, full scale at ±1; channels are averaged.
    rate_hz : int
        Samples a second.

    Returns
    -------
    Acoustics

    Raises
    ------
    ClipError
        Shorter than a second, a rate outside 4 to 384 kHz, or samples that are not finite.

    Notes
    -----
    *Tones*: median and 75 % quantile over time of the power in 256 ms frames, a line against the
    median of ±1/6 octave around it; ECMA-418-1 and ISO 1996-2 compare with critical bands of a
    steady spectrum instead, which misses tones that come and go. *Noise floor*: minimum statistics
    (R. Martin, *Noise power spectral density estimation based on optimal smoothing and minimum
    statistics*, IEEE Trans. Speech and Audio Processing 9, 2001) with constant smoothing, summed
    over an octave. *Pulses*: the IOA's reference method for amplitude modulation (AMWG, 2016), the
    spectrum of the level and depth as L5 - L95 of its harmonics, of the level of the lines over
    their neighbourhood, in which speech cancels, where these pulse clearly, or of the whole.

    Examples
    --------
    >>> import numpy as np
    >>> time = np.arange(5 * 16_000) / 16_000
    >>> beeps = np.sin(2 * np.pi * 960 * time) * (time * 2 % 1 < 0.5)
    >>> noise = np.random.default_rng(1).normal(size=time.size)
    >>> found = describe(0.1 * (noise + 0.5 * beeps), 16_000)
    >>> round(found.tone_hz / 10) * 10, round(found.pulse_hz, 1)
    (960, 2.0)
    """
    clip = _mono(samples, rate_hz)
    power, spectrum = float(np.mean(clip**2)), _Spectrum.of(clip, rate_hz)
    bands, floors = _bands(clip, rate_hz)
    level, noise = float(np.nansum(bands)), float(np.nansum(floors))
    peaks = spectrum.peaks()
    strongest = int(np.argmax(spectrum.prominence_db))
    pulse = _clearest_pulse(clip, rate_hz, spectrum.hz[peaks])
    comb = comb_spacing(spectrum.hz[peaks], spectrum.prominence_db[peaks] ** 2)
    return Acoustics(
        level_dbfs=_db(power),
        snr_db=_db(max(level / max(noise, _FAINT) - 1.0, 0.01)),
        centroid_hz=float(spectrum.mean @ spectrum.hz / spectrum.mean.sum()),
        flatness=float(np.exp(np.mean(np.log(spectrum.mean))) / spectrum.mean.mean()),
        bandwidth_hz=spectrum.edge_hz(),
        clipped_share=_clipped_share(samples),
        tone_hz=float(spectrum.hz[strongest]),
        tone_prominence_db=float(spectrum.prominence_db[strongest]),
        comb_hz=comb,
        pulse_hz=pulse.hz,
        pulse_prominence=pulse.prominence,
        modulation_depth_db=pulse.depth_db,
        band_db=_dbs(bands),
        noise_floor_db=_dbs(floors),
    )


def comb_spacing(peaks_hz: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """The spacing of lines that are harmonics of one frequency, whichever of them were seen.

    Parameters
    ----------
    peaks_hz : array_like, shape (n,)
        Where lines were found: the peaks of one clip, or the most prominent line of each of many.
    weights : array_like, shape (n,), optional
        How much each counts; default: all the same.

    Returns
    -------
    float
        The largest spacing of which nine in ten of what any explains are multiples, to within a
        twentieth of it; NaN where it has fewer than three distinct teeth, or holds less than
        two thirds of the weight.

    Examples
    --------
    >>> round(comb_spacing([1240.0, 1860.5, 2479.0, 4341.0]))
    620
    """
    hz = np.asarray(peaks_hz, np.float64)
    weight = np.ones(hz.size) if weights is None else np.asarray(weights, np.float64)
    if hz.size < _MIN_TEETH:
        return np.nan
    spacing = np.geomspace(*_COMB_HZ, 1_500)[:, None]
    tooth = np.maximum(np.round(hz / spacing), 1.0)
    fits = np.abs(hz - tooth * spacing) <= _TOLERANCE * spacing
    held = fits @ weight / weight.sum()
    best = int(np.flatnonzero(held >= 0.9 * held.max())[-1])
    # of the run of spacings that hold as much, the one that fits best
    tooth, own = tooth[best], fits[best]
    if held[best] < 2 / 3 or np.unique(tooth[own]).size < _MIN_TEETH:
        return np.nan
    pull = weight * own * tooth
    return float(pull @ hz / (pull @ tooth))


def _mono(samples: npt.ArrayLike, rate_hz: int) -> Floats:
    clip = np.asarray(samples, np.float64)
    if clip.ndim == 2:
        clip = clip.mean(axis=1)
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise ClipError(f"rate: must be {RATES_HZ[0]} to {RATES_HZ[1]} samples a second")
    if clip.ndim != 1 or clip.size < MIN_SECONDS * rate_hz:
        raise ClipError(f"samples: must be {MIN_SECONDS:g} s of sound or more")
    if not np.isfinite(clip).all():
        raise ClipError("samples: must be finite numbers")
    return np.asarray(clip - clip.mean())


def _powers(clip: Floats, rate_hz: int, frame_seconds: float, hop_seconds: float) -> Floats:
    """Power by frequency and frame, shape (n_frequencies, n_frames); a frame sums to its power."""
    size = int(frame_seconds * rate_hz)
    _, _, waves = stft(
        clip, rate_hz, "hann", size, size - int(hop_seconds * rate_hz), boundary=None, padded=False
    )
    # "spectrum" scaling divides by the window's sum; power in noise needs its sum of squares
    powers: Floats = 2.0 / 1.5 * np.abs(waves) ** 2 + _FAINT
    return powers


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """A clip's power by frequency, and how far each line stands out."""

    hz: Floats
    mean: Floats
    loud_db: Floats  # the 75 % quantile over time
    prominence_db: Floats

    @classmethod
    def of(cls, clip: Floats, rate_hz: int) -> _Spectrum:
        powers = _powers(clip, rate_hz, _TONE_FRAME_SECONDS, _TONE_FRAME_SECONDS / 2)
        hz = np.arange(len(powers)) / _TONE_FRAME_SECONDS
        usual, loud = _dbs(np.quantile(powers, (0.5, 0.75), axis=1))
        prominence = np.maximum(_above_neighbours(usual), _above_neighbours(loud))
        prominence[(hz < _LOWEST_TONE_HZ) | (hz > 0.95 * hz[-1])] = 0.0
        return cls(hz, powers.mean(axis=1), loud, prominence)

    def peaks(self) -> npt.NDArray[np.intp]:
        """The most prominent lines, of those within 15 dB of the first, at most twelve."""
        p = self.prominence_db
        least = max(_PEAK_DB, float(p.max()) - 15.0)
        at = np.flatnonzero((p[1:-1] >= p[:-2]) & (p[1:-1] > p[2:]) & (p[1:-1] >= least)) + 1
        return at[np.argsort(-p[at], kind="stable")[:_PEAKS]]

    def edge_hz(self) -> float:
        smooth = median_filter(self.loud_db, 9)
        return float(self.hz[np.flatnonzero(smooth >= smooth.max() - _EDGE_DB)[-1]])


def _above_neighbours(level_db: Floats) -> Floats:
    """Each line over the median of a sixth of an octave to both sides, and of 8 lines at least."""
    above = np.zeros(level_db.size)
    start = 1
    while start < level_db.size:  # the width grows with frequency, in steps of half an octave
        stop = min(max(start + 8, int(start * 2**0.5)), level_db.size)
        half = max(8, round((start * stop) ** 0.5 * (2 ** (1 / 6) - 1)))
        first, last = max(start - half, 1), min(stop + half, level_db.size)
        usual = median_filter(level_db[first:last], 2 * half + 1, mode="nearest")
        above[start:stop] = (level_db[first:last] - usual)[start - first : stop - first]
        start = stop
    return above


def _bands(clip: Floats, rate_hz: int) -> tuple[Floats, Floats]:
    """Power by octave, of all of the clip and of its noise floor; NaN past the sampling rate."""
    hop = _PULSE_FRAME_SECONDS / 2
    powers = _powers(clip, rate_hz, _PULSE_FRAME_SECONDS, hop)
    hz = np.arange(len(powers)) / _PULSE_FRAME_SECONDS
    bands, floors = np.full((2, OCTAVES_HZ.size), np.nan)
    window = max(2, min(int(_WINDOW_SECONDS / hop), powers.shape[1]))
    for i, centre in enumerate(OCTAVES_HZ):
        inside = (hz >= centre / 2**0.5) & (hz < centre * 2**0.5)
        if inside.any():
            series = powers[inside].sum(axis=0)
            bands[i] = series.mean()
            floors[i] = _floor(series, int(inside.sum()), window)
    return bands, floors


def _floor(series: Floats, n_lines: int, window: int) -> float:
    """What a band's power never falls below for long, freed of the bias of taking minima.

    Martin's equations 17 and 18: how far the least of `window` values lies under the mean of noise
    whose sums of lines, smoothed, have so many degrees of freedom; of lines beside each other in
    Hann's window about half count.
    """
    start = [_SMOOTHING * series[:window].mean()]
    smooth, _ = lfilter([1 - _SMOOTHING], [1, -_SMOOTHING], series, zi=start)
    lowest = minimum_filter1d(smooth, window)[window // 2 :: window]
    freedom = 2.0 * max(n_lines / 1.9, 1.0) * (1 + _SMOOTHING) / (1 - _SMOOTHING)
    m = float(np.interp(window, _MARTIN_D, _MARTIN_M))
    bias = 1.0 + 2.0 * (window - 1) * (1.0 - m) / max(freedom - 2.0 * m, 1.0)
    return float(np.median(lowest) * bias)


def _clipped_share(samples: npt.ArrayLike) -> float:
    """Samples in runs of three or more at the clip's extreme, where sound seldom stays."""
    raw = np.asarray(samples, np.float64)
    raw = raw if raw.ndim == 2 else raw[:, None]
    extreme = np.abs(raw).max()
    if extreme == 0.0:
        return 0.0
    shares = []
    for side in (raw >= extreme * (1 - 1e-4), raw <= -extreme * (1 - 1e-4)):
        run = side[:-2] & side[1:-1] & side[2:]
        inside = np.zeros_like(side)
        for shift in range(3):
            inside[shift : shift + len(run)] |= run
        shares.append(inside.mean())
    return float(sum(shares))


@dataclass(frozen=True, slots=True)
class _Pulse:
    """What comes and goes at one rate."""

    hz: float
    prominence: float
    depth_db: float


def _clearest_pulse(clip: Floats, rate_hz: int, tones_hz: Floats) -> _Pulse:
    """Of the lines over their neighbourhood where these pulse clearly, else whichever does more."""
    powers = _powers(clip, rate_hz, _PULSE_FRAME_SECONDS, _PULSE_HOP_SECONDS)
    whole = _pulse(_dbs(powers.sum(axis=0)))
    if not tones_hz.size:
        return whole
    level, last = _dbs(powers), len(powers) - 1
    lines, above = np.zeros((2, level.shape[1]))
    for line in np.round(tones_hz * _PULSE_FRAME_SECONDS).astype(int).tolist():
        around = [n for n in range(line - 6, line + 7) if abs(n - line) > 2 and 0 < n <= last]
        own = level[max(line - 1, 0) : line + 2].max(axis=0)
        lines += own / tones_hz.size
        above += (own - np.median(level[around], axis=0)) / tones_hz.size
    tones = _pulse(above)
    least = max(min(whole.prominence, _CLEAR_PULSE), whole.prominence / 2)
    if tones.prominence < least:
        return whole
    return replace(tones, depth_db=_depth(lines, tones.hz))


def _pulse(level_db: Floats) -> _Pulse:
    """The strongest rate of a level's rise and fall, a harmonic counting less than the first."""
    level = np.maximum(level_db, np.quantile(level_db, 0.1))
    level = level - level.mean()
    size = max(1 << 14, level.size)
    line = np.abs(np.fft.rfft(level * np.hanning(level.size), size))
    hz = np.fft.rfftfreq(size, _PULSE_HOP_SECONDS)
    among = np.flatnonzero((hz >= _PULSES_HZ[0]) & (hz <= _PULSES_HZ[1]))
    sums = sum(line[np.minimum(n * among, line.size - 1)] / n for n in (1, 2, 3))
    first = int(among[np.argmax(sums)])
    usual = float(np.median(line[among]))
    if usual <= 1e-9:
        return _Pulse(np.nan, np.nan, np.nan)
    return _Pulse(float(hz[first]), float(line[first]) / usual, _depth(level_db, float(hz[first])))


def _depth(level_db: Floats, pulse_hz: float) -> float:
    """L5 - L95 of what a level has of a rate and its next two harmonics."""
    level = np.maximum(level_db, np.quantile(level_db, 0.05))
    turns = 2j * np.pi * pulse_hz * _PULSE_HOP_SECONDS * np.arange(level.size)
    waves = np.exp(np.outer([1, 2, 3], turns))
    amplitudes = 2.0 / level.size * waves.conj() @ (level - level.mean())
    low, high = np.quantile((amplitudes @ waves).real, (0.05, 0.95))
    return float(high - low)


def _db(power: float) -> float:
    return float(10.0 * np.log10(max(power, _FAINT)))


def _dbs(powers: Floats) -> Floats:
    return np.asarray(10.0 * np.log10(powers))
