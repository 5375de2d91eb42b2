"""The node's pulse: marks in its log, and telling upstreams that stand by how far it has heard everybody.

A mark covers what was written before it (sql/functions/43_marks.sql). One is made soon after something was
written, at once when somebody waits for it, and seldom when nothing happens. In a larger fleet they are
further apart, so that their number per second stays bounded.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.domain.errors import AtollError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.node.postgres.server import Postgres
from atoll.sql import query
from atoll.sql.sessions import heard

EVERY_SECONDS_MIN = 1.0
EVERY_SECONDS_MAX = 30.0
MEMBERS_PER_SECOND = 50
TELL_EVERY_SECONDS = 10.0
REQUEST_SECONDS_MAX = 10.0
AGAIN_SECONDS = 1.0
ASKED_EVERY_SECONDS = 0.02
LOOK_SECONDS_MIN = 0.01
LOOK_SECONDS_MAX = 1.0
CHANNEL = "atoll_mark"
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


def interval_seconds(members: int) -> float:
    """How far apart marks are, given how many nodes make them."""
    return min(max(members / MEMBERS_PER_SECOND, EVERY_SECONDS_MIN), EVERY_SECONDS_MAX)


class Pulse:
    def __init__(self, postgres: Postgres, links: Links) -> None:
        self._postgres = postgres
        self._links = links
        self._told_at = float("-inf")
        self._marked_at = float("-inf")
        self._asked_to = 0
        self._look_seconds = LOOK_SECONDS_MIN
        links.handle("replication.heard", self._hear)

    async def run(self) -> None:
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    while True:
                        await self._beat(connection)
            except (psycopg.Error, OSError) as error:
                log.debug("the pulse waits for the database: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _beat(self, connection: Connection) -> None:
        row = await (await connection.execute(query("fleet", "members_and_standbys"))).fetchone()
        members, standbys = (row[0], row[1]) if row else (1, [])
        loop = asyncio.get_running_loop()
        due = self._marked_at + interval_seconds(members)
        await self._listen(connection, due - loop.time())
        is_due = loop.time() >= due
        is_coverable = self._asked_to > 0 and await self._is_over(connection, self._asked_to)
        if is_coverable or is_due:
            await connection.execute(query("fleet", "make_marks"), (is_coverable,))
            self._marked_at = loop.time()
        if is_coverable:
            self._asked_to = 0
            await asyncio.sleep(ASKED_EVERY_SECONDS)
        if standbys and loop.time() - self._told_at >= TELL_EVERY_SECONDS:
            self._told_at = loop.time()
            await self._tell(connection, standbys)

    async def _listen(self, connection: Connection, seconds: float) -> None:
        """Wait until somebody asks for a mark; not for long while a running transaction is in its way."""
        looked = self._look_seconds if self._asked_to else LOOK_SECONDS_MIN / 2
        self._look_seconds = min(looked * 2, LOOK_SECONDS_MAX)
        patience = min(seconds, self._look_seconds) if self._asked_to else seconds
        for asked in await heard(connection, patience):
            self._asked_to = max(self._asked_to, int(asked.payload) if asked.payload.isdecimal() else 1)

    async def _is_over(self, connection: Connection, horizon: int) -> bool:
        """Has every transaction before this one ended, so that a mark covers them?"""
        row = await (await connection.execute(query("fleet", "is_over"), (str(horizon),))).fetchone()
        return bool(row and row[0])

    async def _tell(self, connection: Connection, standbys: list[int]) -> None:
        row = await (await connection.execute(query("fleet", "heard"))).fetchone()
        for number in standbys:
            try:
                payload = {"heard": row[0] if row else []}
                await self._links.request(number, "replication.heard", payload, REQUEST_SECONDS_MAX)
            except AtollError as error:
                log.debug("could not tell node %s what has been heard: %s", number, error)

    async def _hear(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            async with await self._postgres.connect() as connection:
                await connection.execute(query("fleet", "note_heard"), (peer.number, Jsonb(payload["heard"])))
        except (psycopg.Error, OSError) as error:
            raise AtollError("database", f"could not note what was heard: {str(error).strip()}") from error
        return {}
