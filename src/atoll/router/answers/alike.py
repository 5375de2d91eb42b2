"""Finds how alike two questions have to be for one's answer to serve the other. Pure.

From pairs of which somebody has said whether they mean the same. A threshold is given only where, of the
pairs that it takes for the same, no more than so many mean something else, with the certainty that is asked
for and for pairs like these. Thresholds are tried from the strictest on, and the first that fails ends it, so
any number may be tried (fixed-sequence testing); where that begins depends on likeness alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atoll.router.cascades.calibrate import at_least, lower

GRID = tuple(n / 200 for n in range(200, 79, -1))


@dataclass(frozen=True)
class Pair:
    likeness: float
    is_same: bool


@dataclass(frozen=True)
class Line:
    threshold: float
    taken: int  # for the same
    wrong: int
    share_found: float  # of those that are the same

    def wrong_at_most(self, certainty: float) -> float:
        return 1 - lower(self.taken - self.wrong, self.taken, certainty)


def choose(pairs: Sequence[Pair], error: float, certainty: float) -> float | None:
    """The lowest threshold that keeps the bound; None where none does."""
    chosen = None
    for line in lines(pairs):
        if at_least(line.taken, line.taken, 1 - error) > 1 - certainty:
            continue  # so few could not show it, were they all right
        if at_least(line.taken - line.wrong, line.taken, 1 - error) > 1 - certainty:
            break
        chosen = line.threshold
    return chosen


def lines(pairs: Sequence[Pair]) -> Iterator[Line]:
    """What each threshold comes to, the strictest first."""
    same = sum(pair.is_same for pair in pairs)
    for threshold in GRID:
        taken = [pair for pair in pairs if pair.likeness >= threshold]
        if taken:
            right = sum(pair.is_same for pair in taken)
            yield Line(threshold, len(taken), len(taken) - right, right / same if same else 0.0)
