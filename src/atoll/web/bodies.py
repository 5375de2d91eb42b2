"""Reading the body of a request: bounded, and where it has to be, a JSON object."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from atoll.domain.errors import DataError, LinkError

BODY_BYTES_MAX = 16 * 1024**2


async def read_body(request: Request, bytes_max: int, code: str, what: str) -> bytes:
    """`code` and `what` say what is wrong with a body that is too long."""
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > bytes_max:
                raise DataError(code, f"{what} has {bytes_max // 1024} kB at most")
            parts.append(chunk)
    except ClientDisconnect as error:
        raise LinkError("connection-lost", "the asker hung up") from error
    return b"".join(parts)


async def read_object(request: Request) -> dict[str, Any]:
    """What is asked of a model."""
    body = await read_body(request, BODY_BYTES_MAX, "request-too-large", "a request")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError("request-malformed", "the request is not JSON", detail=f"{error}.") from error
    if not isinstance(found, dict):
        raise DataError("request-malformed", "the request is not a JSON object")
    return found
