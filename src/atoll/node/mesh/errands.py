"""Errands: what a command asks of the running node, because only the node has links to its peers.

A command adds a row and notifies; the node does the errand and writes the answer beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.domain.errors import AtollError, DataError
from atoll.node.postgres.server import Postgres
from atoll.sql import query
from atoll.sql.sessions import heard

LISTEN_SECONDS = 5.0
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]
Errand = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Errands:
    def __init__(self, postgres: Postgres, kinds: Mapping[str, Errand]) -> None:
        """Who does what, by the word that a command asks with."""
        self._postgres = postgres
        self._kinds = kinds

    async def run(self) -> None:
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await connection.execute("listen atoll_errand")
                    while True:
                        await self._do_open(connection)
                        await heard(connection, LISTEN_SECONDS)
            except (psycopg.Error, OSError) as error:
                log.debug("errands wait for the database: %s", error)
                await asyncio.sleep(1.0)

    async def _do_open(self, connection: Connection) -> None:
        for number, kind, details in await (await connection.execute(query("errands", "open"))).fetchall():
            try:
                do = self._kinds.get(kind)
                if do is None:
                    raise DataError("errand-unknown", f'the node knows no errand "{kind}"')
                answer = await do(details)
            except AtollError as error:
                answer = {
                    "error": {
                        "code": error.code,
                        "message": error.message,
                        "detail": error.detail,
                        "hint": error.hint,
                    }
                }
            except (psycopg.Error, TimeoutError) as error:
                answer = {
                    "error": {"code": "database", "message": str(error).strip(), "detail": None, "hint": None}
                }
            await connection.execute(query("errands", "answer"), (Jsonb(answer), number))
