"""Who works on a job, and when: decided from what its rows say, so that every node decides the same. Pure.

There is no quorum, and who is there is known to nobody. So the nodes that may do a job take turns at it: in
an order that follows from its id, each for as long as a lease lasts, round and round from when it was made. A
node begins in its own turn only, and touches no lease that it knows of. Whatever goes wrong (a kill,
a cut link), somebody else begins when the lease has run out, and not before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MARGIN = 4  # of a turn, its last part is for word of a claim to arrive: nobody begins then
PAUSE_SECONDS_MAX = 300.0


@dataclass(frozen=True)
class Claim:
    """What one node says of its work on a job."""

    node: int
    until: float | None = None
    tries: int = 0
    retry_at: float | None = None


@dataclass(frozen=True)
class Job:
    """What has to be known of a job to decide; times are seconds since 1970."""

    id: int
    model: str
    asked_by: int
    made_at: float
    deadline: float
    turn_seconds: int
    tries_max: int
    nodes: Sequence[int]  # that are to have its model, and that its scope reaches
    claims: Sequence[Claim] = ()


@dataclass(frozen=True)
class Take:
    """Begin now."""


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Leave:
    """Nothing will have to be done."""


def decide(job: Job, me: int, now: float) -> Take | Wait | Leave:
    tried = sum(claim.tries for claim in job.claims)
    if me not in job.nodes or now >= job.deadline or tried >= job.tries_max:
        return Leave()
    leased = [claim.until for claim in job.claims if claim.until is not None and claim.until > now]
    mine = next((claim for claim in job.claims if claim.node == me), Claim(me))
    others = [c.until for c in job.claims if c.node != me and c.until is not None and c.until > now]
    if others:
        return Wait(max(others) - now)
    if mine.retry_at is not None and mine.retry_at > now:
        return Wait(mine.retry_at - now)
    if leased:
        return Take()  # this node's own, from before it was started again
    return _by_turn(job, me, now)


def _by_turn(job: Job, me: int, now: float) -> Take | Wait:
    order = turns(job.id, job.asked_by, job.nodes)
    if len(order) == 1:
        return Take()
    passed = max(now - job.made_at, 0.0)
    turn = int(passed // job.turn_seconds)
    left = (turn + 1) * job.turn_seconds - passed
    if order[turn % len(order)] == me and left > job.turn_seconds / MARGIN:
        return Take()
    ahead = (order.index(me) - turn - 1) % len(order)
    return Wait(left + ahead * job.turn_seconds)


def turns(job: int, asked_by: int, nodes: Iterable[int]) -> list[int]:
    """The order in which nodes are at a job: who asked first, the others by the hash of both."""

    def rank(node: int) -> tuple[bool, bytes]:
        return node != asked_by, hashlib.sha256(f"{job} {node}".encode()).digest()

    return sorted(nodes, key=rank)


def pause_seconds(tries: int) -> float:
    """Before the next try of a node, after so many that failed."""
    return min(2.0 ** min(tries, 16), PAUSE_SECONDS_MAX)
