"""The bytes of one PostgreSQL connection, or of requests to models, on their own TLS connection.

Data both ways, half-close, back-pressure. Whoever uses it attaches a `Sink`, as the gateway does, or reads
and writes like a file through `Pipe`. It compresses by policy and keeps to the link's rate; it does not know
what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.compression import Packer, Path, Unpacker, should_compress
from atoll.link.frame import Framed
from atoll.link.rate import Bucket
from atoll.link.traffic import Traffic
from atoll.link.wire import HEADER_BYTES, Kind, encode_header

PACKED_OVERHEAD_BYTES = 4096
BLOCKED_SECONDS_MIN = 0.2


class Sink(Protocol):
    """Takes what arrives. Memory handed to `data` is only valid during the call."""

    def data(self, chunk: bytes | memoryview) -> None: ...

    def ended(self) -> None:
        """The peer will send no more; this side still may."""

    def may_send(self, ready: bool) -> None: ...

    def closed(self, error: AtollError | None) -> None: ...


class Stream:
    def __init__(
        self,
        framed: Framed,
        peer: PeerIdentity,
        *,
        traffic: Traffic,
        bucket: Bucket,
        rtt: Callable[[], float | None],
        gone: Callable[[Stream], None],
    ) -> None:
        self.peer = peer
        self._framed = framed
        self._settings = framed.settings
        self._traffic = traffic
        self._bucket = bucket
        self._rtt = rtt
        self._gone = gone
        self._sink: Sink | None = None
        self._packer: Packer | None = None
        self._unpacker: Unpacker | None = None
        self._network_ready = True
        self._rate_timer: asyncio.TimerHandle | None = None
        self._blocked_at: float | None = None
        self._sent_since = 0
        self._blocked_rate: float | None = None
        self._is_open = True
        traffic.streams_opened += 1

    @property
    def is_open(self) -> bool:
        return self._is_open and not self._framed.is_closing

    @property
    def is_ready(self) -> bool:
        """May more be sent now? `send` never refuses, but a caller that ignores this fills the memory."""
        return self._network_ready and self._rate_timer is None

    @property
    def chunk_bytes_max(self) -> int:
        return self._settings.chunk_bytes_max

    def attach(self, sink: Sink) -> None:
        """From now on `sink` gets what arrives; what came before was held back."""
        if self._sink is not None:
            raise LinkError("stream-taken", "the stream already has a reader")
        self._sink = sink
        self._framed.adopt(self, self._traffic, self._settings.chunk_bytes_max + PACKED_OVERHEAD_BYTES)

    def send(self, chunk: bytes | memoryview) -> None:
        """Queue one chunk of at most `chunk_bytes_max`."""
        size = len(chunk)
        self._traffic.raw_out_bytes += size
        path = Path(self._rtt(), self._blocked_rate, self._settings.rate_bytes_per_second)
        if should_compress(self._settings.compression, size, path):
            if self._packer is None:
                self._packer = Packer()
            payload: bytes | memoryview = self._packer.pack(chunk)
            header = encode_header(Kind.PACKED, len(payload))
        else:
            payload, header = chunk, encode_header(Kind.DATA, size)
        # One copy on purpose: TLS may keep what it is given, and the caller's memory is used again.
        self._framed.send_frame(b"".join((header, payload)))
        self._sent_since += len(payload) + HEADER_BYTES
        self._wait_for_rate(self._bucket.take(len(payload) + HEADER_BYTES))

    def send_end(self) -> None:
        self._framed.send(Kind.EOF)

    def pause_reading(self) -> None:
        self._framed.pause_reading()

    def resume_reading(self) -> None:
        self._framed.resume_reading()

    def close(self, error: AtollError | None = None) -> None:
        """In order: everything sent before arrives first. With an error it is more in a hurry."""
        if error is None:
            self._framed.finish()
        else:
            self._framed.close(error)

    # Receiver

    def data_received(self, chunk: memoryview) -> None:
        self._traffic.raw_in_bytes += len(chunk)
        if self._sink is not None:
            self._sink.data(chunk)

    def frame_received(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.PACKED:
            if self._unpacker is None:
                self._unpacker = Unpacker(self._settings.chunk_bytes_max)
            piece = self._unpacker.unpack(payload)
            self._traffic.raw_in_bytes += len(piece)
            if self._sink is not None:
                self._sink.data(piece)
        elif kind is Kind.EOF:
            if self._sink is not None:
                self._sink.ended()
        else:
            raise LinkError("protocol", f"the peer sent a {kind.name} frame on a stream")

    def writable(self, ready: bool) -> None:
        self._network_ready = ready
        self._measure_blocking(ready)
        self._tell_sink()

    def closed(self, error: AtollError | None) -> None:
        self._is_open = False
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_timer = None
        self._gone(self)
        if self._sink is not None:
            self._sink.closed(error)

    # Flow

    def _wait_for_rate(self, seconds: float) -> None:
        if seconds > 0.0 and self._is_open:
            was_waiting = self._rate_timer is not None
            if self._rate_timer is not None:
                self._rate_timer.cancel()
            self._rate_timer = asyncio.get_running_loop().call_later(seconds, self._rate_passed)
            if not was_waiting:
                self._tell_sink()

    def _rate_passed(self) -> None:
        self._rate_timer = None
        self._tell_sink()

    def _tell_sink(self) -> None:
        if self._sink is not None and self._is_open:
            self._sink.may_send(self.is_ready)

    def _measure_blocking(self, ready: bool) -> None:
        """While the network holds the sender up, what leaves is what it can carry."""
        now = asyncio.get_running_loop().time()
        if not ready and self._blocked_at is None:
            self._blocked_at, self._sent_since = now, 0
        elif ready and self._blocked_at is not None and now - self._blocked_at >= BLOCKED_SECONDS_MIN:
            self._blocked_rate = self._sent_since / (now - self._blocked_at)
            self._blocked_at = None


class Pipe:
    """A stream as a file: awaitable reads and writes, with bounded memory. It is its own sink."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = False
        self._error: AtollError | None = None
        self._arrived = asyncio.Event()
        self._is_over = asyncio.Event()
        self._ready = asyncio.Event()
        self._ready.set()
        stream.attach(self)

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Raises when the stream broke."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        chunk = self._chunks.popleft()
        self._held_bytes -= len(chunk)
        if self._stream.is_open and self._held_bytes < self._stream.chunk_bytes_max:
            self._stream.resume_reading()
        return chunk

    async def read_exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            chunk = await self.read()
            if not chunk:
                raise LinkError("stream-ended", "the stream ended too early")
            found += chunk
        rest = bytes(found[size:])
        if rest:
            self._chunks.appendleft(rest)
            self._held_bytes += len(rest)
        return bytes(found[:size])

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for begin in range(0, len(view), self._stream.chunk_bytes_max):
            await self._ready.wait()
            if not self._stream.is_open:
                raise self._error or LinkError("stream-closed", "the stream is closed")
            self._stream.send(view[begin : begin + self._stream.chunk_bytes_max])

    def write_end(self) -> None:
        self._stream.send_end()

    async def until_over(self) -> None:
        """Wait until nothing comes any more, also where nobody reads; always raises."""
        await self._is_over.wait()
        raise self._error or LinkError("stream-ended", "the peer has ended the stream")

    def close(self, error: AtollError | None = None) -> None:
        self._stream.close(error)

    # Sink

    def data(self, chunk: bytes | memoryview) -> None:
        self._chunks.append(bytes(chunk))
        self._held_bytes += len(chunk)
        if self._held_bytes >= self._stream.chunk_bytes_max:
            self._stream.pause_reading()
        self._arrived.set()

    def ended(self) -> None:
        self._ended = True
        self._arrived.set()
        self._is_over.set()

    def may_send(self, ready: bool) -> None:
        if ready:
            self._ready.set()
        else:
            self._ready.clear()

    def closed(self, error: AtollError | None) -> None:
        self._ended = True
        self._error = error
        self._arrived.set()
        self._is_over.set()
        self._ready.set()
