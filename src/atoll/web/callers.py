"""Whoever calls over HTTP: whether they may, what they are told where they may not, and when they are gone.

Applications show the password of the application's role (HTTP Basic, user `app`).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import math
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError, PolicyDenied
from atoll.web.plain import WHEN_GONE

USER = "app"
STATUSES = {
    "login-wrong": 401,
    "key-wrong": 401,
    "model-unknown": 404,
    "request-too-large": 413,
    "runtime-crowded": 429,
    "rate-exceeded": 429,
    "budget-spent": 429,
    "model-too-large": 503,
    "deadline-passed": 504,
    "decision-unknown": 404,
    "feed-unknown": 404,
    "feed-position": 409,
    "feed-exists": 409,
    "job-unknown": 404,
    "jobs-many": 429,
    "jobs-crowded": 429,
    "question-crowded": 429,
    "feed-crowded": 429,
    "path-unknown": 404,
    "method-wrong": 405,
}
FAMILIES = ((PolicyDenied, 403), (DataError, 400), (LinkError, 503), (ConfigError, 501))


def check_login(request: Request, password: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    try:
        found = base64.b64decode(given, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        found = b""
    if not hmac.compare_digest(found, f"{USER}:{password}".encode()):
        raise PolicyDenied(
            "login-wrong",
            "the user or password is wrong",
            hint=f"The user is {USER}; atoll dsn shows the password.",
        )


def failure(error: AtollError) -> Response:
    headers = retry_headers(error)
    if error.code == "login-wrong":
        headers["WWW-Authenticate"] = 'Basic realm="atoll"'
    return JSONResponse({"error": told(error)}, status_code=status_of(error), headers=headers)


def told(error: AtollError) -> dict[str, str | None]:
    return {"code": error.code, "message": error.message, "detail": error.detail, "hint": error.hint}


def status_of(error: AtollError) -> int:
    if error.code in STATUSES:
        return STATUSES[error.code]
    return next((status for family, status in FAMILIES if isinstance(error, family)), 500)


def retry_headers(error: AtollError) -> dict[str, str]:
    """When to ask again: as whoever is behind this node has said, else in a moment."""
    if status_of(error) not in (429, 503):
        return {}
    return {"Retry-After": f"{math.ceil(getattr(error, 'retry_after_seconds', None) or 1)}"}


async def while_there(scope: Scope, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and give it up when the caller has gone."""
    working, has_gone = asyncio.current_task(), False
    assert working is not None

    def end() -> None:
        nonlocal has_gone
        has_gone = True
        working.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        end()

    when_gone = scope.get(WHEN_GONE)  # a connection that tells it spares a task
    forget = asyncio.create_task(watch()).cancel if when_gone is None else when_gone(end)
    try:
        await work
    except asyncio.CancelledError:
        if not has_gone or working.uncancel():
            raise  # somebody else wants it to end
    finally:
        forget()
