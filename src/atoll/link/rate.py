"""A token bucket: how long a sender has to wait after it has sent so many bytes.

It allows debt, so a message of any size goes out whole and the next one waits longer. The clock is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

BURST_SECONDS = 0.1


class Bucket:
    """Shared by all streams of one link; without a limit it never asks anybody to wait."""

    def __init__(self, bytes_per_second: int | None, clock: Callable[[], float]) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._level = self._rate * BURST_SECONDS if self._rate else 0.0
        self._filled_at = clock()

    def take(self, size: int) -> float:
        """Account for `size` bytes just sent; returns the seconds until the debt is paid, often 0."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        full = self._rate * BURST_SECONDS
        self._level = min(full, self._level + (now - self._filled_at) * self._rate) - size
        self._filled_at = now
        return max(0.0, -self._level / self._rate)
