"""On which nodes a model fits by its memory. Pure: what it needs and what nodes have go in, a plan comes out.

One node that has the memory free comes before one whose idle models make room, and that before a split over
nodes of one region. A split takes as few nodes as can be: whole layers, in their order, the output as the
last of them, and the first node with everything else. Who measures, and who loads, is left to others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

SPLIT_NODES_MAX = 8
LAYERS_MAX = 4096


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes, context included."""

    whole: int  # on one node
    layers: tuple[int, ...] = ()  # of each; a model without them cannot be split
    head: int = 0  # what the first part holds besides its layers
    part: int = 0  # of an engine that holds layers for another


@dataclass(frozen=True)
class Output:
    """The weights that turn what the layers have made into words."""

    bytes: int
    is_embedding: bool = False  # the same as those of the input: in memory twice only where it is split


@dataclass(frozen=True)
class Room:
    """What models may take on a node, and what those take that are loaded now."""

    node: str
    region: str
    bytes_max: int
    bytes_taken: int = 0

    @property
    def free(self) -> int:
        return max(0, self.bytes_max - self.bytes_taken)


@dataclass(frozen=True)
class Part:
    node: str
    layers: range
    bytes: int


@dataclass(frozen=True)
class Plan:
    """Where the model fits: on no node, on one, or on several together."""

    parts: tuple[Part, ...] = ()
    makes_room: bool = False  # idle models there have to be unloaded for it
    missing_bytes: int = 0  # on the node that has most, where it fits nowhere


def needs_of(
    whole: int, weights: Sequence[int], output: Output, context: int, working: float, engine: int
) -> Needs:
    """From the bytes of each layer's weights, of the output's, and of the context of all layers together."""
    if not 0 < len(weights) <= LAYERS_MAX:
        return Needs(whole)
    share = -(-context // len(weights))
    layers = tuple(int(one * (1 + working)) + share for one in weights)
    last = int(output.bytes * (1 + working))
    head = whole - sum(layers) - (0 if output.is_embedding else last)
    return Needs(whole, (*layers, last), head, engine) if head >= 0 else Needs(whole)


def plan(needs: Needs, rooms: Sequence[Room]) -> Plan:
    free = {room.node: room.free for room in rooms}
    most = {room.node: room.bytes_max for room in rooms}
    for makes_room, sizes in enumerate((free, most)):
        node = max(sorted(sizes), key=lambda one: sizes[one], default=None)
        if node is not None and needs.whole <= sizes[node]:
            return Plan((Part(node, range(len(needs.layers)), needs.whole),), bool(makes_room))
    for makes_room, sizes in enumerate((free, most)):
        found = [
            split(needs, {room.node: sizes[room.node] for room in rooms if room.region == region})
            for region in sorted({room.region for room in rooms})
        ]
        splits = [parts for parts in found if parts]
        if splits:
            return Plan(min(splits, key=len), bool(makes_room))
    return Plan(missing_bytes=needs.whole - max(most.values(), default=0))


def split(needs: Needs, sizes: Mapping[str, int], head: str | None = None) -> tuple[Part, ...]:
    """Over the fewest of these nodes; of ways with as few, one over those with most memory. Empty: none does.

    Without a `head` any of them may hold the first layers. The further the nodes before it got, the further a
    node gets. So of each set of nodes only the order that gets furthest is kept, instead of trying all.
    """
    nodes = sorted(sizes, key=lambda one: (one != head, -sizes[one], one))[:SPLIT_NODES_MAX]
    ends = list(accumulate(needs.layers, initial=0))

    def reach(begin: int, room: int) -> int:
        """Up to which layer a node with this much room gets."""
        return bisect_right(ends, ends[begin] + room) - 1 if room >= 0 else begin

    best: dict[frozenset[str], tuple[int, tuple[tuple[str, int], ...]]] = {}
    for node in nodes if head is None else (head,):
        if (room := sizes[node] - needs.head) >= 0:
            end = reach(0, room)
            best[frozenset({node})] = end, ((node, end),)
    for _ in nodes[1:]:
        grown: dict[frozenset[str], tuple[int, tuple[tuple[str, int], ...]]] = {}
        for taken, (end, ways) in best.items():
            for node in nodes:
                if node in taken:
                    continue
                further = reach(end, sizes[node] - needs.part)
                key = taken | {node}
                if further > grown.get(key, (end, ()))[0]:
                    grown[key] = further, (*ways, (node, further))
        whole = [key for key, (end, _) in grown.items() if end == len(needs.layers)]
        if whole:
            chosen = max(whole, key=lambda key: (sum(sizes[node] for node in key), sorted(key)))
            return _parts(needs, grown[chosen][1], ends)
        best = grown
    return ()


def split_around(needs: Needs, sizes: Mapping[str, int], head: str, avoided: Set[str]) -> tuple[Part, ...]:
    """The same, but over nodes to be avoided only where it does not go without them."""
    others = {node: size for node, size in sizes.items() if node not in avoided}
    return split(needs, others, head) or split(needs, sizes, head)


def _parts(needs: Needs, ways: Sequence[tuple[str, int]], ends: Sequence[int]) -> tuple[Part, ...]:
    parts: list[Part] = []
    begin = 0
    for node, end in ways:
        besides = needs.part if parts else needs.head
        parts.append(Part(node, range(begin, end), besides + ends[end] - ends[begin]))
        begin = end
    return tuple(parts)
