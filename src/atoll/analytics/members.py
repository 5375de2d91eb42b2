"""Which nodes a question is for: `all`, `node=a,b`, `region=eu`, `tier=edge`.

Values of one selector are alternatives; several selectors narrow each other, several of one kind add up.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.analytics.question import Member
from atoll.domain.errors import DataError

KINDS = ("node", "region", "tier")


def choose(selectors: Sequence[str], members: Sequence[Member]) -> tuple[Member, ...]:
    """The nodes that all kinds of selectors agree on, the nearest first."""
    wanted: dict[str, set[str]] = {}
    for selector in selectors:
        if selector.strip() == "all":
            continue
        kind, values = _read(selector)
        _check(kind, values, members)
        wanted.setdefault(kind, set()).update(values)
    chosen = [m for m in members if all(_names(kind, m) & values for kind, values in wanted.items())]
    if not chosen:
        raise DataError(
            "question-for-nobody",
            f"no node is chosen by {' '.join(selectors)}",
            hint="See the nodes, their regions and tiers: atoll nodes",
        )
    return tuple(sorted(chosen, key=lambda m: m.nearness))


def _read(selector: str) -> tuple[str, set[str]]:
    kind, equals, text = selector.partition("=")
    values = {part.strip() for part in text.split(",") if part.strip()}
    if not equals or kind.strip() not in KINDS or not values:
        raise DataError(
            "question-selector",
            f'cannot understand "{selector}"',
            hint="Write all, node=NAME,…, region=NAME,… or tier=edge|hub|cloud.",
        )
    return kind.strip(), values


def _check(kind: str, values: set[str], members: Sequence[Member]) -> None:
    known = set().union(*(_names(kind, member) for member in members))
    if unknown := sorted(values - known):
        raise DataError(
            "question-for-nobody",
            f'no node has {kind} "{unknown[0]}"',
            hint="See the nodes, their regions and tiers: atoll nodes",
        )


def _names(kind: str, member: Member) -> set[str]:
    if kind == "node":
        return {member.name, str(member.number)}
    return {member.region if kind == "region" else member.tier}
