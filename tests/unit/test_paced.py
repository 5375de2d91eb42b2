"""How long a place was waited for, and for how many events, however they were taken."""

from __future__ import annotations

from collections.abc import Callable

from atoll.router.placing.paced import Paced
from atoll.runtimes.contract import Pouring

EVENT = b"data: 1\n\n"
SECONDS = 2.0  # that each step of the source takes


class Source(Pouring):
    def __init__(self) -> None:
        self.now = 0.0
        self._steps = [EVENT, EVENT, 3 * EVENT, EVENT]  # the third is poured

    async def __anext__(self) -> bytes:
        if not self._steps:
            raise StopAsyncIteration
        self.now += SECONDS
        return self._steps.pop(0)

    async def pour(self, hand_on: Callable[[bytes], bool]) -> None:
        self.now += SECONDS
        hand_on(self._steps.pop(0))


async def test_events_count_after_the_first_also_those_that_are_poured() -> None:
    source, told = Source(), list[tuple[int, float]]()
    taken: list[bytes] = []

    def take(block: bytes) -> bool:
        taken.append(block)
        return True

    async with Paced(source, lambda: source.now, lambda *seen: told.append(seen)) as events:
        assert isinstance(events, Paced)
        await events.pour(take)
        assert taken == [], "nothing overtakes the first"
        assert [await anext(events), await anext(events)] == [EVENT, EVENT]
        await events.pour(take)
        assert taken == [3 * EVENT]
        assert [event async for event in events] == [EVENT]
    assert told == [(5, 3 * SECONDS)]
