"""Who answers for which rows, so that each row is counted once though many nodes hold it.

Every node has rows of its own; the nodes of a region hold the region's rows alike; all hold a global table's.
A duty is one answer that is needed, with the nodes that can give it, the nearest first. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atoll.analytics.question import Member, Reach, Relation

SCOPE_WORDS = ("global", "local")


@dataclass(frozen=True)
class Duty:
    candidates: tuple[Member, ...]

    @property
    def first(self) -> Member:
        return self.candidates[0]


def effective(reach: Reach, members: Sequence[Member]) -> Reach:
    """A table is whole everywhere if all that are asked hold the same rows of it."""
    if len(members) == 1:
        return Reach.GLOBAL
    if reach is Reach.REGION and len({member.region for member in members}) == 1:
        return Reach.GLOBAL
    return reach


def share_out(reach: Reach, members: Sequence[Member]) -> tuple[Duty, ...]:
    """The answers that are needed for rows of this reach."""
    ordered = sorted(members, key=lambda member: member.nearness)
    if reach is Reach.GLOBAL:
        return (Duty(tuple(ordered)),)
    if reach is Reach.REGION:
        regions = sorted({member.region for member in ordered})
        return tuple(Duty(tuple(m for m in ordered if m.region == region)) for region in regions)
    return tuple(Duty((member,)) for member in sorted(ordered, key=lambda m: m.number))


def rows_of(relation: Relation, member: Member, members: Sequence[Member], column: str) -> str | None:
    """The condition under which this node counts a row whose scope a column says; none if it counts all.

    A global row is counted by the nearest node, a region's row by the nearest node of that region, any other
    row by whoever holds it; a row that says nothing has the table's usual scope. `column` is quoted for SQL.
    """
    if relation.reach is not Reach.ROW or len(members) == 1:
        return None
    ordered = sorted(members, key=lambda m: m.nearness)
    spoken: dict[str, int] = {}
    for other in ordered:
        spoken.setdefault(other.region, other.number)
    others = [region for region, number in spoken.items() if number != member.number]
    taken = [] if ordered[0].number == member.number else ["global"]
    taken += [value for region in others for value in _said_of(region)]
    if not taken:
        return None
    usual = f"region:{member.region}" if relation.usual == "region" else relation.usual
    listed = ", ".join(map(_literal, taken))
    return f"coalesce(nullif({column}::text, ''), {_literal(usual)}) not in ({listed})"


def _said_of(region: str) -> tuple[str, ...]:
    """How a row names a region; its bare name means something else where it is a word of its own."""
    return (f"region:{region}",) if region in SCOPE_WORDS else (region, f"region:{region}")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
