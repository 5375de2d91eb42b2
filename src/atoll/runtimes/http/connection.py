"""A connection to a server: one request at a time, its reply as it comes, and how long it may be still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from atoll.runtimes.http.replies import BrokenReply, Reply

HELD_BYTES_MAX = 256 * 1024


class Connection(asyncio.Protocol):
    """Errors are those of a connection: ConnectionError and other OSErrors, TimeoutError after silence."""

    _transport: asyncio.Transport

    def __init__(self, ended: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._reply: Reply | None = None
        self._held = b""  # of the body, not read yet
        self._take: Callable[[bytes], bool] | None = None
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._still_max = 0.0  # seconds
        self._unsent = 0

    async def ask(self, request: bytes, silence_seconds: float) -> Reply:
        """Send a request, and wait for the head of its reply."""
        self._reply = reply = Reply()
        self._be_heard_within(silence_seconds)
        self._transport.write(request)
        self._unsent = self._transport.get_write_buffer_size()
        while not reply.status:
            await self._change()
        return reply

    async def read(self) -> bytes:
        """What has come of the reply's body; nothing at its end."""
        while not self._held:
            if self._is_over():
                return b""
            await self._change()
        found, self._held = self._held, b""
        if self._is_paused:
            self._is_paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()
        return found

    async def pour(self, take: Callable[[bytes], bool]) -> None:
        """Give it what comes of the body as it comes, until it wants no more, or nothing more comes."""
        self._take = None if self._held else take
        try:
            while self._take is not None and self._error is None and not self._is_over():
                await self._change()
        finally:
            self._take = None

    def _is_over(self) -> bool:
        return self._reply is None or self._reply.is_over

    @property
    def is_free(self) -> bool:
        """Another request can be sent on it."""
        has_room = self._reply is None or (self._reply.may_stay and not self._held)
        return (
            has_room
            and self._error is None
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    def rest(self, seconds_max: float) -> None:
        """Keep it open for so long, until somebody asks again."""
        self._reply = None
        self._be_heard_within(seconds_max)

    def close(self) -> None:
        """Nobody reads on. A server that is still at work sees it end."""
        self._break(ConnectionAbortedError("it was closed on this side"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        source = reply and (reply.body or reply)
        if source is None or source.is_over:
            self.close()  # nobody asked
            return
        self._heard_at = self._loop.time()
        try:
            found = source.feed(data)
        except BrokenReply as error:
            self._break(error)
            return
        if found and self._take is not None:
            if self._take(found) and not source.is_over:
                return
            self._take = None
        elif found:
            self._hold(found)
        self._wake()

    def _hold(self, found: bytes) -> None:
        self._held = self._held + found if self._held else found
        if len(self._held) > HELD_BYTES_MAX and not self._is_over():
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if exc is None and self._reply is not None:
                self._reply.end()
        except BrokenReply as error:
            exc = error
        self._end(exc or ConnectionResetError("it was closed by the server"))
        if self._timer is not None:
            self._timer.cancel()
        self._ended(self)

    def _break(self, error: Exception) -> None:
        self._end(error)
        self._transport.abort()

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    async def _change(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _be_heard_within(self, seconds: float) -> None:
        """From now on. A timer that is set already finds out by itself how long is left."""
        self._heard_at, self._still_max = self._loop.time(), seconds
        due = self._heard_at + seconds
        if self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        now, unsent = self._loop.time(), self._transport.get_write_buffer_size()
        if self._is_paused or unsent < self._unsent:
            self._heard_at = now  # it is this side that is slow, or it takes what it is sent
        self._unsent = unsent
        due = self._heard_at + self._still_max
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self._timer = None
        self._break(TimeoutError("it was silent"))
