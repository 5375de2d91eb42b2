"""Reading the body of a request that asks a model: bounded, and a JSON object."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from atoll.domain.errors import DataError, LinkError

BODY_BYTES_MAX = 16 * 1024**2


async def read_object(request: Request, bytes_max: int = BODY_BYTES_MAX) -> dict[str, Any]:
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > bytes_max:
                raise DataError("request-too-large", f"a request has {bytes_max // 1024**2} MB at most")
            parts.append(chunk)
    except ClientDisconnect as error:
        raise LinkError("connection-lost", "the asker hung up") from error
    try:
        found = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise DataError("request-malformed", "the request is not JSON", detail=f"{error}.") from error
    if not isinstance(found, dict):
        raise DataError("request-malformed", "the request is not a JSON object")
    return found
