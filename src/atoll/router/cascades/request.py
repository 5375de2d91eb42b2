"""One request of a route that is a cascade: its first model's places are asked, then those of the others.

How sure is sure enough, and what is held back, is cascading.py's. Each asking is a chain of its own, which
decides anew who may answer; deadline, cap and record are one for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

from atoll.domain.errors import DataError
from atoll.router.asked import Asked
from atoll.router.cascades import cascading
from atoll.router.cascades.examples import Example, Offer, learnt, rows_as_examples
from atoll.router.placing.attempt import Open, Pay
from atoll.router.placing.chain import Chain, Look, Settled, nobody, seconds_of, with_less
from atoll.router.placing.course import Course
from atoll.router.placing.decide import decide
from atoll.router.placing.eligible import narrowest, scopes_of
from atoll.router.placing.record import Records, Trip
from atoll.router.policy import cascade
from atoll.router.policy.cascade import Policy, Verdict
from atoll.router.policy.route import Route
from atoll.runtimes.contract import Array

GRACE_SECONDS = 1.0  # the deadline of the whole strikes before those of its parts
Body = Mapping[str, Any]
Arrays = Mapping[str, Array]
T = TypeVar("T")
Events = AsyncIterator[bytes]
Outputs = dict[str, Array]


class Cascaded(ABC, Generic[T]):
    """What is said, and how that came; as a chain is asked."""

    def __init__(
        self,
        asked: Asked,
        route: Route,
        policy: Policy,
        look: Look,
        course: Course,
        records: Records,
        pay: Pay,
        offer: Offer | None = None,
    ) -> None:
        cascade.check(policy, asked.skill)
        self._asked = asked
        self._route = route
        self._policy = policy
        self._turns = route.turns()
        self._look = look
        self._course = course
        self._seconds = seconds_of(asked, route)
        self._ends_at = course.clock() + self._seconds
        self._records = records
        self._pay = pay
        self._offer = offer if policy.keeps else None
        self._parts = Records()  # a part is none of the requests that are counted
        self._chains: tuple[list[Chain[Any]], list[Chain[Any]]] = ([], [])
        self.trip = Trip(decide(asked, route, look()))
        records.keep(self.trip)

    @asynccontextmanager
    async def answer(self) -> AsyncIterator[T]:
        async with Settled(self.trip, self._seconds, self._records):
            if not self.trip.decision.order:
                raise nobody(self.trip.decision, (), self._course)
            async with self._said() as found:
                yield found

    @abstractmethod
    def _said(self) -> Any:
        """Ask, tell what was decided, and give what is said."""

    def _chain(self, turn: int, open_at: Open[Any]) -> Chain[Any]:
        """For the first models, or for the others, with what is left of time and cap."""
        left = self._left()
        asked = self._less()._replace(deadline_seconds=left + GRACE_SECONDS)
        route = replace(self._turns[turn], deadline_seconds=left + GRACE_SECONDS)
        made = Chain(
            asked,
            route,
            self._look,
            self._course,
            self._parts,
            self._pay,
            lambda place, seconds: open_at(place, min(seconds, self._left())),
        )
        made.trip.tries = self.trip.tries
        self._chains[turn].append(made)
        return made

    def _left(self) -> float:
        return max(0.0, self._ends_at - self._course.clock())

    def _less(self) -> Asked:
        spent = sum(chain.spent for chains in self._chains for chain in chains)
        return with_less(self._asked, self._route, spent) if spent else self._asked

    def _why_not(self) -> Sequence[str]:
        """Why nobody but the first model may answer; nothing where somebody may."""
        decision = decide(self._less(), self._turns[1], self._look())
        if decision.order:
            return ()
        found = [
            f"{place.label}: {', '.join(verdict.all)}"
            for place, verdict in decision.out
            if self._policy.turn(place.model) == "then"
        ]
        return found or ("no node has a larger model",)

    def _tell(self, verdict: Verdict, **more: Any) -> None:
        """The place is that of whoever answers; of rows that were parted, that of the larger model."""
        chains = self._chains[1 if verdict.goes_on else 0]
        self.trip.place = next((chain.trip.place for chain in chains if chain.trip.place is not None), None)
        known = verdict.confidence
        self.trip.cascade = {
            **self._policy.told(),
            "confidence": None if known is None else round(known, 4),
            "went_on": verdict.goes_on,
            "why": verdict.why,
            **more,
        }

    def _is_unsure(self, verdict: Verdict) -> bool:
        return verdict.confidence is None or verdict.confidence < self._policy.threshold

    def _example(self, verdict: Verdict, body: Body) -> Example:
        """Without what was said."""
        place, scopes = self.trip.place, scopes_of(self._asked, self._route)
        return Example(
            self._route.name,
            self._asked.path,
            body,
            self._policy.first,
            str(self._policy.measure),
            narrowest(sorted(scopes)),
            verdict.confidence,
            then=place.model if place is not None and verdict.goes_on else None,
        )


class CascadedText(Cascaded[Events]):
    def __init__(self, body: Body, ask: Callable[[Body], Open[Events]], *whole: Any) -> None:
        super().__init__(*whole)
        self._body = body
        self._ask = ask

    @asynccontextmanager
    async def _said(self) -> AsyncIterator[Events]:
        async with cascading.generate(
            self._policy,
            self._asked.path,
            self._body,
            lambda body: self._chain(0, self._ask(body)).answer(),
            lambda body: self._chain(1, self._ask(body)).answer(),
            self._why_not,
            self._seconds / 2,
        ) as answer:
            self._tell(answer.verdict)
            if self._offer is None or not self._is_unsure(answer.verdict):
                yield answer.events
                return
            example = self._example(answer.verdict, self._body)
            kept = learnt(answer.events, example, answer.verdict, answer.first_said, self._offer)
            async with aclosing(kept) as events:
                yield events


class CascadedTensors(Cascaded[Outputs]):
    def __init__(
        self, inputs: Arrays, wanted: Sequence[str], ask: Callable[[Arrays], Open[Outputs]], *whole: Any
    ) -> None:
        super().__init__(*whole)
        self._inputs = inputs
        self._wanted = wanted
        self._ask = ask

    @asynccontextmanager
    async def _said(self) -> AsyncIterator[Outputs]:
        async def turn(number: int, inputs: Arrays) -> Outputs:
            chain: Chain[Outputs] = self._chain(number, self._ask(inputs))
            async with chain.answer() as outputs:
                return outputs

        found = await cascading.infer(
            self._policy,
            self._inputs,
            lambda inputs: turn(0, inputs),
            lambda inputs: turn(1, inputs),
            self._why_not,
            self._seconds / 2,
        )
        self._tell(found.verdict, rows=found.rows, rows_gone_on=found.rows_gone_on)
        if self._offer is not None and found.unsure is not None:
            for one in rows_as_examples(self._example(found.verdict, {}), *found.unsure):
                self._offer(one)
        yield self._chosen(found.outputs)

    def _chosen(self, outputs: Outputs) -> Outputs:
        """All were asked for: scores are needed, whoever wants them."""
        if unknown := [name for name in self._wanted if name not in outputs]:
            raise DataError("request-refused", f'the model has no output "{unknown[0]}"')
        return {name: outputs[name] for name in dict.fromkeys(self._wanted)} or outputs
