"""The router of a node: requests whose model is the name of a route are answered where the route says.

Who may is decided in eligible.py, who is best in score.py, the asking is the chain's. Other names are none of
its business.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, Metric

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.domain.models import Skill
from atoll.observe.metrics import gauge
from atoll.router.answers.book import Answers
from atoll.router.answers.request import Again
from atoll.router.answers.wording import Quoted
from atoll.router.asked import Asked
from atoll.router.budgets.book import Budgets, spent
from atoll.router.budgets.lease import TOKENS, Reservation, charge
from atoll.router.cascades.examples import Examples
from atoll.router.cascades.request import CascadedTensors, CascadedText
from atoll.router.place import Kind, Place
from atoll.router.placing.attempt import Open, Pay
from atoll.router.placing.chain import Answering, Chain, Look, seconds_of
from atoll.router.placing.course import Course
from atoll.router.placing.decide import Decision, decide
from atoll.router.placing.eligible import GLOBAL, REGION, scopes_of
from atoll.router.placing.heard import Heard
from atoll.router.placing.paced import Paced
from atoll.router.placing.peers import Peers
from atoll.router.placing.places import UPSTREAM, Me, TermsOf, own_places, peer_places
from atoll.router.placing.record import KEPT_MAX, Records
from atoll.router.policy import cascade
from atoll.router.policy.key import NO_KEYS, Keys, find_key
from atoll.router.policy.route import Route, Unreachable, from_row
from atoll.runtimes.contract import Array, Ask, Embeddings, Runtime
from atoll.runtimes.within import Within
from atoll.serving import asking
from atoll.serving.service import Serving

Body = Mapping[str, Any]
Scopes = frozenset[str]
T = TypeVar("T")
Opening: TypeAlias = AbstractAsyncContextManager[T]


class Router:
    def __init__(
        self,
        serving: Serving,
        region: str,
        terms_of: TermsOf,
        peers: Peers | None = None,
        clock: Callable[[], float] = time.monotonic,
        budgets: Budgets | None = None,
        answers: Answers | None = None,
        examples: Examples | None = None,
    ) -> None:
        """Without `peers` nobody else is asked, without `budgets` or `answers` there are none.

        `terms_of` says what rows say of a model on this node.
        """
        self._serving = serving
        self._me = Me(0, region)
        self._terms_of = terms_of
        self._peers = peers
        self._budgets = budgets
        self._answers = answers
        self._offer = examples.offer if examples is not None else None
        self._routes: dict[str, Route | DataError] = {}
        self._keys: Keys = NO_KEYS
        self._heard = Heard(None, 0.0)
        self._course = Course(self._round_trip, clock)
        self._records = Records()

    # Routes

    def set_routes(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """These are the routes now. Requests for one that makes no sense are refused."""
        found: dict[str, Route | DataError] = {}
        for row in rows:
            self._me = Me(row["me"], self._me.region)
            try:
                found[str(row["name"])] = from_row(row)
            except DataError as error:
                found[str(row["name"])] = error
        self._routes = found
        self._records.forget_routes_but(found)
        if self._answers is not None:
            self._answers.need(
                name for name, route in found.items() if isinstance(route, Route) and route.again
            )

    def set_keys(self, keys: Keys) -> None:
        """These are the keys now; whoever shows one asks no wider than it says."""
        self._keys = keys

    def set_heard(self, seconds_ago: float | None) -> None:
        """So long ago somebody else was heard last; none where there is nobody else."""
        self._heard = Heard(seconds_ago, self._course.clock())

    def names(self) -> list[str]:
        return sorted(self._routes)

    def has(self, name: object) -> bool:
        return isinstance(name, str) and name in self._routes

    def route(self, name: str) -> Route:
        found = self._routes.get(name)
        if found is None:
            raise DataError("route-unknown", f'there is no route "{name}"', hint="See: atoll route list")
        if isinstance(found, DataError):
            raise found
        return found

    def context_tokens(self, asked: Asked) -> int | None:
        """The least that any place reads that may answer."""
        known = [place.context_tokens for place in self.explain(asked).order]
        return min((one for one in known if one is not None), default=None)

    # Requests: each is asked when its chain's `answer` is entered

    def generate(
        self, asked: Asked, body: Body, quoted: Quoted | None = None, provisional: bool = False
    ) -> Answering[AsyncIterator[bytes]]:
        """The events of an answer; a provisional one is this node's own, and is not given again."""
        asked, route, scopes = self._whose(asked, provisional)
        chain = self._generate(asked, route, scopes, body, provisional)
        policy, answers = route.again, self._answers
        if policy is None or answers is None or provisional:
            return chain
        check = self.encoder_check(asked.caller, scopes)
        whole = (asked, route, body, quoted, self._records, self._me.number, self._is_current, check)
        return Again(chain, answers, policy, *whole)

    def _generate(
        self, asked: Asked, route: Route, scopes: Scopes, body: Body, provisional: bool
    ) -> Answering[AsyncIterator[bytes]]:
        def ask(sent: Body) -> Open[AsyncIterator[bytes]]:
            return lambda place, left: self._events(asked.path, sent, place, left, scopes)

        sent = body
        if "provider" in body:
            sent = {name: value for name, value in body.items() if name != "provider"}
        if route.cascade is not None:
            return CascadedText(
                sent, ask, asked, route, route.cascade, *self._means(asked, route), self._offer
            )
        return self._chain(asked, route, ask(sent), provisional)

    def embed(self, asked: Asked, texts: list[str]) -> Answering[Embeddings]:
        asked, route, scopes = self._whose(asked)
        if route.cascade is not None:
            cascade.check(route.cascade, Skill.EMBED)

        @asynccontextmanager
        async def ask(place: Place, left: float) -> AsyncIterator[Embeddings]:
            if place.kind is Kind.HERE:
                yield await asking.embed(self._serving, place.model, texts)
                return
            async with self._runtime(place, left, scopes) as runtime:
                yield await runtime.embed(texts)

        return self._chain(asked, route, ask)

    def infer(
        self,
        asked: Asked,
        inputs: Mapping[str, Array],
        wanted: Sequence[str] = (),
        provisional: bool = False,
    ) -> Answering[dict[str, Array]]:
        asked, route, scopes = self._whose(asked, provisional)

        def ask(given: Mapping[str, Array], names: Sequence[str] = ()) -> Open[dict[str, Array]]:
            @asynccontextmanager
            async def open_at(place: Place, left: float) -> AsyncIterator[dict[str, Array]]:
                async with self._runtime(place, left, scopes) as runtime:
                    yield await runtime.infer(given, names)

            return open_at

        if route.cascade is not None:
            return CascadedTensors(
                inputs, wanted, ask, asked, route, route.cascade, *self._means(asked, route), self._offer
            )
        return self._chain(asked, route, ask(inputs, wanted), provisional)

    def check_direct(self, model: str, caller: object, scopes: Collection[str] = ()) -> Scopes:
        """May a model of this node be asked without a route? All the scopes that go along."""
        base, key = asking.split(model)[0], find_key(self._keys, caller)
        scopes = frozenset(scopes) | self.scopes_of_key(caller)
        word = self._serving.word(base)
        if word is None:
            self._check_name(model)
        if word is None or word.variant != UPSTREAM:
            return scopes
        region = self._terms_of(base).region
        kept = [scope for scope in sorted(scopes) if scope not in (GLOBAL, f"{REGION}{region}")]
        if kept:
            raise PolicyDenied(
                "no-place",
                f'cannot send what has scope {kept[0]} to model "{model}": it is somebody else\'s',
                hint="Ask a model of this node, or a route that leads to one.",
            )
        if key is not None and self._pays_for_clouds(key.budget):
            raise PolicyDenied(
                "no-place",
                f'cannot ask model "{model}" by its name: key "{key.name}" has a budget',
                detail="It pays for what a route leads to.",
                hint=f"Ask a route that leads there: atoll route set NAME --model cloud={model}",
            )
        return scopes

    def _check_name(self, model: str) -> None:
        """Whoever mistypes the name of a route is told so; one of a model is looked for by Serving."""
        names = [*self._routes, *(word.model for word in self._serving.models())]
        near = difflib.get_close_matches(model, names, n=1)
        if near and near[0] in self._routes:
            raise DataError(
                "model-unknown",
                f'this node has no model or route "{model}"',
                hint=f'Did you mean the route "{near[0]}"?',
            )

    def encoder_check(self, caller: object, scopes: Collection[str] = ()) -> Callable[[str], object]:
        """Refuses a model that may not be told what a request with these scopes says."""
        return lambda model: self.check_direct(model, caller, scopes)

    def scopes(self, asked: Asked) -> Scopes:
        """Of everything that is in a request, its label among it."""
        return self._whose(asked)[2]

    def scopes_of_key(self, caller: object) -> Scopes:
        key = find_key(self._keys, caller)
        return frozenset() if key is None else key.scopes

    def seconds(self, asked: Asked) -> float:
        """Until the end of its answer."""
        return seconds_of(asked, self.route(asked.model))

    def unreachable(self, asked: Asked, error: AtollError) -> Unreachable:
        """What becomes of a request that nobody answered."""
        if not isinstance(error, LinkError) or error.code != "no-place":
            return Unreachable.REFUSE
        route = self.route(asked.model)
        is_lacking = route.unreachable is Unreachable.HERE and route.provisional() is None
        return Unreachable.REFUSE if is_lacking else route.unreachable

    # What is told

    def explain(self, asked: Asked) -> Decision:
        """Where a request would go now."""
        asked, route, _ = self._whose(asked)
        return decide(asked, route, self._look(asked, route))

    def decision(self, name: str) -> Mapping[str, Any]:
        """One of the last."""
        trip = self._records.find(name)
        if trip is None:
            raise DataError(
                "decision-unknown", f'there is no decision "{name}"', detail=f"The last {KEPT_MAX} are kept."
            )
        return trip.told()

    def numbers(self) -> Iterable[Metric]:
        answers = CounterMetricFamily(
            "atoll_route_requests", "Requests that were routed.", labels=["route", "place", "end"]
        )
        for words, count in self._records.answers.items():
            answers.add_metric(list(words), count)
        yield answers
        yield gauge("atoll_route_places_paused", "Places left alone for a while.", self._course.paused())

    # How places are found and asked

    def _whose(self, asked: Asked, provisional: bool = False) -> tuple[Asked, Route, Scopes]:
        """The request as its key narrows it, its route, and the scopes of everything in it."""
        route, key = self._checked(asked), find_key(self._keys, asked.caller)
        route = (route.provisional() or route) if provisional else route
        if key is not None:
            budget = key.budget if self._pays_for_clouds(key.budget) else None
            asked = asked._replace(scopes=asked.scopes | key.scopes, budget=budget)
        return asked, route, scopes_of(asked, route)

    def _pays_for_clouds(self, budget: str | None) -> bool:
        """A key's budget that is one of tokens counts every answer, and is paid before."""
        known = self._budgets.find(budget) if self._budgets is not None and budget is not None else None
        return budget is not None and (known is None or known.unit != TOKENS)

    def _chain(self, asked: Asked, route: Route, open_at: Open[T], provisional: bool = False) -> Chain[T]:
        made = Chain(asked, route, *self._means(asked, route), open_at)
        made.trip.is_provisional = provisional
        return made

    def _means(self, asked: Asked, route: Route) -> tuple[Look, Course, Records, Pay]:
        """What every chain of a request needs."""
        return (
            lambda: self._look(asked, route),
            self._course,
            self._records,
            lambda place: self._reserve(asked, route, place),
        )

    def _checked(self, asked: Asked) -> Route:
        route = self.route(asked.model)
        if asked.label is not None and asked.label not in route.labels:
            known = ", ".join(sorted(route.labels))
            raise DataError(
                "label-unknown",
                f'route "{route.name}" has no label "{asked.label}"',
                hint=f"It has: {known}." if known else "It has none.",
            )
        return route

    def _look(self, asked: Asked, route: Route) -> list[Place]:
        found = list(own_places(self._me, self._serving.word, self._terms_of, route))
        if self._peers is not None:
            found += peer_places(self._peers.offers(), route)
        known = [self._course.known(place) for place in found]
        if self._heard.has_expired(route.policy_expires_seconds, self._course.clock()):
            known = [place._replace(is_stale=place.kind is not Kind.HERE) for place in known]
        if not any(self._budgets is None or self._budgets.is_spent(name) for name in _budgets(asked, route)):
            return known
        return [place._replace(is_funded=place.kind is not Kind.CLOUD) for place in known]

    async def _reserve(self, asked: Asked, route: Route, place: Place) -> Sequence[Reservation]:
        """What a place may cost, out of the budgets of route and key; one's own nodes cost nothing."""
        found: list[Reservation] = []
        if place.kind is not Kind.CLOUD or place.price is None:
            return found
        try:
            for name in _budgets(asked, route):
                if self._budgets is None or (budget := self._budgets.find(name)) is None:
                    raise spent(name)
                most = charge(budget.unit, place.price, asked.tokens_in, asked.tokens_out or 0)
                if (one := await self._budgets.reserve(name, most)) is None:
                    raise spent(name)
                found.append(one)
        except BaseException:
            for one in found:
                one.settle()
            raise
        return found

    def _is_current(self, place: Place) -> bool:
        """Would the version answer that the place is said to have? While it is loaded, the last one does."""
        loaded = self._serving.loaded(asking.split(place.model)[0]) if place.kind is Kind.HERE else None
        return loaded is None or loaded.wanted.version == place.version

    def _round_trip(self, node: int) -> float | None:
        return self._peers.round_trip(node) if self._peers is not None else None

    def _runtime(self, place: Place, left: float, scopes: Scopes) -> Opening[Runtime]:
        base, adapter = asking.split(place.model)
        if place.node == self._me.number:
            return self._serving.use(base, adapter=adapter)
        if self._peers is None or place.node is None:
            raise LinkError("runtime-broken", "could not ask another node: there are no links")
        return nullcontext(self._peers.runtime(place.node, base, scopes, left))

    def _events(
        self, path: str, body: Body, place: Place, left: float, scopes: Scopes
    ) -> Opening[AsyncIterator[bytes]]:
        answer: Opening[AsyncIterator[bytes]]
        if place.kind is Kind.HERE:
            answer = asking.generate(self._serving, place.model, path, body, scopes)
        else:
            ask = Ask(path, body, asking.split(place.model)[1], scopes, left)
            answer = Within(self._runtime(place, left, scopes), lambda runtime: runtime.generate(ask))
        ended = partial(self._course.ended, place)
        return Within(answer, lambda events: Paced(events, self._course.clock, ended))


def _budgets(asked: Asked, route: Route) -> list[str]:
    """All that have to pay; one that is named twice pays once."""
    if route.budget is None and asked.budget is None:
        return []
    return sorted({name for name in (route.budget, asked.budget) if name is not None})
