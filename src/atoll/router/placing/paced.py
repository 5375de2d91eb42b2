"""The events of an answer, and how long a place was waited for between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from atoll.domain.errors import LinkError
from atoll.runtimes.contract import Pouring
from atoll.runtimes.events import count


class Paced(Pouring):
    """Entering it waits for the first event.

    `ended` hears at the end how many events there were after the first, and how many seconds they took.
    """

    def __init__(
        self, rest: AsyncIterator[bytes], clock: Callable[[], float], ended: Callable[[int, float], None]
    ) -> None:
        self._first: bytes | None = None
        self._rest = rest
        self._clock = clock
        self._ended = ended
        self._events = 0
        self._seconds = 0.0

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._first = await anext(self._rest, None)
        if self._first is None:
            raise LinkError("runtime-broken", "could not answer: there was not a word")
        return self

    async def __aexit__(self, *problem: object) -> None:
        """Whoever gave the events ends them."""

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        began = self._clock()
        try:
            event = await anext(self._rest)
        except StopAsyncIteration:
            self._ended(self._events, self._seconds)
            raise
        self._seconds += self._clock() - began
        self._events += 1
        return event

    async def pour(self, hand_on: Callable[[bytes], bool]) -> None:
        if self._first is not None or not isinstance(self._rest, Pouring):
            return
        began = self._clock()

        def note(block: bytes) -> bool:
            self._events += count(block)
            return hand_on(block)

        await self._rest.pour(note)
        self._seconds += self._clock() - began
