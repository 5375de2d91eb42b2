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
from atoll.demo.scenario import STAR, Act, Write, choose_write
from atoll.domain.errors import DataError
from atoll.sql import query

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Application:
    """The application of one site."""

    def __init__(self, site: str, dsn: str, writes_per_second: int, rng: random.Random) -> None:
        self.site = site
        self.account = Account()
        self._dsn = dsn
        self._pause = 1.0 / writes_per_second
        self._rng = rng
        self._stopping = asyncio.Event()
        self._acts: asyncio.Queue[Act] = asyncio.Queue(maxsize=16)

    def stop(self) -> None:
        """After the write that it is at."""
        self._stopping.set()

    def do(self, act: Act) -> None:
        """The next write is this one."""
        self._acts.put_nowait(act)

    async def run(self) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                await self._run(connection)
        except psycopg.Error as error:
            raise DataError(
                "demo-write-failed",
                f"a write failed on {self.site}: {str(error).strip().splitlines()[0]}",
                hint="Keep the nodes and their logs with --home DIR and try again.",
            ) from error

    async def _run(self, connection: Connection) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._next(connection)
            except psycopg.errors.TransactionRollback:
                self.account.given_way += 1
            else:
                now = time.monotonic()
                self.account.note(now, now - began)
            # Nothing is caught up on: a slow moment makes fewer writes, not a burst.
            due = max(due + self._pause, time.monotonic() - self._pause)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _next(self, connection: Connection) -> None:
        if not self._acts.empty():
            await self._act(connection, self._acts.get_nowait())
            return
        write = choose_write(self._rng)
        if write.kind == "measure":
            reading = (self.site, self.account.readings + 1, write.value)
            await connection.execute(query("demo", "measure"), reading)
            self.account.note_reading(time.monotonic())
        elif write.kind == "sell":
            await self._sell(connection, write)
        else:
            await connection.execute(query("demo", "set_price"), (write.value, write.item))

    async def _sell(self, connection: Connection, write: Write) -> None:
        async with connection.transaction():
            row = await (await connection.execute(query("demo", "price"), (write.item,))).fetchone()
            assert row is not None
            order = (self.site, write.item, write.qty, row[0] * write.qty)
            await connection.execute(query("demo", "add_order"), order)
            await connection.execute(query("demo", "take"), (write.qty, write.item))
        self.account.note_order(time.monotonic(), write.item, write.qty)

    async def _act(self, connection: Connection, act: Act) -> None:
        if act.price is not None:
            await connection.execute(query("demo", "set_price"), (act.price, STAR))
        if act.tag is not None:
            await connection.execute(query("demo", "add_tag"), (act.tag, STAR, act.tag))
