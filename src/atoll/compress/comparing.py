"""Two models side by side on the same things: the difference with how sure it is. Pure.

Each thing (a row of text, an example) is asked of both, so that what is hard for both cancels out. The
interval is that of a paired bootstrap: things are drawn again with replacement, from a seed, and the middle
95 % of the differences are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
DRAWS, CERTAINTY = 2000, 0.95


@dataclass(frozen=True)
class Difference:
    middle: float
    low: float
    high: float

    @property
    def is_certain(self) -> bool:
        return self.low > 0 or self.high < 0


def compare(count: int, seed: int, differ: Callable[[NDArray[np.int64]], float]) -> Difference:
    """`differ` says how the second differs from the first on things, given by their numbers."""
    random = np.random.default_rng(seed)
    draws = [differ(random.integers(0, count, count)) for _ in range(DRAWS)]
    edge = (1 - CERTAINTY) / 2
    low, high = np.quantile(draws, [edge, 1 - edge])
    return Difference(differ(np.arange(count)), float(low), float(high))


def perplexities(first: Numbers, second: Numbers, tokens: Numbers) -> Callable[[NDArray[np.int64]], float]:
    """By what share the perplexity rises; given are nats and tokens, row by row."""
    return lambda rows: float(np.exp((second[rows] - first[rows]).sum() / tokens[rows].sum()) - 1)


def means(first: Numbers, second: Numbers) -> Callable[[NDArray[np.int64]], float]:
    return lambda rows: float((second[rows] - first[rows]).mean())


def calibration_error(chances: Numbers, right: NDArray[np.bool_], parts: int = 10) -> float:
    """How far what a classifier says of its certainty is from how often it is right; parts of equal width."""
    part = np.minimum((chances * parts).astype(int), parts - 1)
    total = 0.0
    for number in range(parts):
        members = part == number
        if members.any():
            total += abs(float(chances[members].mean()) - float(right[members].mean())) * float(
                members.mean()
            )
    return total
