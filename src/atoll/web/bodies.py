"""Reading the body of a request: bounded in size and time, and where it has to be, a JSON object."""

from __future__ import annotations

import asyncio
import codecs
from typing import Any

from starlette.requests import ClientDisconnect, Request

from atoll.domain.errors import DataError, LinkError
from atoll.runtimes.bodies import is_deeper
from atoll.web.plain import WHOLE

BODY_BYTES_MAX = 16 * 1024**2
BODY_SECONDS_MAX = 60.0
LEVELS_MAX = 64


async def read_body(request: Request, bytes_max: int, code: str, what: str) -> bytes:
    """`code` and `what` say what is wrong with a body that is too long.

    Of one that is, the rest is read and forgotten, up to as much again: a caller that is still sending would
    see the connection break, and not the reason.
    """
    take_whole = request.scope.get(WHOLE)
    body = take_whole() if take_whole is not None else None
    if body is None:
        body = await _read(request, bytes_max)
    if body is None or len(body) > bytes_max:
        raise DataError(code, f"{what} has {bytes_max // 1024} kB at most")
    return body


async def _read(request: Request, bytes_max: int) -> bytes | None:
    """As it comes; nothing where it is too long."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.stream():
                size += len(chunk)
                if size > 2 * bytes_max:
                    break
                if size > bytes_max:
                    parts.clear()
                else:
                    parts.append(chunk)
    except ClientDisconnect as error:
        raise LinkError("connection-lost", "the asker hung up") from error
    except TimeoutError as error:
        raise LinkError("connection-lost", "the request did not come to its end in time") from error
    return b"".join(parts) if size <= bytes_max else None


async def read_object(request: Request) -> dict[str, Any]:
    """What is asked of a model."""
    body = await read_body(request, BODY_BYTES_MAX, "request-too-large", "a request")
    try:
        found = load(body)
    except ValueError as error:
        raise DataError("request-malformed", "cannot read the request as JSON", detail=f"{error}.") from error
    if not isinstance(found, dict):
        raise DataError("request-malformed", "the request is not a JSON object")
    return found


def load(body: bytes) -> Any:
    """JSON of few levels; ValueError where it is none."""
    found = _parse(body)
    if body.count(b"[") + body.count(b"{") > LEVELS_MAX and is_deeper(found, LEVELS_MAX):
        raise ValueError(f"it has more than {LEVELS_MAX} levels")
    return found


def _parse(body: bytes) -> Any:
    """Strictly: what passes for JSON elsewhere (NaN, half of a surrogate pair) cannot be told to others."""
    import orjson

    return orjson.loads(body.removeprefix(codecs.BOM_UTF8))
