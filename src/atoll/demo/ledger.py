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
    reads: int = 0
    orders: int = 0
    readings: int = 0
    given_way: int = 0
    sold: Counter[str] = field(default_factory=Counter)
    _done_at: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _reading_at: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))

    def note(self, at: float, took: float) -> None:
        """A write was acknowledged."""
        self.writes += 1
        self._done_at.append(at)
        self._took.append(took)

    def note_reading(self, at: float) -> None:
        self.readings += 1
        self._reading_at.append((self.readings, at))

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
        """How long ago the first reading was written of those that somebody has not seen."""
        missing = bisect.bisect_right(self._reading_at, seen, key=lambda reading: reading[0])
        return now - self._reading_at[missing][1] if missing < len(self._reading_at) else 0.0
