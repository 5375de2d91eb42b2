"""Requests that are answered later: `prefer: respond-async` or `"queue": true`, and `/api/jobs/ID`.

A job belongs to whoever asked for it: the same key, or the application's role, reads and cancels it, on any
node that knows of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from atoll.domain.errors import AtollError, DataError
from atoll.router.jobs.queue import DEADLINE_SECONDS, TRIES, JobQueue, Told
from atoll.web.callers import failure
from atoll.web.fields import fields
from atoll.web.keys import APP

WAIT_SECONDS_MAX = 60.0
STREAM_SECONDS_MAX = 300.0
BEAT_SECONDS = 15.0
PREFERENCES = re.compile(r'([a-z-]+)(?:\s*=\s*"?([^",;]*)"?)?', re.IGNORECASE)
OPTIONS = ("scope", "deadline_seconds", "tries", "wait_seconds")
Check = Callable[[Request], object]


@dataclass(frozen=True)
class Later:
    """How somebody wants to be answered who does not wait, or only so long."""

    scope: str = "global"
    deadline_seconds: float = DEADLINE_SECONDS
    tries: int = TRIES
    wait_seconds: float = 0.0


def read_later(request: Request, body: dict[str, Any]) -> Later | None:
    """Takes `queue` out of the body; nothing where the caller wants an answer now."""
    given = body.pop("queue", None)
    told = fields(request).get("prefer")
    preferred = {name.lower(): value for name, value in PREFERENCES.findall(told)} if told else {}
    if given is None or given is False:
        if "respond-async" not in preferred:
            return None
        given = {}
    options = {} if given is True else given
    if not isinstance(options, dict):
        raise _malformed("queue is neither true nor an object")
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise _malformed(f'queue has no option "{unknown[0]}"')
    wait = options.get("wait_seconds", preferred.get("wait") or 0)
    return Later(
        _text(options.get("scope", "global")),
        _number("deadline_seconds", options.get("deadline_seconds", DEADLINE_SECONDS), 30 * 86_400),
        round(_number("tries", options.get("tries", TRIES), 100)),
        _number("wait", wait, WAIT_SECONDS_MAX),
    )


async def answer_later(
    jobs: JobQueue,
    later: Later,
    model: str,
    path: str,
    body: Mapping[str, Any],
    scopes: frozenset[str],
    caller: object,
) -> Response:
    """202 and where to ask; or the answer itself, where it comes while the caller waits."""
    asked = {name: value for name, value in body.items() if name != "stream"}
    job = await jobs.queue(
        model,
        path,
        asked,
        scopes=(later.scope, *scopes),
        caller=caller if isinstance(caller, str) else None,
        deadline_seconds=later.deadline_seconds,
        tries=later.tries,
    )
    told = await jobs.wait(job, later.wait_seconds)
    headers = {"location": f"/api/jobs/{job}"}
    if told.state == "done":
        return JSONResponse({**told.result, "job": str(job)}, headers=headers)
    return JSONResponse(job_words(told), status_code=202, headers=headers)


def job_routes(jobs: JobQueue, check: Check) -> list[Route]:
    """`check` says who asks, and refuses those who may not."""

    async def read(request: Request) -> Response:
        try:
            told = await _own(request)
            if "text/event-stream" in request.headers.get("accept", ""):
                head = {"cache-control": "no-store"}
                return StreamingResponse(_events(jobs, told), media_type="text/event-stream", headers=head)
            wait = _number("wait", request.query_params.get("wait", 0), WAIT_SECONDS_MAX)
            if wait and not told.is_final:
                told = await jobs.wait(told.id, wait)
        except AtollError as error:
            return failure(error)
        return JSONResponse(job_words(told))

    async def cancel(request: Request) -> Response:
        try:
            told = await _own(request)
            await jobs.cancel(told.id)
            told = await jobs.read(told.id)
        except AtollError as error:
            return failure(error)
        return JSONResponse(job_words(told))

    async def _own(request: Request) -> Told:
        caller = check(request)
        given = request.path_params["job"]
        told = (
            await jobs.read(int(given)) if given.isascii() and given.isdigit() and len(given) < 19 else None
        )
        if told is None or (caller != APP and told.caller != caller):
            raise DataError("job-unknown", f'there is no job "{given}" of this caller on this node')
        return told

    return [
        Route("/api/jobs/{job}", read, methods=["GET"]),
        Route("/api/jobs/{job}", cancel, methods=["DELETE"]),
    ]


async def _events(jobs: JobQueue, told: Told) -> AsyncIterator[bytes]:
    """Each state as an event, to the last one or until it is time to come back."""
    ends_at = asyncio.get_running_loop().time() + STREAM_SECONDS_MAX
    yield _event(told)
    while not told.is_final and asyncio.get_running_loop().time() < ends_at:
        before, told = told, await jobs.wait(told.id, BEAT_SECONDS)
        yield _event(told) if told != before else b": still here\n\n"


def _event(told: Told) -> bytes:
    return b"event: job\ndata: " + json.dumps(job_words(told)).encode() + b"\n\n"


def job_words(told: Told) -> dict[str, Any]:
    """A job as JSON. Its id is a text: it has more digits than a number of JavaScript holds."""
    return {
        "id": str(told.id),
        "object": "job",
        "url": f"/api/jobs/{told.id}",
        "model": told.model,
        "state": told.state,
        "scope": told.scope,
        "asked_by": told.asked_by,
        "done_by": told.done_by,
        "tries": told.tries,
        "problem": told.problem,
        "made_at": told.made_at.isoformat(),
        "deadline": told.deadline.isoformat(),
        "ended_at": told.ended_at.isoformat() if told.ended_at else None,
        "result": told.result,
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _malformed("scope is no text")
    return value


def _number(name: str, value: Any, most: float) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found <= most:
        raise _malformed(f"{name} is not a number from 0 to {most:g}")
    return found


def _malformed(message: str) -> DataError:
    return DataError(
        "job-malformed",
        message,
        hint='For example: "queue": {"scope": "region:eu", "deadline_seconds": 3600, "wait_seconds": 10}',
    )
