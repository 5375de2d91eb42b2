"""Server-sent events, cut out of a stream of bytes and looked at as little as possible. Pure.

Whoever passes them on does not parse them: an event is told by its first bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

EVENT_BYTES_MAX = 4 * 1024 * 1024
DONE = b"[DONE]"
_END = re.compile(rb"\r?\n\r?\n")
_ENDS = (b"\n\n", b"\n\r\n")
_FIELD = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)


class EventTooLong(Exception):
    """Somebody sends an event without an end."""


class Splitter:
    """Collects bytes until there are whole events."""

    def __init__(self) -> None:
        self._rest = b""

    def whole(self, came: bytes) -> bytes:
        """The events that are whole now, one behind the other, each with its blank line."""
        text = self._rest + came if self._rest else came
        if text.endswith(b"\n\n"):
            self._rest = b""
            return text  # as nearly always
        end = max((at + len(mark) for mark in _ENDS if (at := text.rfind(mark)) >= 0), default=0)
        self._rest = text[end:].lstrip(b"\r\n")
        if len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLong
        return text[:end]

    def feed(self, came: bytes) -> list[bytes]:
        """The same, each by itself."""
        return split(self.whole(came))

    def last(self) -> list[bytes]:
        """What came after the last blank line, as an event."""
        rest, self._rest = self._rest.strip(), b""
        return [rest + b"\n\n"] if rest else []


def split(block: bytes) -> list[bytes]:
    """Whole events, each by itself."""
    if b"\r" not in block:  # as in nearly all
        return [event + b"\n\n" for event in block.split(b"\n\n")[:-1]]
    ends = [end.end() for end in _END.finditer(block)]
    return [block[begin:end] for begin, end in pairwise([0, *ends])]


def count(block: bytes) -> int:
    return block.count(b"\n\n") or block.count(b"\n\r\n")


def is_error(event: bytes) -> bool:
    head = event[:16]
    return b"error" in head and (head.startswith(b"event: error") or b'"error"' in head)


def data(event: bytes) -> str:
    """The text that an event carries."""
    return _carried(event).decode(errors="replace")


def _carried(event: bytes) -> bytes:
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]  # as nearly all of them are
    return b"\n".join(_FIELD.findall(event))


def contents(stream: Iterable[bytes]) -> list[dict[str, Any]]:
    """Those of a whole stream, read as one text: nearly always all of them are JSON."""
    import orjson

    stream = list(stream)
    told = [text for event in stream if (text := _carried(event)) and text != DONE]
    try:
        found = orjson.loads(b"[%b]" % b",".join(told))
    except ValueError:
        found = map(content, stream)
    return [one for one in found if isinstance(one, dict)]


def content(event: bytes) -> dict[str, Any] | None:
    """The JSON object that an event carries, if it is one."""
    import orjson

    text = _carried(event)
    if text == DONE:
        return None
    try:
        found = orjson.loads(text)
    except ValueError:
        try:
            found = json.loads(text.decode(errors="replace"))  # some engines write NaN
        except ValueError:
            return None
    return found if isinstance(found, dict) else None
