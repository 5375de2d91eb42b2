"""Requests of the common form, read at a glance; and what is answered to them.

A head that came whole, of plain fields of which each stands once, can be read in one way only: two matches
take it apart. Whatever else comes (chunks, offers of other protocols, `Expect`, a field twice, a byte out of
place) is none of this file's, and goes to h11 as it came.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT, FlowControl

HEAD_BYTES_MAX = 16 * 1024
_HEAD = re.compile(
    rb"(GET|POST) (/[!\"$-~]*) HTTP/1\.1\r\n((?:[0-9A-Za-z!#$%&'*+.^_`|~-]+:[ -~\t]*\r\n)+)\r\n"
)
_FIELD = re.compile(rb"([^:]+):[ \t]*([ -~\t]*)\r\n")
_LENGTH = re.compile(rb"[0-9]{1,12}")
_ODD = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings"))
_STAYING = (None, b"keep-alive", b"Keep-Alive")
_BODILESS = (204, 304)
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
log = logging.getLogger(__name__)

WHEN_GONE, PUT, WHOLE = "atoll.when_gone", "atoll.put", "atoll.whole"
Field = tuple[bytes, bytes]


class Head(NamedTuple):
    """Of a request, without doubt."""

    method: str
    target: bytes
    fields: list[Field]
    length: int  # of the body
    end: int  # where the body begins


def read_head(data: bytes) -> Head | None:
    """What begins here, if that is whole and of the common form."""
    match = _HEAD.match(data, 0, HEAD_BYTES_MAX)
    if match is None:
        return None
    fields = [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD.findall(match[3])]
    told = dict(fields)
    if len(told) < len(fields) or b"host" not in told or not _ODD.isdisjoint(told):
        return None
    length = told.get(b"content-length", b"0")
    if told.get(b"connection") not in _STAYING or _LENGTH.fullmatch(length) is None:
        return None
    return Head(match[1].decode(), match[2], fields, int(length), match.end())


def write_head(status: int, fields: Iterable[Field]) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, PHRASES.get(status, b"")), *map(b": ".join, fields), b"\r\n"]
    told = b"\r\n".join(lines)
    if told.count(b"\n") != len(lines) or told.count(b"\r") != len(lines) or b"\0" in told:
        raise ValueError("a field of the answer's head has more than one line")
    return told


class Exchange:
    """One request and its answer, as ASGI has them."""

    def __init__(
        self, transport: Any, flow: FlowControl, always: list[Field], length: int, ended: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._always = always
        self._ended = ended
        self._left = length  # of the request's body, to come
        self._body = b""
        self._is_read = False
        self._loop = asyncio.get_running_loop()
        self._head = b""  # of the answer, made and not sent yet
        self._has_begun = False
        self._is_chunked = False
        self._owed: int | None = None  # of the answer's body, where its length was told
        self._gone: Callable[[], None] | None = None
        # uvicorn's protocol of a connection looks at these, and sets them.
        self.message_event = asyncio.Event()
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True

    @property
    def is_over(self) -> bool:
        """Nothing of it is to come or to be sent."""
        return self.response_complete and not self._left

    def take(self, data: bytes) -> bytes:
        """What belongs to the request's body; the rest comes back. Where the answer is made, it is let go."""
        own, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(own)
        if not self.response_complete:
            self._body = self._body + own if self._body else own
            if len(self._body) > HIGH_WATER_LIMIT:
                self._flow.pause_reading()
            self.message_event.set()
        return rest

    def when_gone(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Tell it when the caller goes before the answer is whole; what comes back takes that back."""
        self._gone = tell
        if self.disconnected:
            tell()
        return self._forget

    def _forget(self) -> None:
        self._gone = None

    def lose(self) -> None:
        """The connection is no more."""
        if self._gone is not None and not self.response_complete:
            self._gone()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._transport.close()
            raise
        except Exception:
            log.exception("an answer went wrong")
        else:
            if self.response_complete or self.disconnected:
                return
            log.error("an answer has no end")
        if self._head or not self._has_begun:
            self._begin(500, [*self._always, (b"content-length", b"0"), CLOSE_HEADER])
            self._send_head()
        self._transport.close()

    async def receive(self) -> Message:
        while not (self.disconnected or self.response_complete):
            if self._body or (not self._left and not self._is_read):
                body, self._body, self._is_read = self._body, b"", not self._left
                if len(body) > HIGH_WATER_LIMIT:
                    self._flow.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not self._is_read}
            self._flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        return {"type": "http.disconnect"}

    def whole(self) -> bytes | None:
        """The body of the request, where all of it has come and none of it was read yet."""
        if self._left or self._is_read or self.disconnected or len(self._body) > HIGH_WATER_LIMIT:
            return None
        body, self._body, self._is_read = self._body, b"", True
        return body

    async def send(self, message: Message) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if not self._has_begun:
            self._begin(message["status"], [*self._always, *message.get("headers", ())])
            return
        if self.response_complete:
            raise RuntimeError("an answer has more than one end")
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self._owed is not None:
            self._owed -= len(body)
            if self._owed < 0 or (is_last and self._owed):
                raise RuntimeError("an answer is not as long as its head says")
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if is_last else b"")
        head, self._head = self._head, b""
        self._transport.write(head + body)
        if is_last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self._transport.close()
            self._ended()

    def put(self, more: bytes) -> bool:
        """Of a body without a length, now; false where the next had better be sent, which waits."""
        if self.disconnected:
            return False
        if self._head:
            self._send_head()
        self._transport.write(b"%x\r\n%b\r\n" % (len(more), more))
        return not self._flow.write_paused

    def _begin(self, status: int, fields: list[Field]) -> None:
        length = next((value for name, value in fields if name == b"content-length"), None)
        if length is not None:
            self._owed = int(length)
        elif status not in _BODILESS:
            self._is_chunked = True
            fields.append((b"transfer-encoding", b"chunked"))
        if CLOSE_HEADER in fields:
            self.keep_alive = False
        self._head = write_head(status, fields)
        self._has_begun = True
        self._loop.call_soon(self._send_head)

    def _send_head(self) -> None:
        """What comes in the turn in which it was made leaves with it."""
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)


def scope_of(head: Head, around: Scope) -> Scope:
    """The request as ASGI tells it, with what is the same for all of a connection."""
    target, _, query = head.target.partition(b"?")
    path = target.decode()
    return {
        **around,
        "method": head.method,
        "path": unquote(path) if "%" in path else path,
        "raw_path": target,
        "query_string": query,
        "headers": head.fields,
    }
