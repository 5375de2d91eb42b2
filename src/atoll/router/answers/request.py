"""A request of a route that gives answers again: it is given one that is held, or else asked and then held.

What is held is given to no request that could not have had it from whoever said it: who may answer is decided
first, as for any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from atoll.domain.errors import AtollError
from atoll.router.answers.book import ANSWER_BYTES_MAX, Answers, is_whole, key_of
from atoll.router.answers.memory import Answer
from atoll.router.answers.wording import Quoted, read_wording
from atoll.router.asked import Asked
from atoll.router.place import Place
from atoll.router.placing.chain import Answering, Settled, seconds_of
from atoll.router.placing.eligible import narrowest, scopes_of
from atoll.router.placing.record import Records, Trip
from atoll.router.policy.again import Policy
from atoll.router.policy.route import Route
from atoll.runtimes.events import Splitter

VECTOR_SECONDS_MAX = 2.0
Events = AsyncIterator[bytes]


class Again:
    def __init__(
        self,
        chain: Answering[Events],
        answers: Answers,
        policy: Policy,
        asked: Asked,
        route: Route,
        body: Mapping[str, Any],
        quoted: Quoted | None,
        records: Records,
        node: int,
        is_current: Callable[[Place], bool],
        check: Callable[[str], object],
    ) -> None:
        """`check` refuses an encoder that may not be told the question."""
        self._chain = chain
        self._answers = answers
        self._policy = policy
        self._asked = asked
        self._route = route
        self._quoted = quoted
        self._records = records
        self._node = node
        self._is_current = is_current
        self._check = check
        self._wording = read_wording(asked, route, policy, body, quoted)
        self._vector: tuple[bytes, str] | None = None
        self.trip: Trip = chain.trip

    @asynccontextmanager
    async def answer(self) -> AsyncIterator[Events]:
        found = self._exact() or await self._near()
        if found is None:
            self._count("new")
            current = {place.key for place in self.trip.decision.order if self._is_current(place)}
            async with self._chain.answer() as events:
                place = self.trip.place
                if place is not None and place.key in current and self._is_current(place):
                    events = self._held(events, place)
                yield events
            return
        answer, likeness = found
        self._count("same" if likeness is None else "alike")
        async with Settled(self.trip, seconds_of(self._asked, self._route), self._records):
            self.trip.again = {
                "model": answer.model,
                "version": answer.version,
                "age_seconds": round(max(0.0, self._answers.clock() - answer.made_at), 1),
                "likeness": None if likeness is None else round(likeness, 4),
            }
            yield _replayed(answer.events)

    def _exact(self) -> tuple[Answer, None] | None:
        if not self._asked.may_be_old:
            return None
        found = self._answers.memory.exact(self._wording.whole, self._fits)
        return None if found is None else (found, None)

    async def _near(self) -> tuple[Answer, float] | None:
        """Where questions may be alike; the vector is kept for the answer, too."""
        wording, encoder = self._wording, self._policy.encoder
        if encoder is None or wording.around is None or wording.question is None:
            return None
        if not (self._asked.may_be_old or self._asked.may_be_held):
            return None
        try:
            self._check(encoder)
            async with asyncio.timeout(min(VECTOR_SECONDS_MAX, seconds_of(self._asked, self._route))):
                vector, version = await self._answers.vector(encoder, wording.question)
        except (AtollError, TimeoutError):
            self._count("no vector")
            return None
        made_by = f"{encoder} {version}"
        self._vector = vector.astype("<f4").tobytes(), made_by
        if not self._asked.may_be_old:
            return None
        return self._answers.memory.near(
            wording.around, made_by, vector, wording.question, self._policy.threshold, self._fits
        )

    def _fits(self, answer: Answer) -> bool:
        """Could this request be answered by whoever said it? They may be away at the moment."""
        decision = self.trip.decision
        places = [*decision.order, *(place for place, why in decision.out if why.all == why.away)]
        return answer.route == self._route.name and any(
            (place.model, place.version, place.variant) == (answer.model, answer.version, answer.variant)
            for place in places
        )

    async def _held(self, events: Events, place: Place) -> Events:
        kept: list[bytes] | None = [] if self._asked.may_be_held else None
        size = 0
        async for event in events:
            size += len(event)
            if kept is not None:
                kept.append(event)
                kept = kept if size <= ANSWER_BYTES_MAX else None
            yield event
        if kept is not None and is_whole(self._asked.path, kept):
            self._hold(place, b"".join(kept))

    def _hold(self, place: Place, events: bytes) -> None:
        """An adapter may be another one tomorrow under the same name and version of its model."""
        if ":" in place.model or b"\0" in events:
            return
        try:
            events.decode()
        except UnicodeDecodeError:
            return
        wording = self._wording
        vector, encoder = self._vector or (None, None)
        scope = narrowest(sorted(scopes_of(self._asked, self._route)))
        now = self._answers.clock()
        self._answers.offer(
            Answer(
                key_of(wording.whole, place.model, place.version, place.variant, scope, self._node),
                wording.whole,
                wording.around if vector else None,
                wording.question if vector else None,
                vector,
                encoder,
                self._route.name,
                place.model,
                place.version,
                place.variant,
                scope,
                now,
                now + self._policy.seconds,
                events,
                self._quoted.tables if self._quoted else (),
            )
        )

    def _count(self, way: str) -> None:
        self._answers.counts[self._route.name, way] += 1


async def _replayed(events: bytes) -> Events:
    splitter = Splitter()
    for event in [*splitter.feed(events), *splitter.last()]:
        yield event
