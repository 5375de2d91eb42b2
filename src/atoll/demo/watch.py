"""Looks at each node's database and says what is there now. It changes nothing and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg

from atoll.demo.scenario import PRICES, RAW_TABLES, SITES, STAR, TABLES, Site
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
class Decision:
    """What a model said of a row."""

    about: str
    label: str
    score: float | None
    model: str
    took_seconds: float


@dataclass(frozen=True)
class Seen:
    """What one node has, at one moment."""

    orders: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)
    raw_rows: int = 0
    raw_bytes: int = 0
    latest: tuple[Decision, ...] = ()
    star: Item | None = None
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0

    def rows_of(self, site: str) -> int:
        """Orders and decisions here that were made at a site."""
        return self.orders.get(site, 0) + self.decisions.get(site, 0)


class Lookout:
    """A connection to one node, and what was seen there before."""

    def __init__(self, site: Site, connection: Connection) -> None:
        self._site = site
        self._connection = connection
        self._looking = asyncio.Lock()
        self._last_raw = 0
        self.seen = Seen()

    async def look(self) -> None:
        # Conflicts and raw rows are counted on from the last look, so two looks do not overlap.
        async with self._looking:
            self.seen = await self._look(self.seen)

    async def _look(self, before: Seen) -> Seen:
        orders = dict(await self._rows("orders_by_site"))
        decisions = dict(await self._rows("decisions_by_node"))
        star = await self._rows("item", STAR)
        found = await self._rows("conflicts", before.conflicts[-1].id if before.conflicts else 0)
        ((new, size, last),) = await self._rows(f"new_{self._site.table}", self._last_raw)
        self._last_raw = last or self._last_raw
        return Seen(
            orders=orders,
            decisions=decisions,
            raw_rows=before.raw_rows + new,
            raw_bytes=before.raw_bytes + size,
            latest=tuple(Decision(*row) for row in await self._rows("latest")),
            star=Item(*star[0]) if star else None,
            conflicts=(*before.conflicts, *(_conflict(row) for row in found))[-CONFLICTS_KEPT:],
            conflict_count=before.conflict_count + len(found),
        )

    async def mesh_stands(self, peers: int) -> bool:
        return bool((await self._rows("mesh_stands", peers))[0][0])

    async def is_furnished(self) -> bool:
        """All tables, pipelines and items have come, and the rollup."""
        ((tables, pipelines, rollups),) = await self._rows("tables_here")
        # The documents are one more table that stays.
        if (tables, pipelines, rollups) != (len(TABLES) + len(RAW_TABLES) + 1, len(SITES), 1):
            return False
        return bool((await self._rows("items_here"))[0][0] == len(PRICES))

    async def problem(self) -> str | None:
        """Why this node does not decide, as it says itself."""
        said: str | None = (await self._rows("pipeline_problem"))[0][0]
        return said

    async def raw_rows(self) -> dict[str, int]:
        """Rows of each site's raw table that are here."""
        return dict(zip(RAW_TABLES, (await self._rows("raw_here"))[0], strict=True))

    async def right(self) -> int:
        return int((await self._rows(f"right_{self._site.table}"))[0][0])

    async def decision_bytes(self) -> int:
        """Of a decision, on average."""
        return int((await self._rows("decision_bytes"))[0][0])

    async def rolled_up(self) -> int:
        return int((await self._rows("rolled_up"))[0][0])

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
