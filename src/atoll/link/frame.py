"""A connection of frames, and its keep-alive.

`Framed` is the asyncio protocol right above TLS. It cuts the byte stream into frames for a `Receiver`, sends
a frame whenever it has been quiet for a while, and gives a peer up that has been silent for too long. What
frames mean is left to the greeting, the control connection and the streams.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any, Protocol, cast

from atoll.domain.errors import AtollError, LinkError
from atoll.link.settings import LinkSettings
from atoll.link.traffic import Traffic
from atoll.link.wire import (
    HEADER_BYTES,
    LENGTH_MASK,
    SHORT_KINDS,
    Kind,
    decode_message,
    encode_header,
    encode_message,
)
from atoll.link.wire_errors import from_wire, to_wire

FIRST_BUFFER_BYTES = 64 * 1024
WATCH_SECONDS_MIN = 0.005
TRIPS_KEPT = 8
HURRY = 0.05


class Receiver(Protocol):
    """Whoever makes sense of the frames of one connection."""

    def data_received(self, chunk: memoryview) -> None:
        """A part of a DATA frame; the memory is only valid during the call."""

    def frame_received(self, kind: Kind, payload: bytes) -> None:
        """A whole PACKED, EOF or MESSAGE frame."""

    def writable(self, ready: bool) -> None:
        """The network has, or no longer has, room for more."""

    def closed(self, error: AtollError | None) -> None:
        """The connection is gone; called exactly once. None means that it was closed in order."""


class Framed(asyncio.BufferedProtocol):
    def __init__(
        self, settings: LinkSettings, receiver: Receiver, traffic: Traffic, live: set[Framed]
    ) -> None:
        """It is in `live` from when it is connected until it has closed."""
        self._live = live
        self.settings = settings
        self.traffic = traffic
        self.measures_rtt = False
        self.frame_bytes_max = settings.greeting_bytes_max
        self._trips: deque[float] = deque(maxlen=TRIPS_KEPT)
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(FIRST_BUFFER_BYTES))
        self._start = self._end = self._data_left = 0
        self._held = self._paused = self._closing = self._done = False
        self._error: AtollError | None = None
        self._heard_at = self._sent_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._watch_due = self._heard_at
        self._drained = asyncio.Event()
        self._drained.set()

    # What the owner of a connection does

    def adopt(self, receiver: Receiver, traffic: Traffic, frame_bytes_max: int) -> None:
        """Hand the connection, greeted by now, to the one who will use it; held-back frames follow."""
        traffic.wire_in_bytes += self.traffic.wire_in_bytes
        traffic.wire_out_bytes += self.traffic.wire_out_bytes
        self.traffic = traffic
        self.frame_bytes_max = frame_bytes_max
        self._receiver = receiver
        if self._done:
            receiver.closed(self._error)
        else:
            self._loop.call_soon(self.release)

    def hold(self) -> None:
        """Stop after the frame being delivered; the rest waits for `release`."""
        self._held = True
        self._pause_transport()

    def release(self) -> None:
        self._held = False
        self._continue()

    def pause_reading(self) -> None:
        """Back-pressure: deliver nothing more, and take nothing more from the network.

        Frames that were read stay packed meanwhile: a few kilobytes of them can be megabytes of data.
        """
        self._paused = True
        self._pause_transport()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._continue)

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        self.send_frame(encode_header(kind, len(payload)) + payload)

    def send_frame(self, frame: bytes | memoryview) -> None:
        """Send bytes that already begin with their header."""
        if self._transport is None or self._closing or self._done:
            return
        self._sent_at = self._loop.time()
        self.traffic.wire_out_bytes += len(frame)
        # A view, because TLS takes 16 KiB at a time and slicing bytes would copy the rest each time.
        self._transport.write(memoryview(frame))

    def send_message(self, content: dict[str, Any]) -> None:
        self.send(Kind.MESSAGE, encode_message(content, self.frame_bytes_max))

    async def drained(self) -> None:
        """Wait until the network has room, or the connection is gone."""
        await self._drained.wait()

    def close(self, error: AtollError | None = None) -> None:
        """Say goodbye (with a reason), let what is queued leave, and close; by force after a while."""
        self.finish(error)
        self._close_transport()

    def finish(self, error: AtollError | None = None) -> None:
        """Say goodbye and leave closing to the peer, who first takes what is on its way, however slowly.

        Keep-alive ends it when the peer is gone.
        """
        if self._closing or self._done:
            return
        self.send(Kind.CLOSE, encode_message(to_wire(error)) if error else b"")
        self._closing = True
        self._error = self._error or error
        # Now that nothing is delivered any more, whatever arrives is only a sign of life.
        self._held = self._paused = False
        self._resume_transport()

    def abort(self, error: AtollError) -> None:
        """Drop the connection at once; for a peer that is silent or breaks the rules."""
        if self._done:
            return
        self._error = self._error or error
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_closing(self) -> bool:
        return self._closing or self._done

    @property
    def rtt_seconds(self) -> float | None:
        """The best of the last few round trips: the network's, without the moments when a node was busy."""
        return min(self._trips, default=None)

    @property
    def heard_at(self) -> float:
        return self._heard_at

    def transport_info(self, name: str) -> Any:
        return self._transport.get_extra_info(name) if self._transport else None

    def ping(self) -> None:
        self.send(Kind.PING, struct.pack("!d", self._loop.time()))

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._live.add(self)
        self._heard_at = self._sent_at = self._watch_due = self._loop.time()
        self._watch()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._heard_at = self._loop.time()
        self.traffic.wire_in_bytes += nbytes
        if not self._closing:
            self._parse()
        else:
            self._start = self._end = 0

    def pause_writing(self) -> None:
        self._drained.clear()
        self._receiver.writable(False)

    def resume_writing(self) -> None:
        self._drained.set()
        self._receiver.writable(True)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._done = True
        self._live.discard(self)
        self._drained.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._error is None and not self._closing:
            self._error = _explain_loss(exc)
        self._receiver.closed(self._error)

    # Parsing

    def _parse(self) -> None:
        try:
            while not (self._held or self._paused or self._closing) and self._next():
                pass
        except AtollError as error:
            self.abort(error)
        except Exception as error:
            self.abort(LinkError("protocol", "could not understand the peer", detail=f"{error!r}."))
            self._loop.call_exception_handler({"message": "frame receiver failed", "exception": error})
        self._make_room()

    def _next(self) -> bool:
        """Deliver one frame, or one piece of a DATA frame; False when more bytes are needed."""
        available = self._end - self._start
        if self._data_left:
            size = min(available, self._data_left)
            chunk = self._buffer[self._start : self._start + size]
            self._start += size
            self._data_left -= size
            if size:
                self._receiver.data_received(chunk)
            return size > 0
        if available < HEADER_BYTES:
            return False
        word = int.from_bytes(self._buffer[self._start : self._start + HEADER_BYTES], "big")
        kind, length = self._check(word >> 24, word & LENGTH_MASK)
        if kind is Kind.DATA:
            self._start += HEADER_BYTES
            self._data_left = length
            return True
        if available < HEADER_BYTES + length:
            self._reserve(HEADER_BYTES + length)
            return False
        begin = self._start + HEADER_BYTES
        self._start = begin + length
        self._deliver(kind, bytes(self._buffer[begin : begin + length]))
        return True

    def _check(self, kind: int, length: int) -> tuple[Kind, int]:
        if not Kind.DATA <= kind <= Kind.CLOSE:
            raise LinkError("protocol", f"the peer sent a frame of unknown kind {kind}")
        known = Kind(kind)
        if length > self.frame_bytes_max or length != SHORT_KINDS.get(known, length):
            raise LinkError("protocol", f"the peer sent a {known.name} frame of {length} bytes")
        return known, length

    def _deliver(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.PING:
            self.send(Kind.PONG, payload)
        elif kind is Kind.PONG:
            if self.measures_rtt:
                (sent_at,) = struct.unpack("!d", payload)
                self._trips.append(max(0.0, self._loop.time() - sent_at))
        elif kind is Kind.CLOSE:
            self._closing = True
            self._error = from_wire(decode_message(payload)) if payload else None
            self._close_transport()
        else:
            self._receiver.frame_received(kind, payload)

    def _reserve(self, size: int) -> None:
        if len(self._buffer) < size:
            grown = memoryview(bytearray(size + FIRST_BUFFER_BYTES))
            grown[: self._end - self._start] = self._buffer[self._start : self._end]
            self._buffer, self._end, self._start = grown, self._end - self._start, 0

    def _make_room(self) -> None:
        """Move an unfinished frame to the front; asyncio must never be handed an empty buffer."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > 4 * FIRST_BUFFER_BYTES:
                self._buffer = memoryview(bytearray(FIRST_BUFFER_BYTES))
        elif self._start:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)

    # Keep-alive

    def _watch(self) -> None:
        """Runs when something is due: a sign of life to send, or the peer's to be overdue."""
        if self._done:
            return
        now = self._loop.time()
        settings = self.settings
        # A node that was itself held up (a suspended machine, a busy one) cannot blame the peer for it. That
        # a timer is a moment late is no such thing: credited each time, the peer's time would never run out.
        held_up = now - self._watch_due
        if held_up > settings.ping_every_seconds / 2:
            self._heard_at = min(now, self._heard_at + held_up)
        if self._paused or self._held:
            # Nothing is read, so nothing can be heard; the peer gets a whole interval afterwards.
            self._heard_at = now
        if now - self._heard_at >= settings.silent_after_seconds:
            seconds = settings.silent_after_seconds
            self.abort(LinkError("peer-silent", f"the peer has been silent for {seconds:g} seconds"))
            return
        if self.measures_rtt:
            # The first few come quickly, so that a round trip is known before much is sent.
            hurry = 1.0 if len(self._trips) >= TRIPS_KEPT // 2 else HURRY
            due = settings.ping_every_seconds * hurry
            self.ping()
        else:
            due = self._sent_at + settings.ping_every_seconds - now
            if due <= 0.0:
                self.send(Kind.PONG, struct.pack("!d", now))
                due = settings.ping_every_seconds
        due = max(WATCH_SECONDS_MIN, min(due, self._heard_at + settings.silent_after_seconds - now))
        self._watch_due = now + due
        self._timer = self._loop.call_at(self._watch_due, self._watch)

    def _pause_transport(self) -> None:
        # A TLS transport that was closed from both sides does not even say whether it reads.
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading():
            transport.pause_reading()

    def _resume_transport(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            self._heard_at = self._loop.time()
            transport.resume_reading()

    def _close_transport(self) -> None:
        if self._transport is not None and not self._done:
            self._transport.close()
            self._loop.call_later(self.settings.close_seconds_max, self._transport.abort)

    def _continue(self) -> None:
        """Take up again what was held back or paused: first what has been read, then the network."""
        if not (self._done or self._closing or self._held or self._paused):
            self._parse()
        if not (self._done or self._held or self._paused):
            self._resume_transport()


def _explain_loss(exc: Exception | None) -> AtollError:
    if exc is None:
        return LinkError("connection-closed", "the peer closed the connection")
    return LinkError("connection-lost", "the connection broke", detail=f"{exc}.")
