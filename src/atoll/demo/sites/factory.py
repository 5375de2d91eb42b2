"""The factory: sensors on the bearings of four machines, and what a window of their vibration looks like.

The signal is synthetic and the physics plain: the turn of the shaft, noise, gravity; an imbalance makes the
turn strong, a pit in a race rings at every ball that passes. Which fault a machine has comes and goes, and
the row says which it really was, so that the model's word can be held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.demo.sites.raw import Raw

Signal = NDArray[np.float64]

RATE, SAMPLES = 3200, 512
STEP_G = 0.004  # what the sensor can tell apart
FAULT_WINDOWS = (20, 60)


@dataclass(frozen=True)
class Machine:
    name: str
    turns_per_second: float
    noise_g: float
    balls: int
    resonance_hertz: float
    weak_at: str
    """The fault that it gets."""


MACHINES = (
    Machine("press 1", 24.0, 0.05, 8, 900.0, "imbalance"),
    Machine("press 2", 21.0, 0.07, 9, 1150.0, "outer-race"),
    Machine("dryer", 41.0, 0.06, 8, 800.0, "inner-race"),
    Machine("sorter", 45.0, 0.05, 7, 1050.0, "outer-race"),
)


class Factory:
    """Windows of vibration, from one machine after the other."""

    insert = "add_vibration"

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._windows = 0

    def next(self) -> Raw:
        machine = MACHINES[self._windows % len(MACHINES)]
        # Each machine is well for a while and has its fault for a while, not all of them at once.
        turn = (self._windows // len(MACHINES) + 7 * MACHINES.index(machine)) % FAULT_WINDOWS[1]
        fault = machine.weak_at if turn < FAULT_WINDOWS[0] else "normal"
        self._windows += 1
        celsius = 41 + 9 * (fault != "normal") + float(self._random.normal(0, 0.6))
        window = self._window(machine, fault)
        return Raw((machine.name, round(celsius, 1), window.tolist(), fault))

    def _window(self, machine: Machine, fault: str) -> Signal:
        random = self._random
        time = np.arange(SAMPLES) / RATE
        strong = random.uniform(0.4, 0.7) if fault == "imbalance" else random.uniform(0.02, 0.06)
        signal = strong * np.sin(2 * np.pi * (machine.turns_per_second * time + random.random()))
        if fault.endswith("race"):
            signal += self._strikes(machine, time, is_inner=fault == "inner-race")
        signal += machine.noise_g * random.standard_normal(SAMPLES) + 1.0
        return np.round(signal / STEP_G) * STEP_G

    def _strikes(self, machine: Machine, time: Signal, *, is_inner: bool) -> Signal:
        """Each ball that passes the pit makes the housing ring; in the inner race the load comes and goes."""
        random, turn = self._random, machine.turns_per_second
        rate = machine.balls / 2 * turn * (1.2 if is_inner else 0.8)
        count = int(rate * (time[-1] + 0.02)) + 2
        moments = (np.arange(count) + random.random() + random.normal(0, 0.015, count)) / rate - 0.02
        strengths = random.uniform(0.7, 1.2) * random.normal(1, 0.1, count)
        if is_inner:
            load = 0.5 + 0.5 * np.cos(2 * np.pi * (turn * moments + random.random()))
            strengths = strengths * (0.1 + 0.9 * load**1.5) * 1.4
        since = time[None, :] - moments[:, None]
        ring = np.exp(-np.maximum(since, 0) / 0.002) * np.sin(2 * np.pi * machine.resonance_hertz * since)
        return np.asarray((strengths[:, None] * ring * (since >= 0)).sum(axis=0))
