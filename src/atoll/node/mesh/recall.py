"""Was this node restored from a backup, or copied? Values in, a verdict out.

A node that comes back with an older database hands out places in its log that its peers have seen: they
would drop its next writes without a word. What betrays it: the mark of `atoll restore`; a home and a database
that remember different things; a peer that has seen more of the node than the node has itself. A home that
was moved as a whole, or a machine with another name, betrays nothing, because nothing is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

# Numbers below are given out by the authority one after the other; a node that has to take one by itself,
# before it can ask anybody, draws it from those above.
TAKEN_MIN = 32768
TAKEN_MAX = 65534
HISTORY_MAX = 1000


class Verdict(Enum):
    FIRST = auto()
    """It never came up before."""
    SAME = auto()
    """It is what it was."""
    RESTORED = auto()
    """Its past is not what its peers know: it needs a new number."""
    CLONED = auto()
    """Another process with the same number is alive: one of the two has to go."""


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class HomeMemory:
    """What the home remembers. `following` was begun and perhaps not finished."""

    incarnation: str
    following: str | None = None
    system_id: str = ""
    is_restored: bool = False


@dataclass(frozen=True)
class DatabaseMemory:
    """What the database remembers of the last start, and what the server is now."""

    incarnation: str | None
    system_id: str
    timeline: int
    last_system_id: str | None = None
    last_timeline: int | None = None


@dataclass(frozen=True)
class Seen:
    """What a peer has seen of this node: its latest incarnation, and how far it came in its WAL."""

    incarnation: str | None
    lsn: int | None


def judge_memories(home: HomeMemory | None, database: DatabaseMemory) -> Judgement:
    """At boot, before anybody can be asked."""
    if home is None and database.incarnation is None:
        return Judgement(Verdict.FIRST)
    if home is not None and home.is_restored:
        return Judgement(Verdict.RESTORED, "it was restored from a backup")
    if home is None:
        return Judgement(Verdict.RESTORED, "the database comes from another home")
    if database.incarnation is None:
        return Judgement(Verdict.RESTORED, "the database is another than the home remembers")
    if database.system_id not in (home.system_id, "") or database.system_id != database.last_system_id:
        return Judgement(Verdict.RESTORED, "the database server is another than before")
    if database.timeline != database.last_timeline:
        return Judgement(Verdict.RESTORED, "the database was recovered from an archive")
    if database.incarnation not in (home.incarnation, home.following):
        return Judgement(Verdict.RESTORED, "home and database are of different times")
    return Judgement(Verdict.SAME)


def judge_seen(history: Sequence[tuple[str, int]], seen: Seen, end_of_wal: int) -> Judgement:
    """When a peer says what it has seen. `history` has each start of this node, and where its WAL ended then.

    What a peer saw of one start lies before the next: beyond that, it saw a future that was lost here.
    """
    places = {incarnation: place for place, (incarnation, _) in enumerate(history)}
    if seen.incarnation is not None and seen.incarnation not in places:
        return Judgement(Verdict.RESTORED, "a peer has met it at a time that it does not remember")
    ends = [lsn for _, lsn in history[1:]] + [end_of_wal]
    end = end_of_wal if seen.incarnation is None else ends[places[seen.incarnation]]
    if seen.lsn is not None and seen.lsn > end:
        return Judgement(Verdict.RESTORED, "a peer has seen more of it than it has itself")
    return Judgement(Verdict.SAME)


def judge_links(*, refused_as_twin: bool, has_link: bool) -> Judgement:
    """When peers answer that they have a link to this number already: not who has one is too many."""
    if refused_as_twin and not has_link:
        return Judgement(
            Verdict.CLONED, "is alive elsewhere too: one of the two homes is a copy of the other"
        )
    return Judgement(Verdict.SAME)


def choose_number(known: Collection[int], rng: random.Random) -> int:
    """A number that nobody is known to have, drawn so that two nodes hardly ever draw the same."""
    free = [number for number in range(TAKEN_MIN, TAKEN_MAX + 1) if number not in known]
    return rng.choice(free)
