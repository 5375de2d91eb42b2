"""A node and a peer that meet compare what the peer has seen of the node with what the node has.

Both do so for themselves, once for each time that they come up, before the peer is let at the node's log.
What a comparison means is recall's decision; a node that was restored raises `Displaced`, and takes another
number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import psycopg

from atoll.domain.errors import AtollError
from atoll.identity.certificate import Identity, PeerIdentity
from atoll.link.peers import Links
from atoll.node.mesh.recall import (
    DatabaseMemory,
    HomeMemory,
    Seen,
    Verdict,
    judge_links,
    judge_memories,
    judge_seen,
)
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.sql import query

LOOK_EVERY_SECONDS = 0.5
REQUEST_SECONDS_MAX = 10.0
AGAIN_SECONDS = 1.0
MEET_SECONDS_MAX = 30.0
TELL_AGAIN_SECONDS = 10.0
WATCH_EVERY_SECONDS = 5.0
log = logging.getLogger(__name__)


class Displaced(Exception):
    """Peers have seen a future of this node that it does not have."""


class Acquaintances:
    def __init__(
        self,
        postgres: Postgres,
        links: Links,
        readiness: Readiness,
        *,
        boot: str,
        identity: Identity,
        own_row: Mapping[str, Any],
    ) -> None:
        self._postgres = postgres
        self._links = links
        self._readiness = readiness
        self._boot = boot
        self._identity = identity
        self._own_row = own_row
        self._met: dict[int, asyncio.Event] = {}
        self._not_before: dict[int, float] = {}
        self._renumbered: dict[int, PeerIdentity] = {}
        self._displaced: str | None = None
        self._is_due = asyncio.Event()
        links.when_up(self._is_due.set)
        links.handle("identity.seen", self._tell)
        links.handle("identity.meet", self._meet)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_everything())
            group.create_task(self._meet_all())
            group.create_task(self._watch())

    async def _tell_everything(self) -> None:
        """After a restore nobody knows who lacks what, so everybody is told what is here, once."""
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    row = await (await connection.execute(query("recall", "is_untold"))).fetchone()
                    if row and row[0]:
                        await connection.execute(query("recall", "tell_everything"))
                return
            except (psycopg.Error, OSError) as error:
                log.warning("could not tell the others what is here: %s", str(error).strip())
                await asyncio.sleep(TELL_AGAIN_SECONDS)

    async def _meet_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            up = [report.number for report in self._links.report() if report.state == "up"]
            for number in up:
                if not self._event(number).is_set() and loop.time() >= self._not_before.get(number, 0.0):
                    try:
                        await self._introduce(number)
                        self._event(number).set()
                    except (AtollError, psycopg.Error, OSError) as error:
                        log.debug("could not compare with node %s: %s", number, str(error).strip())
                        self._not_before[number] = loop.time() + AGAIN_SECONDS
            await self._know_again()
            self._tell_of_twin(bool(up))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await self._is_due.wait()
            self._is_due.clear()

    def note_renumbered(self, former: int, peer: PeerIdentity) -> None:
        """A peer that was dialled answers under another number: it was restored, and cannot dial us."""
        self._renumbered[former] = peer
        self._is_due.set()

    async def _know_again(self) -> None:
        for former, peer in list(self._renumbered.items()):
            try:
                async with await self._postgres.connect() as connection, connection.transaction():
                    old = await (await connection.execute(query("recall", "row_of"), (former,))).fetchone()
                    new = await (
                        await connection.execute(query("recall", "row_of"), (peer.number,))
                    ).fetchone()
                    # A number that is known already and was given up is an older copy of the node.
                    if old is not None and not old[4] and new is None:
                        facts = (peer.number, peer.name, *old[1:4])
                        await connection.execute(query("recall", "know_again"), facts)
                del self._renumbered[former]
            except (psycopg.Error, OSError) as error:
                log.debug("could not note a new number: %s", str(error).strip())

    async def may_read(self, number: int) -> bool:
        """Whether a peer may read this node's log; waits for a while until that is known."""
        try:
            async with asyncio.timeout(MEET_SECONDS_MAX):
                await self._event(number).wait()
                self._displaced = self._displaced or await self._find_out()
        except (psycopg.Error, OSError, TimeoutError):
            return False
        return self._displaced is None

    async def _watch(self) -> None:
        """The database may be put back, or be another server's after a failover, while this process runs."""
        while self._displaced is None:
            await asyncio.sleep(WATCH_EVERY_SECONDS)
            with contextlib.suppress(psycopg.Error, OSError):
                self._displaced = self._displaced or await self._find_out()
        raise Displaced(self._displaced)

    async def _find_out(self) -> str | None:
        """Why the database is not the one that this process came up with, if it is not."""
        async with await self._postgres.connect() as connection:
            row = await (await connection.execute(query("recall", "facts"))).fetchone()
        if row is None:
            return None
        mine = HomeMemory(self._boot, None, str(row[4] or ""))
        judgement = judge_memories(mine, DatabaseMemory(row[3], row[0], row[1], row[4], row[5]))
        return judgement.why if judgement.verdict is Verdict.RESTORED else None

    def _event(self, number: int) -> asyncio.Event:
        return self._met.setdefault(number, asyncio.Event())

    def _tell_of_twin(self, has_link: bool) -> None:
        refused = bool(self._links.refusals().get("node-twice"))
        judgement = judge_links(refused_as_twin=refused, has_link=has_link)
        if judgement.verdict is Verdict.CLONED:
            self._readiness.hold(
                "number", f"the node with the number {self._links.me.number} {judgement.why}"
            )
        else:
            self._readiness.clear("number")

    # Asking

    async def _introduce(self, number: int) -> None:
        try:
            answer = await self._links.request(number, "identity.seen", {}, REQUEST_SECONDS_MAX)
        except AtollError as error:
            if error.code == "method-unknown":  # an older peer
                return
            raise
        async with await self._postgres.connect() as connection:
            rows = await (await connection.execute(query("recall", "history"))).fetchall()
            end = await (await connection.execute(query("recall", "end_of_wal"))).fetchone()
        seen = Seen(answer.get("incarnation"), answer.get("lsn"))
        judgement = judge_seen([(str(row[0]), int(row[1])) for row in rows], seen, int(end[0]) if end else 0)
        if judgement.verdict is Verdict.RESTORED:
            raise Displaced(judgement.why)
        payload = {
            "incarnation": self._boot,
            "certificate": self._identity.certificate_path.read_text("ascii"),
            "node": {key: self._own_row[key] for key in ("region", "tier", "addresses")},
        }
        await self._links.request(number, "identity.meet", payload, REQUEST_SECONDS_MAX)

    # Answering

    async def _tell(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        async with await self._postgres.connect() as connection:
            row = await (await connection.execute(query("recall", "seen"), {"peer": peer.number})).fetchone()
        return {"incarnation": row[0] if row else None, "lsn": int(row[1]) if row and row[1] else None}

    async def _meet(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        node = payload.get("node", {})
        async with await self._postgres.connect() as connection, connection.transaction():
            known = await (await connection.execute(query("recall", "row_of"), (peer.number,))).fetchone()
            if known is None:
                facts = (peer.number, peer.name, node.get("region", "local"), node.get("tier", "edge"))
                await connection.execute(
                    query("recall", "know_again"), (*facts, [str(a) for a in node.get("addresses", [])])
                )
            await connection.execute(
                query("recall", "meet"),
                (peer.number, str(payload["incarnation"])[:64], payload.get("certificate")),
            )
        return {}
