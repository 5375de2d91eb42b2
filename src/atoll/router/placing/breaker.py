"""A circuit breaker: a place that fails is left alone for a while, then tried with one request. Pure.

Closed, it lets everybody in. After some failures in a row it is open until a time; then one is let in to
try, and the outcome closes it or opens it for twice as long. A place that says when to come again is left
alone until then.
"""

from __future__ import annotations

from typing import NamedTuple

FAILURES_MAX = 3
PAUSE_SECONDS_FIRST = 2.0
PAUSE_SECONDS_MAX = 60.0
TRY_SECONDS_MAX = 60.0  # after which another may try, whatever became of the first


class Breaker(NamedTuple):
    failures: int = 0  # in a row
    open_until: float = 0.0
    trying_until: float = 0.0  # while one request finds out
    busy_until: float = 0.0

    def lets_in(self, now: float) -> bool:
        if now < self.busy_until or now < self.open_until:
            return False
        return self.failures < FAILURES_MAX or now >= self.trying_until

    def seconds_left(self, now: float) -> float:
        return max(self.busy_until, self.open_until, self.trying_until, now) - now

    def begun(self, now: float) -> Breaker:
        is_trial = self.failures >= FAILURES_MAX
        return self._replace(trying_until=now + TRY_SECONDS_MAX) if is_trial else self

    def came(self) -> Breaker:
        """It has begun to answer, so others may come; a break before the end is one failure more."""
        return Breaker(min(self.failures, FAILURES_MAX - 1))

    def succeeded(self) -> Breaker:
        return CALM

    def failed(self, now: float) -> Breaker:
        failures = self.failures + 1
        if failures < FAILURES_MAX:
            return self._replace(failures=failures)
        pause = min(PAUSE_SECONDS_FIRST * 2.0 ** min(failures - FAILURES_MAX, 16), PAUSE_SECONDS_MAX)
        return Breaker(failures, open_until=now + pause, busy_until=self.busy_until)

    def busy(self, now: float, seconds: float) -> Breaker:
        """It answered, and said when to come again."""
        return Breaker(busy_until=now + min(max(0.0, seconds), PAUSE_SECONDS_MAX))

    def left(self) -> Breaker:
        """Whoever tried went away before anything was known."""
        return self._replace(trying_until=0.0)


CALM = Breaker()
