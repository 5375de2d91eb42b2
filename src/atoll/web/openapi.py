"""`GET /openapi.json`: what a node speaks over HTTP, described for people's tools.

OPERATIONS is the one table; a test compares it with the routes that a node has and with what it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll import __version__
from atoll.domain.errors import AtollError
from atoll.web.callers import failure
from atoll.web.schemas import SCHEMAS, TEXT, Schema, ref

TEXTUAL, JSON, STREAM = "text/plain", "application/json", "text/event-stream"
LINES, ARROW, RAW = "application/x-ndjson", "application/vnd.apache.arrow.stream", "application/octet-stream"
WORDS = {
    200: "The answer.",
    202: "Taken in: the answer comes later.",
    400: "The request is wrong; the message says what.",
    401: "A key or a password is needed.",
    403: "A rule says no.",
    404: "There is no such thing here.",
    409: "It cannot be done as things are.",
    413: "The body is too long.",
    429: "Too much at once; Retry-After says when to ask again.",
    501: "The node is not set up for it.",
    503: "Not now; the message says why.",
}
KEY, PASSWORD = "key", "password"
ASKING = (400, 401, 403, 404, 413, 429, 503)
TENSORS = "TensorError"


@dataclass(frozen=True)
class Operation:
    """One method of one path. `errors` are the statuses that it may give beside 200."""

    method: str
    path: str
    about: str
    gives: str | None = None  # the schema of its answer as JSON
    takes: str | None = None
    login: str | None = None
    errors: tuple[int, ...] = ()
    error: str = "Error"
    also: tuple[str, ...] = ()  # other types of an answer
    parameters: tuple[str, ...] = ()  # of the query
    same: dict[int, str] = field(default_factory=dict)  # statuses whose body is no error


def _asking(path: str, about: str, takes: str, gives: str, error: str = "LanguageError") -> Operation:
    return Operation("POST", path, about, gives, takes, KEY, ASKING, error, (STREAM,), same={202: "Job"})


def _of_model(path: str, about: str) -> list[Operation]:
    known = (401, 403, 404)
    ready = {503: "TensorReady"}
    return [
        Operation("GET", path, about, "TensorModel", None, KEY, known, TENSORS),
        Operation(
            "GET",
            f"{path}/ready",
            "Whether it can be asked.",
            "TensorReady",
            None,
            KEY,
            known,
            TENSORS,
            same=ready,
        ),
        Operation(
            "POST",
            f"{path}/infer",
            "Outputs for inputs.",
            "Inferred",
            "Inference",
            KEY,
            ASKING,
            TENSORS,
            also=(RAW,),
        ),
    ]


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/healthz", "Whether the process is alive.", also=(TEXTUAL,)),
    Operation("GET", "/readyz", "Whether the node is ready, or why it is not.", "Ready", same={503: "Ready"}),
    Operation("GET", "/metrics", "The node's numbers, for Prometheus.", also=(TEXTUAL,)),
    Operation("GET", "/openapi.json", "This description.", "Description", None, KEY, (401, 403)),
    Operation(
        "POST",
        "/query",
        "A question to one node, some or all.",
        "Answer",
        "Question",
        PASSWORD,
        (400, 401, 403, 429, 501, 503),
        also=(LINES, ARROW),
    ),
    Operation(
        "GET",
        "/feed/{name}",
        "A change feed.",
        None,
        None,
        PASSWORD,
        (400, 401, 403, 404, 409, 429, 503),
        also=(STREAM,),
        parameters=("tables", "create"),
    ),
    Operation(
        "POST",
        "/api/search",
        "Rows by words and vectors.",
        "Found",
        "Search",
        PASSWORD,
        (400, 401, 403, 503),
    ),
    Operation(
        "GET",
        "/api/decisions/{id}",
        "Where one of the last routed requests went, and why.",
        "Decision",
        None,
        KEY,
        (400, 401, 403, 404),
    ),
    Operation(
        "POST",
        "/api/routes/explain",
        "Where a request would go now, and why.",
        "Decision",
        "Wish",
        KEY,
        (400, 401, 403, 404, 413, 503),
    ),
    Operation(
        "GET",
        "/api/jobs/{job}",
        "A request that is answered later.",
        "Job",
        None,
        KEY,
        (400, 401, 403, 404, 429, 503),
        also=(STREAM,),
        parameters=("wait",),
    ),
    Operation("DELETE", "/api/jobs/{job}", "End it.", "Job", None, KEY, (400, 401, 403, 404, 503)),
    Operation(
        "GET", "/v1/models", "All models of this node.", "Models", None, KEY, (401, 403), "LanguageError"
    ),
    Operation(
        "GET", "/v1/models/{model}", "One of them.", "Model", None, KEY, (401, 403, 404), "LanguageError"
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "Vectors of texts.",
        "Embeddings",
        "EmbeddingRequest",
        KEY,
        ASKING,
        "LanguageError",
        same={202: "Job"},
    ),
    _asking("/v1/chat/completions", "A chat.", "ChatRequest", "Chat"),
    _asking("/v1/completions", "A text goes on.", "CompletionRequest", "Completion"),
    _asking("/v1/responses", "A chat, as a response.", "ResponseRequest", "Response"),
    _asking("/v1/messages", "A chat, in Anthropic's protocol.", "MessageRequest", "Message", "MessageError"),
    Operation("GET", "/v2", "The server of tensor models.", "TensorServer", None, KEY, (401, 403), TENSORS),
    Operation("GET", "/v2/health/live", "Whether it is alive.", "Live"),
    Operation("GET", "/v2/health/ready", "Whether it can be asked.", "Live"),
    *_of_model("/v2/models/{model}", "What a model takes and gives."),
    *_of_model("/v2/models/{model}/versions/{version}", "What a version of it takes and gives."),
)


def openapi_route(check: Callable[[Request], object]) -> Route:
    """Whoever may list models may read it."""

    async def openapi(request: Request) -> Response:
        try:
            check(request)
        except AtollError as error:
            return failure(error)
        return JSONResponse(describe(OPERATIONS))

    return Route("/openapi.json", openapi, methods=["GET"])


def describe(operations: tuple[Operation, ...]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _described(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Atoll", "version": __version__, "description": "What a node speaks over HTTP."},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                KEY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "atoll key add NAME; on loopback none is needed.",
                },
                PASSWORD: {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The user app; atoll dsn shows the password.",
                },
            },
        },
    }


def _described(one: Operation) -> dict[str, Any]:
    answers = {JSON: ref(one.gives)} if one.gives else {}
    found: dict[str, Any] = {
        "summary": one.about,
        "responses": {"200": _answer(WORDS[200], answers | dict.fromkeys(one.also, TEXT))},
    }
    for status in sorted({*one.errors, *one.same}):
        schema = ref(one.same.get(status, one.error))
        found["responses"][str(status)] = _answer(WORDS[status], {JSON: schema})
    found["responses"]["default"] = _answer("Any other error.", {JSON: ref(one.error)})
    named = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    given = [("path", name) for name in named] + [("query", name) for name in one.parameters]
    if given:
        found["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "schema": TEXT} for place, name in given
        ]
    if one.takes:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": ref(one.takes)}}}
    if one.login:
        found["security"] = [{one.login: []}] + ([{}] if one.login == KEY else [])
    return found


def _answer(about: str, kinds: dict[str, Schema]) -> dict[str, Any]:
    return {"description": about, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}
