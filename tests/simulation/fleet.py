"""A fleet in one process: what the plan and the rule of passing on make of a thousand nodes.

Discrete events in seeded order. Who links to whom is `plan`, what goes where is `passes`, which upstream is
used is `choose_upstream`; latency, bandwidth and the time that a merge takes are given. A link is a queue
that keeps what was not applied, as a replication slot does. A node that changes its upstream gets the part of
the new one's log that not everybody is known to have, as a subscription that is made anew does.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import operator
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atoll.data.replication.relay import Carried, is_relay, passes, scopes_of
from atoll.data.replication.topology import Member, Role, Topology, choose_upstream, plan

LOOK_SECONDS = 3.0  # how often a node looks after its links
TELL_SECONDS = 10.0  # how often it tells upstreams that stand by what it has
SETUP_SECONDS = 1.0  # a slot and a subscription
MARK_BYTES = 250


@dataclass(frozen=True)
class Physics:
    """Seconds one way and bytes a second, by the tiers at both ends; seconds to merge a change."""

    latency: Mapping[frozenset[str], float]
    bandwidth: Mapping[frozenset[str], float]
    merge: float = 0.0005

    def between(self, a: Member, b: Member) -> tuple[float, float]:
        tiers = frozenset((a.tier, b.tier))
        return self.latency[tiers], self.bandwidth[tiers]


def _tiers(*names: str) -> frozenset[str]:
    return frozenset(names)


USUAL = Physics(
    latency={
        _tiers("edge", "hub"): 0.020,
        _tiers("edge", "cloud"): 0.050,
        _tiers("edge"): 0.030,
        _tiers("hub"): 0.005,
        _tiers("hub", "cloud"): 0.040,
        _tiers("cloud"): 0.080,
    },
    bandwidth={
        _tiers("edge", "hub"): 1.25e6,
        _tiers("edge", "cloud"): 1.25e6,
        _tiers("edge"): 1.25e6,
        _tiers("hub"): 125e6,
        _tiers("hub", "cloud"): 12.5e6,
        _tiers("cloud"): 125e6,
    },
)


@dataclass(frozen=True)
class Write:
    at: float
    origin: int
    scope: str
    bytes: int
    is_mark: bool = False


@dataclass(frozen=True)
class Outage:
    node: int
    begins: float
    ends: float


@dataclass
class Node:
    member: Member
    roles: Mapping[int, Role]
    upstreams: Sequence[int]
    relays: bool
    upstream: int | None = None
    is_up: bool = True
    has: int = 0
    """A bit for each change that has been merged."""
    told: int = 0
    """What upstreams that stand by know it to have."""
    confirmed: int = 0
    """What its upstream has applied of its log."""
    log: int = 0
    carried: dict[int, Carried] = field(default_factory=dict)
    down_since: dict[int, float] = field(default_factory=dict)
    up_since: dict[int, float] = field(default_factory=dict)
    received: int = 0
    duplicates: int = 0
    forwarded: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    moves: int = 0


@dataclass
class Link:
    """One direction between two nodes that use each other."""

    latency: float
    bandwidth: float
    outbox: deque[int] = field(default_factory=deque)
    """Changes in order, those on the way included, until they are applied."""
    era: int = 0
    """What was on the way when an end went down does not arrive."""
    sent: int = 0
    free_at: float = 0.0
    merged_at: float = 0.0


class Fleet:
    def __init__(self, members: Sequence[Member], physics: Physics = USUAL) -> None:
        self.topology: Topology = plan(members)
        self.physics = physics
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._links: dict[tuple[int, int], Link] = {}
        self._in_scope: dict[str, int] = {}
        self.writes: list[Write] = []
        self.heard_at: list[dict[int, float]] = []
        """For each change, when each node merged it first."""
        self.nodes = {
            m.number: Node(
                m,
                self.topology.neighbours[m.number],
                self.topology.upstreams[m.number],
                is_relay(self.topology.neighbours[m.number].values()),
            )
            for m in members
        }
        for node in self.nodes.values():
            node.upstream = node.upstreams[0] if node.upstreams else None
        for a, b in self.topology.links():
            if self._is_used(a, b):
                self._open(a, b)

    # Running

    def run(self, writes: Sequence[Write], outages: Sequence[Outage] = ()) -> None:
        """Everything, until nothing is on its way any more."""
        for write in writes:
            self._at(write.at, lambda write=write: self._write(write))
        for outage in outages:
            self._at(outage.begins, lambda o=outage: self._set_up(o.node, False))
            self._at(outage.ends, lambda o=outage: self._set_up(o.node, True))
        if outages:
            # Somebody who was away is preferred again after a minute.
            last = max(o.ends for o in outages) + 80.0
            self._every(LOOK_SECONDS, last, self._look)
            self._every(TELL_SECONDS, last, self._tell)
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _every(self, seconds: float, until: float, act: Callable[[int], None]) -> None:
        for place, number in enumerate(sorted(self.nodes)):
            when = seconds * place / len(self.nodes)
            while when <= until:
                self._at(when, lambda number=number: act(number))
                when += seconds

    # Links

    def _is_used(self, a: int, b: int) -> bool:
        role = self.nodes[a].roles[b]
        if role is Role.UP:
            return self.nodes[a].upstream == b
        return role is not Role.DOWN or self.nodes[b].upstream == a

    def _open(self, a: int, b: int) -> None:
        for one, other in ((a, b), (b, a)):
            speed = self.physics.between(self.nodes[one].member, self.nodes[other].member)
            self._links[one, other] = Link(*speed)

    def _send(self, a: int, b: int, change: int) -> None:
        link = self._links[a, b]
        link.outbox.append(change)
        if self.nodes[a].is_up and self.nodes[b].is_up:
            self._transmit(a, b, link, change)

    def _transmit(self, a: int, b: int, link: Link, change: int) -> None:
        size = self.writes[change].bytes
        self.nodes[a].bytes_out += size
        link.sent += 1
        link.free_at = max(self.now, link.free_at) + size / link.bandwidth
        link.merged_at = max(link.free_at + link.latency, link.merged_at) + self.physics.merge
        era = link.era
        self._at(link.merged_at, lambda: self._arrive(a, b, link, era, change))

    def _arrive(self, a: int, b: int, link: Link, era: int, change: int) -> None:
        if link.era != era:
            return
        assert link.outbox[0] == change, "a link keeps the order"
        link.outbox.popleft()
        node = self.nodes[b]
        node.received += 1
        node.bytes_in += self.writes[change].bytes
        if self.nodes[a].upstream == b:
            self.nodes[a].confirmed |= 1 << change
        if node.has >> change & 1:
            node.duplicates += 1
        else:
            self._merge(node, change, via=a)

    def _set_up(self, number: int, is_up: bool) -> None:
        self.nodes[number].is_up = is_up
        for (a, b), link in self._links.items():
            if number in (a, b):
                link.era += 1
                link.free_at = link.merged_at = self.now
                if self.nodes[a].is_up and self.nodes[b].is_up:
                    for change in link.outbox:
                        self._transmit(a, b, link, change)

    # Changes

    def _write(self, write: Write) -> None:
        node = self.nodes[write.origin]
        if not node.is_up:
            return  # its own applications have nobody to write to
        self._in_scope[write.scope] = self._in_scope.get(write.scope, 0) | 1 << len(self.writes)
        self.writes.append(write)
        self.heard_at.append({})
        self._merge(node, len(self.writes) - 1, via=None)

    def _merge(self, node: Node, change: int, via: int | None) -> None:
        write = self.writes[change]
        node.has |= 1 << change
        self.heard_at[change][node.member.number] = self.now
        if via is not None and not node.relays:
            return
        carried = Carried(write.origin, write.scope, via, node.roles[via] if via is not None else None)
        node.log |= 1 << change
        node.carried[change] = carried
        for number, role in node.roles.items():
            if (node.member.number, number) in self._links and passes(
                carried, self.nodes[number].member, role
            ):
                node.forwarded += 1
                self._send(node.member.number, number, change)

    # Failing over

    def _look(self, number: int) -> None:
        node = self.nodes[number]
        if not node.is_up or not node.upstreams:
            return
        for up in node.upstreams:
            if self.nodes[up].is_up:
                node.down_since.pop(up, None)
                node.up_since.setdefault(up, self.now if self.now > LOOK_SECONDS else -1e6)
            else:
                node.up_since.pop(up, None)
                node.down_since.setdefault(up, self.now)
        chosen = choose_upstream(
            node.upstreams,
            in_use=node.upstream,
            down_seconds={n: self.now - since for n, since in node.down_since.items()},
            up_seconds={n: self.now - since for n, since in node.up_since.items()},
        )
        if chosen != node.upstream:
            self._move(node, chosen)

    def _move(self, node: Node, chosen: int | None) -> None:
        number = node.member.number
        node.moves += 1
        for pair in ((number, node.upstream), (node.upstream, number)):
            self._links.pop(pair, None)  # type: ignore[call-overload]
        node.upstream = chosen
        if chosen is not None:
            self._at(self.now + SETUP_SECONDS, lambda: self._begin(number, chosen))

    def _begin(self, number: int, upstream: int) -> None:
        """A new subscription in both directions: each copies the other's log."""
        if self.nodes[number].upstream != upstream or (number, upstream) in self._links:
            return
        self._open(number, upstream)
        for a, b in ((number, upstream), (upstream, number)):
            for change in self._copied(a):
                if passes(self.nodes[a].carried[change], self.nodes[b].member, self.nodes[a].roles[b]):
                    self._send(a, b, change)

    def _copied(self, number: int) -> list[int]:
        """What is left of a log: what not every neighbour is known to have."""
        node = self.nodes[number]
        kept = 0
        for other, role in node.roles.items():
            there = self.nodes[other]
            used = there.has if (number, other) in self._links else there.told
            known = node.confirmed if role is Role.UP else used
            kept |= node.log & ~known & self._may_have(there.member)
        return [change for change in sorted(node.carried) if kept >> change & 1]

    def _may_have(self, member: Member) -> int:
        first, *others = (self._in_scope.get(scope, 0) for scope in scopes_of(member))
        return functools.reduce(operator.or_, others, first)

    def _tell(self, number: int) -> None:
        node = self.nodes[number]
        if node.is_up:
            node.told = node.has

    # Looking

    def missing(self) -> list[tuple[int, int]]:
        """Changes that a node in their scope has not, as (change, node)."""
        return [
            (change, number)
            for number, node in self.nodes.items()
            for change in range(len(self.writes))
            if self.writes[change].scope in scopes_of(node.member) and not node.has >> change & 1
        ]

    def strayed(self) -> list[tuple[int, int]]:
        """Changes on a node that is not in their scope."""
        return [
            (change, number)
            for change, heard in enumerate(self.heard_at)
            for number in heard
            if self.writes[change].scope not in scopes_of(self.nodes[number].member)
        ]


REGIONS = ("africa", "asia", "europe", "america")


def make_members(size: int) -> list[Member]:
    """Two clouds in each region, a fortieth of the fleet as hubs, the rest as edges."""
    clouds = [Member(n + 1, region, "cloud") for n, region in enumerate(REGIONS * 2)]
    hubs = max(2, size // 40 // len(REGIONS)) * len(REGIONS)
    middle = [Member(101 + n, REGIONS[n % len(REGIONS)], "hub") for n in range(hubs)]
    edges = size - len(clouds) - hubs
    return [*clouds, *middle, *(Member(1001 + n, REGIONS[n % len(REGIONS)], "edge") for n in range(edges))]


def make_outages(rng: random.Random, members: Sequence[Member], seconds: float) -> list[Outage]:
    """A quarter of the clouds, a sixth of the hubs and a twentieth of the edges go away for a while."""
    found = []
    for tier, share in (("cloud", 1 / 4), ("hub", 1 / 6), ("edge", 1 / 20)):
        those = [m.number for m in members if m.tier == tier]
        for number in rng.sample(those, max(1, int(share * len(those)))):
            begins = rng.uniform(5.0, seconds)
            found.append(Outage(number, begins, begins + rng.uniform(5.0, 60.0)))
    return found


def make_writes(rng: random.Random, members: Sequence[Member], count: int, seconds: float) -> list[Write]:
    """Writes all over the fleet, a third of them for their region only, and the marks that follow them."""
    pause = min(max(len(members) / 50, 1.0), 30.0)
    found: list[Write] = []
    for _ in range(count):
        who = rng.choice(members)
        scope = "global" if rng.random() < 2 / 3 else f"region:{who.region}"
        at = rng.uniform(5.0, 5.0 + seconds)
        size = min(int(rng.lognormvariate(6.5, 0.8)), 1_000_000)
        found.append(Write(at, who.number, scope, size))
        for covered in {"global", scope}:
            found.append(Write(at + rng.uniform(0, pause), who.number, covered, MARK_BYTES, is_mark=True))
    return sorted(found, key=lambda w: (w.at, w.origin, w.scope))
