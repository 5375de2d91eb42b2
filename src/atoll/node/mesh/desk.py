"""Where peers that compare are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from atoll.domain.errors import AtollError, DataError
from atoll.identity.certificate import PeerIdentity
from atoll.node.postgres.server import Postgres
from atoll.sql import query

IDLE_SECONDS = 60.0

Connection = AsyncConnection[tuple[Any, ...]]


class Desk:
    """One session, in which peers are answered one after the other; errors as they travel.

    It is kept, because a new one would have to learn every table anew, and ends when nobody asks for a while.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._leaves: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def __call__(self, peer: PeerIdentity) -> AsyncIterator[tuple[Connection, list[str]]]:
        """The session, and the scopes that the peer may hear of: a key alone says something of its row."""
        async with self._turn:
            self._stay()
            try:
                yield await self._session(peer)
            except (psycopg.Error, OSError) as error:
                raise explained(error) from error
            finally:
                self._leaves = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._leave)

    async def close(self) -> None:
        self._stay()
        if self._connection is not None:
            await self._connection.close()

    async def _session(self, peer: PeerIdentity) -> tuple[Connection, list[str]]:
        """The old one may have ended unnoticed, with a server that was started anew."""
        if self._connection is not None and not self._connection.closed:
            with suppress(psycopg.OperationalError):
                return self._connection, await _scopes(self._connection, peer)
        self._connection = await self._postgres.connect()
        return self._connection, await _scopes(self._connection, peer)

    def _stay(self) -> None:
        if self._leaves is not None:
            self._leaves.cancel()
            self._leaves = None

    def _leave(self) -> None:
        if self._connection is not None and not self._turn.locked():
            self._connection.pgconn.finish()


async def _scopes(on: Connection, peer: PeerIdentity) -> list[str]:
    row = await (await on.execute(query("scrub", "shared_scopes"), (peer.number,))).fetchone()
    return list(row[0] or []) if row else []


def explained(error: Exception) -> AtollError:
    """An error of the database as one of ours."""
    diag = getattr(error, "diag", None)
    code = (diag and diag.constraint_name) or "database"
    return DataError(code, (diag and diag.message_primary) or str(error).strip() or "could not compare")
