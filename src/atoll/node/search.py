"""Search on this node, wired: for those who ask over HTTP or by the command, and the indexes behind it.

A search runs as the application's role, logged in as that role. Which indexes there should be is decided in
the database (sql/functions/52_search.sql); here they are made one after the other, while everybody writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atoll.node.applications import log_in
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.postgres.server import Postgres
from atoll.node.query_vector import make_vector
from atoll.serving.embedding import Embedder
from atoll.sql import query
from atoll.sql.errors import explained
from atoll.sql.sessions import heard
from atoll.web.search import Asked, Found, Search

SEARCHES_MAX = 8
SECONDS_MAX = 30
SESSION = f"-c default_transaction_read_only=on -c statement_timeout={SECONDS_MAX}s"
LOOK_EVERY_SECONDS = 5.0
IDLE_SECONDS = 60.0  # where nothing is declared, and what comes is noticed
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Connect = Callable[[], Awaitable[Connection]]


def make_search(
    home: Home, settings: Settings, postgres: Postgres, embedder: Embedder | None = None
) -> Search:
    return search_by(lambda: log_in(home, settings, postgres, "atoll search", SESSION), embedder)


def search_by(connect: Connect, embedder: Embedder | None) -> Search:
    """Searches wait for each other: more at once than this would only be slower.

    Whoever has no models at hand searches by words, or by a vector that the caller gives.
    """
    turn = asyncio.Semaphore(SEARCHES_MAX)

    async def search(asked: Asked) -> Found:
        try:
            async with turn, await connect() as connection:
                made = await make_vector(embedder, connection, asked)
                asked = replace(asked, vector=made.vector or asked.vector, version=made.version)
                cursor = connection.cursor(row_factory=dict_row)
                await cursor.execute(
                    query("search", "find"), {**vars(asked), "filter": Jsonb(dict(asked.filter))}
                )
                return Found(await cursor.fetchall(), made.model, made.version, made.note)
        except psycopg.Error as error:
            raise explained(error) from error

    return search


class SearchIndexes:
    """Makes the indexes that declarations ask for, and drops those that none asks for any more."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def run(self) -> None:
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await connection.execute("listen atoll_search")
                    while True:
                        pause = LOOK_EVERY_SECONDS if await work(connection) else IDLE_SECONDS
                        await heard(connection, pause)
            except (psycopg.Error, OSError) as error:
                log.debug("making indexes for search waits: %s", str(error).strip())
                await asyncio.sleep(LOOK_EVERY_SECONDS)


async def work(on: Connection) -> bool:
    """Whatever is to be done now, and whether anything is declared.

    An index that cannot be made keeps its reason and is tried again later.
    """
    await on.execute(query("search", "gently"))
    for name, statement in await (await on.execute(query("search", "work"))).fetchall():
        problem = None
        try:
            await on.execute(statement.encode())
        except psycopg.Error as error:
            if on.closed:
                raise
            problem = error.diag.message_primary or str(error)
            log.warning("could not run %s: %s", statement, problem)
        await on.execute(query("search", "note"), (name, problem))
    return await (await on.execute(query("search", "declared"))).fetchone() is not None
