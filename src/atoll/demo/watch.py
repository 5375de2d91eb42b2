"""Looks at each node's database and says what is there now. It changes nothing and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg

from atoll.demo.scenario import STAR, TABLES
from atoll.sql import query

CONFLICTS_KEPT = 200
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Item:
    """One row of the stock, as one node has it."""

    qty: int
    price: Decimal
    tags: str


@dataclass(frozen=True)
class Conflict:
    """A write that lost against another that had not seen it."""

    id: int
    item: str
    column: str
    lost: str
    lost_by: str
    won: str
    won_by: str
    later_by_seconds: float


@dataclass(frozen=True)
class Seen:
    """What one node has, at one moment."""

    orders: Mapping[str, int] = field(default_factory=dict)
    readings: Mapping[str, int] = field(default_factory=dict)
    star: Item | None = None
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0

    @property
    def rows(self) -> int:
        return sum(self.orders.values()) + sum(self.readings.values())

    def rows_of(self, site: str) -> int:
        """Orders and readings here that were written at a site."""
        return self.orders.get(site, 0) + self.readings.get(site, 0)


class Lookout:
    """A connection to one node, and what was seen there before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._looking = asyncio.Lock()
        self.seen = Seen()

    async def look(self) -> None:
        # Conflicts are counted on from the last look, so two looks do not overlap.
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        orders = dict(await self._rows("orders_by_site"))
        readings = {site: count for site, count, _ in await self._rows("readings_by_site")}
        star = await self._rows("item", STAR)
        known = self.seen.conflicts
        found = await self._rows("conflicts", known[-1].id if known else 0)
        conflicts = (*known, *(_conflict(row) for row in found))[-CONFLICTS_KEPT:]
        count = self.seen.conflict_count + len(found)
        self.seen = Seen(orders, readings, Item(*star[0]) if star else None, conflicts, count)

    async def mesh_stands(self, peers: int) -> bool:
        return bool((await self._rows("mesh_stands", peers))[0][0])

    async def has_all(self, items: int) -> bool:
        """All tables and items have come."""
        if (await self._rows("tables_here"))[0][0] < len(TABLES):
            return False
        return bool((await self._rows("items_here"))[0][0] == items)

    async def stock(self) -> dict[str, int]:
        return dict(await self._rows("stock"))

    async def receipts(self) -> dict[str, str]:
        return {table: str((await self._rows("receipt", f"public.{table}"))[0][0]) for table in TABLES}

    async def _rows(self, name: str, *values: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(query("demo", name), values or None)).fetchall()


def _conflict(row: tuple[Any, ...]) -> Conflict:
    id_, item, column, kind, lost, lost_by, won, won_by, later = row
    return Conflict(
        id_, item or "?", column or kind, str(lost), str(lost_by), str(won), str(won_by), later or 0.0
    )
