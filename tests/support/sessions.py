"""Connections that are used again: a statement on a new one costs a hundred times what it takes otherwise."""

from __future__ import annotations

import contextlib
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

CONNECT_SECONDS_MAX = 10
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Sessions:
    """By address. One is with one caller at a time; one that its server has ended is not used again."""

    def __init__(self) -> None:
        self._free: dict[str, list[Connection]] = {}

    @asynccontextmanager
    async def use(self, dsn: str) -> AsyncIterator[Connection]:
        connection = await self._take(dsn)
        try:
            yield connection
        except BaseException:
            # What it was in the middle of, and which settings it has now, is not known.
            await connection.close()
            raise
        self._free.setdefault(dsn, []).append(connection)

    def forget(self, dsn: str) -> None:
        """Its server is ended, and may have left processes that answer for a moment more."""
        for connection in self._free.pop(dsn, []):
            connection.pgconn.finish()

    async def close(self) -> None:
        for connections in self._free.values():
            for connection in connections:
                await connection.close()
        self._free.clear()

    async def _take(self, dsn: str) -> Connection:
        free = self._free.get(dsn, [])
        while free:
            connection = free.pop()
            if _is_silent(connection):
                return connection
            with contextlib.suppress(psycopg.Error):
                await connection.close()
        # Without prepared statements: tables change under them.
        return await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=CONNECT_SECONDS_MAX, prepare_threshold=None
        )


def _is_silent(connection: Connection) -> bool:
    """Nobody has said anything, as a server does that ends."""
    return not connection.closed and not select.select([connection.fileno()], [], [], 0)[0]
