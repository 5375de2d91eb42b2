"""Asks the places of a decision, one after the other, under one deadline and one cost cap.

Before every try it is decided anew where the request may go. Another place is tried only before the first
word, and only where the place was the trouble and not the request. A route that hedges asks a second place
when the first is late; whoever begins first answers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.router.asked import Asked
from atoll.router.place import Place
from atoll.router.placing.attempt import Attempt, Open, Pay, is_late, late
from atoll.router.placing.course import Course
from atoll.router.placing.decide import Decision, decide
from atoll.router.placing.hedge import Hedged
from atoll.router.placing.record import Records, Trip
from atoll.router.policy.route import Route
from atoll.runtimes.refusals import TOO_LONG
from atoll.runtimes.within import Within

TRIES_MAX = 8
# Errors of the caller stay errors wherever they are asked; with these it is the place that lacks something.
LACKING = ("model-unknown", "model-unusable", "skill-missing", TOO_LONG)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Look = Callable[[], Sequence[Place]]


class Answering(Protocol[T_co]):
    """A request that is asked when `answer` is entered, and told of in its trip."""

    trip: Trip

    def answer(self) -> AbstractAsyncContextManager[T_co]: ...


class Chain(Generic[T]):
    """One request. What `open_at` gives asks a place, up to its first word, when it is entered."""

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
        self._attempts: dict[object, Attempt[T]] = {}  # by the place's key
        self._errors: list[AtollError] = []
        self._records = records
        self._pay = pay
        self.trip = Trip(decide(asked, route, look()))
        records.keep(self.trip)

    def answer(self) -> AbstractAsyncContextManager[T]:
        """What the first place says that begins. Whoever leaves the block frees the engine."""
        return Within(Settled(self.trip, self._seconds, self._records), lambda _: self)

    async def __aenter__(self) -> T:
        while order := self._order():
            opening = self._open(order)
            try:
                found = await opening.__aenter__()
            except AtollError as error:
                self._judge(error)
            else:
                self._opened, self.trip.place = opening, opening.place
                return found
            if is_late(self._course, self._ends_at):
                raise late(self._seconds)
        raise nobody(self._decide(), self._errors, self._course)

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, problem, trace)

    @property
    def spent(self) -> float:
        """What it may have cost so far."""
        return sum(attempt.cost for attempt in self._attempts.values())

    def _order(self) -> list[Place]:
        """Where it may go now: with what is left of the cap, and without places that were tried."""
        tried = self._attempts
        if (tried and not self._asked.hints.allow_fallbacks) or len(tried) >= TRIES_MAX:
            return []
        return [place for place in self._decide().order if place.key not in tried]

    def _decide(self) -> Decision:
        asked, route = self._asked, self._route
        if not self._attempts:
            return self.trip.decision  # which was made as the request came
        if spent := self.spent:
            asked = with_less(asked, route, spent)
        return decide(asked, route, self._look())

    def _open(self, order: Sequence[Place]) -> Attempt[T] | Hedged[T]:
        hedge = self._route.hedge_after_seconds
        attempt = self._attempt(order)
        if hedge is None or len(order) == 1:
            return attempt
        return Hedged(attempt, hedge, self._find_other, self._judge)

    def _find_other(self) -> Attempt[T] | None:
        order = self._order()
        return self._attempt(order) if order else None

    def _attempt(self, order: Sequence[Place]) -> Attempt[T]:
        """Of the first. Where another place could still answer, that gets its time, too."""
        left = self._ends_at - self._course.clock()
        usual = left / 2 if len(order) > 1 else left
        own = self._route.first_token_seconds
        whole = (self._open_at, self._pay, self._course, self.trip)
        made = Attempt(self._asked, order[0], *whole, self._ends_at, usual if own is None else own)
        self._attempts[made.place.key] = made
        return made

    def _judge(self, error: AtollError) -> None:
        if isinstance(error, DataError) and error.code not in LACKING:
            raise error
        self._errors.append(error)


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
    if errors and not away and all(error.code == TOO_LONG for error in errors):
        return errors[-1]
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


class Settled:
    """One deadline for a request; and how it ends is told."""

    def __init__(self, trip: Trip, seconds: float, records: Records) -> None:
        self._trip = trip
        self._seconds = seconds
        self._records = records
        self._is_late = False

    async def __aenter__(self) -> None:
        """As asyncio.timeout does it, for less than half its price."""
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancels = task, task.cancelling()
        self._timer = task.get_loop().call_later(self._seconds, self._strike)

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        is_ours = self._is_late and self._task.uncancel() <= self._cancels and kind is asyncio.CancelledError
        self._trip.end = "broken" if is_ours else self._end(problem)
        self._records.count(self._trip)
        if is_ours:
            raise late(self._seconds) from None

    def _strike(self) -> None:
        self._is_late = True
        self._task.cancel()

    def _end(self, problem: BaseException | None) -> str:
        if problem is None:
            return "answered"
        if isinstance(problem, AtollError) and self._trip.place is None:
            return "refused"
        return "broken" if isinstance(problem, AtollError | TimeoutError) else "left"
