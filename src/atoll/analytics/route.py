"""The way of a question to a node that this one may have no link to: over hubs, at most three steps.

Pure: links and nodes in, the neighbours to try out. A question carries the numbers of the nodes that it has
passed, and is never handed to one of them again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from atoll.analytics.question import Member

STEPS_MAX = 3
RELAY_TIERS = ("hub", "cloud")


def next_steps(
    target: int, path: Sequence[int], up: Collection[int], nodes: Mapping[int, Member]
) -> tuple[int, ...]:
    """The neighbours to hand it to, the best first. `path` begins with the asker and ends with this node."""
    if target in path:
        return ()
    if target in up:
        return (target,)
    if len(path) >= STEPS_MAX:
        return ()
    region = nodes[target].region if target in nodes else None
    relays = [
        nodes[number]
        for number in up
        if number in nodes and number not in path and nodes[number].tier in RELAY_TIERS
    ]
    relays.sort(key=lambda relay: (relay.region != region, relay.nearness))
    return tuple(relay.number for relay in relays)
