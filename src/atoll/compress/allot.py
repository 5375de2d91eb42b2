"""Which part gets which form under a budget of bytes. Pure.

Each part has choices, with what they take and what they lose; the losses add up. The bytes are counted in
units that depend on the parts alone, so more bytes never lead to more loss, and where the units come out even
the answer is the best there is. Elsewhere a choice is counted up by less than a unit: the answer is at least
as good as the best that takes one unit a part less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

UNITS_MAX = 1 << 16


@dataclass(frozen=True)
class Choice:
    form: str
    bytes: int
    loss: float


Choices = Mapping[str, Sequence[Choice]]


def fewest_bytes(choices: Choices) -> int:
    return sum(min(one.bytes for one in held) for held in choices.values())


def unit_of(choices: Choices) -> int:
    """What all sizes are multiples of, or as coarse as the bound asks for."""
    most = sum(max(one.bytes for one in held) for held in choices.values())
    even = math.gcd(*(one.bytes for held in choices.values() for one in held)) or 1
    return even * max(1, math.ceil(most / even / UNITS_MAX))


def allot(choices: Choices, bytes_max: int) -> dict[str, str] | None:
    """The forms that lose least; None where not even the smallest fit."""
    unit = unit_of(choices)
    most = sum(max(-(-one.bytes // unit) for one in held) for held in choices.values())
    room = min(bytes_max // unit, most)
    if room < 0:
        return None
    least = np.zeros(room + 1)  # the loss of the parts so far, within so many units
    taken = []
    for held in choices.values():
        ways = np.full((len(held), room + 1), np.inf)
        for row, one in zip(ways, held, strict=True):
            size = -(-one.bytes // unit)
            if size <= room:
                row[size:] = least[: room + 1 - size] + one.loss
        best = ways.argmin(axis=0)
        taken.append(best.astype(np.uint8))
        least = np.take_along_axis(ways, best[None], axis=0)[0]
    if not np.isfinite(least[room]):
        return None
    left, forms = int(np.argmin(least)), {}  # the first place that loses as little
    for (part, held), best in reversed(list(zip(choices.items(), taken, strict=True))):
        one = held[best[left]]
        forms[part] = one.form
        left -= -(-one.bytes // unit)
    return {part: forms[part] for part in choices}
