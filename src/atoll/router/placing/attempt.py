"""One place that is asked: what it may cost is set aside before, how it ends is held for or against it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Generic, TypeVar

from atoll.domain.errors import AtollError, LinkError
from atoll.router.asked import Asked
from atoll.router.budgets.lease import Reservation
from atoll.router.place import Place
from atoll.router.placing.course import Course
from atoll.router.placing.record import Trip
from atoll.router.placing.score import cost

LATE_SECONDS = 0.005  # two clocks do not strike at the same moment
MAYBE_BILLED = ("runtime-slow", "deadline-passed")  # of what failed before its first word
T = TypeVar("T")
Open = Callable[[Place, float], AbstractAsyncContextManager[T]]  # with the seconds that are left
Pay = Callable[[Place], Awaitable[Sequence[Reservation]]]


class Attempt(Generic[T]):
    """Entering it waits for the first word; whoever leaves the block frees the engine."""

    def __init__(
        self,
        asked: Asked,
        place: Place,
        open_at: Open[T],
        pay: Pay,
        course: Course,
        trip: Trip,
        ends_at: float,
        patience: float,
    ) -> None:
        """`ends_at` is the deadline of the request, `patience` the seconds until the first word."""
        self.place = place
        self.cost = 0.0  # at most, as far as it was asked
        self._asked = asked
        self._open_at = open_at
        self._pay = pay
        self._course = course
        self._trip = trip
        self._ends_at = ends_at
        self._patience = patience
        self._began = 0.0
        self._paid: Sequence[Reservation] = ()

    async def __aenter__(self) -> T:
        self._began = self._course.clock()
        try:
            self._paid = await self._pay(self.place)
        except AtollError as error:
            self._trip.tried(self.place, self._seconds(), error)
            raise
        self.cost = cost(self._asked, self.place)
        self._course.begun(self.place)
        try:
            found = await self._first_word()
        except BaseException as error:
            self._fail(error)
            raise
        seconds = self._seconds()
        self._trip.tried(self.place, seconds, None)
        self._course.came(self.place, seconds, self._asked.tokens_in, self._asked.marks)
        return found

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._opened.__aexit__(kind, problem, trace)
        except BaseException as error:
            problem = error
            raise
        finally:
            self._over(problem, is_billed=True)

    async def _first_word(self) -> T:
        left = self._ends_at - self._began
        limit: AbstractAsyncContextManager[object] = nullcontext()  # then that of the request
        if self._patience < left:
            limit = asyncio.timeout(self._patience)
        self._opened = self._open_at(self.place, left)
        try:
            async with limit:
                return await self._opened.__aenter__()
        except TimeoutError:
            raise LinkError("runtime-slow", "could not begin in time") from None

    def _fail(self, problem: BaseException) -> None:
        if isinstance(problem, asyncio.CancelledError) and is_late(self._course, self._ends_at):
            problem = late(self._ends_at - self._began)
        self._trip.tried(self.place, self._seconds(), problem)
        if getattr(problem, "code", None) == "runtime-crowded":
            self.cost = 0.0  # it was not even begun
        self._over(problem, _may_be_billed(problem))

    def _over(self, problem: BaseException | None, is_billed: bool) -> None:
        for one in self._paid:
            one.settle(one.cost if is_billed else 0)
        self._course.over(self.place, problem)

    def _seconds(self) -> float:
        return self._course.clock() - self._began


def is_late(course: Course, ends_at: float) -> bool:
    return course.clock() >= ends_at - LATE_SECONDS


def late(seconds: float) -> LinkError:
    return LinkError(
        "deadline-passed",
        f"could not answer within {seconds:g} seconds",
        hint="Allow more time, or ask for less.",
    )


def _may_be_billed(problem: BaseException) -> bool:
    """Whoever refuses or breaks off before the first word sends no bill; whoever was left alone may."""
    return not isinstance(problem, AtollError) or problem.code in MAYBE_BILLED
