"""A queue with an end: so many at once, so many who wait, and for so long."""

from __future__ import annotations

import asyncio

from atoll.domain.errors import LinkError


class Gate:
    """Lets callers in by turns: each waits for a place, and holds it for as long as its block runs."""

    def __init__(self, at_once: int, waiting_max: int, seconds_max: float) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._waiting_max = waiting_max
        self._seconds_max = seconds_max
        self._waiting = 0

    @property
    def waiting(self) -> int:
        return self._waiting

    async def __aenter__(self) -> None:
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()

    async def __aexit__(self, *problem: object) -> None:
        self._places.release()

    async def _wait(self) -> None:
        if self._waiting >= self._waiting_max:
            raise LinkError(
                "runtime-crowded",
                f"could not queue the request: {self._waiting} wait already",
                hint="Try again later, or ask another node.",
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds_max):
                await self._places.acquire()
        except TimeoutError:
            raise LinkError(
                "runtime-slow",
                f"could not begin within {self._seconds_max:g} s",
                detail="All places were taken by requests that came before.",
                hint="Try again later, or ask another node.",
            ) from None
        finally:
            self._waiting -= 1
