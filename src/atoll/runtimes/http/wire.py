"""Asks an engine over HTTP, on a Unix socket or far away: a stream of events, or one answer.

Leaving a stream closes its connection, which is what frees an engine. What went wrong becomes an error of the
contract here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import AtollError, LinkError
from atoll.runtimes import events, refusals
from atoll.runtimes.contract import Pouring
from atoll.runtimes.http.client import Client
from atoll.runtimes.http.connection import Connection

ANSWER_BYTES_MAX = 64 * 1024 * 1024
REFUSAL_BYTES_MAX = 64 * 1024
PROBLEMS = (OSError, UnicodeError, events.EventTooLong)  # the second where a host's name is none
Explain = Callable[[int, str, str | None], AtollError]
IsNoise = Callable[[bytes], bool]


@dataclass(frozen=True)
class Wire:
    """An engine's server, and how its refusals are understood."""

    client: Client
    explain: Explain = refusals.explain

    def stream(
        self, path: str, body: bytes, is_noise: IsNoise | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Events from the first that matters; entering waits for it."""
        return _Stream(self, path, body, is_noise)

    async def ask(self, path: str, body: bytes | None = None) -> Any:
        """The JSON of one answer; without a body it is asked what it says of itself."""
        connection = await self.open("GET" if body is None else "POST", path, body or b"")
        try:
            return json.loads(await _read(connection, ANSWER_BYTES_MAX))
        except ValueError:
            raise _broken("The answer is not JSON.") from None
        finally:
            self.client.leave(connection)

    async def open(self, method: str, path: str, body: bytes) -> Connection:
        # Whoever sends on to another place does not decide where questions go: that is a refusal, too.
        try:
            connection, reply = await self.client.ask(method, path, body)
        except PROBLEMS as error:
            raise _problem(error, is_early=True) from error
        if reply.status == 200:
            return connection
        try:
            text = (await _read(connection, REFUSAL_BYTES_MAX)).decode(errors="replace")
            retry_after = reply.fields.get(b"retry-after")
            raise self.explain(
                reply.status, text, None if retry_after is None else retry_after.decode(errors="replace")
            )
        finally:
            self.client.leave(connection)


class _Stream:
    def __init__(self, wire: Wire, path: str, body: bytes, is_noise: IsNoise | None) -> None:
        self._wire = wire
        self._asked = path, body
        self._is_noise = is_noise
        self._connection: Connection | None = None

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._connection = await self._wire.open("POST", *self._asked)
        try:
            found = _Events(self._connection, self._is_noise)
            await found.fill(is_early=True)
        except BaseException:
            await self.__aexit__()
            raise
        return found

    async def __aexit__(self, *problem: object) -> None:
        assert self._connection is not None
        self._wire.client.leave(self._connection)
        self._wire.client.prepare()


class _Events(Pouring):
    """The events of a stream, each as soon as it is whole."""

    def __init__(self, connection: Connection, is_noise: IsNoise | None) -> None:
        self._connection = connection
        self._is_noise = is_noise
        self._splitter = events.Splitter()
        self._waiting: list[bytes] = []  # the next one is the last
        self._is_over = False
        self._too_long: events.EventTooLong | None = None

    async def __anext__(self) -> bytes:
        if not self._waiting:
            await self.fill()
            if not self._waiting:
                raise StopAsyncIteration
        return _checked(self._waiting.pop())

    async def pour(self, hand_on: Callable[[bytes], bool]) -> None:
        has_noise, whole = self._is_noise is not None, self._splitter.whole

        def take(came: bytes) -> bool:
            try:
                block = whole(came)
            except events.EventTooLong as error:
                self._too_long = error
                return False
            if has_noise:
                block = b"".join(self._meant(events.split(block)))
            if b"error" in block and any(map(events.is_error, found := events.split(block))):
                self._waiting = found[::-1]
                return False
            return not block or hand_on(block)

        if any(map(events.is_error, self._waiting)):
            return
        here, self._waiting = b"".join(self._waiting[::-1]), []
        if (not here or hand_on(here)) and not self._is_over:
            await self._connection.pour(take)

    async def fill(self, is_early: bool = False) -> None:
        """Wait for events; there are none at the end."""
        while not self._waiting and not self._is_over:
            try:
                if self._too_long is not None:
                    raise self._too_long
                block = await self._connection.read()
                self._waiting = self._cut(block)[::-1]
            except PROBLEMS as error:
                raise _problem(error, is_early) from error
            self._is_over = not block
        if is_early and self._waiting:
            _checked(self._waiting[-1])

    def _cut(self, block: bytes) -> list[bytes]:
        return self._meant(self._splitter.feed(block) if block else self._splitter.last())

    def _meant(self, found: list[bytes]) -> list[bytes]:
        if self._is_noise is None:
            return found
        return [event for event in found if not self._is_noise(event)]


def _checked(event: bytes) -> bytes:
    if events.is_error(event):
        raise refusals.explain_event(events.content(event))
    return event


async def _read(connection: Connection, bytes_max: int) -> bytes:
    """An answer, cut off where it is too long."""
    found = bytearray()
    try:
        while len(found) <= bytes_max and (block := await connection.read()):
            found += block
    except PROBLEMS as error:
        raise _problem(error, is_early=True) from error
    return bytes(found[:bytes_max])


def _broken(detail: str) -> LinkError:
    return LinkError("runtime-broken", "could not answer: the engine is away", detail=detail)


def _problem(error: Exception, is_early: bool) -> LinkError:
    """An error of the connection in the words of the contract; early is what comes before the first event."""
    if isinstance(error, events.EventTooLong):
        return _broken("It sent an event without an end.")
    if not isinstance(error, TimeoutError):
        return _broken(f"The connection broke: {error or type(error).__name__}.")
    if is_early:
        return LinkError("runtime-slow", "could not begin in time", hint="Try again later.")
    return _broken("It fell silent in the middle of an answer.")
