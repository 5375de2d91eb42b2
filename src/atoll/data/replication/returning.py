"""What a member does next that was away for so long that nobody waits for it: values in, a move out.

It takes over a copy of what another has (sql/functions/49_returning.sql), one that has all that this node
may have. The node asks this every few seconds, so a move that failed or was cut short is chosen again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

PATIENCE_SECONDS = 120.0


class Move(Enum):
    NONE = auto()
    WAIT = auto()
    """Nobody is there who could be asked."""
    BEGIN = auto()
    """Ask a source up to where it knows everything, and write that down."""
    ASK = auto()
    """Ask it for the copy, again if need be: it writes one only once."""
    FINISH = auto()
    """The copy is here: drop what the source does not have any more."""


@dataclass(frozen=True)
class Candidate:
    """A member that could be the source."""

    number: int
    is_ready: bool
    """There is a link, and its changes arrive."""
    is_absent: bool
    """It has to return itself."""
    is_of_region: bool
    """It may have whatever this node may have."""
    is_upstream: bool = False
    rtt_ms: float | None = None


@dataclass(frozen=True)
class Begun:
    source: int
    has_arrived: bool
    unseen_seconds: float = 0.0
    """For how long there has been no link to the source."""


def choose_move(
    *, must_return: bool, begun: Begun | None, candidates: Sequence[Candidate]
) -> tuple[Move, int | None]:
    """The next move, and with whom."""
    if begun is not None and begun.has_arrived:
        return Move.FINISH, begun.source
    if begun is None and not must_return:
        return Move.NONE, None
    able = {one.number: one for one in candidates if not one.is_absent}
    if begun is not None:
        source = able.get(begun.source)
        if source is not None and source.is_ready:
            return Move.ASK, source.number
        if source is not None and begun.unseen_seconds < PATIENCE_SECONDS:
            return Move.WAIT, source.number
    # Which rows of this region are gone can only be told by a node that may have them.
    has_region = any(one.is_of_region for one in able.values())
    ready = [one for one in able.values() if one.is_ready and one.is_of_region >= has_region]
    if not ready:
        return Move.WAIT, None
    return Move.BEGIN, min(ready, key=_distance).number


def _distance(one: Candidate) -> tuple[bool, bool, float, int]:
    return not one.is_upstream, one.rtt_ms is None, one.rtt_ms or 0.0, one.number
