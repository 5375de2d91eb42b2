"""What a difference between nodes means, and what this node should do about its own copy of a row.

Each node judges for itself and mends itself only. A row is known by two hashes, of its stamps and of its
values. Where stamps differ, joining the states is right whatever happened: it is what would have happened had
the change arrived. Where only values differ, somebody wrote past the triggers, and the nodes vote. When a
difference is more than a change on its way is decided here too; asking and writing is left to node/mesh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SETTLE_SECONDS = 4.0
PATIENCE_SECONDS = 120.0

Marks = Mapping[tuple[int, str], int]
"""How far a node has heard each origin in each scope."""


class Will(StrEnum):
    NONE = "none"
    JOIN = "join"
    """Take in what others know of the row."""
    VALUE = "value"
    """The stamps agree; take over another's values."""
    ADOPT = "adopt"
    """A row that nobody knows counts as written from now on."""


@dataclass(frozen=True)
class Vote:
    """A row as one node has it."""

    node: int
    stamps: str | None
    """None: the node knows nothing of the row; `none`: it has the row, without a history."""
    values: str = ""
    is_alive: bool = False
    odd: str | None = None
    is_altered: bool = False
    """Its values have changed since they were found right, and its stamps have not."""

    @property
    def is_nothing(self) -> bool:
        """Who has forgotten a deletion and who is about to do so have the same."""
        return self.stamps is None or self.odd == "fading"

    @property
    def has_history(self) -> bool:
        return self.stamps is not None and self.stamps != "none"


@dataclass(frozen=True)
class Judgement:
    will: Will
    like: tuple[int, ...] = ()
    why: str = ""


def judge(mine: Vote, others: Sequence[Vote]) -> Judgement:
    """What this node should do about its own copy."""
    known = [vote for vote in others if vote.has_history and not (mine.is_nothing and vote.is_nothing)]
    if mine.odd == "unrecorded" and not any(vote.is_alive for vote in known):
        return Judgement(Will.ADOPT, (), "the row was written past the triggers, and no other node has it")
    apart = {vote.stamps: vote.node for vote in known if vote.stamps != mine.stamps}
    if apart:
        why = "another node knew of a write that had not come here"
        if mine.odd == "unrecorded":
            why = "the row had lost its history here"
        elif mine.stamps is None:
            why = "the row was missing here"
        return Judgement(Will.JOIN, tuple(sorted(apart.values())), why)
    return _judge_values(mine, known)


def _judge_values(mine: Vote, known: Sequence[Vote]) -> Judgement:
    """All have seen the same writes. A row that vanished has no values, and no say."""
    voters = [vote for vote in known if vote.odd != "vanished"]
    others = [vote for vote in voters if vote.values != mine.values]
    if not others:
        return Judgement(Will.NONE)
    if mine.odd == "vanished":
        return Judgement(Will.JOIN, (others[0].node,), "the row was deleted here past the triggers")
    votes = [mine, *voters]
    # That a stretch was altered says nothing of its other rows, so it only decides where votes do not.
    trusted = [vote for vote in votes if not vote.is_altered] or votes
    leading = _leading(votes)
    if len(leading) > 1:
        leading = _leading(trusted)
    if len(leading) > 1:
        like = tuple(sorted({vote.values: vote.node for vote in others}.values()))
        return Judgement(
            Will.JOIN, like, "values differed and nothing tells whose are right: the greater stays"
        )
    if leading[0] == mine.values:
        return Judgement(Will.NONE)
    winner = next(vote.node for vote in others if vote.values == leading[0])
    return Judgement(Will.VALUE, (winner,), "the values here were changed past the triggers")


def _leading(votes: Sequence[Vote]) -> list[str]:
    counts = Counter(vote.values for vote in votes)
    return [values for values, count in counts.items() if count == max(counts.values())]


def are_same(mine: Vote, others: Iterable[Vote]) -> bool:
    """Is there nothing to tell apart?"""
    return mine.odd in (None, "fading") and all(
        (mine.is_nothing and vote.is_nothing) or (vote.stamps, vote.values) == (mine.stamps, mine.values)
        for vote in others
    )


class Finding(StrEnum):
    SAME = "same"
    WAIT = "wait"
    LASTS = "lasts"


@dataclass(frozen=True)
class Look:
    """One look at a row on several nodes."""

    at: float
    votes: tuple[Vote, ...]
    """This node's first."""
    heard: tuple[Marks, ...]
    """Of the same nodes, as far as it concerns scopes that they share."""


@dataclass
class Suspect:
    """A row that was found different, looked at again until it is known whether that lasts.

    Whatever a node had applied at the first look is covered by a mark that it has heard some seconds later.
    When every node has heard as much, and the row is on each what it was, no change is on its way.
    """

    since: float
    votes: tuple[Vote, ...] = ()
    marks: Marks | None = None
    lasts: bool = False

    def look(self, look: Look, settle_seconds: float = SETTLE_SECONDS) -> Finding:
        if are_same(look.votes[0], look.votes[1:]):
            return Finding.SAME
        if look.votes != self.votes:
            self.since, self.votes, self.marks, self.lasts = look.at, look.votes, None, False
            return Finding.WAIT
        if self.marks is None and look.at - self.since >= settle_seconds:
            self.marks = furthest(look.heard)
        if self.marks is not None:
            reached = all(has_heard(heard, self.marks) for heard in look.heard)
            self.lasts = self.lasts or reached or look.at - self.since >= PATIENCE_SECONDS
        return Finding.LASTS if self.lasts else Finding.WAIT


def furthest(heard: Iterable[Marks]) -> Marks:
    most: dict[tuple[int, str], int] = {}
    for marks in heard:
        for place, n in marks.items():
            most[place] = max(n, most.get(place, 0))
    return most


def has_heard(heard: Marks, marks: Marks) -> bool:
    return all(heard.get(place, 0) >= n for place, n in marks.items())
