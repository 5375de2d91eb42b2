"""Budgets as leases: whatever the network and the clocks do, no period's amount is exceeded."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from atoll.router.budgets.lease import (
    Budget,
    Lease,
    Terms,
    grants,
    is_forgotten,
    may_grant,
    next_move,
)

GRANTER = 1


@dataclass
class SimulatedNode:
    """A node with its own copy of the rows, a clock that is wrong, and a pocket that a kill empties."""

    number: int
    skew: float
    rows: dict[tuple[int, int], Lease] = field(default_factory=dict)
    budget: Budget = field(default_factory=lambda: Budget("b", "tokens", lambda: None))
    now: float = 0.0

    def revive(self) -> None:
        self.budget = Budget("b", "tokens", lambda: None, clock=lambda: self.now)

    def hold(self, terms: Terms) -> None:
        period = terms.period(self.now)
        for one in (period, period + 1) if terms.is_late(self.now) else (period,):
            lease = self.rows.get((self.number, one), Lease(self.number, one))
            is_present = one == period
            pocket = self.budget.free if is_present and self.budget.period == period else 0
            move = next_move(terms, lease, pocket, self.budget.recent, self.budget.needed * is_present)
            draw, back = (move.draw, move.give_back) if is_present else (0, 0)
            assert lease.held >= draw + back
            self.rows[self.number, one] = replace(
                lease, wanted=move.wanted, drawn=lease.drawn + draw, returned=lease.returned + back
            )
            if is_present:
                self.budget.fill(period, draw, terms.period_seconds - self.now % terms.period_seconds)

    def grant(self, terms: Terms) -> None:
        newest = max((one.period for one in self.rows.values() if one.granted), default=None)
        for period in {one.period for one in self.rows.values()}:
            if may_grant(period, terms.period(self.now), newest):
                of_period = [one for one in self.rows.values() if one.period == period]
                for node, total in grants(terms, of_period).items():
                    self.rows[node, period] = replace(self.rows[node, period], granted=total)
        self.rows = {key: one for key, one in self.rows.items() if not is_forgotten(one.period, newest)}

    def hear(self, told: Lease) -> None:
        """Each column has one writer, and what it writes only grows: a later word is the greater one."""
        key = (told.node, told.period)
        mine = self.rows.get(key, Lease(*key))
        if told.node != self.number:
            mine = replace(
                mine,
                wanted=max(mine.wanted, told.wanted),
                drawn=max(mine.drawn, told.drawn),
                returned=max(mine.returned, told.returned),
            )
        if self.number != GRANTER:
            mine = replace(mine, granted=max(mine.granted, told.granted))
        self.rows[key] = mine


@pytest.mark.parametrize("seed", range(16))
def test_no_period_is_overspent_whatever_the_network_does(seed: int) -> None:
    chance = random.Random(seed)
    terms = Terms(chance.choice([7, 1000, 10**9]), chance.choice([10, 60]), chance.randint(1, 6))
    nodes = [SimulatedNode(n + 1, chance.uniform(-15, 15)) for n in range(terms.nodes)]
    spent: dict[int, int] = {}
    drawn: dict[tuple[int, int], int] = {}
    mail: list[tuple[float, int, int, Lease]] = []
    cut: set[int] = set()
    for node in nodes:
        node.revive()
    for step in range(1000):
        time = 1000.0 + step * 0.3
        if chance.random() < 0.01:
            cut = {node.number for node in nodes if chance.random() < 0.5}
        node = chance.choice(nodes)
        if chance.random() < 0.01:
            node.skew = chance.uniform(-15, 15)
        node.now = time + node.skew
        match chance.choice(["hold", "grant", "tell", "spend", "spend", "kill"]):
            case "hold":
                node.hold(terms)
            case "grant" if node.number == GRANTER:
                node.grant(terms)
            case "tell":
                for lease in list(node.rows.values()):
                    for other in nodes:
                        mail.append((time + chance.expovariate(0.5), node.number, other.number, lease))
            case "spend":
                cost = chance.randint(0, max(terms.amount // chance.choice([3, 50, 1000]), 1))
                if (reservation := node.budget.reserve(cost)) is not None:
                    actual = chance.randint(0, cost)
                    reservation.settle(actual)
                    spent[reservation.period] = spent.get(reservation.period, 0) + actual
            case "kill" if chance.random() < 0.1:
                node.revive()
        late = []
        for letter in mail:
            due, teller, to, lease = letter
            if due > time or {teller, to} & cut:
                late.append(letter)
            else:
                nodes[to - 1].hear(lease)
        mail = late[-500:]
        for one in nodes:
            own = {key: lease.drawn for key, lease in one.rows.items() if key[0] == one.number}
            drawn |= {key: max(value, drawn.get(key, 0)) for key, value in own.items()}
    for period in {key[1] for key in drawn}:
        all_drawn = sum(value for key, value in drawn.items() if key[1] == period)
        assert spent.get(period, 0) <= all_drawn <= terms.amount, f"seed {seed}, period {period}"
    assert sum(spent.values()) > 0 or terms.amount < 10


def budget_at(now: list[float]) -> tuple[Budget, list[str]]:
    called: list[str] = []
    return Budget("b", "cost", lambda: called.append("low"), clock=lambda: now[0]), called


def test_a_pocket_is_spent_without_asking_and_fails_closed() -> None:
    now = [0.0]
    budget, called = budget_at(now)
    assert budget.reserve(1) is None, "nothing was drawn yet"
    budget.fill(period=5, drawn=100, seconds_left=10.0)
    first = budget.reserve(60)
    assert first is not None
    assert budget.reserve(60) is None
    first.settle(10)
    first.settle(10)
    assert (budget.free, budget.spent) == (90, 10)
    now[0] = 10.0
    assert budget.reserve(1) is None, "its period is over"
    assert (budget.refused, budget.needed) == (3, 60)
    assert called


def test_a_request_that_cost_more_than_it_might_is_paid_before_the_next() -> None:
    budget, _ = budget_at([0.0])
    budget.fill(1, 100, 10.0)
    reservation = budget.reserve(50)
    assert reservation is not None
    reservation.settle(130)
    assert budget.free == -30
    assert budget.reserve(1) is None
    budget.fill(1, 40, 10.0)
    assert budget.reserve(10) is not None


def test_what_a_request_of_the_last_period_gives_back_is_not_spent_in_this_one() -> None:
    budget, _ = budget_at([0.0])
    budget.fill(1, 100, 10.0)
    reservation = budget.reserve(100)
    assert reservation is not None
    budget.fill(2, 5, 10.0)
    reservation.settle(0)
    assert (budget.period, budget.free) == (2, 5)


def test_leases_are_renewed_ahead_given_back_and_granted_least_wishes_first() -> None:
    terms = Terms(amount=800, period_seconds=60, nodes=2)
    first = next_move(terms, Lease(2, 1), pocket=0, recent=0)
    assert first.wanted == 100, "a quarter of an even share"
    busy = next_move(terms, Lease(2, 1, 100, 100, 80), pocket=10, recent=100)
    assert busy.draw == 20
    assert busy.wanted == 300, "asked for while there is something left"
    idle = next_move(terms, Lease(2, 1, 600, 600, 0), pocket=50, recent=0)
    assert idle.give_back == 500
    assert grants(terms, [Lease(1, 1, wanted=700), Lease(2, 1, wanted=200)]) == {1: 600, 2: 200}
    assert grants(terms, [Lease(1, 1, wanted=700), Lease(2, 1, wanted=700)]) == {1: 400, 2: 400}
    assert grants(terms, [Lease(1, 1, 800, 800), Lease(2, 1, wanted=9)]) == {}
    assert grants(terms, [Lease(1, 1, 800, 800, 10, 700), Lease(2, 1, wanted=9)]) == {2: 9}


def test_nothing_is_granted_of_a_period_that_may_have_been_forgotten() -> None:
    assert may_grant(period=5, present=5, newest=5)
    assert may_grant(period=6, present=5, newest=5)
    assert not may_grant(period=7, present=5, newest=5)
    assert not may_grant(period=4, present=5, newest=5)
    assert not may_grant(period=3, present=3, newest=5), "its clock was put back"
    assert [is_forgotten(period, 5) for period in (2, 3, 5)] == [True, False, False]
