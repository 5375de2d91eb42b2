"""A recording (WAV) becomes an audio model's input: its samples, or the logarithm of its mel spectrogram.

Which of both follows from the model's input: two sizes are rows and samples, more are a spectrogram. What it
was trained with (`rate`, `window`, `hop`, `mels`) is said by options. Of a recording that is longer than the
model takes, the beginning is taken; a shorter one is followed by silence.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll.domain.models import TensorFacts
from atoll.pipelines.arrays import KINDS, unfit
from atoll.runtimes.contract import Array

RATE, WINDOW_SECONDS, HOP_SECONDS, MELS = 16_000, 0.025, 0.010, 64
SECONDS_MAX = 600
FLOOR = 1e-10


def read_sound(value: Any, facts: TensorFacts, options: Mapping[str, Any]) -> Array:
    if not isinstance(value, bytes | memoryview):
        raise unfit("a recording has to be bytea")
    rate = int(options.get("rate", RATE))
    samples = _samples(bytes(value), rate)
    if len(facts.shape) <= 2:
        return _fit(samples, facts.shape[-1]).astype(KINDS[facts.datatype])
    window = int(rate * float(options.get("window", WINDOW_SECONDS)))
    hop = int(rate * float(options.get("hop", HOP_SECONDS)))
    last = facts.shape[-2:]
    wants_mels_last = bool(options.get("mels_last", last[0] < 0 < last[1]))
    given = last[1] if wants_mels_last else last[0]
    mels = int(options.get("mels", given if given > 0 else MELS))
    found = log_mel(samples, rate, window, hop, mels)
    found = _fit(found, last[0] if wants_mels_last else last[1], float(np.log(FLOOR)))
    found = found.T if wants_mels_last else found
    return found.reshape((1,) * (len(facts.shape) - 3) + found.shape).astype(KINDS[facts.datatype])


def log_mel(samples: Array, rate: int, window: int, hop: int, mels: int) -> Array:
    """Mels by frames: Hann windows, power, triangles that are equally wide in mels, natural logarithm."""
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2
    return np.asarray(np.log(np.maximum(power @ _triangles(rate, window, mels).T, FLOOR)).T)


def _triangles(rate: int, window: int, mels: int) -> Array:
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    places = np.fft.rfftfreq(window, 1 / rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.asarray(
        np.maximum(0, np.minimum((places - low) / (middle - low), (high - places) / (high - middle)))
    )


def _samples(data: bytes, rate: int) -> Array:
    """One channel between −1 and 1, at a rate."""
    try:
        with wave.open(io.BytesIO(data)) as recording:
            width, channels, own_rate = (
                recording.getsampwidth(),
                recording.getnchannels(),
                recording.getframerate(),
            )
            if recording.getnframes() > SECONDS_MAX * own_rate:
                raise unfit(f"the recording is longer than {SECONDS_MAX} seconds")
            raw = recording.readframes(recording.getnframes())
    except (wave.Error, EOFError, ValueError) as error:
        raise unfit("the recording cannot be read", f"{error or 'It is cut off'}.") from None
    if width == 1:
        found = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif width in (2, 4):
        found = np.frombuffer(raw, f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    else:
        raise unfit(f"the recording has {8 * width} bits a sample", "It has to be 8, 16 or 32.")
    found = np.asarray(found.reshape(-1, channels).mean(axis=1))
    if not len(found):
        raise unfit("the recording is empty")
    if own_rate == rate:
        return found
    count = max(1, round(len(found) * rate / own_rate))
    places = np.arange(count) * own_rate / rate
    return np.asarray(np.interp(places, np.arange(len(found)), found), np.float32)


def _fit(found: Array, size: int, filling: float = 0.0) -> Array:
    """Cut or filled up to a size along the last axis, if the model has one."""
    if size <= 0:
        return found
    padded = np.pad(
        found,
        [(0, 0)] * (found.ndim - 1) + [(0, max(0, size - found.shape[-1]))],
        constant_values=filling,
    )
    return np.asarray(padded[..., :size])
