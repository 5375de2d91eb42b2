"""Who links to whom: a pure function of the nodes, their tiers and regions, and what people decided by hand.

Edges hang off a hub of their region, hubs off a cloud; nodes of the same top tier link among themselves. Each
node below has two upstreams in order of preference and uses one of them. Nodes come to the same answer alone,
because it follows from rows that all of them have. Carrying it out is the reconcile loop's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Tier = Literal["edge", "hub", "cloud"]
UPSTREAMS_MAX = 2


class Role(StrEnum):
    """What a neighbour is to a node. Changes climb, then descend: what came from above only goes down."""

    UP = "up"
    SIDE = "side"
    DOWN = "down"
    TIE = "tie"
    """Linked by hand: everything passes."""
    KIN = "kin"
    """An edge of the same region where no hub is: only what must not leave the region passes."""


@dataclass(frozen=True)
class Member:
    number: int
    region: str
    tier: Tier
    name: str = ""


@dataclass(frozen=True)
class Tie:
    """A link that people asked for, or cut."""

    a: int
    b: int
    is_cut: bool = False


@dataclass(frozen=True)
class Topology:
    """Every node's neighbours and its upstreams, the preferred one first."""

    neighbours: Mapping[int, Mapping[int, Role]]
    upstreams: Mapping[int, Sequence[int]]

    def links(self) -> Iterable[tuple[int, int]]:
        """Each pair once, the lower number first."""
        return ((a, b) for a in sorted(self.neighbours) for b in sorted(self.neighbours[a]) if a < b)


@dataclass
class _Draft:
    roles: dict[int, dict[int, Role]] = field(default_factory=dict)
    upstreams: dict[int, list[int]] = field(default_factory=dict)

    def link(self, a: int, b: int, a_is: Role, b_is: Role) -> None:
        """`a_is` is what a is to b."""
        self.roles[b].setdefault(a, a_is)
        self.roles[a].setdefault(b, b_is)


def plan(members: Iterable[Member], ties: Iterable[Tie] = ()) -> Topology:
    """The topology of these members."""
    everybody = sorted(members, key=lambda m: m.number)
    draft = _Draft({m.number: {} for m in everybody}, {m.number: [] for m in everybody})
    tops = _tops(everybody)
    _link_all(draft, tops, Role.SIDE)
    for region in sorted({m.region for m in everybody}):
        _link_region(draft, [m for m in everybody if m.region == region], tops)
    for member in everybody:
        for upper in _choose_upstreams(member, everybody):
            draft.upstreams[member.number].append(upper.number)
            draft.link(upper.number, member.number, Role.UP, Role.DOWN)
    _apply_ties(draft, ties)
    return Topology(draft.roles, draft.upstreams)


def _tops(members: Sequence[Member]) -> list[Member]:
    """The highest tier that there is; all of them link to each other."""
    for tier in ("cloud", "hub", "edge"):
        if found := [m for m in members if m.tier == tier]:
            return found
    return []


def _link_region(draft: _Draft, members: Sequence[Member], tops: Sequence[Member]) -> None:
    """Within a region everybody reaches everybody without leaving it."""
    hubs = [m for m in members if m.tier == "hub" and m not in tops]
    edges = [m for m in members if m.tier == "edge" and m not in tops]
    _link_all(draft, hubs, Role.SIDE)
    if not any(m.tier != "edge" for m in members):
        _link_all(draft, edges, Role.KIN)


def _link_all(draft: _Draft, members: Sequence[Member], role: Role) -> None:
    for a in members:
        for b in members:
            if a.number < b.number:
                draft.link(a.number, b.number, role, role)


def _choose_upstreams(member: Member, members: Sequence[Member]) -> list[Member]:
    """The nearest of the next tier above, spread by a hash so that every hub has its share."""
    if member.tier == "cloud":
        return []
    tiers: tuple[Tier, ...] = ("hub", "cloud") if member.tier == "edge" else ("cloud",)
    key = str(member.number) if member.tier == "edge" else member.region

    def distance(m: Member) -> tuple[bool, bool, bool, bytes]:
        is_near = m.region == member.region
        return (
            not is_near,
            is_near and m.tier != tiers[0],
            m.tier != "cloud" and not is_near,
            _draw(key, m.number),
        )

    return sorted((m for m in members if m.tier in tiers), key=distance)[:UPSTREAMS_MAX]


def _draw(key: str, number: int) -> bytes:
    return hashlib.sha256(f"{key}>{number}".encode()).digest()


def _apply_ties(draft: _Draft, ties: Iterable[Tie]) -> None:
    for tie in sorted(ties, key=lambda t: (t.a, t.b)):
        if tie.a not in draft.roles or tie.b not in draft.roles or tie.a == tie.b:
            continue
        for one, other in ((tie.a, tie.b), (tie.b, tie.a)):
            if tie.is_cut:
                draft.roles[one].pop(other, None)
            else:
                draft.roles[one][other] = Role.TIE
            draft.upstreams[one] = [n for n in draft.upstreams[one] if n != other]


def choose_upstream(
    ranked: Sequence[int],
    *,
    in_use: int | None,
    down_seconds: Mapping[int, float],
    up_seconds: Mapping[int, float],
    patience_seconds: float = 10.0,
    settled_seconds: float = 60.0,
) -> int | None:
    """Which upstream to use.

    The one in use stays while it is there or may come back soon; the preferred one is taken up again once its
    link has held for a while.
    """
    if not ranked:
        return None
    if in_use is None or in_use not in ranked:
        return next((n for n in ranked if n in up_seconds), ranked[0])
    if in_use != ranked[0] and up_seconds.get(ranked[0], 0.0) >= settled_seconds:
        return ranked[0]
    if in_use in up_seconds or down_seconds.get(in_use, 0.0) < patience_seconds:
        return in_use
    return next((n for n in ranked if n in up_seconds), in_use)
