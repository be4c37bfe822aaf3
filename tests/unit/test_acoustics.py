"""A clip's figures against sounds whose truth is known: synthesised, or speech with noise added."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose
from scipy.io import wavfile
from scipy.signal import butter, sosfilt

from detectors.acoustics import OCTAVES_HZ, Acoustics, ClipError, comb_spacing, describe
from service.errors import InvalidRequest
from service.terminal import ACOUSTIC_WORDS
from service.wav import read_wav
from tests.sounds import RATE_HZ, beeps, clip, decibels, knocks, pink_noise, speech

Floats = npt.NDArray[np.float64]

N = 10 * RATE_HZ
TIME = np.arange(N) / RATE_HZ


def noise(seed: int = 0, n: int = N) -> Floats:
    return np.random.default_rng(seed).normal(size=n) * 0.05


def beeping(seed: int, level_db: float | None) -> Acoustics:
    """Speech 10 dB over pink noise, and 960 Hz twice a second, so many dB re the noise."""
    rng = np.random.default_rng(seed)
    sound = pink_noise(rng, N) + speech(rng, N) * decibels(10)
    if level_db is not None:
        sound = sound + beeps(rng, N, 960, 2) * decibels(level_db)
    return describe(sound / np.abs(sound).max() / 2, RATE_HZ)


def auc(hit: list[float], null: list[float]) -> float:
    """The chance that one that is hit has more than one that is not."""
    return float(np.mean(np.subtract.outer(hit, null) > 0))


NULL = [found.tone_prominence_db for found in (beeping(seed, None) for seed in range(24))]


@pytest.mark.parametrize(("level_db", "least"), [(-12.0, 0.95), (-18.0, 0.80)])
def test_prominence_tells_clips_with_a_gated_tone_from_those_without(
    level_db: float, least: float
) -> None:
    # 24 clips of each: the standard error of an area of .95 is .03, of .80 .06
    found = [beeping(1_000 + seed, level_db) for seed in range(24)]
    assert auc([each.tone_prominence_db for each in found], NULL) >= least
    if level_db == -12.0:
        assert np.mean([abs(each.tone_hz - 960) <= 4 for each in found]) >= 0.95


def test_the_pulse_rate_of_a_tone_6_db_under_the_noise_is_right_in_nine_of_ten() -> None:
    found = [beeping(2_000 + seed, -6.0) for seed in range(20)]
    assert np.mean([abs(each.pulse_hz / 2 - 1) <= 0.05 for each in found]) >= 0.9


@pytest.mark.parametrize(
    ("comb_hz", "rate_hz"),
    [(250, 6.3), (310, 4.1), (430, 3.2), (620, 5.5), (740, 9.5), (880, 7.5), (1100, 2.4)],
)
@pytest.mark.parametrize("under_speech_db", [3, 12])
def test_equipment_under_speech_is_known_by_its_comb_and_its_pulse(
    comb_hz: float, rate_hz: float, under_speech_db: float
) -> None:
    for n in range(4):
        rng = np.random.default_rng(n)
        voice = clip(n)
        sound = voice + knocks(rng, voice.size, comb_hz, rate_hz) * decibels(-under_speech_db)
        found = describe(sound / 20, RATE_HZ)
        assert_allclose(found.comb_hz, comb_hz, rtol=0.03)
        assert_allclose(found.pulse_hz, rate_hz, rtol=0.1)


def test_clean_speech_and_noise_have_no_comb() -> None:
    assert [describe(clip(n) / 20, RATE_HZ).features().get("comb_hz") for n in range(4)] == [
        None
    ] * 4
    assert np.isnan(describe(noise(), RATE_HZ).comb_hz)


def test_the_comb_is_fitted_to_whichever_tone_was_strongest_in_each_of_many_clips() -> None:
    # harmonics 2 to 7 of 620 Hz in unequal numbers, read to 4 Hz, one clip in ten something else
    rng = np.random.default_rng(3)
    orders = rng.choice([1, 2, 3, 4, 5, 7], 60, p=[0.05, 0.25, 0.4, 0.1, 0.1, 0.1])
    tones = np.where(rng.random(60) < 0.1, rng.uniform(200, 5_000, 60), orders * 620.0)
    assert_allclose(comb_spacing(tones + rng.uniform(-2, 2, 60)), 620, rtol=0.01)
    assert np.isnan(comb_spacing([960.0, 961.0, 959.0, 960.0]))  # one tone, however often
    assert np.isnan(comb_spacing([]))


def test_levels_are_those_of_the_signal() -> None:
    sine = 0.5 * np.sin(2 * np.pi * 1_000 * TIME)  # RMS 0.5 / √2: −9.03 dB
    found = describe(sine, RATE_HZ)
    assert_allclose(found.level_dbfs, 20 * np.log10(0.5 / np.sqrt(2)), atol=0.01)
    assert_allclose(found.band_db[4], found.level_dbfs, atol=0.1)  # the octave around 1 kHz
    assert_allclose([found.tone_hz, found.centroid_hz], 1_000, rtol=0.01)
    assert found.flatness < 0.001
    # white noise to 8 kHz of variance 0.05²: an octave has the share of its width
    hiss = describe(noise(), RATE_HZ)
    widths = np.minimum(OCTAVES_HZ * 2**0.5, RATE_HZ / 2) - OCTAVES_HZ / 2**0.5
    due = 10 * np.log10(0.05**2 * widths / (RATE_HZ / 2))
    assert_allclose(hiss.band_db[2:], due[2:], atol=0.5)
    assert hiss.flatness > 0.97
    assert_allclose(hiss.centroid_hz, RATE_HZ / 4, rtol=0.02)


def test_the_noise_floor_is_that_of_the_noise_with_or_without_speech_over_it() -> None:
    rng = np.random.default_rng(5)
    hum, voice = pink_noise(rng, N) * 0.01, speech(rng, N) * 0.1
    alone, under = describe(hum, RATE_HZ), describe(hum + voice, RATE_HZ)
    # by octaves of at least six lines; a second and a half of speech is never all pause
    assert_allclose(alone.noise_floor_db[2:], alone.band_db[2:], atol=1.0)
    assert_allclose(under.noise_floor_db[2:], alone.noise_floor_db[2:], atol=4.0)
    assert (under.band_db[3:5] > alone.band_db[3:5] + 10).all()


def test_pulses_leave_the_floor_where_it_was() -> None:
    rng = np.random.default_rng(6)
    hum = pink_noise(rng, N) * 0.01
    knocking = describe(hum + knocks(rng, N, 620, 2.0) * 0.05, RATE_HZ)
    assert_allclose(knocking.noise_floor_db[2:], describe(hum, RATE_HZ).noise_floor_db[2:], atol=3)
    assert knocking.level_dbfs > describe(hum, RATE_HZ).level_dbfs + 10


@pytest.mark.parametrize("snr_db", [0, 10, 20])
def test_the_estimate_of_the_signal_to_noise_ratio_is_near_it(snr_db: float) -> None:
    estimates = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sound = pink_noise(rng, N) + speech(rng, N) * decibels(snr_db)
        estimates.append(describe(sound / np.abs(sound).max(), RATE_HZ).snr_db)
    assert_allclose(np.median(estimates), snr_db, atol=4.0)


@pytest.mark.parametrize(("depth", "rate_hz"), [(0.3, 4.0), (0.6, 2.5), (0.2, 7.0)])
def test_the_depth_of_a_modulation_is_that_of_its_level(depth: float, rate_hz: float) -> None:
    envelope = 1 + depth * np.sin(2 * np.pi * rate_hz * TIME)
    found = describe(0.3 * envelope * np.sin(2 * np.pi * 500 * TIME) + noise() * 1e-3, RATE_HZ)
    low, high = np.quantile(20 * np.log10(envelope), (0.05, 0.95))
    assert_allclose(found.modulation_depth_db, high - low, rtol=0.1)
    assert_allclose(found.pulse_hz, rate_hz, rtol=0.01)


@pytest.mark.parametrize("edge_hz", [1_500, 3_400, 6_000])
def test_the_bandwidth_is_where_a_narrow_line_cuts_the_sound_off(edge_hz: float) -> None:
    narrow = sosfilt(butter(20, edge_hz, fs=RATE_HZ, output="sos"), noise())
    # of order 20, it is 60 dB down at 10^(60/400) = 1.41 times its edge, or less near the end
    assert edge_hz <= describe(narrow, RATE_HZ).bandwidth_hz <= 1.45 * edge_hz


def test_what_was_cut_off_at_full_scale_is_counted() -> None:
    loud = np.clip(1.5 * np.sin(2 * np.pi * 100 * TIME), -1, 1)
    # |sin| > 2/3 for 2 acos(2/3) / π of the time
    assert_allclose(
        describe(loud, RATE_HZ).clipped_share, 1 - 2 * np.arcsin(2 / 3) / np.pi, atol=0.01
    )
    assert describe(noise(), RATE_HZ).clipped_share == 0.0


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_the_figures_are_those_of_the_sound_at_any_sampling_rate(rate_hz: int) -> None:
    time = np.arange(6 * rate_hz) / rate_hz
    tone = np.sin(2 * np.pi * 960 * time) * (time * 3 % 1 < 0.5)
    found = describe(0.1 * tone + noise(n=time.size), rate_hz)
    assert_allclose([found.tone_hz, found.pulse_hz], [960, 3], rtol=0.01)
    assert ("band_7_db" in found.features()) == (rate_hz > 8_000)


def test_channels_are_averaged_and_silence_is_described_too() -> None:
    one = describe(noise(), RATE_HZ)
    both = describe(np.column_stack([noise(), noise()]), RATE_HZ)
    assert both.features() == pytest.approx(one.features())
    silence = describe(np.zeros(N), RATE_HZ).features()
    assert silence["tone_prominence_db"] == 0.0
    assert "pulse_hz" not in silence
    assert all(np.isfinite(value) for value in silence.values())


@pytest.mark.parametrize(
    ("samples", "rate_hz", "complaint"),
    [
        (np.zeros(100), RATE_HZ, "samples: must be 1 s"),
        (np.zeros(0), RATE_HZ, "samples: must be 1 s"),
        (np.zeros(N), 0, "rate: must be"),
        (np.full(N, np.nan), RATE_HZ, "samples: must be finite"),
        (np.zeros((N, 1, 1)), RATE_HZ, "samples: must be 1 s"),
    ],
)
def test_what_is_no_clip_is_refused(samples: Floats, rate_hz: int, complaint: str) -> None:
    with pytest.raises(ClipError, match=complaint):
        describe(samples, rate_hz)


def test_every_figure_has_its_words_for_people() -> None:
    named = describe(noise(), RATE_HZ)
    whole = replace(named, comb_hz=1.0, pulse_hz=1.0)
    bands = {f"{stem}_{i}_db" for stem in ("band", "noise_floor") for i in range(8)}
    assert {*whole.features()} == {*ACOUSTIC_WORDS} | bands


def write(path: Path, samples: npt.NDArray[Any], rate_hz: int = RATE_HZ) -> Path:
    wavfile.write(path, rate_hz, samples)
    return path


def write_24_bits(path: Path, samples: Floats) -> Path:
    whole = (samples * 2**23).astype("<i4")
    body = b"".join(struct.pack("<i", value)[:3] for value in whole.tolist())
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(body), b"WAVE", b"fmt ", 16, 1, 1,
                       RATE_HZ, RATE_HZ * 3, 3, 24)  # fmt: skip
    path.write_bytes(head + struct.pack("<4sI", b"data", len(body)) + body)
    return path


def test_wav_files_of_every_width_hold_the_same_sound(tmp_path: Path) -> None:
    sound = 0.5 * np.sin(2 * np.pi * 440 * TIME)[: 2 * RATE_HZ]
    files = [
        write(tmp_path / "u8.wav", np.round(sound * 128 + 128).astype(np.uint8)),
        write(tmp_path / "i16.wav", (sound * 2**15).astype(np.int16)),
        write_24_bits(tmp_path / "i24.wav", sound),
        write(tmp_path / "i32.wav", (sound * 2**31).astype(np.int32)),
        write(tmp_path / "f32.wav", sound.astype(np.float32)),
        write(tmp_path / "f64.wav", sound),
        write(tmp_path / "stereo.wav", np.column_stack([sound, sound]).astype(np.float32)),
    ]
    for file in files:
        samples, rate_hz = read_wav(file)
        assert rate_hz == RATE_HZ
        assert_allclose(samples.reshape(sound.size, -1)[:, 0], sound, atol=0.009, err_msg=file.name)


def test_a_broken_wav_file_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.wav", (noise(n=400) * 2**15).astype(np.int16)).read_bytes()
    rng = np.random.default_rng(8)
    broken = [b"", b"RIFF", whole[:30], whole[:44], b"\0" * 100, whole[:600]]
    for _ in range(300):
        bad = bytearray(whole)
        for place in rng.integers(0, 48, 3).tolist():
            bad[place] = int(rng.integers(256))
        broken.append(bytes(bad))
    file = tmp_path / "broken.wav"
    n_refused = 0
    for data in broken:
        file.write_bytes(data)
        try:
            read_wav(file)
        except InvalidRequest:
            n_refused += 1
    assert n_refused > 100


def acoustics(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "acoustics", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_prints_what_a_prediction_may_carry(tmp_path: Path) -> None:
    sound = clip(0) + knocks(np.random.default_rng(1), clip(0).size, 620, 5.5) * decibels(-6)
    file = write(tmp_path / "knocks.wav", (sound / 20).astype(np.float32))
    features = json.loads(acoustics(str(file), "--format", "json").stdout)
    assert_allclose([features["comb_hz"], features["pulse_hz"]], [620, 5.5], rtol=0.03)
    table = acoustics(str(file)).stdout
    assert all(name in table for name in features)
    file.write_bytes(b"not a sound")
    refused = acoustics(str(file))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "slicewatch: file: no WAV file of PCM or float samples\n"
