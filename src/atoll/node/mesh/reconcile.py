"""The loop that keeps a node what it should be: compares what there is with what there should be, and mends.

Every few seconds it reads who the peers are and tends the link, the publication and the subscription of each;
mends triggers; retries what is parked; trims the log; writes down how the links are. A round that fails is
logged and the next one starts afresh. Copies of everything are seeding's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.data.replication import subscriptions
from atoll.data.replication.steps import PeerSide, Step, Subscription, choose_step
from atoll.data.replication.topology import Member
from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.gateway import Gateway
from atoll.link.peers import Links
from atoll.link.report import LinkReport, Peer
from atoll.node.mesh.layout import Layout
from atoll.node.mesh.returning import Returning
from atoll.node.mesh.seeding import Seeding
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.sql import query

EVERY_SECONDS = 3.0
SOON_SECONDS = 0.3
HASTE_SECONDS = 20.0
ASK_EVERY_SECONDS = 10.0
TOGETHER_SECONDS = 0.05
STEP_SECONDS_MAX = 300.0
SLOT_SECONDS_MAX = 3.0
REQUEST_SECONDS_MAX = 10.0
LOCK_TIMEOUT = "2s"
TRIM_SECONDS = 2.5  # rounds in haste need not do it
SWEEP_SECONDS = 15.0
PAGES_SWEPT = 250
SWEEPS_MAX = 20
FORGOTTEN_MANY = 200
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
        self._seeding = Seeding(postgres, links, readiness)
        self._returning = Returning(postgres, links, readiness, self._seeding)
        self._sockets = sockets
        self._own_row = own_row
        self._me = links.me.number
        self._layout = Layout(Member(self._me, own_row["region"], own_row["tier"], links.me.name))
        self._tending: dict[int, asyncio.Task[None]] = {}
        self._problems: dict[int, str] = {}
        self._asked_at: dict[int, float] = {}
        self._connection: Connection | None = None
        self._is_told = False
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._is_due = asyncio.Event()
        self._is_whole = False
        self._hasty_until = 0.0
        self._trimmed_at = self._swept_at = float("-inf")
        self._seen_up: set[int] = set()
        self._revoked: frozenset[int] = frozenset()
        self.numbers: dict[str, float] = {}
        self.lag: dict[int, tuple[int, str]] = {}
        links.handle("replication.prepare", self._prepare)
        links.when_up(self._is_due.set)

    def is_revoked(self, number: int, serial: str) -> bool:
        return number in self._revoked

    async def run(self) -> None:
        try:
            while True:
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = await self._postgres.connect()
                        # Whoever holds a lock on a table for long must not keep the node from its peers.
                        await self._connection.execute(
                            "select set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT]
                        )
                    await self.round(self._connection)
                except (psycopg.Error, OSError) as error:
                    log.warning("could not look after the node: %s", str(error).strip())
                    if self._connection is not None:
                        await self._connection.close()
                    self._connection = None
                await self._until_due()
        finally:
            tasks = [*self._tending.values(), *self._slots.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._seeding.stop()
            await self._returning.stop()
            if self._connection is not None:
                await self._connection.close()

    async def _until_due(self) -> None:
        """Wait for the next round: some seconds, less when a link has come or a step was taken.

        While something is missing that is on its way, the rounds follow each other for a while.
        """
        loop = asyncio.get_running_loop()
        is_hasty = not self._is_whole and loop.time() < self._hasty_until
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SOON_SECONDS if is_hasty else EVERY_SECONDS):
                await self._is_due.wait()
            self._hasty_until = loop.time() + HASTE_SECONDS
            await asyncio.sleep(TOGETHER_SECONDS)  # where one link comes, others do
        self._is_due.clear()

    def _up(self) -> set[int]:
        return {report.number for report in self._links.report() if report.state == "up"}

    async def round(self, connection: Connection) -> None:
        """One comparison of what there is with what there should be."""
        self._seen_up = self._up()
        revoked = await (await connection.execute(query("nodes", "revoked"))).fetchall()
        self._revoked = frozenset(number for (number,) in revoked)
        rows = await (await connection.execute(query("nodes", "peers"))).fetchall()
        members = [Member(number, region, tier, name) for number, name, region, tier, _ in rows]
        reports = self._links.report()
        found = await self._layout.tend(connection, members, reports, time.monotonic())
        near = {row[0]: Peer(row[0], row[1], tuple(row[4])) for row in rows if row[0] in found}
        self._links.set_peers(list(near.values()))
        await self._gateway.set_peers(near)
        peers = {number: peer for number, peer in near.items() if found[number].in_use}
        await self._returning.look(connection)
        await self._tend_publications(connection, peers)
        have = await subscriptions.read(connection)
        self._tend_subscriptions(peers, have)
        await self._tend_seeds(connection, peers, have)
        for job in (self._mend, self._retry_parked, self._trim):
            try:
                await job(connection)
            except psycopg.Error as error:
                if connection.closed:
                    raise
                log.warning("could not %s: %s", job.__name__.strip("_").replace("_", " "), str(error).strip())
        await self._note(connection, near, have)

    async def _mend(self, connection: Connection) -> None:
        await connection.execute(query("moving", "share"))
        if mended := await _value(connection, "mend"):
            log.warning("mended %s triggers that were missing or switched off", mended)

    async def _retry_parked(self, connection: Connection) -> None:
        row = await (await connection.execute(query("mesh", "retry_parked"))).fetchone()
        if row and row[0]:
            log.info("merged %s parked changes, %s remain", *row)

    async def _trim(self, connection: Connection) -> None:
        now = time.monotonic()
        if now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at = now
            await _value(connection, "trim")
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            await self._sweep(connection)

    async def _sweep(self, connection: Connection) -> None:
        for _ in range(SWEEPS_MAX):
            cursor = await connection.execute(query("members", "forget_deleted"), (PAGES_SWEPT,))
            row = await cursor.fetchone()
            if not row or row[0] < FORGOTTEN_MANY:
                break

    # Sending: publications and slots

    async def _tend_publications(self, connection: Connection, peers: Mapping[int, Peer]) -> None:
        rows = await (await connection.execute(query("mesh", "publications"))).fetchall()
        published: dict[int, bool] = dict(rows)
        for number in sorted(peers):
            if not published.get(number):
                await connection.execute(query("mesh", "publish_to"), (number,))
                if number in published:
                    log.warning("mended what is published to node %s", number)
        for number in sorted(published.keys() - peers.keys()):
            await connection.execute(query("mesh", "unpublish_to"), (number,))
            evicted = await (await connection.execute(query("members", "evicted"))).fetchall()
            if (number,) in evicted:
                await connection.execute(query("mesh", "owe_everybody"))
            log.info("nothing is sent to node %s any more", number)
        for (slot,) in await (await connection.execute(query("mesh", "drop_dead_slots"))).fetchall():
            log.warning("dropped slot %s: the WAL that it needed is gone, or its node is", slot)

    async def _prepare(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        """A peer asks for what it needs to subscribe."""
        connection = self._connection
        if connection is None:
            raise LinkError("database-away", f'the database of node "{self._links.me.name}" is away')
        try:
            told = await self._prepare_for(connection, peer.number, payload)
            is_wanted = told.get("wants_us", True) and not payload.get("subscribed")
            if told.get("slot") == "none" and is_wanted:
                await self._make_slot(peer.number)
                told = await self._prepare_for(connection, peer.number, payload)
        except psycopg.Error as error:
            raise _told(error) from error
        return told

    async def _prepare_for(
        self, connection: Connection, number: int, payload: Mapping[str, Any]
    ) -> dict[str, Any]:
        told = Jsonb(payload)
        row = await (await connection.execute(query("mesh", "prepare_for"), (number, told))).fetchone()
        return dict(row[0]) if row else {}

    async def _make_slot(self, number: int) -> None:
        """Make a slot, for as long as that takes; the peer asks again meanwhile."""
        running = self._slots.get(number)
        if running is None or running.done():
            running = self._slots[number] = asyncio.create_task(self._make_slot_for(number))
        await asyncio.wait([running], timeout=SLOT_SECONDS_MAX)

    async def _make_slot_for(self, number: int) -> None:
        try:
            async with await self._postgres.connect() as connection:
                await connection.execute(query("mesh", "make_slot"), (number,))
        except (psycopg.Error, OSError) as error:
            log.warning("could not make a slot for node %s: %s", number, str(error).strip())

    # Receiving: subscriptions

    def _tend_subscriptions(self, peers: Mapping[int, Peer], have: Mapping[int, Subscription]) -> None:
        for number in peers.keys() | have.keys():
            running = self._tending.get(number)
            if running is None or running.done():
                self._tending[number] = asyncio.create_task(
                    self._tend(number, peers.get(number), have.get(number))
                )

    async def _tend(self, number: int, peer: Peer | None, have: Subscription | None) -> None:
        """A step towards receiving from one peer, beside the loop: a peer may be slow."""
        where = subscriptions.conninfo(self._sockets, number)
        try:
            async with asyncio.timeout(STEP_SECONDS_MAX):
                told = await self._told(number, have) if peer is not None else None
                step = choose_step(is_member=peer is not None, conninfo=where, have=have, told=told)
                if step is Step.SEED:
                    await self._links.request(number, "replication.seed", {"owed": True})
                elif step is not Step.NONE:
                    async with await self._postgres.connect() as connection:
                        await subscriptions.take(connection, step, peer=number, me=self._me, where=where)
                    self._asked_at.pop(number, None)
                    self._is_due.set()
            self._problems.pop(number, None)
        except (AtollError, psycopg.Error, OSError, TimeoutError) as error:
            self._say_problem(
                number, str(error).strip().splitlines()[0] if str(error).strip() else "timed out"
            )

    async def _told(self, number: int, have: Subscription | None) -> PeerSide | None:
        if number not in self._up():
            return None
        now = time.monotonic()
        is_well = have is not None and have.is_running and have.is_copied
        if is_well and now - self._asked_at.get(number, float("-inf")) < ASK_EVERY_SECONDS:
            return None
        payload: dict[str, Any] = {
            "subscribed": have is not None,
            "copied": have is not None and have.is_copied,
            "copy_slot": have and have.copy_slot,
        }
        if have is None:
            async with await self._postgres.connect() as connection:
                row = await (await connection.execute(query("fleet", "heard"))).fetchone()
            payload["heard"] = row[0] if row else []
        answer = await self._links.request(number, "replication.prepare", payload, REQUEST_SECONDS_MAX)
        if is_well:
            self._asked_at[number] = now
        if since := answer.get("absent"):
            self._returning.hear(str(since))
        # A copy that is not taken over row by row would bring back what has been forgotten, here or there.
        may_join = not since and not self._returning.is_on and number not in self._returning.absent
        missed = bool(answer.get("missed")) and may_join
        lost = have is not None and bool(answer.get("lost_copy")) and await self._still_needs(have)
        return PeerSide(answer.get("slot", "none"), missed, bool(answer.get("wants_us", True)), lost)

    async def _still_needs(self, have: Subscription) -> bool:
        """Whether a copy is where it was: one that has ended meanwhile has dropped its slot itself."""
        async with await self._postgres.connect() as connection:
            now = await subscriptions.read(connection)
        return have.peer in now and now[have.peer].copy_slot == have.copy_slot

    def _say_problem(self, number: int, problem: str) -> None:
        if self._problems.get(number) != problem:
            log.warning("could not tend the subscription to node %s: %s", number, problem)
        self._problems[number] = problem

    async def _tend_seeds(
        self, connection: Connection, peers: Mapping[int, Peer], have: Mapping[int, Subscription]
    ) -> None:
        up = self._up() & peers.keys()
        ready = {number for number in up if number in have and have[number].is_copied}
        is_seeded = await self._seeding.is_seeded(connection)
        self._is_whole = is_seeded and self._seen_up == ready
        if self._returning.is_on:
            await self._returning.tend(connection, ready)
            return
        ready -= self._returning.absent
        if not is_seeded:
            await self._seeding.ask_first(connection, peers=peers, up=up, ready=ready)
            return
        await self._seeding.ask_rest(connection, ready)
        await self._seeding.ask_missing(connection, ready)
        if not self._is_told:
            await connection.execute(query("nodes", "refresh_own_row"), self._own_row)
            self._is_told = True

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
