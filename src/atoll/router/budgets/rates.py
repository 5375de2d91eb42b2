"""What may be taken now where so much comes in a period. Pure: time is handed in.

It comes evenly, and what one period brings can wait to be taken, no more. What was taken beyond that, since
an answer was longer than it was thought, is owed, and has to come first.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.router.policy.key import Rate


class Bucket:
    """Full at first."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._level = float(rate.count)
        self._at = clock()

    @property
    def rate(self) -> Rate:
        return self._rate

    def change(self, rate: Rate) -> None:
        """From now on. What is owed stays owed."""
        level = self._now()
        self._rate = rate
        self._level = min(level, float(rate.count))

    def seconds_until(self, amount: int) -> float:
        """How long nobody may take so much; of more than ever is there, what is there counts."""
        lacking = min(amount, self._rate.count) - self._now()
        return max(0.0, lacking * self._rate.seconds / self._rate.count)

    def take(self, amount: int) -> int:
        """Whether or not it is there; how much that was."""
        taken = min(amount, self._rate.count)
        self._level = self._now() - taken
        return taken

    def give_back(self, amount: int) -> None:
        """Less than nothing is owed."""
        self._level = min(self._now() + amount, float(self._rate.count))

    @property
    def left(self) -> int:
        return max(0, int(self._now()))

    @property
    def seconds_until_full(self) -> float:
        return self.seconds_until(self._rate.count)

    def _now(self) -> float:
        """What is there now."""
        now, rate = self._clock(), self._rate
        self._level = min(self._level + (now - self._at) * rate.count / rate.seconds, float(rate.count))
        self._at = now
        return self._level
