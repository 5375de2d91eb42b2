"""Room for what requests bring along: how much memory all of them together may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from atoll.domain.errors import LinkError


class Room:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._taken = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes so many bytes more; they are free again after the block."""
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self._taken + count > self._bytes_max:
                held = f"the requests that are here take {self._bytes_max // 1024**2} MB already"
                raise LinkError("runtime-crowded", held, hint="Try again in a moment.")
            self._taken += count
            mine += count

        try:
            yield take
        finally:
            self._taken -= mine
