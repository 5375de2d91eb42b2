"""How many tokens an answer took, by what its events say of it. Pure.

Most events say nothing, and are not parsed. Where none does, as of a stream of which nobody asked for it, an
event stands for a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.runtimes import events

MARKS = (b'"usage"', b'"timings"')
IN, OUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")


class Usage:
    """Hears the events of one answer. Of several `choices`, each says what it took by itself."""

    def __init__(self, choices: int = 1) -> None:
        self._adds = choices > 1
        self._events = 0
        self._in: int | None = None
        self._out: int | None = None

    @property
    def has_begun(self) -> bool:
        return self._events > 0

    def hear(self, block: bytes) -> None:
        """One event, or several."""
        self._events += events.count(block)
        if any(mark in block for mark in MARKS):
            for event in events.split(block):
                self._read(event)

    def _read(self, event: bytes) -> None:
        content = events.content(event) or {}
        inner = [one for one in (content.get("message"), content.get("response")) if isinstance(one, Mapping)]
        for told in (content, *inner):
            if isinstance(usage := told.get("usage"), Mapping):
                self._note(_first(usage, IN), _first(usage, OUT))
            elif isinstance(timings := told.get("timings"), Mapping) and self._out is None:
                read = (_first(timings, ("prompt_n",)) or 0) + (_first(timings, ("cache_n",)) or 0)
                self._note(read, _first(timings, ("predicted_n",)))

    def tokens(self, tokens_in: int) -> int:
        """All of them; so many were asked, where the answer does not say."""
        return (tokens_in if self._in is None else self._in) + (
            self._events if self._out is None else self._out
        )

    def _note(self, read: int | None, said: int | None) -> None:
        if read is not None:
            self._in = max(self._in or 0, read)
        if said is not None:
            self._out = (self._out or 0) + said if self._adds else max(self._out or 0, said)


def _first(told: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = [value for name in names if type(value := told.get(name)) is int and value >= 0]
    return found[0] if found else None
