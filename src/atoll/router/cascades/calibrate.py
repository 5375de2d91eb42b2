"""Finds the threshold of a cascade from requests whose right answers are known. Pure.

A threshold that looks good on a few hundred examples may be luck, so one is only given where it holds with
the certainty that is asked for, for requests like these. Thresholds are tested in a fixed order, each by an
exact binomial test, and the first that fails ends its run: so any number may be tested (fixed-sequence
testing), and the chance of a mistake is shared by a few starting points only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

CERTAINTY = 0.95
STARTS = 4
# Fixed before any example is seen, finer where models crowd: near one.
GRID = (*(n / 100 for n in range(100)), *(n / 1000 for n in range(991, 1000)), 0.9995, 0.9999, 1.0)


@dataclass(frozen=True)
class Example:
    confidence: float | None  # of the small model; None is less than any threshold
    first_right: bool
    then_right: bool


@dataclass(frozen=True)
class Line:
    """What one way of answering comes to."""

    way: str
    threshold: float | None
    right: int
    gone_on: int
    count: int

    @property
    def accuracy(self) -> float:
        return self.right / self.count

    @property
    def share_here(self) -> float:
        return 1 - self.gone_on / self.count


@dataclass(frozen=True)
class Choice:
    """A threshold, with what is certain of it; or none, and why."""

    threshold: float | None
    why: str
    accuracy: float | None = None  # that is certain of it


class Examples:
    """Sorted by confidence once, so that every threshold is a look-up."""

    def __init__(self, examples: Sequence[Example]) -> None:
        ordered = sorted(examples, key=lambda one: -1.0 if one.confidence is None else one.confidence)
        self.count = len(ordered)
        self._values = [-1.0 if one.confidence is None else one.confidence for one in ordered]
        self._then_right = [0, *accumulate(int(one.then_right) for one in ordered)]
        self._first_right = [0, *accumulate(int(one.first_right) for one in ordered)]
        self._oracle = (
            sum(bool(one.first_right or one.then_right) for one in ordered),
            sum(bool(one.then_right and not one.first_right) for one in ordered),
        )

    def at(self, threshold: float) -> Line:
        gone_on = bisect_left(self._values, threshold)
        right = self._then_right[gone_on] + self._first_right[-1] - self._first_right[gone_on]
        return Line("cascade", threshold, right, gone_on, self.count)

    def side_by_side(self, threshold: float | None) -> Iterator[Line]:
        """Edge only, cloud only, the cascade, and what somebody could do who knew the answers."""
        yield Line("first only", None, self._first_right[-1], 0, self.count)
        yield Line("then only", None, self._then_right[-1], self.count, self.count)
        if threshold is not None:
            yield self.at(threshold)
        yield Line("oracle", None, *self._oracle, self.count)

    def for_accuracy(self, target: float, certainty: float = CERTAINTY) -> Choice:
        """The lowest threshold whose accuracy is at least the target."""
        chance = (1 - certainty) / STARTS
        passed = []
        for start in range(STARTS):
            for threshold in reversed(GRID[: len(GRID) - start * (len(GRID) // STARTS)]):
                line = self.at(threshold)
                if at_least(line.right, self.count, target) > chance:
                    break
                passed.append(threshold)
        if passed:
            return Choice(min(passed), f"accuracy is at least {target:g}", target)
        best = max((self.at(threshold) for threshold in GRID), key=lambda line: line.accuracy)
        why = f"no threshold certainly has an accuracy of {target:g}: the best has {best.accuracy:.3f}"
        return Choice(None, f"{why} of {self.count} examples")

    def for_share(self, target: float, certainty: float = CERTAINTY) -> Choice:
        """The highest threshold at which no more than this share goes on."""
        chosen = None
        for threshold in GRID:
            kept = self.count - self.at(threshold).gone_on
            if at_least(kept, self.count, 1 - target) > 1 - certainty:
                break
            chosen = threshold
        if chosen is None:
            return Choice(None, f"{self.count} examples are too few for a share of {target:g}")
        return Choice(chosen, f"no more than {target:g} of all requests go on")


def at_least(right: int, count: int, share: float) -> float:
    """The chance of so many or more among `count`, where each is right with this chance."""
    if right <= 0 or share >= 1:
        return 1.0
    return 0.0 if share <= 0 else _beta(right, count - right + 1, share)


def lower(right: int, count: int, certainty: float) -> float:
    """Clopper and Pearson's one-sided bound: the truth is not below it, with this certainty."""
    low, high = 0.0, right / count
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_least(right, count, middle) <= 1 - certainty else (low, middle)
    return low


def _beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (Lentz)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    tiny = 1e-300
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d, found = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny), 1.0
    found = d
    for m in range(1, 100_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + step * d, tiny)
            c = _off_zero(1 + step / c, tiny)
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * found / a


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def isotonic(examples: Sequence[Example]) -> list[tuple[float, float]]:
    """How often the small model is right by its confidence, as points that rise: pooled neighbours (PAVA)."""
    blocks: list[list[float]] = []  # sum of confidences, sum right, count
    ordered = sorted((one.confidence, one.first_right) for one in examples if one.confidence is not None)
    for confidence, is_right in ordered:
        blocks.append([confidence, float(is_right), 1.0])
        while len(blocks) > 1 and (
            blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]
            or blocks[-2][0] / blocks[-2][2] >= blocks[-1][0] / blocks[-1][2]
        ):
            last = blocks.pop()
            blocks[-1] = [left + right for left, right in zip(blocks[-1], last, strict=True)]
    return [(total / count, right / count) for total, right, count in blocks]
