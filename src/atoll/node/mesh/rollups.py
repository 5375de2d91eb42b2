"""Rollups: what statements noted is folded into parts, and what was declared is carried out.

What a rollup is and how it stays right is decided in the database (sql/functions/50_rollup.sql); here is only
when to look.
"""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg

from atoll.node.postgres.server import Postgres
from atoll.sql import query
from atoll.sql.sessions import heard

EVERY_SECONDS = 2.0
IDLE_SECONDS = 60.0  # where none is declared, and one that comes is noticed
NOTES_AT_ONCE_MAX = 10_000
log = logging.getLogger(__name__)


class Rollups:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def run(self) -> None:
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await connection.execute("listen atoll_rollups")
                    while True:
                        began = time.monotonic()
                        asked = (NOTES_AT_ONCE_MAX,)
                        row = await (await connection.execute(query("rollups", "tend"), asked)).fetchone()
                        done, is_any = row or (0, False)
                        if done >= NOTES_AT_ONCE_MAX:
                            await asyncio.sleep(time.monotonic() - began)  # half of a core at most
                            continue
                        pause = EVERY_SECONDS if is_any else IDLE_SECONDS
                        await heard(connection, pause)
            except (psycopg.Error, OSError) as error:
                log.debug("rollups wait: %s", str(error).strip())
                await asyncio.sleep(EVERY_SECONDS)
