"""The applications of the demo: one at each site, writing to its own node as any program would.

Each is an ordinary PostgreSQL client with the address that `atoll dsn` prints. A write that PostgreSQL takes
back because of a deadlock is not tried again; anything else that goes wrong ends the demo.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import psycopg

from atoll.demo.ledger import Account
from atoll.demo.scenario import STAR, Act, Site, Write, choose_trade, is_observation
from atoll.demo.sites.raw import Source
from atoll.domain.errors import DataError
from atoll.sql import query

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Application:
    """The application of one site."""

    def __init__(
        self, site: Site, source: Source, dsn: str, writes_per_second: int, rng: random.Random
    ) -> None:
        self.site = site
        self.account = Account()
        self._source = source
        self._dsn = dsn
        self._writes_per_second = writes_per_second
        self._number = 0
        self._rng = rng
        self._stopping = asyncio.Event()
        self._acts: asyncio.Queue[Act] = asyncio.Queue(maxsize=16)

    def stop(self) -> None:
        """After the write that it is at."""
        self._stopping.set()

    def do(self, act: Act) -> None:
        """The next write is this one."""
        self._acts.put_nowait(act)

    async def observe(self) -> None:
        """One row for the model, before everything else begins."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            await self._observe(connection)

    async def run(self) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                await self._run(connection)
        except psycopg.Error as error:
            raise DataError(
                "demo-write-failed",
                f"a write failed on {self.site.name}: {str(error).strip().splitlines()[0]}",
                hint="Keep the nodes and their logs with --home DIR and try again.",
            ) from error

    async def _run(self, connection: Connection) -> None:
        due, pause = time.monotonic(), 1.0 / self._writes_per_second
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._next(connection)
            except psycopg.errors.TransactionRollback:
                self.account.given_way += 1
            else:
                self.account.note(time.monotonic() - began)
            # Nothing is caught up on: a slow moment makes fewer writes, not a burst.
            due = max(due + pause, time.monotonic() - pause)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _next(self, connection: Connection) -> None:
        if not self._acts.empty():
            await self._act(connection, self._acts.get_nowait())
            return
        self._number += 1
        if is_observation(self._number, self.site, self._writes_per_second):
            await self._observe(connection)
            return
        write = choose_trade(self._rng)
        if write.kind == "sell":
            await self._sell(connection, write)
        else:
            await connection.execute(query("demo", "set_price"), (write.value, write.item))

    async def _observe(self, connection: Connection) -> None:
        insert = query("demo", self._source.insert)
        row = await (await connection.execute(insert, self._source.next().values)).fetchone()
        assert row is not None
        self.account.note_observation(row[0], time.monotonic())

    async def _sell(self, connection: Connection, write: Write) -> None:
        async with connection.transaction():
            row = await (await connection.execute(query("demo", "price"), (write.item,))).fetchone()
            assert row is not None
            order = (self.site.name, write.item, write.qty, row[0] * write.qty)
            await connection.execute(query("demo", "add_order"), order)
            await connection.execute(query("demo", "take"), (write.qty, write.item))
        self.account.note_order(time.monotonic(), write.item, write.qty)

    async def _act(self, connection: Connection, act: Act) -> None:
        if act.price is None and act.tag is None:
            await self._observe(connection)
        if act.price is not None:
            await connection.execute(query("demo", "set_price"), (act.price, STAR))
        if act.tag is not None:
            await connection.execute(query("demo", "add_tag"), (act.tag, STAR, act.tag))
