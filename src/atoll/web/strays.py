"""Requests that no route answers, and answers that went wrong unforeseen, in the protocol of their path."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atoll.domain.errors import AtollError, DataError
from atoll.web import callers, language, tensors


async def refuse(request: Request, error: Exception) -> Response:
    """There is no such path, or it has no such method."""
    path = request.url.path
    if not isinstance(error, HTTPException) or error.status_code != 405:
        return in_words_of(path, DataError("path-unknown", f'there is no path "{path}"', hint=SEE))
    response = in_words_of(
        path, DataError("method-wrong", f'"{path}" has no method {request.method}', hint=SEE)
    )
    response.headers.update(error.headers or {})
    return response


async def confess(request: Request, error: Exception) -> Response:
    """The error itself is in the node's log."""
    return in_words_of(
        request.url.path,
        AtollError("node-wrong", "the node could not answer, for a reason that is its own fault", hint=LOG),
    )


def in_words_of(path: str, error: AtollError) -> Response:
    if path.startswith("/v1/"):
        return language.refusal(error, path)
    return tensors.refusal(error) if path.startswith("/v2") else callers.failure(error)


SEE = "GET /openapi.json says what there is."
LOG = "See its log: atoll logs"
