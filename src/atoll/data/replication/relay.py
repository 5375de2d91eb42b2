"""Which changes a node passes to which neighbour: the rule of the publications, as a pure function.

Changes climb and then descend: what came from below goes everywhere, what came from above or from the side
goes down only. PostgreSQL applies the rule itself (atoll.filter_for); this mirror is for reasoning about
whole fleets, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from atoll.data.replication.topology import Member, Role


@dataclass(frozen=True)
class Carried:
    """A change in a node's log: whose it is, where it may go, and how it came."""

    origin: int
    scope: str = "global"
    via: int | None = None
    """The neighbour that it came from; none for the node's own."""
    way: Role | None = None
    """What that neighbour is to the node."""
    target: int | None = None
    """Meant for one member alone."""


def scopes_of(member: Member) -> tuple[str, str, str]:
    return "global", f"region:{member.region}", f"node:{member.number}"


def passes(change: Carried, to: Member, role: Role) -> bool:
    """Does a node publish this change of its log to a neighbour that has this role for it?"""
    if change.target not in (None, to.number):
        return False
    if change.scope not in scopes_of(to) or (role is Role.KIN and change.scope == "global"):
        return False
    match role:
        case Role.DOWN | Role.TIE:
            return change.origin != to.number and change.via != to.number
        case Role.KIN:
            return change.way is None
        case _:
            return change.origin != to.number and change.way in (None, Role.DOWN, Role.TIE)


def is_relay(roles: Iterable[Role]) -> bool:
    """Does a node with these neighbours keep what arrives, to pass it on?"""
    return any(role in (Role.DOWN, Role.TIE) for role in roles)
