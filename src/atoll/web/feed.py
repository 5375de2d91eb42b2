"""`GET /feed/NAME`: a change feed as server-sent events, one event per change.

An event's id is its place. Nobody can tell what a reader has really had, so the feed moves only when one
comes back with the id of the last event (`Last-Event-ID`). A stream that has something unconfirmed ends after
a while, and the reader comes back by itself. The latest reader of a feed has it; the one before is told so.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.data.feed import Change, Place, Reading, explain, parse_place
from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.web.callers import check_login, failure, told, while_there

READERS_MAX = 32
STEP = 20
UNCONFIRMED_MAX = 10_000
UNCONFIRMED_SECONDS_MAX = 30.0
BEAT_SECONDS = 15.0
SLOW_SECONDS_MAX = 30.0
LEAVING_SECONDS_MAX = 5.0
AGAIN_MS = 100
AGAIN_AFTER_ERROR_MS = 30_000
PARAMETERS = {"tables", "create"}
HEAD = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[psycopg.AsyncConnection[Any]]]


def feed_route(connect: Connect, password: Callable[[], str], bounds: Bounds | None = None) -> Route:
    readers = _Readers()

    async def feed(request: Request) -> Response:
        try:
            check_login(request, password())
            asked = _read(request)
        except AtollError as error:
            return failure(error)
        return cast("Response", _Stream(connect, readers, asked, bounds or Bounds()))

    return Route("/feed/{name}", feed, methods=["GET"])


@dataclass(frozen=True)
class Bounds:
    unconfirmed_max: int = UNCONFIRMED_MAX
    unconfirmed_seconds_max: float = UNCONFIRMED_SECONDS_MAX
    slow_seconds_max: float = SLOW_SECONDS_MAX


@dataclass(frozen=True)
class _Asked:
    name: str
    tables: list[str] | None
    """None where the feed has to be there already."""
    had: Place | None


def _read(request: Request) -> _Asked:
    given = request.query_params
    creates = given.get("create", "false")
    if unknown := sorted(set(given) - PARAMETERS):
        raise DataError(
            "feed-request", f'a feed has no parameter "{unknown[0]}"', hint="There are tables and create."
        )
    if creates not in ("true", "false") or ("tables" in given and creates == "false"):
        raise DataError(
            "feed-request",
            "cannot understand what is asked of the feed",
            hint="A feed is made with create=true, and tables=a,b where it is not over all.",
        )
    tables = [name for name in given.get("tables", "").split(",") if name]
    last = request.headers.get("last-event-id", "")
    return _Asked(
        request.path_params["name"],
        tables if creates == "true" else None,
        parse_place(last) if last else None,
    )


@dataclass
class _Reader:
    task: asyncio.Task[None]
    is_followed: bool = False
    """Another reader has come."""


@dataclass
class _Readers:
    """Who reads which feed; each feed has one reader."""

    _reading: dict[str, _Reader] = field(default_factory=dict)

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[_Reader]:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        mine, before = _Reader(task), self._reading.get(name)
        if before is None and len(self._reading) >= READERS_MAX:
            raise LinkError("feed-crowded", f"{READERS_MAX} feeds are read already", hint="Try again later.")
        self._reading[name] = mine
        try:
            if before is not None:
                before.is_followed = True
                before.task.cancel()
                await asyncio.wait({before.task}, timeout=LEAVING_SECONDS_MAX)
            yield mine
        finally:
            if self._reading.get(name) is mine:
                del self._reading[name]


class _Stream:
    """A response that goes on for as long as its reader is there."""

    background = None

    def __init__(self, connect: Connect, readers: _Readers, asked: _Asked, bounds: Bounds) -> None:
        self._connect = connect
        self._readers = readers
        self._asked = asked
        self._bounds = bounds
        self._is_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_there(scope, receive, self._serve(scope, receive, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._readers.take(self._asked.name) as reader:
                await self._read_for(reader, send)
        except TimeoutError:
            log.warning(
                "the reader of feed %s took nothing for %s s", self._asked.name, self._bounds.slow_seconds_max
            )
            return
        except AtollError as error:
            failed: AtollError = error
        except psycopg.Error as error:
            failed = explain(error)
        else:
            return
        if self._is_begun:
            await self._end(
                send, f"retry: {AGAIN_AFTER_ERROR_MS}\nevent: error\ndata: {json.dumps(told(failed))}\n\n"
            )
        else:
            await failure(failed)(scope, receive, send)

    async def _read_for(self, reader: _Reader, send: Send) -> None:
        try:
            async with await self._connect() as connection:
                await self._follow(Reading(connection, self._asked.name), send)
        except asyncio.CancelledError:
            if not reader.is_followed:
                raise
            raise LinkError("feed-taken", "another reader has this feed now") from None

    async def _follow(self, reading: Reading, send: Send) -> None:
        await reading.open(self._asked.tables)
        if self._asked.had is not None:
            await reading.move(self._asked.had)
        await send({"type": "http.response.start", "status": 200, "headers": HEAD})
        self._is_begun = True
        await self._send(send, f"retry: {AGAIN_MS}\n\n")
        loop = asyncio.get_running_loop()
        unconfirmed, since, said_at = 0, 0.0, loop.time()
        while unconfirmed < self._bounds.unconfirmed_max:
            if unconfirmed and loop.time() - since >= self._bounds.unconfirmed_seconds_max:
                break
            changes = await reading.next(STEP)
            for change in changes:
                await self._send(send, _event(change))
            if changes:
                since = since if unconfirmed else loop.time()
                unconfirmed += sum(len(change.rows) for change in changes)
                said_at = loop.time()
            elif loop.time() - said_at >= BEAT_SECONDS:
                await self._send(send, ": still here\n\n")
                said_at = loop.time()
        await self._end(send, ": come back with the last id\n\n")

    async def _send(self, send: Send, text: str, *, is_last: bool = False) -> None:
        """Waits while the reader does not take what was sent before."""
        async with asyncio.timeout(self._bounds.slow_seconds_max):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": not is_last})

    async def _end(self, send: Send, text: str) -> None:
        await self._send(send, text, is_last=True)


def _event(change: Change) -> str:
    first = change.rows[0]
    data = {
        "table": first.table,
        "origin": first.origin,
        "at": first.at.isoformat(),
        "rows": [{"op": row.op, "row": row.row} for row in change.rows],
    }
    return f"id: {change.place}\nevent: change\ndata: {json.dumps(data)}\n\n"
