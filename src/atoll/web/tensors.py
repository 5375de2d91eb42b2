"""`/v2`: tensor models over HTTP, in the Open Inference Protocol version 2.

Who hangs up is not worked for any longer. What the bodies mean is in tensor_wire.py, which is imported with
the first request for an inference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll import __version__
from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill, TensorFacts
from atoll.router.asked import Asked
from atoll.router.placing.chain import Answering
from atoll.router.placing.record import Trip
from atoll.router.service import Router
from atoll.runtimes.contract import Array
from atoll.runtimes.room import Room
from atoll.serving.service import Serving, Word
from atoll.web.callers import retry_headers, status_of, while_there
from atoll.web.limits import FREE, Limits, Ticket
from atoll.web.routed import Entered, asked_in, headers_of

BODY_BYTES_MAX = 64 * 1024**2
BODIES_BYTES_MAX = 256 * 1024**2
BODY_SECONDS_MAX = 60.0
PLATFORM = "onnxruntime_onnx"
JSON_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]
NONE: Mapping[str, str] = {}
Check = Callable[[Request], object]
Routed = Callable[[Mapping[str, Array], list[str], Callable[[Trip], None]], Entered[dict[str, Array]]]
Endpoint = Callable[[Request], Awaitable[Response]]


def tensor_routes(
    serving: Serving, check: Check, router: Router | None = None, limits: Limits | None = None
) -> list[Route]:
    """`check` says whether somebody may ask; probes of health may always."""
    limits = limits or Limits()
    room = Room(BODIES_BYTES_MAX)

    async def server(request: Request) -> Response:
        return JSONResponse({"name": "atoll", "version": __version__, "extensions": EXTENSIONS})

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": True})  # a model that is no good takes nothing from the others

    async def model(request: Request) -> Response:
        found = _find(serving, request)
        return JSONResponse(
            {
                "name": found.model,
                "versions": [found.version],
                "platform": PLATFORM,
                "inputs": [_described(facts) for facts in found.facts.inputs],
                "outputs": [_described(facts) for facts in found.facts.outputs],
            }
        )

    async def model_ready(request: Request) -> Response:
        found = _find(serving, request)
        status = 200 if _is_ready(found) else 503
        return JSONResponse({"name": found.model, "ready": _is_ready(found)}, status_code=status)

    async def infer(request: Request) -> Response:
        name, ticket = request.path_params["model"], FREE
        try:
            ticket = limits.ticket(caller := check(request))
            await ticket.take({}, answers=False)
            if router is None or not router.has(name):
                return cast("Response", _Answer(serving, room, ticket))
            asked = asked_in(request, Skill.INFER, name, {}, caller)
        except AtollError as error:
            return refusal(error, ticket.headers())

        def routed(
            inputs: Mapping[str, Array], wanted: list[str], note: Callable[[Trip], None]
        ) -> Entered[dict[str, Array]]:
            def make(one: Asked, provisional: bool) -> Answering[dict[str, Array]]:
                return router.infer(one, inputs, wanted, provisional)

            return Entered(router, asked, make, note)

        return cast("Response", _Answer(serving, room, ticket, routed))

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            try:
                check(request)
                return await endpoint(request)
            except AtollError as error:
                return refusal(error)

        return answer

    routes = [Route("/v2/health/live", live), Route("/v2/health/ready", ready), Route("/v2", guarded(server))]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [Route(path, guarded(model)), Route(f"{path}/ready", guarded(model_ready))]
        routes.append(Route(f"{path}/infer", infer, methods=["POST"]))
    return routes


def refusal(error: AtollError, headers: Mapping[str, str] = NONE) -> Response:
    """An error as the protocol has it: one text; the code stands beside."""
    words = " ".join(filter(None, [f"{error.message}.", error.detail, error.hint]))
    told = {"error": words, "code": error.code}
    return JSONResponse(told, status_code=status_of(error), headers={**retry_headers(error), **headers})


class _Answer:
    """An answer that is worked on for as long as its caller is there."""

    background = None

    def __init__(self, serving: Serving, room: Room, ticket: Ticket, routed: Routed | None = None) -> None:
        self._serving = serving
        self._room = room
        self._routed = routed
        self._headers = ticket.headers()
        self._trip: Trip | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with self._room.hold() as take:
            try:
                body = await _body(request, take)
            except AtollError as error:
                await refusal(error)(scope, receive, send)
                return
            except ClientDisconnect:
                return
            await while_there(scope, receive, self._answer(request, body, send))

    async def _answer(self, request: Request, body: bytearray, send: Send) -> None:
        try:
            response = await self._infer(request, body)
        except AtollError as error:
            response = refusal(error)
        response.headers.update({**self._headers, **headers_of(self._trip)})
        await response(request.scope, request.receive, send)

    async def _infer(self, request: Request, body: bytearray) -> Response:
        from atoll.web.tensor_wire import read_inference, write_answer

        name, version = request.path_params["model"], request.path_params.get("version")
        asked = read_inference(body, _json_length(request))
        try:
            async with asyncio.timeout(asked.seconds_max):
                outputs = await self._outputs(name, version, asked.inputs, list(asked.wanted))
        except TimeoutError as error:
            raise LinkError(
                "runtime-slow", f"the model could not answer within {asked.seconds_max:g} seconds"
            ) from error
        content, json_length = write_answer(asked, name, version, outputs)
        if json_length is None:
            return Response(content, media_type="application/json")
        headers = {JSON_LENGTH: str(json_length)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def _outputs(
        self, name: str, version: str | None, inputs: Mapping[str, Array], wanted: list[str]
    ) -> dict[str, Array]:
        if self._routed is None or version is not None:
            async with self._serving.use(name, version) as runtime:
                return await runtime.infer(inputs, wanted)
        async with self._routed(inputs, wanted, self._note) as outputs:
            return outputs

    def _note(self, trip: Trip) -> None:
        self._trip = trip


async def _body(request: Request, take: Callable[[int], None]) -> bytearray:
    """Of a body that is refused, the rest is read and forgotten: a caller that is still sending would see the
    connection break, and not the reason."""
    body = bytearray()
    refused: AtollError | None = None
    came = 0
    if request.headers.get("content-encoding", "identity") != "identity":
        refused = DataError("request-refused", "the body is compressed, which is not supported")
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.stream():
                came += len(chunk)
                if came > 2 * BODY_BYTES_MAX:
                    break
                if refused is None:
                    refused = _take(chunk, body, take)
    except TimeoutError as error:
        raise LinkError("connection-lost", "the request did not come to its end in time") from error
    if refused is not None:
        raise refused
    return body


def _take(chunk: bytes, body: bytearray, take: Callable[[int], None]) -> AtollError | None:
    try:
        if len(body) + len(chunk) > BODY_BYTES_MAX:
            raise DataError("request-too-large", f"a request has {BODY_BYTES_MAX // 1024**2} MB at most")
        take(len(chunk))
    except AtollError as error:
        body.clear()
        return error
    body += chunk
    return None


def _json_length(request: Request) -> int | None:
    told = request.headers.get(JSON_LENGTH)
    if told is not None and not (told.isascii() and told.isdigit() and len(told) < 12):
        raise DataError("request-refused", f"the header {JSON_LENGTH} is no number")
    return None if told is None else int(told)


def _is_ready(word: Word) -> bool:
    """One that is not loaded is ready all the same: it is loaded when somebody asks."""
    return word.problem is None


def _find(serving: Serving, request: Request) -> Word:
    name, version = request.path_params["model"], request.path_params.get("version")
    word = serving.word(name)
    if word is not None and version in (None, word.version) and Skill.INFER in word.facts.skills:
        return word
    which = name if version is None else f"{name}, version {version}"
    raise DataError("model-unknown", f'there is no model "{which}"')


def _described(facts: TensorFacts) -> dict[str, Any]:
    return {"name": facts.name, "datatype": facts.datatype, "shape": list(facts.shape)}
