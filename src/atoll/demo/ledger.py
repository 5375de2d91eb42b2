"""What each site was promised: every write whose commit returned, when, and how long it took.

It is the demo's own account, kept beside the nodes, so that what they have in the end can be held against it.
"""

from __future__ import annotations

import bisect
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field

TIMES_KEPT = 20_000
RATE_SECONDS = 2.0


@dataclass
class Account:
    """The acknowledged writes of one site."""

    writes: int = 0
    orders: int = 0
    readings: int = 0
    given_way: int = 0
    sold: Counter[str] = field(default_factory=Counter)
    _done_at: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _row_at: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))

    def note(self, at: float, took: float) -> None:
        """A write was acknowledged."""
        self.writes += 1
        self._done_at.append(at)
        self._took.append(took)

    def note_order(self, at: float, item: str, qty: int) -> None:
        self.orders += 1
        self.sold[item] += qty
        self._row_at.append((self.rows, at))

    def note_reading(self, at: float) -> None:
        self.readings += 1
        self._row_at.append((self.rows, at))

    @property
    def rows(self) -> int:
        """Rows that were added; there are also writes that change one."""
        return self.orders + self.readings

    def rate(self, now: float) -> float:
        """Writes a second, lately."""
        recent = 0
        for at in reversed(self._done_at):
            if at < now - RATE_SECONDS:
                break
            recent += 1
        return recent / RATE_SECONDS

    def took(self, last: int) -> float | None:
        """The median of the seconds that the last writes took."""
        found = list(self._took)[-last:] if last > 0 else []
        return statistics.median(found) if found else None

    def behind(self, seen: int, now: float) -> float:
        """How long before `now` the first row was acknowledged of those that somebody has not seen."""
        missing = bisect.bisect_right(self._row_at, seen, key=lambda row: row[0])
        return max(0.0, now - self._row_at[missing][1]) if missing < len(self._row_at) else 0.0
