"""Replies of HTTP/1.1, read as their bytes come. Pure.

A head of the common form is taken apart by two matches, and its body told by its length, by its pieces or by
the connection's end. Whatever else comes (a word before the reply, HTTP/1.0, folded lines, a length twice)
goes to h11 as it came.
"""

from __future__ import annotations

import re
from typing import Protocol

import h11

HEAD_BYTES_MAX = 64 * 1024
LINES_BYTES_MAX = 16 * 1024  # between the pieces of a body
_TOKEN = rb"[0-9A-Za-z!#$%&'*+.^_`|~-]+"
_TEXT = rb"[ -~\t\x80-\xff]*"
_HEAD = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)(?: %b)?\r\n((?:%b:%b\r\n)*)\r\n" % (_TEXT, _TOKEN, _TEXT))
_FIELD = re.compile(rb"([^:\r\n]+):[ \t]*([^\r\n]*)\r\n")
_BLANK = re.compile(rb"\n\r?\n")
_FRAMING = (b"content-length", b"transfer-encoding", b"connection")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_SIZE = rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?\r\n"
_FIRST, _NEXT = re.compile(_SIZE), re.compile(rb"\r\n" + _SIZE)
_LAST = re.compile(rb"(?:[^\r\n]+\r\n)*\r\n")
_BODILESS = (204, 304)


class BrokenReply(ConnectionError):
    """What came is no reply, or not a whole one."""


class Body(Protocol):
    is_over: bool
    has_rest: bool  # something came behind its end

    def feed(self, data: bytes) -> bytes: ...
    def end(self) -> None: ...


class Reply:
    """What a server says to one request."""

    def __init__(self) -> None:
        self.status = 0  # until its head has come
        self.fields: dict[bytes, bytes] = {}
        self.body: Body | None = None  # once its head has come
        self._keeps = True
        self._held = b""

    @property
    def is_over(self) -> bool:
        return self.body is not None and self.body.is_over

    @property
    def may_stay(self) -> bool:
        """Another request may follow on its connection."""
        return self._keeps and self.body is not None and self.body.is_over and not self.body.has_rest

    def feed(self, data: bytes) -> bytes:
        """What there is of the body in what came."""
        if self.body is not None:
            return self.body.feed(data)
        text = self._held + data
        end = _BLANK.search(text, max(0, len(self._held) - 2), HEAD_BYTES_MAX)
        if end is None and len(text) < HEAD_BYTES_MAX:
            self._held = text
            return b""
        if end is None:
            raise BrokenReply("the reply's head has no end")
        self.body, begin = self._read_head(text)
        return self.body.feed(text[begin:])

    def end(self) -> None:
        """The connection has ended."""
        if self.body is None:
            raise BrokenReply("it was closed before there was a reply")
        if not self.body.is_over:
            self.body.end()

    def tell(self, status: int, fields: dict[bytes, bytes], keeps: bool) -> None:
        packed = fields.get(b"content-encoding", b"identity").lower()
        if packed != b"identity":
            raise BrokenReply(f"the reply is packed ({packed.decode(errors='replace')[:40]})")
        self.status, self.fields, self._keeps = status, fields, keeps

    def _read_head(self, data: bytes) -> tuple[Body, int]:
        match = _HEAD.match(data)
        if match is None:
            return _Careful(self), 0
        found = [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD.findall(match[2])]
        fields, status = dict(found), int(match[1])
        told = [name for name, _ in found if name in _FRAMING]
        way, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        stay = fields.get(b"connection", b"keep-alive").lower()
        body: Body
        if len(set(told)) < len(told) or status in _BODILESS:
            return _Careful(self), 0
        if way is None and length is None:
            body, stay = _UntilEnd(), b"close"
        elif way is None and length is not None and _LENGTH.fullmatch(length):
            body = _Sized(int(length))
        elif way is not None and length is None and way.lower() == b"chunked":
            body = _Pieces()
        else:
            return _Careful(self), 0
        self.tell(status, fields, stay == b"keep-alive")
        return body, match.end()


class _Sized:
    def __init__(self, length: int) -> None:
        self.is_over = length == 0
        self.has_rest = False
        self._left = length

    def feed(self, data: bytes) -> bytes:
        self.has_rest = len(data) > self._left
        found = data[: self._left]
        self._left -= len(found)
        self.is_over = self._left == 0
        return found

    def end(self) -> None:
        raise BrokenReply(f"it was closed {self._left} bytes before the reply's end")


class _Pieces:
    def __init__(self) -> None:
        self.is_over = False
        self.has_rest = False
        self._left = 0  # of this piece
        self._held = b""
        self._next = _FIRST

    def feed(self, data: bytes) -> bytes:
        if self._held:
            data, self._held = self._held + data, b""
        elif self._next is _FIRST and (match := _FIRST.match(data)) is not None:
            begin, size = match.end(), int(match[1], 16)
            if size and len(data) == begin + size + 2 and data.endswith(b"\r\n"):
                return data[begin:-2]  # one piece, as nearly always
        found: list[bytes] = []
        at, end = 0, len(data)
        while at < end and not self.is_over:
            if left := min(self._left, end - at):
                found.append(data[at : at + left])
                at += left
                self._left -= left
                continue
            match = self._next.match(data, at)
            if match is None and self._next is _NEXT and data[at:] == b"\r\n":
                self._next = _FIRST
                break
            if match is None:
                self._hold(data[at:])
                break
            at = match.end()
            self._enter(match)
        self.has_rest = self.is_over and at < end
        return found[0] if len(found) == 1 else b"".join(found)

    def _enter(self, match: re.Match[bytes]) -> None:
        if self._next is _LAST:
            self.is_over = True
        elif size := int(match[1], 16):
            self._left, self._next = size, _NEXT
        else:
            self._next = _LAST

    def _hold(self, data: bytes) -> None:
        is_odd = self._next is not _LAST and b"\n" in data[2:]
        if is_odd or len(data) > LINES_BYTES_MAX:
            raise BrokenReply("the pieces of the reply do not fit together")
        self._held = data

    def end(self) -> None:
        raise BrokenReply("it was closed before the reply's end")


class _UntilEnd:
    is_over = False
    has_rest = False

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.is_over = True


class _Careful:
    """Reads by h11, head and body."""

    def __init__(self, reply: Reply) -> None:
        self.is_over = False
        self.has_rest = False
        self._reply = reply
        self._reader = h11.Connection(h11.CLIENT, HEAD_BYTES_MAX)
        self._reader.send(h11.Request(method="POST", target="/", headers=[("host", "server")]))
        self._reader.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> bytes:
        found: list[bytes] = []
        try:
            self._reader.receive_data(data)
            while not self.is_over:
                event = self._reader.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                if isinstance(event, h11.Response):
                    self._reply.tell(event.status_code, dict(event.headers), keeps=False)
                elif isinstance(event, h11.Data):
                    found.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                    self.is_over = True
        except h11.RemoteProtocolError as error:
            raise BrokenReply(f"the reply cannot be read: {error}") from error
        return b"".join(found)

    def end(self) -> None:
        self.feed(b"")
