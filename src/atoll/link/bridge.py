"""Joins one local socket and one stream: bytes both ways, half-close, and back-pressure both ways.

It holds at most one chunk and what the operating system's and TLS's buffers take. The filter of the far end
is handed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from atoll.domain.errors import AtollError, LinkError
from atoll.link.startup import FrontendGuard, Refused
from atoll.link.stream import Stream

BUFFER_BYTES = 64 * 1024
FLUSH_SECONDS_MAX = 10.0


class Bridge(asyncio.BufferedProtocol):
    def __init__(
        self,
        *,
        gone: Callable[[Bridge], None],
        connected: Callable[[Bridge], None] | None = None,
        guard: FrontendGuard | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self._gone = gone
        self._connected = connected
        self._guard = guard
        self._refused = refused
        self._transport: asyncio.Transport | None = None
        self._stream: Stream | None = None
        self._is_lost = self._is_refused = False
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def join(self, stream: Stream) -> None:
        """The stream is there: let the bytes flow."""
        if self._is_lost:
            stream.close()
            return
        self._stream = stream
        stream.attach(self)
        self.may_send(stream.is_ready)

    def refuse(self, response: bytes) -> None:
        """Answer the local side and let it hang up: what it still sends is read, so that it is not reset."""
        if self._transport is None or self._is_lost:
            return
        self._is_refused = True
        self._transport.write(response)
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(FLUSH_SECONDS_MAX, self._give_up)

    def close(self) -> None:
        """Let what was received reach the local side, then close both."""
        if self._transport is not None and not self._is_lost:
            self._transport.close()
            asyncio.get_running_loop().call_later(FLUSH_SECONDS_MAX, self._give_up)
        if self._stream is not None:
            self._stream.close()

    def _give_up(self) -> None:
        # A transport that has flushed and closed cannot be aborted any more.
        if self._transport is not None and not self._is_lost:
            self._transport.abort()

    # What asyncio calls for the local socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._hold_still)
        if self._connected is not None:
            self._connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._stream is not None:
            self._stream.send(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        if self._stream is not None:
            self._stream.send_end()
        # PostgreSQL (behind the guard) never half-closes: its end is the end.
        return self._guard is None and not self._is_refused

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.pause_reading()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._stream is not None:
            broke = LinkError("local-lost", "the local connection broke", detail=f"{exc}.") if exc else None
            self._stream.close(broke)
        self._gone(self)

    def _hold_still(self) -> None:
        """Pause once more: in Python 3.11.2, reading starts after `connection_made` all the same."""
        if self._stream is None and self._transport is not None and not self._is_refused:
            self._transport.resume_reading()
            self._transport.pause_reading()

    # Sink of the stream

    def data(self, chunk: bytes | memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._guard is None:
            self._transport.write(bytes(chunk))
            return
        try:
            allowed = self._guard.feed(chunk)
        except Refused as error:
            self._turn_away(error)
        else:
            self._transport.write(allowed)

    def ended(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def may_send(self, ready: bool) -> None:
        if self._transport is None or self._is_lost or self._transport.is_closing():
            return
        if ready and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not ready and self._transport.is_reading():
            self._transport.pause_reading()

    def closed(self, error: AtollError | None) -> None:
        if error is None and self._transport is not None:
            # Everything arrived; the local side may take as long as it needs for the rest.
            self._transport.close()
        else:
            self.close()

    def _turn_away(self, error: Refused) -> None:
        if self._refused is not None:
            self._refused(error.message)
        if self._stream is not None:
            self._stream.send(error.response)
            self._stream.close(LinkError("startup", error.message))
        if self._transport is not None:
            self._transport.abort()
