"""The budgets of this node: keeps its leases and its pockets filled, and grants where it is the granter.

What is decided is router/budgets/lease.py's. A draw is written before it is spent, so a crash loses what is
in a pocket and gives nothing away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from atoll.domain.errors import LinkError
from atoll.router.budgets.lease import (
    Budget,
    Lease,
    Reservation,
    Terms,
    grants,
    is_forgotten,
    may_grant,
    next_move,
)
from atoll.sql import query
from atoll.sql.sessions import Connect, Connection, keep

LOOK_SECONDS = 2.0
BREATH_SECONDS = 0.1
POLL_SECONDS = 0.05
IN_VAIN_SECONDS = 10.0


def spent(name: str, seconds: float | None = None) -> LinkError:
    """It comes anew after so many seconds, where that is known."""
    error = LinkError(
        "budget-spent",
        f'budget "{name}" has too little left on this node',
        hint="See what is left: atoll budget list",
    )
    error.retry_after_seconds = seconds
    return error


class Budgets:
    """Runs for as long as the node does."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._budgets: dict[str, Budget] = {}
        self._low = asyncio.Event()
        self._is_needed = asyncio.Event()

    def find(self, name: str) -> Budget | None:
        return self._budgets.get(name)

    def is_spent(self, name: str) -> bool:
        """Is nothing left of it here? So is one that is not known."""
        budget = self._budgets.get(name)
        return budget is None or budget.free + budget.held <= 0

    async def reserve(self, name: str, cost: int, seconds: float = 0.5) -> Reservation | None:
        """As Budget.reserve, but where the pocket is short, wait a moment for more of the lease.

        Who came shortly before in vain has waited for all that come now.
        """
        budget = self._budgets.get(name)
        if budget is None:
            return None
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began >= budget.in_vain_until:
            while not budget.has(cost) and loop.time() < began + seconds:
                await asyncio.sleep(POLL_SECONDS)
            if not budget.has(cost):
                budget.in_vain_until = loop.time() + IN_VAIN_SECONDS
        return budget.reserve(cost)

    def numbers(self) -> Iterable[Metric]:
        free = GaugeMetricFamily("atoll_budget_free", "What may be spent here at once.", labels=["budget"])
        spent = GaugeMetricFamily("atoll_budget_spent", "Spent here in this period.", labels=["budget"])
        refused = CounterMetricFamily("atoll_budget_refusals", "Reservations refused.", labels=["budget"])
        for name, budget in self._budgets.items():
            free.add_metric([name], budget.free)
            spent.add_metric([name], budget.spent)
            refused.add_metric([name], budget.refused)
        yield from (free, spent, refused)

    async def run(self) -> None:
        """Until cancelled. Where there are no budgets, no session is held."""
        await keep(self._connect_when_needed, "budgets", self._follow)

    def wake(self) -> None:
        """There is a budget, or something of one that was."""
        self._is_needed.set()

    async def _connect_when_needed(self) -> Connection:
        await self._is_needed.wait()
        return await self._connect()

    async def _follow(self, connection: Connection) -> None:
        while True:
            self._is_needed.clear()
            self._low.clear()
            pause = await self.look(connection)
            if not self._budgets:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._low.wait()
            await asyncio.sleep(BREATH_SECONDS)

    async def look(self, connection: Connection) -> float:
        """Grant, draw, ask for more, give back; when to look again."""
        await connection.execute(query("budgets", "forget_dropped"))
        rows = await (await connection.execute(query("budgets", "facts"))).fetchall()
        self._budgets = {
            row[1]: self._budgets.get(row[1]) or Budget(row[1], row[3], self._low.set) for row in rows
        }
        pause = LOOK_SECONDS
        for me, name, amount, _, period_seconds, granter, nodes, now, told in rows:
            terms = Terms(amount, period_seconds, nodes)
            leases = [Lease(*one) for one in told]
            if granter == me:
                await self._grant(connection, name, terms, leases, now)
            await self._hold(connection, self._budgets[name], terms, leases, me, now)
            pause = min(pause, period_seconds - now % period_seconds)
        return max(pause, BREATH_SECONDS)

    async def _grant(
        self, connection: Connection, name: str, terms: Terms, leases: list[Lease], now: float
    ) -> None:
        newest = max((one.period for one in leases if one.granted), default=None)
        for period in {one.period for one in leases}:
            if may_grant(period, terms.period(now), newest):
                of_period = [one for one in leases if one.period == period]
                for node, total in grants(terms, of_period).items():
                    await connection.execute(query("budgets", "grant"), (name, node, period, total))
        old = sorted({one.period for one in leases if is_forgotten(one.period, newest)})
        if old:
            await connection.execute(query("budgets", "forget"), (name, old))

    async def _hold(
        self, connection: Connection, budget: Budget, terms: Terms, leases: list[Lease], me: int, now: float
    ) -> None:
        period, own = terms.period(now), {lease.period: lease for lease in leases if lease.node == me}
        for one in (period, period + 1) if terms.is_late(now) else (period,):
            lease = own.get(one) or Lease(me, one)
            is_present = one == period
            pocket = budget.free if is_present and budget.period == period else 0
            move = next_move(terms, lease, pocket, budget.recent, budget.needed if is_present else 0)
            draw = move.draw if is_present else 0
            drawn = 0
            if (move.wanted, draw, move.give_back) != (lease.wanted, 0, 0):
                values = (budget.name, one, move.wanted, draw, move.give_back if is_present else 0)
                found = await (await connection.execute(query("budgets", "move"), values)).fetchone()
                drawn = draw if found else 0
            if is_present:
                budget.held = max(lease.held - drawn - move.give_back, 0)
                budget.fill(period, drawn, terms.period_seconds - now % terms.period_seconds)
