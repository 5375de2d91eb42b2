"""Copies of everything: asked for by a node that joined, written for a peer that asks.

A copy is written into the change log, for one peer alone, and merges there like any other change. So it never
matters how often one is asked for, or what else arrives meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import psycopg
from psycopg import AsyncConnection

from atoll.domain.errors import AtollError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.sql import query

ASK_AGAIN_SECONDS = 60.0
ASK_FIRST_SECONDS = 10.0
PATIENCE_SECONDS = 20.0
GAP_SECONDS_MAX = 20.0
REQUEST_SECONDS_MAX = 10.0
WAITING = "waiting for a copy of what the other nodes have"
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


class Seeding:
    def __init__(self, postgres: Postgres, links: Links, readiness: Readiness) -> None:
        self._postgres = postgres
        self._links = links
        self._readiness = readiness
        self._writing: dict[int, asyncio.Task[None]] = {}
        self._asked_at = float("-inf")
        self._ready_at: float | None = None
        self._is_seeded = False
        self.is_held = False
        self._waiting = WAITING
        links.handle("replication.seed", self._write)

    async def stop(self) -> None:
        for task in self._writing.values():
            task.cancel()
        await asyncio.gather(*self._writing.values(), return_exceptions=True)

    @property
    def may_write(self) -> bool:
        """May others have a copy of what is here?"""
        return self._is_seeded and not self.is_held

    # Asking

    async def is_seeded(self, connection: Connection) -> bool:
        """Has this node what the others had when it joined?"""
        if not self._is_seeded:
            row = await (await connection.execute(query("nodes", "own_identity"))).fetchone()
            self._is_seeded = row is None or bool(row[3])
            if self._is_seeded:
                self._readiness.clear("seed")
            else:
                self._readiness.hold("seed", self._waiting)
        return self._is_seeded

    async def ask_first(
        self, connection: Connection, *, peers: Collection[int], up: Collection[int], ready: Collection[int]
    ) -> None:
        """A node that joined asks one peer, after it receives from all that it can reach.

        In this order nothing is missed: what a reachable peer deletes from its log before, the peer that is
        asked has applied. Those that are away, or take too long, are remembered, and so is one of this region
        where the first is of another.
        """
        now = asyncio.get_running_loop().time()
        if not ready or now - self._asked_at < ASK_FIRST_SECONDS:
            return
        if self._ready_at is None:
            self._ready_at = now
        if set(up) - set(ready) and now - self._ready_at < PATIENCE_SECONDS:
            return
        source, *others = await self._sources(connection, ready)
        later = sorted(set(peers) - set(ready) | {*others})
        await connection.execute(query("mesh", "seed_without"), (later,))
        told = await self._ask(source, first=True)
        if told is not None:
            self._asked_at = now
            self._waiting = WAITING + _so_far(told)

    async def ask_rest(self, connection: Connection, ready: Collection[int]) -> None:
        """Those that were away then are asked once they can be: they may have deleted what is not here."""
        rows = await (await connection.execute(query("mesh", "seeded_without"))).fetchall()
        for (number,) in rows:
            if number in ready and await self._ask(number) is not None:
                await connection.execute(query("mesh", "seed_asked"), (number,))

    async def ask_missing(self, connection: Connection, ready: Collection[int]) -> None:
        """Changes that went missing on their way and do not come by themselves: a copy has them too."""
        now = asyncio.get_running_loop().time()
        if not ready or now - self._asked_at < ASK_AGAIN_SECONDS:
            return
        row = await (await connection.execute(query("fleet", "gaps"), (GAP_SECONDS_MAX,))).fetchone()
        if row and row[0]:
            log.warning("changes of %s nodes went missing: asking for a copy", row[0])
            self._asked_at = now
            for source in await self._sources(connection, ready):
                await self._ask(source)

    async def _sources(self, connection: Connection, ready: Collection[int]) -> list[int]:
        """Who has all that this node may have: mostly one, two where nobody of its region has it all."""
        rows = await (await connection.execute(query("fleet", "sources"), (sorted(ready),))).fetchall()
        return [number for (number,) in rows] or [min(ready)]

    async def _ask(self, number: int, *, first: bool = False) -> dict[str, Any] | None:
        """How far the copy is; nothing where it could not be asked for."""
        asked = {"first": True} if first else {}
        try:
            return await self._links.request(number, "replication.seed", asked, REQUEST_SECONDS_MAX)
        except AtollError as error:
            log.warning("could not ask node %s for a copy: %s", number, error)
            return None

    # Writing

    async def _write(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        """Written in the background, once at a time; owed until it is done, so that the peer asks again.

        Who only asks for what is owed gets nothing when it has just been written.
        """
        if not self.may_write:
            raise AtollError("not-seeded", f'node "{self._links.me.name}" waits for a copy itself')
        running = self._writing.get(peer.number)
        is_idle = running is None or running.done()
        try:
            async with await self._postgres.connect() as connection:
                if is_idle and not payload.get("owed") and not payload.get("returning"):
                    is_first = bool(payload.get("first"))
                    await connection.execute(query("mesh", "owe_seed"), (peer.number, is_first))
                copied = await (await connection.execute(query("mesh", "copied"), (peer.number,))).fetchone()
        except (psycopg.Error, OSError) as error:
            raise AtollError("database", f"could not begin a copy: {str(error).strip()}") from error
        if is_idle:
            self._writing[peer.number] = asyncio.create_task(self._write_for(peer, payload.get("returning")))
        return dict(zip(("rows", "done", "of"), copied, strict=True)) if copied else {}

    async def _write_for(self, peer: PeerIdentity, returning: object = None) -> None:
        try:
            async with await self._postgres.connect() as connection:
                log.info('writing a copy of everything for node "%s"', peer.name)
                if returning:
                    await connection.execute(query("returning", "seed"), (peer.number, str(returning)))
                else:
                    await connection.execute(query("mesh", "seed"), (peer.number,))
                copied = await (await connection.execute(query("mesh", "copied"), (peer.number,))).fetchone()
                if copied:
                    log.info('copy for node "%s": %s rows, %s of %s tables', peer.name, *copied)
        except (psycopg.Error, OSError) as error:
            log.warning('could not write a copy for node "%s": %s', peer.name, str(error).strip())


def _so_far(told: dict[str, Any]) -> str:
    return (
        f" ({int(told['rows'])} rows sent, {told['done']} of {told['of']} tables)" if told.get("of") else ""
    )
