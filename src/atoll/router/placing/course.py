"""What is learned of places as they are asked: their breakers and how they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from atoll.domain.errors import ConfigError, LinkError
from atoll.router.place import Feel, Kind, Place
from atoll.router.placing.breaker import CALM, Breaker
from atoll.router.placing.feel import PLACES_MAX, Feels
from atoll.router.prefix import Mark, Warmth, share_read

RoundTrip = Callable[[int], float | None]


class Course:
    def __init__(self, round_trip: RoundTrip, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._round_trip = round_trip
        self._breakers: dict[object, Breaker] = {}  # of those places only that are in trouble
        self._feels = Feels()
        self._warmth = Warmth()

    def known(self, place: Place) -> Place:
        """The place with what was learned of it."""
        now, key, feel = self.clock(), place.key, place.feel
        warm = self._warmth.of(key, now)
        said = Feel(self._trip(place), feel.queue, feel.tokens_per_second, warm=warm)
        breaker = self._breakers.get(key)
        is_up = place.is_up and (breaker is None or breaker.lets_in(now))
        return place._replace(feel=self._feels.of(key, now, said), is_up=is_up)

    def begun(self, place: Place) -> None:
        if (breaker := self._breakers.get(place.key)) is not None:
            self._set(place, breaker.begun(self.clock()))

    def came(self, place: Place, seconds: float, tokens_in: int, marks: Sequence[Mark] = ()) -> None:
        """Its first word."""
        now, key = self.clock(), place.key
        unread = round(tokens_in * (1 - share_read(marks, self._warmth.of(key, now))))
        self._warmth.read(key, marks, now)
        if (breaker := self._breakers.get(key)) is not None:
            self._set(place, breaker.came())
        self._feels.began(key, now, seconds, unread, self._trip(place))

    def ended(self, place: Place, events: int, seconds: float) -> None:
        self._feels.ended(place.key, self.clock(), events, seconds)

    def over(self, place: Place, problem: BaseException | None) -> None:
        if problem is None and place.key not in self._breakers:
            return
        breaker = self._of(place)
        if isinstance(problem, LinkError) and problem.code == "runtime-crowded":
            self._set(place, breaker.busy(self.clock(), problem.retry_after_seconds or 0.0))
        elif isinstance(problem, LinkError | ConfigError):
            self._set(place, breaker.failed(self.clock()))
        elif problem is None:
            self._set(place, breaker.succeeded())
        else:
            self._set(place, breaker.left())

    def is_busy(self, place: Place) -> bool:
        return self._of(place).busy_until > self.clock()

    def seconds_left(self, place: Place) -> float:
        return self._of(place).seconds_left(self.clock())

    def paused(self) -> int:
        """Places that are left alone at the moment."""
        now = self.clock()
        return sum(not breaker.lets_in(now) for breaker in self._breakers.values())

    def _trip(self, place: Place) -> float | None:
        if place.kind is Kind.HERE:
            return 0.0
        if place.kind is Kind.CLOUD or place.node is None:
            return None
        return self._round_trip(place.node)

    def _of(self, place: Place) -> Breaker:
        return self._breakers.get(place.key, CALM)

    def _set(self, place: Place, breaker: Breaker) -> None:
        self._breakers.pop(place.key, None)
        if breaker != CALM:
            self._breakers[place.key] = breaker
        while len(self._breakers) > PLACES_MAX:
            del self._breakers[next(iter(self._breakers))]
