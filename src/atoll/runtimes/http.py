"""Asks an engine over HTTP, on a Unix socket or far away: a stream of events, or one answer.

Leaving a stream closes its connection, which is what frees an engine. What went wrong becomes an error of the
contract here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from atoll.domain.errors import AtollError, LinkError
from atoll.runtimes import events, refusals

ANSWER_BYTES_MAX = 64 * 1024 * 1024
REFUSAL_BYTES_MAX = 64 * 1024
CONNECT_SECONDS_MAX = 10.0
Explain = Callable[[int, str, str | None], AtollError]


@dataclass(frozen=True)
class Wire:
    """How an engine is reached and how long it may be silent."""

    session: aiohttp.ClientSession
    base: str
    silence_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)
    explain: Explain = refusals.explain

    @asynccontextmanager
    async def stream(
        self, path: str, body: bytes, is_noise: Callable[[bytes], bool] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Events from the first that matters; entering waits for it."""
        with _translated("runtime-slow"):
            response = await self._post(path, body)
        try:
            async with aclosing(_events(response, is_noise)) as found:
                with _translated("runtime-slow"):
                    first = await anext(found, None)
                yield _from(first, found)
        finally:
            response.close()

    async def ask(self, path: str, body: bytes) -> Any:
        """The JSON of one answer."""
        with _translated("runtime-slow"):
            response = await self._post(path, body)
            try:
                return json.loads(await _read(response, ANSWER_BYTES_MAX))
            except ValueError:
                raise _broken("The answer is not JSON.") from None
            finally:
                response.close()

    async def _post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS_MAX, sock_read=self.silence_seconds
        )
        headers = {"Content-Type": "application/json", **self.headers}
        # Whoever sends on to another place does not decide where questions go.
        response = await self.session.post(
            self.base + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
        )
        if response.status == 200:
            return response
        try:
            text = (await _read(response, REFUSAL_BYTES_MAX)).decode(errors="replace")
            raise self.explain(response.status, text, response.headers.get("Retry-After"))
        finally:
            response.close()


async def _events(
    response: aiohttp.ClientResponse, is_noise: Callable[[bytes], bool] | None
) -> AsyncGenerator[bytes, None]:
    splitter = events.Splitter()
    async for block in response.content.iter_any():
        for event in splitter.feed(block):
            if events.is_error(event):
                raise refusals.explain_event(events.content(event))
            if is_noise is None or not is_noise(event):
                yield event
    for event in splitter.last():
        yield event


async def _from(first: bytes | None, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first is None:
        return
    yield first
    with _translated("runtime-broken"):
        async for event in rest:
            yield event


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """An answer, cut off where it is too long."""
    found = bytearray()
    async for block in response.content.iter_any():
        found += block
        if len(found) > bytes_max:
            break
    return bytes(found[:bytes_max])


def _broken(detail: str) -> LinkError:
    return LinkError("runtime-broken", "could not answer: the engine is away", detail=detail)


@contextmanager
def _translated(when_silent: str) -> Iterator[None]:
    """Errors of the connection in the words of the contract."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise _broken("It did not accept a connection in time.") from error
    except TimeoutError as error:
        if when_silent == "runtime-slow":
            raise LinkError("runtime-slow", "could not begin in time", hint="Try again later.") from error
        raise _broken("It fell silent in the middle of an answer.") from error
    except (aiohttp.ClientError, OSError, RuntimeError) as error:  # the last where the session was closed
        raise _broken(f"The connection broke: {error or type(error).__name__}.") from error
    except events.EventTooLong as error:
        raise _broken("It sent an event without an end.") from error
