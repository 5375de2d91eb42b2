"""What a microphone hears beside a word: the room's echoes, its own colour, and noise. Signals at RATE."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Floats = NDArray[np.floating[Any]]


def resampled(signal: Floats, count: int) -> Floats:
    """As many samples in the same time: what is too high for that is left out."""
    if count == len(signal):
        return signal
    if count < len(signal):
        size = quick(len(signal))
        bins = np.fft.rfft(signal, size)
        bins[len(bins) * count // len(signal) :] = 0
        signal = np.fft.irfft(bins, size)[: len(signal)]
    places = np.linspace(0, len(signal) - 1, count)
    return np.interp(places, np.arange(len(signal)), signal).astype(np.float32)


def in_a_room(signal: Floats, random: np.random.Generator) -> Floats:
    """With echoes that fade, and a microphone's colour."""
    fading = random.uniform(0.01, 0.12)
    time = np.arange(int(fading * 4 * RATE), dtype=np.float32) / RATE
    room = random.standard_normal(len(time), np.float32) * np.exp(-time / fading)
    room *= random.uniform(0, 0.7) / np.sqrt((room**2).sum())
    room[0] += 1
    size = quick(len(signal) + len(room))
    bins = np.fft.rfft(signal, size) * np.fft.rfft(room, size) * colour(size, random)
    return np.fft.irfft(bins, size)[: len(signal)]


def colour(size: int, random: np.random.Generator) -> Floats:
    """A gain for each frequency: some decibels more or less, from octave to octave."""
    octaves = np.log2(frequencies(size) + 60)
    return 10 ** (np.interp(octaves, np.arange(6, 14), random.normal(0, 4, 8)) / 20).astype(np.float32)


def hiss(count: int, random: np.random.Generator) -> Floats:
    """From white to brown."""
    size = quick(count)
    falling = (frequencies(size) + 30) ** -random.uniform(0, 1.2)
    bins = np.fft.rfft(random.standard_normal(size, np.float32)) * falling * colour(size, random)
    return even(np.fft.irfft(bins, size)[:count])


def hum(count: int, random: np.random.Generator) -> Floats:
    """A motor: a tone, and many that are multiples of it."""
    size = quick(count)
    base = random.uniform(40, 250)
    bins = np.zeros(size // 2 + 1, np.complex64)
    multiples = np.arange(1, 25)
    strong = random.random(24) / multiples ** random.uniform(0.3, 1.2)
    places = np.round(base * multiples * size / RATE).astype(int)
    bins[places] = strong * np.exp(2j * np.pi * random.random(24))
    return even(even(np.fft.irfft(bins, size)[:count]) + 0.3 * hiss(count, random))


def strikes(count: int, random: np.random.Generator) -> Floats:
    """A press or a hammer: each strike rings."""
    time = np.arange(int(0.15 * RATE), dtype=np.float32) / RATE
    made = np.zeros(count + len(time), np.float32)
    at, every = int(random.uniform(0, 0.3) * RATE), random.uniform(0.06, 0.4) * RATE
    fading, hertz = random.uniform(0.005, 0.04), random.uniform(200, 4000, (4, 1))
    ring = (random.random((4, 1)) * np.sin(2 * np.pi * hertz * time)).sum(axis=0)
    while at < count:
        struck = ring + 0.5 * random.standard_normal(len(time))
        made[at : at + len(time)] += random.uniform(0.5, 1) * struck * np.exp(-time / fading)
        at += int(every * random.uniform(0.9, 1.1))
    return even(even(made[:count]) + 0.1 * hiss(count, random))


def frequencies(size: int) -> Floats:
    return np.fft.rfftfreq(size, 1 / RATE).astype(np.float32)


def even(signal: Floats) -> Floats:
    """With a power of one."""
    return signal / (np.sqrt((signal**2).mean()) + 1e-9)


def quick(count: int) -> int:
    """The next power of two, or three quarters of it: a size whose spectrum is soon computed."""
    size = 1 << (count - 1).bit_length()
    return size * 3 // 4 if size * 3 // 4 >= count else size
