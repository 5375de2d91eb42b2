"""Streams to one peer's models, kept for the next request: opening one costs a handshake.

A request has a stream of its own while it is answered. Who leaves an answer early takes the request back, so
that the peer's engine is free at once, and the stream is used again when the peer has agreed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from atoll.domain.errors import AtollError, LinkError
from atoll.link.stream import Stream
from atoll.link.wire import decode_message
from atoll.link.wire_errors import from_wire
from atoll.runtimes.gate import Gate
from atoll.runtimes.peer.messages import Channel, Kind, encode

AT_ONCE, WAITING, QUEUE_SECONDS = 32, 128, 30.0
IDLE_MAX, IDLE_SECONDS = 8, 60.0
LEAVING_MAX, LEAVE_SECONDS = 16, 5.0
log = logging.getLogger(__name__)


class Answer:
    """What a peer answers, message by message."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.channel = channel
        self.is_over = False
        self._name = name
        self._first: tuple[Kind, bytes] | None = None

    async def begin(self) -> None:
        """Wait for the first message; it is looked at by whoever asks for it."""
        self._first = await self._read()

    async def next(self) -> tuple[Kind, bytes] | None:
        """The next message; None at the end. What the peer refused is raised as it said."""
        try:
            kind, content = self._first or await self._read()
        except LinkError as error:
            raise away(self._name, error, "it broke off in the middle of an answer") from error
        self._first = None
        if kind is not Kind.DONE:
            return kind, content
        self.is_over = True
        if content:
            raise _told(from_wire(decode_message(content)), self._name)
        return None

    async def _read(self) -> tuple[Kind, bytes]:
        found = await self.channel.next()
        if found is None:
            raise LinkError("stream-ended", "the peer ended the stream")
        return found


class Pool:
    def __init__(self, name: str, open_stream: Callable[[], Awaitable[Stream]]) -> None:
        """`name` is the peer's, for people."""
        self.name = name
        self._open_stream = open_stream
        self._gate = Gate(AT_ONCE, WAITING, QUEUE_SECONDS)
        self._idle: list[tuple[Channel, asyncio.TimerHandle]] = []
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @asynccontextmanager
    async def ask(self, request: Sequence[bytes]) -> AsyncIterator[Answer]:
        """Send these messages; entered when the first of the answer is there."""
        async with self._gate:
            answer = await self._begin(request)
            try:
                yield answer
            finally:
                self._let_go(answer)

    async def _begin(self, request: Sequence[bytes]) -> Answer:
        while True:
            channel, is_warm = self._warm(), True
            try:
                if channel is None:
                    channel, is_warm = Channel(await self._open_stream()), False
            except AtollError as error:
                raise away(self.name, error) from error
            answer = Answer(channel, self.name)
            try:
                for message in request:
                    await channel.write(message)
                await answer.begin()
            except LinkError as error:
                channel.close(error)
                # One that was kept may have ended meanwhile; nothing was answered on it.
                if not is_warm:
                    raise away(self.name, error) from error
            except BaseException:
                self._let_go(answer)
                raise
            else:
                return answer

    def _warm(self) -> Channel | None:
        while self._idle:
            channel, timer = self._idle.pop()
            timer.cancel()
            if channel.is_whole:
                return channel
            channel.close()
        return None

    def _let_go(self, answer: Answer) -> None:
        channel = answer.channel
        if answer.is_over and channel.is_whole:
            self._keep(channel)
        elif channel.is_whole and len(self._leaving) < LEAVING_MAX:
            task = asyncio.ensure_future(self._take_back(channel))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        else:
            channel.close(LinkError("asker-left", "nobody waits for the answer any more"))

    async def _take_back(self, channel: Channel) -> None:
        """Let the peer stop, and read what was on its way."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await channel.write(encode(Kind.BACK))
                while (found := await channel.next()) is not None and found[0] is not Kind.DONE:
                    pass
        except (AtollError, TimeoutError) as error:
            log.debug('node "%s" did not take a request back: %s', self.name, error)
            channel.close(LinkError("asker-left", "nobody waits for the answer any more"))
        except BaseException:
            channel.close()
            raise
        else:
            self._keep(channel)

    def _keep(self, channel: Channel) -> None:
        if len(self._idle) >= IDLE_MAX or not channel.is_whole:
            channel.close()
            return
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop, channel)
        self._idle.append((channel, timer))

    def _drop(self, channel: Channel) -> None:
        self._idle = [one for one in self._idle if one[0] is not channel]
        channel.close()


def away(name: str, error: AtollError, why: str = "") -> LinkError:
    """Another place may answer instead: for whoever asks, a peer that is away is a broken engine."""
    told = f"{error.message[:1].upper()}{error.message[1:]}."
    return LinkError(
        "runtime-broken",
        f'could not get an answer from node "{name}"' + (f": {why}" if why else ""),
        detail=f"{told} {error.detail}" if error.detail else told,
    )


def _told(error: AtollError, name: str) -> AtollError:
    # What it offered a moment ago is there no more; the caller's request is as good as before.
    return away(name, error) if error.code == "model-unknown" else error
