"""Two places for one request: the second is asked when the first is late; whoever begins first answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from atoll.domain.errors import AtollError
from atoll.router.place import Place
from atoll.router.placing.attempt import Attempt

T = TypeVar("T")


class Hedged(Generic[T]):
    """As an attempt is entered and left."""

    def __init__(
        self,
        first: Attempt[T],
        seconds: float,
        find_other: Callable[[], Attempt[T] | None],
        judge: Callable[[AtollError], None],
    ) -> None:
        """`judge` is told of errors while there is somebody else, and raises those that end it."""
        self.place: Place = first.place
        self._first = first
        self._seconds = seconds
        self._find_other = find_other
        self._judge = judge
        self._held: list[_Held[T]] = []

    async def __aenter__(self) -> T:
        try:
            self._held.append(first := _Held(self._first))
            await asyncio.wait({first.opened}, timeout=self._seconds)
            if not first.opened.done() and (other := self._find_other()) is not None:
                self._held.append(_Held(other))
            return await self._race()
        except BaseException as error:
            await self._let_go(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._let_go(problem)

    async def _race(self) -> T:
        waiting, failed = {held.opened for held in self._held}, 0
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for held in (held for held in self._held if held.opened in done):
                error = held.opened.exception()
                if error is None:
                    for other in self._held:
                        other.give_up(unless=held)
                    self.place = held.place
                    return held.opened.result()
                failed += 1
                if not isinstance(error, AtollError) or failed == len(self._held):
                    raise error
                self._judge(error)

    async def _let_go(self, problem: BaseException | None) -> None:
        """What broke the answer that was taken broke its attempt: the place is judged by it."""
        for held in self._held:
            held.give_up(problem=problem)
        for held in self._held:
            await held.over()


class _Held(Generic[T]):
    """An attempt in a task of its own, held open until it is let go."""

    def __init__(self, attempt: Attempt[T]) -> None:
        self.place = attempt.place
        self.opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._leave = asyncio.Event()
        self._problem: BaseException | None = None
        self._task = asyncio.create_task(self._hold(attempt))

    async def _hold(self, attempt: Attempt[T]) -> None:
        try:
            async with attempt as found:
                self.opened.set_result(found)
                await self._leave.wait()
                if self._problem is not None:
                    raise self._problem
        except BaseException as error:
            if not self.opened.done():
                self.opened.set_exception(error) if isinstance(error, Exception) else self.opened.cancel()
            if not isinstance(error, AtollError):
                raise

    def give_up(self, unless: _Held[T] | None = None, problem: BaseException | None = None) -> None:
        """End it without waiting for that: whoever was first is not to wait for the others' ends."""
        if unless is self or self._leave.is_set():
            return
        is_open = self.opened.done() and not self.opened.cancelled() and self.opened.exception() is None
        if is_open:
            self._problem = problem
            self._leave.set()
        else:
            self._task.cancel()

    async def over(self) -> None:
        self.give_up()
        await asyncio.gather(self._task, return_exceptions=True)
