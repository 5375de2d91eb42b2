"""Messages on a stream of the link: a request to a peer's model, and its answer.

Each is a byte of kind, three bytes of length, and that many bytes. What an engine said passes as it was made.
docs/wire-format.md says which message follows which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from atoll.domain.errors import AtollError, LinkError
from atoll.link.stream import Pipe, Stream
from atoll.link.wire import HEADER_BYTES, LENGTH_MASK, decode_message, encode_message
from atoll.runtimes.events import EVENT_BYTES_MAX

PIECE_BYTES = 256 * 1024
BYTES_MAX = EVENT_BYTES_MAX + 64 * 1024  # of one message
HEAD_BYTES_MAX = 256 * 1024


class Kind(IntEnum):
    HEAD = 1  # what is asked, or what the pieces of an answer are: JSON
    PIECE = 2  # of a body
    EVENT = 3  # of a streamed answer: one whole event
    DONE = 4  # nothing more of this request or answer; with content, an error: JSON
    BACK = 5  # the asker does not want the rest


def encode(kind: Kind, content: bytes | memoryview = b"") -> bytes:
    if len(content) > BYTES_MAX:
        raise LinkError("message-too-large", f"cannot send a message of {len(content)} bytes")
    return b"".join((int(kind << 24 | len(content)).to_bytes(HEADER_BYTES, "big"), content))


def encode_head(head: Mapping[str, Any]) -> bytes:
    return encode(Kind.HEAD, encode_message(dict(head), HEAD_BYTES_MAX))


def encode_error(error: Mapping[str, Any]) -> bytes:
    return encode(Kind.DONE, json.dumps(error).encode())


def pieces(body: bytes | memoryview) -> Iterator[bytes]:
    view = memoryview(body)
    for begin in range(0, len(view), PIECE_BYTES):
        yield encode(Kind.PIECE, view[begin : begin + PIECE_BYTES])


class Channel:
    """A stream as messages both ways. A reader that is cancelled loses nothing; a writer may tear one."""

    def __init__(self, stream: Stream) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._pipe = Pipe(stream)
        self._held = bytearray()
        self._is_torn = False

    @property
    def is_whole(self) -> bool:
        """May another message follow those that were sent?"""
        return self._stream.is_open and not self._is_torn

    @property
    def is_ready(self) -> bool:
        """Is there room for more, without waiting for the peer?"""
        return self._stream.is_ready

    async def write(self, *messages: bytes) -> None:
        self._is_torn = True
        await self._pipe.write(messages[0] if len(messages) == 1 else b"".join(messages))
        self._is_torn = False

    async def next(self) -> tuple[Kind, bytes] | None:
        """The next message; None where the peer has ended the stream in order."""
        while (found := self._cut()) is None:
            chunk = await self._pipe.read()
            if not chunk:
                if self._held:
                    raise LinkError("stream-ended", "the stream ended too early")
                return None
            self._held += chunk
        return found

    def close(self, error: AtollError | None = None) -> None:
        self._pipe.close(error)

    def _cut(self) -> tuple[Kind, bytes] | None:
        if len(self._held) < HEADER_BYTES:
            return None
        word = int.from_bytes(self._held[:HEADER_BYTES], "big")
        number, end = word >> 24, HEADER_BYTES + (word & LENGTH_MASK)
        if not Kind.HEAD <= number <= Kind.BACK or end > HEADER_BYTES + BYTES_MAX:
            raise LinkError("protocol", f"the peer sent a message {number} of {end - HEADER_BYTES} bytes")
        if len(self._held) < end:
            return None
        content = bytes(self._held[HEADER_BYTES:end])
        del self._held[:end]
        return Kind(number), content


def read_head(content: bytes) -> dict[str, Any]:
    if len(content) > HEAD_BYTES_MAX:
        raise LinkError("protocol", "the peer sent a head that is too long")
    return decode_message(content)
