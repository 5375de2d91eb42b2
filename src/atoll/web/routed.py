"""Requests whose model is a route, as the interfaces answer them; and why each went where it did.

`GET /api/decisions/ID` tells of one of the last requests, `POST /api/routes/explain` where one would go now.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.router.asked import BYTES_PER_TOKEN, TOKENS_MAX, Asked, read_asked, weigh
from atoll.router.place import Need
from atoll.router.placing.chain import Answering
from atoll.router.placing.record import Trip
from atoll.router.policy.route import Unreachable
from atoll.router.service import Router
from atoll.web.bodies import read_object
from atoll.web.callers import check_login, failure
from atoll.web.fields import fields
from atoll.web.retrieving import Prepared, Retriever

HEADER, PROVISIONAL = "x-atoll-decision", "x-atoll-provisional"
NOT_LATER = frozenset(("x-atoll-place", "x-atoll-max-cost", "x-atoll-deadline"))
Check = Callable[[Request], object]
T = TypeVar("T")


def asked_in(request: Request, skill: Skill, model: str, body: Mapping[str, Any], caller: object) -> Asked:
    name = caller if isinstance(caller, str) else None
    return read_asked(request.scope["path"], skill, model, body, fields(request), name)


def scopes_later(
    router: Router | None, request: Request, skill: Skill, model: str, body: Mapping[str, Any], caller: object
) -> frozenset[str]:
    """Those of a request that becomes a job: only its body and these go along with it."""
    if router is None:
        return frozenset()
    if not router.has(model):
        return router.scopes_of_key(caller)
    if not may_wait(request):
        raise DataError(
            "request-malformed",
            f"a request that is queued cannot have the header {min(NOT_LATER & fields(request).keys())}",
            hint="Say it in the body: provider, or deadline_seconds of queue.",
        )
    return router.scopes(asked_in(request, skill, model, body, caller))


def may_wait(request: Request) -> bool:
    """Is all that it says of its places said in its body?"""
    return NOT_LATER.isdisjoint(fields(request))


def headers_of(trip: Trip | None) -> dict[str, str]:
    if trip is None:
        return {}
    return {HEADER: trip.header, **({PROVISIONAL: "true"} if trip.is_provisional else {})}


class Entered(Generic[T]):
    """An answer from where the route leads; where nobody there can be reached, this node's, if it says so."""

    def __init__(
        self,
        router: Router,
        asked: Asked,
        make: Callable[[Asked, bool], Answering[T]],
        note: Callable[[Trip], None],
    ) -> None:
        self._router = router
        self._asked = asked
        self._make = make
        self._note = note

    async def __aenter__(self) -> T:
        began = time.monotonic()
        chain = self._make(self._asked, False)
        self._note(chain.trip)
        self._answer = chain.answer()
        try:
            return await self._answer.__aenter__()
        except AtollError as error:
            if self._router.unreachable(self._asked, error) is not Unreachable.HERE:
                raise
            return await self._instead(error, began + self._router.seconds(self._asked))

    async def _instead(self, error: AtollError, ends_at: float) -> T:
        left = max(0.0, ends_at - time.monotonic())
        chain = self._make(self._asked._replace(deadline_seconds=left), True)
        self._answer = chain.answer()
        try:
            found = await self._answer.__aenter__()
        except AtollError:
            raise error from None  # it says what was wrong with the places that were wanted
        self._note(chain.trip)
        return found

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._answer.__aexit__(kind, problem, trace)


class Routed:
    """A request for text, answered where its route says."""

    def __init__(
        self,
        router: Router,
        retriever: Retriever,
        asked: Asked,
        body: Mapping[str, Any],
        queue: Callable[[Prepared], Awaitable[Response]] | None = None,
    ) -> None:
        """`queue` takes it in as a job, where it may become one."""
        self._queue = queue
        self._router = router
        self._retriever = retriever
        self._asked = asked
        self._body = body
        self._trip: Trip | None = None
        self._began: float | None = None

    def headers(self) -> dict[str, str]:
        return headers_of(self._trip)

    def said(self) -> dict[str, Any]:
        """Of the answer, in its body."""
        return {"provisional": True} if self._trip is not None and self._trip.is_provisional else {}

    async def later(self, error: AtollError, prepared: Prepared) -> Response | None:
        """Instead of an error, the job that the request has become."""
        if self._queue is None or self._router.unreachable(self._asked, error) is not Unreachable.QUEUE:
            return None
        return await self._queue(prepared)

    def turn_away(self, error: AtollError) -> bool:
        """From the place that broke after it began; not where there is a cap, of which it spent a part."""
        asked, place = self._asked, self._trip.place if self._trip is not None else None
        caps = asked.max_cost, self._router.route(asked.model).max_cost
        if place is None or not isinstance(error, LinkError) or error.code == "deadline-passed":
            return False
        if caps != (None, None) or not asked.hints.allow_fallbacks:
            return False
        hints = replace(asked.hints, ignore=(*asked.hints.ignore, place.label))
        self._asked = asked._replace(hints=hints)
        return True

    async def prepared(self) -> Prepared:
        if self._body.get("retrieve") is None:
            return Prepared(self._body)
        router, asked = self._router, self._asked
        check = router.encoder_check(asked.caller, router.scopes(asked))
        return await self._retriever.prepare(self._body, router.context_tokens(asked), check)

    def events(self, prepared: Prepared) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        asked, now = self._asked, time.monotonic()
        if self._began is None:
            self._began = now
        else:
            left = self._began + self._router.seconds(asked) - now
            asked = asked._replace(deadline_seconds=max(0.0, left))
        if prepared.scopes:
            size, _ = weigh(prepared.body)
            asked = asked._replace(scopes=asked.scopes | prepared.scopes, bytes_in=size)

        def make(one: Asked, provisional: bool) -> Answering[AsyncIterator[bytes]]:
            return self._router.generate(one, prepared.body, prepared.quoted, provisional)

        return Entered(self._router, asked, make, self._note)

    def _note(self, trip: Trip) -> None:
        self._trip = trip


def routing_routes(router: Router, check: Check, password: Callable[[], str]) -> list[Route]:
    """`check` refuses those who may not ask models; the application's role may in any case."""

    def admit(request: Request) -> None:
        if request.headers.get("authorization", "").lower().startswith("basic "):
            check_login(request, password())
        else:
            check(request)

    async def decision(request: Request) -> Response:
        try:
            admit(request)
            return JSONResponse(router.decision(request.path_params["id"]))
        except AtollError as error:
            return failure(error)

    async def explain(request: Request) -> Response:
        try:
            admit(request)
            asked = _wished(await read_object(request))
            return JSONResponse(router.explain(asked).told())
        except AtollError as error:
            return failure(error)

    return [
        Route("/api/decisions/{id}", decision, methods=["GET"]),
        Route("/api/routes/explain", explain, methods=["POST"]),
    ]


FIELDS: Mapping[str, tuple[type, ...]] = {
    "route": (str,),
    "skill": (str,),
    "tokens_in": (int,),
    "tokens_out": (int,),
    "needs": (list,),
    "scopes": (list,),
    "label": (str,),
    "key": (str,),
    "place": (str,),
    "max_cost": (int, float),
    "provider": (dict,),
}


def _wished(told: Mapping[str, Any]) -> Asked:
    """A request that is not made, only spoken of."""
    for name, value in told.items():
        if name not in FIELDS or (value is not None and not isinstance(value, FIELDS[name])):
            raise DataError("request-malformed", f'cannot understand the field "{name}"')
    try:
        skill = Skill(told.get("skill") or Skill.GENERATE)
        needs = frozenset(Need(need) for need in told.get("needs") or ())
        scopes = frozenset(str(scope) for scope in told.get("scopes") or ())
    except ValueError as error:
        raise DataError("request-malformed", "there is no such skill or need", detail=f"{error}.") from error
    hints = {"x-atoll-label": "label", "x-atoll-place": "place", "x-atoll-max-cost": "max_cost"}
    given = {header: str(told[name]) for header, name in hints.items() if told.get(name) is not None}
    body = {"provider": told.get("provider"), "max_tokens": told.get("tokens_out")}
    asked = read_asked("", skill, told.get("route") or "", body, given)
    return asked._replace(
        needs=needs,
        scopes=scopes,
        caller=told.get("key"),
        bytes_in=BYTES_PER_TOKEN * min(max(0, told.get("tokens_in") or 0), TOKENS_MAX),
    )
