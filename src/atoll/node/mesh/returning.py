"""Members that are away for too long: noticing it, and, on the member, returning.

Marking and comparing are SQL's (47_absence.sql, 49_returning.sql), what to do next is decided by
data/replication/returning.py. This carries it out; every step is a transaction of its own and is taken
again after a crash. The copy itself is written by seeding.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.data.replication.returning import Begun, Candidate, Move, choose_move
from atoll.domain.errors import AtollError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.node.mesh.seeding import ASK_AGAIN_SECONDS, REQUEST_SECONDS_MAX, Seeding
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.sql import query

COUNT_EVERY_SECONDS = 3.0
RETURNING = "this node was away, and takes over what the others have"
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


class Returning:
    def __init__(self, postgres: Postgres, links: Links, readiness: Readiness, seeding: Seeding) -> None:
        self._postgres = postgres
        self._links = links
        self._readiness = readiness
        self._seeding = seeding
        self._told: str | None = None
        self._state: tuple[Any, ...] = (False, None, None, False)
        self._asked_at = float("-inf")
        self._seen_at: float | None = None
        self._counted_at = float("-inf")
        self._warned: set[int] = set()
        self._finishing: asyncio.Task[None] | None = None
        self.absent: frozenset[int] = frozenset()
        links.handle("replication.context", self._say_context)

    async def stop(self) -> None:
        if self._finishing is not None:
            self._finishing.cancel()
            await asyncio.gather(self._finishing, return_exceptions=True)

    @property
    def is_on(self) -> bool:
        """Does this node have to return, or is it about to?"""
        return bool(self._state[0]) or self._state[1] is not None

    def hear(self, since: str) -> None:
        """A peer says since when this node is marked absent."""
        self._told = since

    # Noticing

    async def look(self, connection: Connection) -> None:
        """Who is absent, and whether this node is."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= COUNT_EVERY_SECONDS:
            self._counted_at = now
            for number, is_marked, after, name in await _all(connection, "note_absences"):
                self._warn(number, name or f"number {number}", is_marked, f"{after:%Y-%m-%d %H:%M}")
        self.absent = frozenset(row[0] for row in await _all(connection, "absent"))
        (self._state,) = await _all(connection, "state", {"told": self._told})
        self._seeding.is_held = self.is_on
        if self.is_on:
            self._readiness.hold("return", RETURNING)
        else:
            self._readiness.clear("return")

    def _warn(self, number: int, name: str, is_marked: bool, after: str) -> None:
        if is_marked:
            log.warning('node "%s" has been away for too long: nobody waits for it any more', name)
        elif number not in self._warned:
            log.warning('node "%s" is waited for until %s; then it has to take over a copy', name, after)
        (self._warned.discard if is_marked else self._warned.add)(number)

    # Returning

    async def tend(self, connection: Connection, ready: Collection[int]) -> None:
        """The next move towards having what the others have."""
        now = asyncio.get_running_loop().time()
        must_return, source, token, has_arrived = self._state
        if source in ready or self._seen_at is None:
            self._seen_at = now
        begun = Begun(source, has_arrived, now - self._seen_at) if source is not None else None
        candidates = [
            Candidate(number, number in ready, is_absent, is_of_region, is_up, rtt)
            for number, is_absent, is_of_region, is_up, rtt in await _all(connection, "candidates")
        ]
        move, peer = choose_move(must_return=bool(must_return), begun=begun, candidates=candidates)
        try:
            if move is Move.BEGIN and peer is not None:
                await self._begin(connection, peer)
            elif move is Move.ASK and peer is not None and now - self._asked_at >= ASK_AGAIN_SECONDS:
                await self._links.request(peer, "replication.seed", {"returning": token}, REQUEST_SECONDS_MAX)
                self._asked_at = now
            elif move is Move.FINISH and (self._finishing is None or self._finishing.done()):
                self._finishing = asyncio.create_task(self._finish())
        except AtollError as error:
            log.warning("could not ask node %s for what it has: %s", peer, error)

    async def _begin(self, connection: Connection, source: int) -> None:
        answer = await self._links.request(source, "replication.context", {}, REQUEST_SECONDS_MAX)
        values = (source, secrets.token_hex(8), Jsonb(answer["known"]))
        await connection.execute(query("returning", "begin"), values)
        self._asked_at = float("-inf")
        self._seen_at = None
        log.warning("%s: a copy of node %s replaces what is here", RETURNING, source)

    async def _finish(self) -> None:
        try:
            async with await self._postgres.connect() as connection:
                row = await (await connection.execute(query("returning", "finish"))).fetchone()
        except (psycopg.Error, OSError) as error:
            log.warning("could not finish the return, it is tried again: %s", str(error).strip())
            return
        gone, kept = row or (0, 0)
        log.warning("this node is back: %s rows were deleted elsewhere, %s of its own were kept", gone, kept)

    async def _say_context(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        """A peer that returns asks up to where this node knows everything."""
        if self.is_on or not self._seeding.may_write:
            raise AtollError("not-seeded", f'node "{self._links.me.name}" waits for a copy itself')
        try:
            async with await self._postgres.connect() as connection:
                rows = await _all(connection, "context", (peer.number,))
        except (psycopg.Error, OSError) as error:
            raise AtollError("database", f"could not say what is known: {str(error).strip()}") from error
        if not rows:
            raise AtollError("not-absent", f'it is not known here yet that node "{peer.name}" was away')
        return {"known": rows[0][0]}


async def _all(connection: Connection, name: str, values: Any = None) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query("returning", name), values)).fetchall()
