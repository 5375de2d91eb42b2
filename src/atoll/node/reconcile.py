"""The loop that keeps a node what it should be: compares what there is with what there should be, and mends.

Every few seconds it reads who the peers are and tends the link, the publication and the subscription of each;
mends triggers; retries what is parked; trims the log; writes down how the links are. A round that fails is
logged and the next one starts afresh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from atoll.data.replication import subscriptions
from atoll.data.replication.topology import PeerSide, Step, Subscription, choose_step
from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.gateway import Gateway
from atoll.link.peers import Links
from atoll.link.report import LinkReport, Peer
from atoll.node.postgres import Postgres
from atoll.node.report import Readiness
from atoll.sql import query

EVERY_SECONDS = 3.0
ASK_EVERY_SECONDS = 10.0
SEED_EVERY_SECONDS = 60.0
STEP_SECONDS_MAX = 300.0
REQUEST_SECONDS_MAX = 10.0
SEEDING = "waiting for a copy of what the other nodes have"
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


class Reconcile:
    """Keeps links, publications, subscriptions and triggers as they should be."""

    def __init__(
        self,
        postgres: Postgres,
        links: Links,
        gateway: Gateway,
        readiness: Readiness,
        *,
        sockets: Path,
        own_row: Mapping[str, Any],
    ) -> None:
        self._postgres = postgres
        self._links = links
        self._gateway = gateway
        self._readiness = readiness
        self._sockets = sockets
        self._own_row = own_row
        self._me = links.me.number
        self._tending: dict[int, asyncio.Task[None]] = {}
        self._problems: dict[int, str] = {}
        self._asked_at: dict[int, float] = {}
        self._connection: Connection | None = None
        self._is_told = False
        self._seeding: dict[int, asyncio.Task[None]] = {}
        self._asked_seed_at = float("-inf")
        self._revoked: frozenset[int] = frozenset()
        self.numbers: dict[str, float] = {}
        self.lag: dict[int, tuple[int, str]] = {}
        links.handle("replication.prepare", self._prepare)
        links.handle("replication.seed", self._seed)

    def is_revoked(self, number: int, serial: str) -> bool:
        return number in self._revoked

    async def run(self) -> None:
        try:
            while True:
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = await self._postgres.connect()
                    await self.round(self._connection)
                except (psycopg.Error, OSError) as error:
                    log.warning("could not look after the node: %s", str(error).strip())
                    if self._connection is not None:
                        await self._connection.close()
                    self._connection = None
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            tasks = [*self._tending.values(), *self._seeding.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._connection is not None:
                await self._connection.close()

    async def round(self, connection: Connection) -> None:
        """One comparison of what there is with what there should be."""
        revoked = await (await connection.execute(query("nodes", "revoked"))).fetchall()
        self._revoked = frozenset(number for (number,) in revoked)
        rows = await (await connection.execute(query("nodes", "peers"))).fetchall()
        peers = {row[0]: Peer(row[0], row[1], tuple(row[4])) for row in rows}
        self._links.set_peers(list(peers.values()))
        await self._gateway.set_peers(peers)
        await self._tend_publications(connection, peers)
        have = await subscriptions.read(connection)
        self._tend_subscriptions(peers, have)
        await self._ask_for_seed(connection, peers, have)
        mended = await _value(connection, "mend")
        if mended:
            log.warning("mended %s triggers that were missing or switched off", mended)
        merged, remain = (await (await connection.execute(query("mesh", "retry_parked"))).fetchone()) or (
            0,
            0,
        )
        if merged:
            log.info("merged %s parked changes, %s remain", merged, remain)
        await _value(connection, "trim")
        await self._note(connection, peers, have)

    # Sending: publications and slots

    async def _tend_publications(self, connection: Connection, peers: Mapping[int, Peer]) -> None:
        published = {n for (n,) in await (await connection.execute(query("mesh", "publications"))).fetchall()}
        for number in sorted(peers.keys() - published):
            await connection.execute(query("mesh", "publish_to"), (number,))
        for number in sorted(published - peers.keys()):
            await connection.execute(query("mesh", "unpublish_to"), (number,))
            log.info("nothing is sent to node %s any more", number)
        for (slot,) in await (await connection.execute(query("mesh", "drop_dead_slots"))).fetchall():
            log.warning("dropped slot %s: the WAL that it needed is gone, or its node is", slot)

    async def _prepare(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        """A peer asks for what it needs to subscribe."""
        connection = self._connection
        if connection is None:
            raise LinkError("database-away", f'the database of node "{self._links.me.name}" is away')
        try:
            if not payload.get("subscribed"):
                await connection.execute(query("mesh", "free_slot"), (peer.number,))
            row = await (await connection.execute(query("mesh", "prepare_for"), (peer.number,))).fetchone()
        except psycopg.Error as error:
            raise _told(error) from error
        return dict(row[0]) if row else {}

    async def _seed(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        """A peer asks for everything; it is written in the background, once at a time."""
        running = self._seeding.get(peer.number)
        if running is None or running.done():
            self._seeding[peer.number] = asyncio.create_task(self._write_seed(peer))
        return {}

    async def _write_seed(self, peer: PeerIdentity) -> None:
        log.info('writing a copy of everything for node "%s"', peer.name)
        try:
            async with await self._postgres.connect() as connection:
                await connection.execute(query("mesh", "seed"), (peer.number,))
        except psycopg.Error as error:
            log.warning('could not write a copy for node "%s": %s', peer.name, str(error).strip())

    # Receiving: subscriptions

    def _tend_subscriptions(self, peers: Mapping[int, Peer], have: Mapping[int, Subscription]) -> None:
        for number in peers.keys() | have.keys():
            running = self._tending.get(number)
            if running is None or running.done():
                self._tending[number] = asyncio.create_task(
                    self._tend(number, peers.get(number), have.get(number))
                )

    async def _tend(self, number: int, peer: Peer | None, have: Subscription | None) -> None:
        """One step towards receiving from one peer, beside the loop: a peer may be slow."""
        where = subscriptions.conninfo(self._sockets, number)
        try:
            async with asyncio.timeout(STEP_SECONDS_MAX):
                told = await self._told(number, have) if peer is not None else None
                step = choose_step(is_member=peer is not None, conninfo=where, have=have, told=told)
                if step is Step.SEED:
                    await self._links.request(number, "replication.seed", {})
                elif step is not Step.NONE:
                    async with await self._postgres.connect() as connection:
                        await subscriptions.take(connection, step, peer=number, me=self._me, where=where)
            self._problems.pop(number, None)
        except (AtollError, psycopg.Error, OSError, TimeoutError) as error:
            self._say_problem(
                number, str(error).strip().splitlines()[0] if str(error).strip() else "timed out"
            )

    async def _told(self, number: int, have: Subscription | None) -> PeerSide | None:
        if not any(report.number == number and report.state == "up" for report in self._links.report()):
            return None
        now = time.monotonic()
        if (
            have is not None
            and have.is_running
            and now - self._asked_at.get(number, -now) < ASK_EVERY_SECONDS
        ):
            return None
        self._asked_at[number] = now
        answer = await self._links.request(
            number, "replication.prepare", {"subscribed": have is not None}, REQUEST_SECONDS_MAX
        )
        return PeerSide(str(answer.get("slot")), bool(answer.get("missed")))

    def _say_problem(self, number: int, problem: str) -> None:
        if self._problems.get(number) != problem:
            log.warning("could not tend the subscription to node %s: %s", number, problem)
        self._problems[number] = problem

    async def _ask_for_seed(
        self, connection: Connection, peers: Mapping[int, Peer], have: Mapping[int, Subscription]
    ) -> None:
        """A node that joined asks one peer for everything, after it receives from all that it can reach.

        In this order nothing is missed: what a peer deletes from its log meanwhile, the seeding peer has.
        """
        row = await (await connection.execute(query("nodes", "own_identity"))).fetchone()
        if row is None or row[3]:
            self._readiness.clear("seed")
            if not self._is_told:
                await connection.execute(query("nodes", "refresh_own_row"), self._own_row)
                self._is_told = True
            return
        self._readiness.hold("seed", SEEDING)
        up = [
            report.number
            for report in self._links.report()
            if report.state == "up" and report.number in peers
        ]
        ready = [number for number in up if number in have and have[number].is_copied]
        now = time.monotonic()
        if ready and len(ready) == len(up) and now - self._asked_seed_at > SEED_EVERY_SECONDS:
            self._asked_seed_at = now
            try:
                await self._links.request(min(ready), "replication.seed", {}, REQUEST_SECONDS_MAX)
            except AtollError as error:
                log.warning("could not ask node %s for a copy: %s", min(ready), error)
                self._asked_seed_at = float("-inf")

    # Telling

    async def _note(
        self, connection: Connection, peers: Mapping[int, Peer], have: Mapping[int, Subscription]
    ) -> None:
        reports = {report.number: report for report in self._links.report()}
        await connection.execute(query("mesh", "forget_links"), (list(peers),))
        for number in peers:
            await connection.execute(
                query("mesh", "note_link"), self._link_row(number, reports.get(number), have.get(number))
            )
        row = await (await connection.execute(query("mesh", "numbers"))).fetchone()
        names = ("tables", "tables_with_problems", "parked", "conflicts", "log_changes", "log_bytes", "feeds")
        self.numbers = dict(zip(names, row or (), strict=False))
        lag = await (await connection.execute(query("mesh", "lag"))).fetchall()
        self.lag = {peer: (behind or 0, str(status)) for peer, behind, status in lag}

    def _link_row(self, number: int, report: LinkReport | None, have: Subscription | None) -> dict[str, Any]:
        receiving = (
            "no"
            if have is None
            else "copying"
            if not have.is_copied
            else "yes"
            if have.is_running
            else "waiting"
        )
        return {
            "peer": number,
            "state": report.state if report else "waiting",
            "dialled_by": report.dialled_by if report else None,
            "rtt_ms": report.rtt_seconds * 1000 if report and report.rtt_seconds is not None else None,
            "bytes_in": report.wire_in_bytes if report else 0,
            "bytes_out": report.wire_out_bytes if report else 0,
            "reconnects": report.reconnects if report else 0,
            "receiving": receiving,
            "problem": (report.last_error if report and report.state != "up" else None)
            or self._problems.get(number),
        }


async def _value(connection: Connection, name: str) -> Any:
    row = await (await connection.execute(query("mesh", name))).fetchone()
    return row[0] if row else None


def _told(error: psycopg.Error) -> AtollError:
    """What PostgreSQL says, in a form that travels."""
    code = error.diag.constraint_name or error.sqlstate or "database"
    return AtollError(code, error.diag.message_primary or str(error), hint=error.diag.message_hint or None)
