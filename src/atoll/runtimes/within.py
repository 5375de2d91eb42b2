"""One thing that is held for as long as another is in use: a place in a queue, and the answer that it is for.

Two nested blocks as one object. A stack of exits does the same, and so does a generator, for several times
the price; these are entered several times for every request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Within(Generic[S, T]):
    """`make` is given what the outer one gives. Neither may swallow an error."""

    def __init__(
        self,
        outer: AbstractAsyncContextManager[S, bool | None],
        make: Callable[[S], AbstractAsyncContextManager[T, bool | None]],
    ) -> None:
        self._outer = outer
        self._make = make

    async def __aenter__(self) -> T:
        held = await self._outer.__aenter__()
        try:
            self._inner = self._make(held)
            return await self._inner.__aenter__()
        except BaseException as error:
            await self._outer.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._inner.__aexit__(kind, problem, trace)
        except BaseException as error:
            await self._outer.__aexit__(type(error), error, error.__traceback__)
            raise
        await self._outer.__aexit__(kind, problem, trace)
