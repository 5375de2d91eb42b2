"""Asks the places of a decision, one after the other, under one deadline and one cost cap.

Before every try it is decided anew where the request may go. Another place is tried only before the first
word, and only where the place was the trouble and not the request. A route that hedges asks a second place
when the first is late; whoever begins first answers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.router.asked import Asked
from atoll.router.budgets.lease import Reservation
from atoll.router.place import Place
from atoll.router.placing.course import Course
from atoll.router.placing.decide import Decision, decide
from atoll.router.placing.record import Records, Trip
from atoll.router.placing.score import cost
from atoll.router.policy.route import Route

TRIES_MAX = 8
LATE_SECONDS = 0.005  # two clocks do not strike at the same moment
# Errors of the caller stay errors wherever they are asked; these say that the place does not have the model.
LACKING = ("model-unknown", "model-unusable", "skill-missing")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Open = Callable[[Place, float, AsyncExitStack], Awaitable[T]]
Look = Callable[[], Sequence[Place]]
Pay = Callable[[Place], Awaitable[Sequence[Reservation]]]
MAYBE_BILLED = ("runtime-slow", "deadline-passed")  # of what failed before its first word


class Answering(Protocol[T_co]):
    """A request that is asked when `answer` is entered, and told of in its trip."""

    trip: Trip

    def answer(self) -> AbstractAsyncContextManager[T_co]: ...


class Chain(Generic[T]):
    """One request. `open_at` asks a place, with the seconds left, up to its first word; the stack ends it."""

    def __init__(
        self,
        asked: Asked,
        route: Route,
        look: Look,
        course: Course,
        records: Records,
        pay: Pay,
        open_at: Open[T],
    ) -> None:
        self._asked = asked
        self._route = route
        self._look = look
        self._course = course
        self._open_at = open_at
        self._seconds = seconds_of(asked, route)
        self._ends_at = course.clock() + self._seconds
        self._spent = 0.0
        self._seen: set[object] = set()
        self._errors: list[AtollError] = []
        self._records = records
        self._pay = pay
        self.trip = Trip(decide(asked, route, look()))
        records.keep(self.trip)

    @asynccontextmanager
    async def answer(self) -> AsyncIterator[T]:
        """What the first place says that begins. Whoever leaves the block frees the engine."""
        async with Settled(self.trip, self._seconds, self._records), AsyncExitStack() as stack:
            self.trip.place, found = await self._first(stack)
            yield found

    @property
    def spent(self) -> float:
        """What it may have cost so far."""
        return self._spent

    async def _first(self, stack: AsyncExitStack) -> tuple[Place, T]:
        while order := self._order():
            found = await self._try(order[0], len(order) > 1, stack)
            if found is not None:
                return found
            if self._is_late():
                raise _late(self._seconds)
        raise nobody(self._decide(), self._errors, self._course)

    def _order(self) -> list[Place]:
        """Where it may go now: with what is left of the cap, and without places that were tried."""
        if (self._seen and not self._asked.hints.allow_fallbacks) or len(self._seen) >= TRIES_MAX:
            return []
        return [place for place in self._decide().order if place.key not in self._seen]

    def _decide(self) -> Decision:
        asked, route = self._asked, self._route
        if not self._seen:
            return self.trip.decision  # which was made as the request came
        if not self._spent:
            return decide(asked, route, self._look())
        return decide(with_less(asked, route, self._spent), route, self._look())

    async def _try(self, place: Place, has_others: bool, stack: AsyncExitStack) -> tuple[Place, T] | None:
        """Ask a place, and where the route hedges a second; nothing where they failed."""
        hedge = self._route.hedge_after_seconds
        if hedge is None or not has_others:
            try:
                return place, await stack.enter_async_context(self._attempt(place, has_others))
            except AtollError as error:
                self._judge(error)
                return None
        return await self._hedged(place, hedge, stack)

    async def _hedged(self, place: Place, hedge: float, stack: AsyncExitStack) -> tuple[Place, T] | None:
        asking = [_Held(place, self._attempt(place, True))]
        stack.push_async_exit(partial(_let_go, asking))
        await asyncio.wait({asking[0].opened}, timeout=hedge)
        if not asking[0].opened.done() and (order := self._order()):
            asking.append(_Held(order[0], self._attempt(order[0], len(order) > 1)))
        waiting = {held.opened for held in asking}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for held in (held for held in asking if held.opened in done):
                error = held.opened.exception()
                if error is None:
                    for other in asking:
                        other.give_up(unless=held)
                    return held.place, held.opened.result()
                if not isinstance(error, AtollError):
                    raise error
                self._judge(error)
        return None

    @asynccontextmanager
    async def _attempt(self, place: Place, has_others: bool) -> AsyncIterator[T]:
        course, began = self._course, self._course.clock()
        self._seen.add(place.key)
        left = self._ends_at - began
        try:
            paid = await self._pay(place)
        except AtollError as error:
            self.trip.tried(place, course.clock() - began, error)
            raise
        self._spent += (price := cost(self._asked, place))
        course.begun(place)
        problem: BaseException | None = None
        found: T | None = None
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with self._patience(left, has_others):
                        found = await self._open_at(place, left, stack)
                except TimeoutError:
                    raise LinkError("runtime-slow", "could not begin in time") from None
                self.trip.tried(place, course.clock() - began, None)
                course.came(place, course.clock() - began, self._asked.tokens_in, self._asked.marks)
                yield found
        except BaseException as error:
            problem = error
            if found is None:
                if isinstance(error, asyncio.CancelledError) and self._is_late():
                    problem = _late(left)
                self.trip.tried(place, course.clock() - began, problem)
                if getattr(error, "code", None) == "runtime-crowded":
                    self._spent -= price  # it was not even begun
            raise
        finally:
            for one in paid:
                one.settle(0 if found is None and not _may_be_billed(problem) else one.cost)
            course.over(place, problem)

    def _patience(self, left: float, has_others: bool) -> AbstractAsyncContextManager[object]:
        """Until the first word; where another place could still answer, that gets its time, too."""
        own = self._route.first_token_seconds
        usual = left / 2 if has_others else left
        seconds = usual if own is None else own
        return asyncio.timeout(seconds) if seconds < left else nullcontext()  # which has its deadline anyway

    def _judge(self, error: AtollError) -> None:
        if isinstance(error, DataError) and error.code not in LACKING:
            raise error
        self._errors.append(error)

    def _is_late(self) -> bool:
        return self._course.clock() >= self._ends_at - LATE_SECONDS


def seconds_of(asked: Asked, route: Route) -> float:
    own = asked.deadline_seconds
    return route.deadline_seconds if own is None else min(own, route.deadline_seconds)


def with_less(asked: Asked, route: Route, spent: float) -> Asked:
    """The request with what is left of its cap, and of the route's."""
    cap = min((one for one in (asked.max_cost, route.max_cost) if one is not None), default=math.inf)
    return asked._replace(max_cost=max(0.0, cap - spent))


def nobody(decision: Decision, errors: Sequence[AtollError], course: Course) -> AtollError:
    """Nobody could: was it forbidden, impossible, or may it be tried again?"""
    name = decision.route.name
    verdicts = [verdict for place, verdict in decision.out if decision.route.rank(place) is not None]
    why = "; ".join(f"{place.label}: {', '.join(verdict.all)}" for place, verdict in decision.out[:TRIES_MAX])
    failed = "; ".join(error.message for error in errors)
    detail = ". ".join(part for part in (failed, why) if part)
    words = {"detail": f"{detail}." if detail else "No node has a model that it names.", "hint": HINT % name}
    if not errors and verdicts and all(verdict.forbidden for verdict in verdicts):
        return PolicyDenied("no-place", f'route "{name}" lets this request go nowhere', **words)
    if not errors and verdicts and all(verdict.forbidden or verdict.unfit for verdict in verdicts):
        return DataError("no-place", f'no place of route "{name}" can answer this request', **words)
    away = [place for place, verdict in decision.out if verdict.all == verdict.away]
    seconds = [course.seconds_left(place) for place in away]
    soonest = min((one for one in seconds if one > 0), default=1.0)
    is_busy = all(error.code == "runtime-crowded" for error in errors) and (
        bool(errors) or any(course.is_busy(place) for place in away)
    )
    code = "runtime-crowded" if is_busy else "no-place"
    message = (
        f'all places of route "{name}" are busy' if is_busy else f'no place of route "{name}" answers now'
    )
    found = LinkError(code, message, **words)
    found.retry_after_seconds = soonest
    return found


HINT = "See why: atoll route explain %s"


def _may_be_billed(problem: BaseException | None) -> bool:
    """Whoever refuses or breaks off before the first word sends no bill; whoever was left alone may."""
    return not isinstance(problem, AtollError) or problem.code in MAYBE_BILLED


def _late(seconds: float) -> LinkError:
    return LinkError(
        "deadline-passed",
        f"could not answer within {seconds:g} seconds",
        hint="Allow more time, or ask for less.",
    )


class Settled:
    """One deadline for a request; and how it ends is told."""

    def __init__(self, trip: Trip, seconds: float, records: Records) -> None:
        self._trip = trip
        self._seconds = seconds
        self._records = records
        self._limit = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trip.end = self._end(problem)
        try:
            await self._limit.__aexit__(kind, problem, trace)
        except TimeoutError:
            self._trip.end = "broken"
            raise _late(self._seconds) from None
        finally:
            self._records.count(self._trip)

    def _end(self, problem: BaseException | None) -> str:
        if problem is None:
            return "answered"
        if isinstance(problem, AtollError) and self._trip.place is None:
            return "refused"
        return "broken" if isinstance(problem, AtollError | TimeoutError) else "left"


class _Held(Generic[T]):
    """An attempt in a task of its own, held open until it is let go."""

    def __init__(self, place: Place, attempt: AbstractAsyncContextManager[T]) -> None:
        self.place = place
        self.opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._leave = asyncio.Event()
        self._problem: BaseException | None = None
        self._task = asyncio.create_task(self._hold(attempt))

    async def _hold(self, attempt: AbstractAsyncContextManager[T]) -> None:
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


async def _let_go(
    asking: Sequence[_Held[T]], kind: object, problem: BaseException | None, trace: object
) -> None:
    """What broke the answer that was taken broke its attempt: the place is judged by it."""
    for held in asking:
        held.give_up(problem=problem)
    for held in asking:
        await held.over()
