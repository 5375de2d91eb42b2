"""Orphans: rows whose parent was deleted elsewhere, found and dealt with for a share of a core.

Tables with foreign keys are walked in stretches, in the order of their keys. One that was not written
since its last walk, nor its parents, is walked again only now and then. What counts as an orphan and what
becomes of it is decided in the database (sql/functions/49_orphans.sql); here is only when to look.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg import AsyncConnection

from atoll.domain.errors import DataError
from atoll.node.postgres.server import Postgres
from atoll.observe.metrics import counter, gauge
from atoll.sql import query

SHARE = 0.02
ROWS_PER_STRETCH = 1000
OPEN_MAX = 10_000
HANDLED_AT_ONCE_MAX = 100
LOOK_EVERY_SECONDS = 5.0
PAUSE_SECONDS_MAX = 60.0
WALK_ALL_SECONDS = 3600.0
ASKED_SECONDS_MAX = 240.0
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Walked:
    """When a table was last walked, and how often it and its parents had been written by then."""

    at: float
    writes: int


def due(tables: Mapping[str, int], walked: Mapping[str, Walked], now: float) -> list[str]:
    """The tables that have a reason to be walked, those first that have waited longest."""
    reasons = [
        name
        for name, writes in tables.items()
        if name not in walked or walked[name].writes != writes or now - walked[name].at >= WALK_ALL_SECONDS
    ]
    return sorted(reasons, key=lambda name: walked[name].at if name in walked else float("-inf"))


def pause_seconds(spent: float) -> float:
    """How long to do nothing after so much work, so that it stays a share of a core."""
    return min(spent / SHARE, PAUSE_SECONDS_MAX)


class Orphans:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._turn = asyncio.Lock()
        self._walked: dict[str, Walked] = {}
        self._tended_at = float("-inf")
        self._rest_until = float("-inf")
        self._open = 0
        self._handled = 0
        self._seconds = 0.0

    async def run(self) -> None:
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    while True:
                        await self._round(connection)
                        await asyncio.sleep(LOOK_EVERY_SECONDS)
            except (psycopg.Error, OSError) as error:
                log.debug("looking for orphans waits: %s", str(error).strip())
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def look(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Walk tables now, without pauses, and do what may be done already."""
        tables: list[str] = asked.get("tables") or []
        began = time.monotonic()
        async with await self._postgres.connect() as connection:
            known = await self._tables(connection)
            cut = False
            for table in tables or known:
                if table not in known:
                    raise DataError(
                        "table-without-parents",
                        f"table {table} is not shared or refers to no shared table",
                        hint="See what is: atoll tables",
                    )
                cut = not await self._walk(connection, table, began + ASKED_SECONDS_MAX) or cut
            handled = await self._tend(connection)
            return {"open": self._open, "handled": handled, "complete": not cut}

    async def _round(self, on: Connection) -> None:
        tables = await self._tables(on)
        self._walked = {name: seen for name, seen in self._walked.items() if name in tables}
        for name in due(tables, self._walked, time.monotonic()):
            if await self._walk(on, name, None):
                self._walked[name] = Walked(time.monotonic(), tables[name])
        if tables:
            await self._tend_now_and_then(on)

    async def _tables(self, on: Connection) -> dict[str, int]:
        row = await (await on.execute(query("orphans", "is_current"))).fetchone()
        if not (row and row[0]):
            return {}
        return dict(await (await on.execute(query("orphans", "tables"))).fetchall())

    async def _walk(self, on: Connection, table: str, until: float | None) -> bool:
        """One table from end to end; whether it was all. Somebody who asked waits only `until` then."""
        after: str | None = ""
        while after is not None:
            began = time.monotonic()
            if until is not None and began > until:
                return False
            async with self._turn:
                asked = (table, after, ROWS_PER_STRETCH, OPEN_MAX)
                row = await (await on.execute(query("orphans", "find"), asked)).fetchone()
            after = row[0] if row else None
            if row and row[1]:
                self._tended_at = float("-inf")
            if until is None:
                await self._rest(on, time.monotonic() - began)
        return True

    async def _rest(self, on: Connection, spent: float) -> None:
        """Pauses are when those that are known are looked at again."""
        self._seconds += spent
        ends = time.monotonic() + pause_seconds(spent)
        await self._tend_now_and_then(on)
        await asyncio.sleep(max(ends - time.monotonic(), 0))

    async def _tend_now_and_then(self, on: Connection) -> None:
        began = time.monotonic()
        if began - self._tended_at < LOOK_EVERY_SECONDS or began < self._rest_until:
            return
        await self._tend(on)
        spent = time.monotonic() - began
        self._seconds += spent
        self._rest_until = time.monotonic() + pause_seconds(spent)

    async def _tend(self, on: Connection) -> int:
        async with self._turn:
            self._tended_at = time.monotonic()
            self._open = await _number(on, "review")
            if not self._open:
                return 0
            handled = await _number(on, "handle", (HANDLED_AT_ONCE_MAX,))
            if handled:
                self._handled += handled
                self._open = await _number(on, "review")
                log.warning("dealt with %s orphans; see: atoll orphans", handled)
            return handled

    def numbers(self) -> Iterable[Metric]:
        yield gauge("atoll_orphans", "Rows whose parent should be here and is not.", float(self._open))
        yield counter("atoll_orphans_handled", "Orphans dealt with here.", float(self._handled))
        yield counter("atoll_orphans_seconds", "Time that looking for orphans took.", self._seconds)


async def _number(on: Connection, name: str, values: Sequence[Any] | None = None) -> int:
    row = await (await on.execute(query("orphans", name), values)).fetchone()
    return int(row[0]) if row and row[0] is not None else 0
