"""Vibration of a rotating machine, as physics has it: what a sensor on the bearing's housing would record.

Every machine hums at its shaft's turn and at twice that, with noise, a tone of the mains and gravity. An
imbalance makes the turn itself strong. A pit in a race is struck by each ball that passes, and each strike
rings at the housing's resonance: in the outer race always alike, because the pit stays where the load is;
in the inner race with a strength that comes and goes with the turn, because the pit passes through the load.
Needs numpy alone, so that a test can make the held-out windows anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LABELS = ("normal", "imbalance", "inner-race", "outer-race")
RATE = 3200  # samples a second
SAMPLES = 512  # in a window: 0.16 s, three to eight turns

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Conditions:
    """Ranges that a machine is drawn from: speeds in turns a minute, noise in g."""

    speeds: tuple[tuple[float, float], ...]
    noise: tuple[float, float]


USUAL = ((1000.0, 1700.0), (2100.0, 3000.0))
TRAINED = Conditions(speeds=USUAL, noise=(0.03, 0.18))
HELD_OUT = {
    "speeds between": Conditions(speeds=((1750.0, 2050.0),), noise=(0.03, 0.18)),
    "speeds beyond": Conditions(speeds=((3050.0, 3300.0),), noise=(0.03, 0.18)),
    "more noise": Conditions(speeds=USUAL, noise=(0.18, 0.27)),
}


def windows(count: int, conditions: Conditions, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """So many windows, in g, of machines of their own, and which of LABELS each is."""
    random = np.random.default_rng(seed)
    labels = random.integers(len(LABELS), size=count)
    made = np.stack([window(LABELS[label], conditions, random) for label in labels])
    return made.astype(np.float32), labels


def window(label: str, conditions: Conditions, random: np.random.Generator) -> Floats:
    low, high = conditions.speeds[random.integers(len(conditions.speeds))]
    turn = random.uniform(low, high) / 60
    time = np.arange(SAMPLES) / RATE
    noise = random.uniform(*conditions.noise)
    strong = random.uniform(0.2, 1.0) if label == "imbalance" else random.uniform(0.01, 0.09)
    signal = tone(time, turn, strong, random) + tone(time, 2 * turn, random.uniform(0.0, 0.06), random)
    signal += tone(time, float(random.choice([50, 60, 100, 120])), random.uniform(0.0, 0.03), random)
    if label in ("inner-race", "outer-race"):
        signal += strikes(time, turn, inner=label == "inner-race", random=random)
    signal += noise * random.standard_normal(SAMPLES) + rumble(noise, random)
    return np.round((signal + random.uniform(-1, 1)) / 0.004) * 0.004  # gravity, and the sensor's steps


def tone(time: Floats, hertz: float, strength: float, random: np.random.Generator) -> Floats:
    return strength * np.sin(2 * np.pi * (hertz * time + random.random()))


def rumble(noise: float, random: np.random.Generator) -> Floats:
    """Slow noise: a random walk that leaks."""
    steps = random.standard_normal(SAMPLES) * noise * 0.3
    kernel = 0.95 ** np.arange(100)
    return np.convolve(steps, kernel)[:SAMPLES]


def strikes(time: Floats, turn: float, *, inner: bool, random: np.random.Generator) -> Floats:
    """Rings of a resonance, one for each ball that passes the pit, a little early or late as balls slip."""
    balls = random.integers(7, 11)
    slope = random.uniform(0.17, 0.23)  # ball's width over the pitch, times the cosine of the contact angle
    rate = balls / 2 * turn * (1 + slope if inner else 1 - slope)
    count = int(rate * (time[-1] + 0.02)) + 2
    moments = (np.arange(count) + random.random() + random.normal(0, 0.015, count)) / rate - 0.02
    strengths = random.uniform(0.25, 1.5) * random.normal(1, 0.1, count)
    if inner:
        load = 0.5 + 0.5 * np.cos(2 * np.pi * (turn * moments + random.random()))
        strengths = strengths * (0.1 + 0.9 * load**1.5) * 1.4
    resonance, fading = random.uniform(600, 1400), random.uniform(0.0012, 0.0035)
    since = time[None, :] - moments[:, None]
    after = np.maximum(since, 0)
    ring = np.exp(-after / fading) * np.sin(2 * np.pi * resonance * after)
    return np.asarray((strengths[:, None] * ring * (since >= 0)).sum(axis=0))
