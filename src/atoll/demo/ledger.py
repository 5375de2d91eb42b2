"""What each site was promised: every write whose commit returned, when, and how long it took.

It is the demo's own account, kept beside the nodes, so that what they have in the end can be held against it.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field

TIMES_KEPT = 20_000


@dataclass(frozen=True)
class Spread:
    """Half of the times are below the first number, and 99 of 100 are not above the second."""

    p50: float
    p99: float


@dataclass
class Account:
    """The acknowledged writes of one site."""

    writes: int = 0
    orders: int = 0
    observed: int = 0
    decided: int = 0
    given_way: int = 0
    sold: Counter[str] = field(default_factory=Counter)
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _row_at: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _decided_in: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _open: dict[int, float] = field(default_factory=dict)
    _early: dict[int, float] = field(default_factory=dict)

    def note(self, took: float) -> None:
        """A write was acknowledged."""
        self.writes += 1
        self._took.append(took)

    def note_order(self, at: float, item: str, qty: int) -> None:
        self.orders += 1
        self.sold[item] += qty
        self._row_at.append((self.rows, at))

    def note_observation(self, id_: int, at: float) -> None:
        """A row was acknowledged that a model decides about; the decision may have been heard of already."""
        self.observed += 1
        heard_at = self._early.pop(id_, None)
        if heard_at is None:
            _put(self._open, id_, at)
        else:
            self._decide(0.0, heard_at)

    def note_decision(self, id_: int, at: float) -> None:
        began = self._open.pop(id_, None)
        if began is None:
            _put(self._early, id_, at)
        else:
            self._decide(at - began, at)

    def _decide(self, seconds: float, at: float) -> None:
        self.decided += 1
        self._decided_in.append(seconds)
        self._row_at.append((self.rows, at))

    def forget_times(self) -> None:
        """What a model's loading took is not what a decision takes."""
        self._decided_in.clear()

    @property
    def rows(self) -> int:
        """Rows that were added and travel; there are also writes that change one, and rows that stay."""
        return self.orders + self.decided

    def deciding(self, last: int) -> Spread | None:
        """From the commit of a row to that of its decision, for the last so many."""
        found = sorted(list(self._decided_in)[-last:]) if last > 0 else []
        if not found:
            return None
        return Spread(statistics.median(found), found[math.ceil(0.99 * len(found)) - 1])

    def took(self, last: int) -> float | None:
        """The median of the seconds that the last writes took."""
        found = list(self._took)[-last:] if last > 0 else []
        return statistics.median(found) if found else None

    def behind(self, seen: int, now: float) -> float:
        """How long before `now` the first row was acknowledged of those that somebody has not seen."""
        missing = bisect.bisect_right(self._row_at, seen, key=lambda row: row[0])
        return max(0.0, now - self._row_at[missing][1]) if missing < len(self._row_at) else 0.0


def _put(times: dict[int, float], id_: int, at: float) -> None:
    """The oldest makes room, and is then counted without its time."""
    times[id_] = at
    if len(times) > TIMES_KEPT:
        del times[next(iter(times))]
