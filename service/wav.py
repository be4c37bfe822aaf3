"""Wav: the samples of a WAV file, PCM of 8 to 32 bits or float, whoever made the file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.io import wavfile

from service.errors import InvalidRequest

MAX_WAV_BYTES: Final = 64 << 20  # ten minutes of stereo at 48 kHz and 16 bits
MAX_CHANNELS: Final = 64


def read_wav(path: Path) -> tuple[npt.NDArray[np.float64], int]:
    """The samples at full scale ±1, shape (n,) or (n, n_channels), and how many there are a second.

    Raises `InvalidRequest` for a file that is too large, or is no WAV file that can be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_WAV_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"file: cannot be read: {error.strerror}") from None
    if len(data) > MAX_WAV_BYTES:
        raise InvalidRequest(f"file: larger than {MAX_WAV_BYTES >> 20} MiB; cut it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
            rate_hz, samples = wavfile.read(io.BytesIO(data))
    except Exception:  # the reader checks little, and a broken header may break it anywhere
        raise InvalidRequest("file: no WAV file of PCM or float samples") from None
    if samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS:
        raise InvalidRequest(f"file: more than {MAX_CHANNELS} channels")
    return _full_scale(samples), rate_hz


def _full_scale(samples: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """At ±1: bytes are unsigned around 128, whole numbers fill their type, 24 bits its top."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128.0) / 128.0
    if samples.dtype.kind == "i":
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)
