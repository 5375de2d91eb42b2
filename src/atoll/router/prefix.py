"""How a request begins, as marks: whoever has read the same beginning lately need not read it again. Pure.

There is a mark after each message; two requests have one in common where all before it is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

MARKS_MAX = 64  # of a request; of a longer conversation the last
REQUESTS_MAX = 8  # whose beginnings a place is taken to hold: an engine has so many slots, about
PLACES_MAX = 512
SECONDS_MAX = 600.0

Mark = tuple[int, int]  # a hash of this process, and the bytes of text before it


def read_marks(body: Mapping[str, Any]) -> tuple[Mark, ...]:
    """Of a conversation; other requests have none."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return ()
    mark, size = hash((_text(body.get("tools")), _text(body.get("system")))), 0
    marks = []
    for message in messages:
        text = _text(message)
        mark, size = hash((mark, text)), size + len(text)
        marks.append((mark, size))
    return tuple(marks[-MARKS_MAX:])


def _text(value: Any) -> str:
    """Enough to tell two values apart, without the cost of JSON."""
    if isinstance(value, dict) and len(value) == 2 and isinstance(content := value.get("content"), str):
        return f"{value.get('role')} {content}"
    return "" if value is None else repr(value)


class Warmth:
    """Which beginnings each place has read lately."""

    def __init__(self) -> None:
        self._places: OrderedDict[Hashable, OrderedDict[int, tuple[float, frozenset[int]]]] = OrderedDict()

    def read(self, place: Hashable, marks: Sequence[Mark], now: float) -> None:
        """A conversation that goes on takes the place of what it was before."""
        if not marks:
            return
        found = frozenset(mark for mark, _ in marks)
        requests = self._places.setdefault(place, OrderedDict())
        for last, (_, held) in list(requests.items()):
            if held <= found:
                del requests[last]
        requests[marks[-1][0]] = now, found
        while len(requests) > REQUESTS_MAX:
            requests.popitem(last=False)
        self._places.move_to_end(place)
        while len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)

    def of(self, place: Hashable, now: float) -> frozenset[int]:
        requests = self._places.get(place)
        if not requests:
            return frozenset()
        found = [held for at, held in requests.values() if now - at <= SECONDS_MAX]
        return found[0] if len(found) == 1 else frozenset().union(*found)


def share_read(marks: Sequence[Mark], warm: frozenset[int]) -> float:
    """The share of a request's text that was read already."""
    if not marks or not warm:
        return 0.0
    return max((size for mark, size in marks if mark in warm), default=0) / max(1, marks[-1][1])
