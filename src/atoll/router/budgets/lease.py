"""Budgets as leases: what each node may spend without asking anybody. Pure, but for the pocket at the end.

One node, named in the budget's row, grants. It alone writes what others hold, and each holder alone writes
what it has drawn and given back; all these only grow. So a node that has heard little knows of less granted
to it, or of less given back by others, than is true, and never of more: what can be spent in a period stays
within the amount, whatever the network does. A node that hears nothing more spends what it holds, and then
nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from atoll.router.place import Price

TOKENS, MILLIONTHS = "tokens", 1_000_000
AHEAD = 0.8  # of a period: from then on, a lease of the next one is asked for
RECENT_SECONDS = 30.0
ALONE = 4  # one part in so many of an even share is held by a node that spends nothing


def charge(unit: str, price: Price, tokens_in: int, tokens_out: int) -> int:
    """The most that a request can take from a budget of a unit."""
    if unit == TOKENS:
        return tokens_in + tokens_out
    return math.ceil(price.of(tokens_in, tokens_out) * MILLIONTHS)


@dataclass(frozen=True)
class Terms:
    """What a budget's row says, and among how many nodes it is split."""

    amount: int
    period_seconds: int
    nodes: int

    def period(self, now: float) -> int:
        return int(now // self.period_seconds)

    def is_late(self, now: float) -> bool:
        """Should a lease of the next period be asked for?"""
        return now % self.period_seconds >= AHEAD * self.period_seconds


@dataclass(frozen=True)
class Lease:
    """A node's part of a period's amount, as far as somebody knows."""

    node: int
    period: int
    wanted: int = 0
    granted: int = 0
    drawn: int = 0
    returned: int = 0

    @property
    def held(self) -> int:
        return self.granted - self.returned - self.drawn


@dataclass(frozen=True)
class Move:
    """What a holder does next. `wanted` is all that it wants granted; the others are added to what was."""

    wanted: int
    draw: int = 0
    give_back: int = 0


def enough(terms: Terms, recent: int) -> int:
    """What a node likes to hold: twice what it spent of late, and some for when it is alone."""
    return max(2 * recent, terms.amount // (ALONE * max(terms.nodes, 1)), 1)


def next_move(terms: Terms, lease: Lease, pocket: int, recent: int, needed: int = 0) -> Move:
    """`pocket` is what has been drawn and is not spent, `needed` what somebody waits for."""
    target = max(enough(terms, recent), needed)
    draw = max(min(max(target // 2, needed) - pocket, lease.held), 0)
    left = lease.held - draw
    if left > 2 * target:
        return Move(lease.wanted, draw, left - target)
    if left >= max(target // 2, 1):
        return Move(lease.wanted, draw)
    return Move(max(lease.wanted, lease.returned + lease.drawn + draw + target), draw)


def grants(terms: Terms, leases: Iterable[Lease]) -> dict[int, int]:
    """What each node whose wish can be met is to have been granted, of one period: least wishes first."""
    rows = list(leases)
    free = terms.amount - sum(one.granted - one.returned for one in rows)
    asking = {one.node: one.wanted - one.granted for one in rows}
    asking = {node: need for node, need in asking.items() if need > 0}
    before = {one.node: one.granted for one in rows}
    found: dict[int, int] = {}
    for count, (node, need) in zip(
        range(len(asking), 0, -1), sorted(asking.items(), key=lambda item: (item[1], item[0])), strict=True
    ):
        given = min(need, free // count)
        if given > 0:
            found[node] = before[node] + given
            free -= given
    return found


def may_grant(period: int, present: int, newest: int | None) -> bool:
    """Of this period or the next; but of none whose leases may be forgotten, wherever the clock has gone.

    `newest` is the latest period of which anything was ever granted.
    """
    return present <= period <= present + 1 and (newest is None or period >= newest - 1)


def is_forgotten(period: int, newest: int | None) -> bool:
    """May the leases of a period be deleted?"""
    return newest is not None and period < newest - 2


@dataclass
class Reservation:
    """Some of a budget, set aside for a request until it is known what that cost."""

    budget: Budget
    cost: int
    period: int
    is_settled: bool = False

    def settle(self, actual: int = 0) -> None:
        """What it did cost; none where nobody was asked."""
        if not self.is_settled:
            self.is_settled = True
            self.budget.take_back(self, actual)


class Budget:
    """The pocket of this process: drawn from the lease beforehand, spent without asking anybody.

    What is in it is lost with the process, and counts as spent. After the end of its period it holds nothing.
    """

    def __init__(
        self, name: str, unit: str, low: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`low` is called when more should be drawn."""
        self.name = name
        self.unit = unit
        self.spent = 0  # of this period, by this process
        self.refused = 0
        self.needed = 0
        self.held = 0  # of the lease, beside what is in the pocket
        self.in_vain_until = 0.0  # somebody has waited for more, and nothing came
        self._low = low
        self._clock = clock
        self._period = -1
        self._ends_at = 0.0
        self._free = 0
        self._full = 0
        self._recent: list[tuple[float, int]] = []

    def has(self, cost: int) -> bool:
        """Is so much in the pocket? If not, more is asked for."""
        if self._clock() < self._ends_at and cost <= self._free:
            return True
        self.needed = max(self.needed, cost)
        self._low()
        return False

    def reserve(self, cost: int) -> Reservation | None:
        """At once, or not: `cost` is the most that the request can cost."""
        if not self.has(cost):
            self.refused += 1
            return None
        self._free -= cost
        if self._free < self._full // 2:
            self._low()
        return Reservation(self, cost, self._period)

    def take_back(self, reservation: Reservation, actual: int) -> None:
        if reservation.period == self._period:
            self._free += reservation.cost - actual  # less than nothing where an estimate was too small
            self.spent += actual
        now = self._clock()
        if self._recent and now - self._recent[-1][0] < 1.0:
            self._recent[-1] = (self._recent[-1][0], self._recent[-1][1] + actual)
        else:
            self._recent = [*self._recent_at(now), (now, actual)]

    @property
    def free(self) -> int:
        return self._free

    @property
    def period(self) -> int:
        return self._period

    @property
    def recent(self) -> int:
        """What was spent in the last seconds."""
        return sum(spent for _, spent in self._recent_at(self._clock()))

    @property
    def seconds_left(self) -> float:
        """Of its period."""
        return max(0.0, self._ends_at - self._clock())

    def _recent_at(self, now: float) -> list[tuple[float, int]]:
        return [(at, spent) for at, spent in self._recent if now - at < RECENT_SECONDS]

    def fill(self, period: int, drawn: int, seconds_left: float) -> None:
        """So much more was drawn, of a period that lasts so long still."""
        if period != self._period:
            self._period, self._free, self.spent = period, 0, 0
        self._ends_at = self._clock() + seconds_left
        self._free += drawn
        if drawn:
            self._full = self._free
        self.needed = 0
