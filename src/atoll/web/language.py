"""`/v1`: language models in the protocols of OpenAI and Anthropic.

Events pass through as the engine made them; for callers who want one answer they are put together at the end.
Who hangs up frees the engine. Errors have the shape of the protocol that was spoken.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.router.jobs.queue import JobQueue
from atoll.router.policy.route import Unreachable
from atoll.router.service import Router
from atoll.runtimes.answers import embedded, gather
from atoll.runtimes.contract import STREAMED, Pouring
from atoll.runtimes.events import content as content_of
from atoll.runtimes.events import split
from atoll.runtimes.refusals import TOO_LONG, TOO_LONG_FOR_OPENAI
from atoll.serving import asking
from atoll.serving.service import Serving, Word
from atoll.web.bodies import read_object
from atoll.web.callers import retry_headers, status_of, while_there
from atoll.web.jobs import Later, answer_later, read_later
from atoll.web.limits import FREE, Limits, Ticket
from atoll.web.plain import PUT
from atoll.web.retrieving import Prepared, Retriever
from atoll.web.routed import Routed, asked_in, headers_of, may_wait, scopes_later

MESSAGES = "/v1/messages"
WHOLE_TRIES_MAX, NAMED_MAX = 3, 20
NAME_LETTERS_MAX = 256  # of a model and its adapter; to look for one that is near takes time for each
ANSWER_BYTES_MAX = 64 * 1024 * 1024
HEAD = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
ANTHROPIC_TYPES = {**OPENAI_TYPES, 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error"}
OPENAI_CODES = {TOO_LONG: TOO_LONG_FOR_OPENAI}  # which clients look for
NONE: Mapping[str, str] = {}
Check = Callable[[Request], object]


def language_routes(
    serving: Serving,
    check: Check,
    retriever: Retriever,
    router: Router | None = None,
    jobs: JobQueue | None = None,
    limits: Limits | None = None,
) -> list[Route]:
    """`check` refuses those who may not ask, and says who the others are; `jobs` take what may wait."""
    limits = limits or Limits()

    def listed() -> list[dict[str, Any]]:
        names = router.names() if router is not None else []
        own = [one for word in serving.models() for one in _model_words(word) if one["id"] not in names]
        return own + [_route_words(name) for name in names]

    async def list_models(request: Request) -> Response:
        try:
            check(request)
        except AtollError as error:
            return refusal(error, request.url.path)
        return JSONResponse({"object": "list", "data": listed()})

    async def one_model(request: Request) -> Response:
        try:
            check(request)
            name = request.path_params["model"]
            there = listed()
            found = [one for one in there if one["id"] == name]
            if not found:
                known = ", ".join(one["id"] for one in there[:NAMED_MAX])
                hint = f"There are: {known}." if known else None
                raise DataError("model-unknown", f'this node has no model "{name}"', hint=hint)
        except AtollError as error:
            return refusal(error, request.url.path)
        return JSONResponse(found[0])

    async def generate(request: Request) -> ASGIApp:
        path, ticket = str(request.scope["path"]), FREE
        try:
            ticket = limits.ticket(caller := check(request))
            body = await read_object(request)
            _check_stream(body)
            if body.get("retrieve") is not None:
                retriever.check(caller, path, body["retrieve"])
            later = read_later(request, body) if jobs is not None else None
            model = _model_of(body, serving, Skill.GENERATE)
            await ticket.take(body)
            if jobs is not None and later is not None:
                kept = scopes_later(router, request, Skill.GENERATE, model, body, caller)
                prepared = Prepared(body)
                if body.get("retrieve") is not None:
                    check_encoder = router.encoder_check(caller, kept) if router is not None else None
                    prepared = await retriever.prepare(body, None, check_encoder)
                scopes = prepared.scopes | kept
                return await answer_later(jobs, later, model, path, prepared.body, scopes, caller)
            if router is not None and router.has(model):
                asked = asked_in(request, Skill.GENERATE, model, body, caller)
                queue = _queue(jobs, router, request, model, body, caller)
                routed = Routed(router, retriever, asked, body, queue)
                return _Answer(routed, model, path, body, ticket)
        except AtollError as error:
            ticket.settle()
            return refusal(error, path, ticket.headers())
        source = _Own(serving, retriever, router, model, path, body, caller)
        return _Answer(source, model, path, body, ticket)

    async def embeddings(request: Request) -> Response:
        headers: dict[str, str] = {}
        ticket = FREE
        try:
            ticket = limits.ticket(caller := check(request))
            body = await read_object(request)
            later = read_later(request, body) if jobs is not None else None
            model, texts = _model_of(body, serving, Skill.EMBED), asking.texts_of(body)
            await ticket.take(body, answers=False)
            if jobs is not None and later is not None:
                kept = scopes_later(router, request, Skill.EMBED, model, body, caller)
                return await answer_later(jobs, later, model, request.url.path, body, kept, caller)
            if router is not None and router.has(model):
                asked = asked_in(request, Skill.EMBED, model, body, caller)
                chain = router.embed(asked, texts)
                try:
                    async with chain.answer() as found:
                        pass
                except AtollError as error:
                    is_queued = router.unreachable(asked, error) is Unreachable.QUEUE
                    if jobs is None or not is_queued or not may_wait(request):
                        raise
                    kept = scopes_later(router, request, Skill.EMBED, model, body, caller)
                    return await answer_later(jobs, Later(), model, request.url.path, body, kept, caller)
                finally:
                    headers = headers_of(chain.trip)
            else:
                if router is not None:
                    router.check_direct(model, caller)
                found = await asking.embed(serving, model, texts)
            ticket.settle(found.tokens)
        except AtollError as error:
            ticket.settle()
            return refusal(error, request.url.path, {**headers, **ticket.headers()})
        headers = {**headers, **ticket.headers()}
        return JSONResponse({**embedded(found, body), "model": model}, headers=headers)

    return [
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{model}", one_model, methods=["GET"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        *(Route(path, generate, methods=["POST"]) for path in STREAMED),
    ]


def _queue(
    jobs: JobQueue | None,
    router: Router,
    request: Request,
    model: str,
    body: Mapping[str, Any],
    caller: object,
) -> Callable[[Prepared], Awaitable[Response]] | None:
    """Takes a request in that nobody can answer now; none where it could not be taken in as it is."""
    if jobs is None or not may_wait(request):
        return None

    async def queue(prepared: Prepared) -> Response:
        kept = scopes_later(router, request, Skill.GENERATE, model, body, caller)
        scopes = prepared.scopes | kept
        return await answer_later(jobs, Later(), model, request.url.path, prepared.body, scopes, caller)

    return queue


class _Source(Protocol):
    """Where an answer comes from."""

    def headers(self) -> dict[str, str]: ...
    def said(self) -> dict[str, Any]: ...
    async def later(self, error: AtollError, prepared: Prepared) -> Response | None: ...
    async def prepared(self) -> Prepared: ...
    def turn_away(self, error: AtollError) -> bool: ...
    def events(self, prepared: Prepared) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


@dataclass(frozen=True)
class _Own:
    """A model of this node, asked by its name."""

    serving: Serving
    retriever: Retriever
    router: Router | None
    model: str
    path: str
    body: Mapping[str, Any]
    caller: object

    def headers(self) -> dict[str, str]:
        return {}

    def said(self) -> dict[str, Any]:
        return {}

    async def later(self, error: AtollError, prepared: Prepared) -> Response | None:
        return None

    def turn_away(self, error: AtollError) -> bool:
        return False

    async def prepared(self) -> Prepared:
        if self.body.get("retrieve") is None:
            return self._kept(Prepared(self.body))
        base, _ = asking.split(self.model)
        async with self.serving.use(base):
            loaded = self.serving.loaded(base)
        tokens = loaded.facts.context_tokens if loaded else None
        check = self.router.encoder_check(self.caller) if self.router is not None else None
        found = await self.retriever.prepare(self.body, tokens, check)
        return self._kept(found)

    def _kept(self, found: Prepared) -> Prepared:
        """With the scopes that its key has, if it may be asked."""
        if self.router is None:
            return found
        scopes = self.router.check_direct(self.model, self.caller, found.scopes)
        return replace(found, scopes=scopes) if scopes != found.scopes else found

    def events(self, prepared: Prepared) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return asking.generate(self.serving, self.model, self.path, prepared.body, prepared.scopes)


class _Kept:
    """The events of an answer that is put together at its end."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self._room = ANSWER_BYTES_MAX

    def keep(self, block: bytes) -> bool:
        self.events += split(block)
        self._room -= len(block)
        return self._room >= 0

    def check(self) -> None:
        if self._room < 0:
            raise LinkError("runtime-broken", "could not answer: the answer has no end")


@dataclass(frozen=True)
class _Answer:
    """A response that works for as long as its reader is there."""

    source: _Source
    model: str
    path: str
    body: Mapping[str, Any]
    ticket: Ticket

    background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._stream if self.body.get("stream") is True else self._whole
        try:
            await while_there(scope, receive, answer(scope, receive, send))
        finally:
            self.ticket.settle()

    def _headers(self) -> dict[str, str]:
        return {**self.source.headers(), **self.ticket.headers()}

    async def _begin(self, send: Send, head: list[tuple[bytes, bytes]]) -> None:
        more = [(name.encode(), value.encode()) for name, value in self._headers().items()]
        await send({"type": "http.response.start", "status": 200, "headers": head + more})

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked: Prepared | None = None
        try:
            asked = await self.source.prepared()
            found = gather(self.path, await self._all(asked))
            self.ticket.settle()
            body = _written({**found, "model": self.model, **asked.beside, **self.source.said()})
        except AtollError as error:
            await (await self._instead(error, asked))(scope, receive, send)
            return
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._begin(send, head)
        await send({"type": "http.response.body", "body": body})

    async def _all(self, asked: Prepared) -> list[bytes]:
        """What breaks off is forgotten, and asked for elsewhere: the caller has heard none of it."""
        broken: AtollError | None = None
        for _ in range(WHOLE_TRIES_MAX):
            try:
                found = _Kept()
                hand_on = self.ticket.hearing(found.keep)
                async with self.source.events(asked) as events:
                    async for event in events:
                        if hand_on(event) and isinstance(events, Pouring):
                            await events.pour(hand_on)
                        found.check()
                return found.events
            except AtollError as error:
                if broken is not None and error.code == "no-place":
                    break  # there is nowhere else
                broken = error
                if not self.source.turn_away(error):
                    break
        assert broken is not None
        raise broken

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun, put = False, scope.get(PUT)
        asked: Prepared | None = None
        try:
            asked = await self.source.prepared()
            async with self.source.events(asked) as events:
                beside = {**asked.beside, **self.source.said()}
                await self._begin(send, HEAD)
                has_begun = True
                hand_on = self.ticket.hearing(put) if put is not None else None
                async for event in events:
                    self.ticket.hear(event)
                    if beside and (content := content_of(event)) is not None:
                        event, beside = _with(event, {**content, **beside}), {}
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    if hand_on is not None and not beside and isinstance(events, Pouring):
                        await events.pour(hand_on)
        except AtollError as error:
            if not has_begun:
                await (await self._instead(error, asked))(scope, receive, send)
                return
            told = json.dumps(_told(error, self.path)).encode()
            name = b"event: error\n" if self.path == MESSAGES else b""
            body = name + b"data: " + told + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _instead(self, error: AtollError, asked: Prepared | None) -> Response:
        """What is answered where there is no answer."""
        try:
            job = await self.source.later(error, asked) if asked is not None else None
        except AtollError as problem:
            error, job = problem, None
        if job is None:
            self.ticket.settle()
            return refusal(error, self.path, self._headers())
        self.ticket.keep()
        job.headers.update(self._headers())
        return job


def _written(told: Mapping[str, Any]) -> bytes:
    import orjson

    try:
        return orjson.dumps(told)
    except TypeError:  # a number that is larger than it writes
        return json.dumps(told).encode()


def _with(event: bytes, content: Mapping[str, Any]) -> bytes:
    """The same event with another content."""
    name, _, _ = event.partition(b"data:")
    return name + b"data: " + json.dumps(content).encode() + b"\n\n"


def refusal(error: AtollError, path: str, headers: Mapping[str, str] = NONE) -> Response:
    """An error in the words of the protocol."""
    told = {**retry_headers(error), **headers}
    return JSONResponse(_told(error, path), status_code=status_of(error), headers=told)


def _told(error: AtollError, path: str) -> dict[str, Any]:
    status = status_of(error)
    message = " ".join([f"{error.message}.", *(part for part in (error.detail, error.hint) if part)])
    if path == MESSAGES:
        kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    kind = "rate_limit_error" if status == 429 else kind
    param = "model" if error.code == "model-unknown" else None
    code = OPENAI_CODES.get(error.code, error.code)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _check_stream(body: Mapping[str, Any]) -> None:
    """What only passes for true would be a stream here, and none there."""
    given = body.get("stream")
    if given is not None and not isinstance(given, bool):
        raise DataError("request-malformed", "stream is neither true nor false")


def _model_of(body: Mapping[str, Any], serving: Serving, skill: Skill) -> str:
    """The model that is asked for; where none is named, the only one that could be meant."""
    named = body.get("model")
    if isinstance(named, str) and len(named) > NAME_LETTERS_MAX:
        raise DataError("request-malformed", f"the model's name has more than {NAME_LETTERS_MAX} letters")
    if isinstance(named, str) and named:
        return named
    if named is not None:
        raise DataError("request-malformed", "the model's name is no text")
    able = sorted(word.model for word in serving.models() if skill in word.facts.skills)
    if len(able) == 1:
        return able[0]
    raise DataError(
        "request-malformed",
        "the request names no model" if able else f"no model of this node is made to {skill}",
        hint=f"There are: {', '.join(able)}." if able else "Add one: atoll model add FILE",
    )


def _route_words(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "atoll", "state": "route"}


def _model_words(word: Word) -> list[dict[str, Any]]:
    """A model, and then its adapters, which are asked like models."""
    facts = word.facts
    adapters = {f"{word.model}:{name}": version for name, version in word.adapters.items()}
    told = {
        "id": word.model,
        "object": "model",
        "created": 0,
        "owned_by": "atoll",
        "version": word.version,
        "state": str(word.state),
        "skills": sorted(facts.skills),
        "context_tokens": facts.context_tokens,
        "adapters": list(adapters),
    }
    return [told, *({**told, "id": name, "version": adapters[name], "adapters": []} for name in adapters)]
