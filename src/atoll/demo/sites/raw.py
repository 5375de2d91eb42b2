"""A row as a site writes it, before any model has looked at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Raw:
    values: tuple[Any, ...]
    """What it shows, what was recorded, and the truth, for the statement that writes it."""


class Source(Protocol):
    """What a site has eyes and ears for."""

    insert: str
    """The name of the statement that writes a row and returns its id."""

    def next(self) -> Raw: ...
