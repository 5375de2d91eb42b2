"""The scrub: this node's tables, compared with its neighbours' all the time, for a share of a core.

It walks each table in stretches, in the order of its key, and compares each with one neighbour, taking turns.
A table that was written is walked soon, and again until every stretch met every neighbour; all tables now and
then, so that a change of which nobody was told is found too. Rows that differ go to mending.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg import AsyncConnection

from atoll.domain.errors import AtollError, DataError
from atoll.link.peers import Links
from atoll.node.mesh.mending import Mending, Neighbour
from atoll.node.mesh.pulse import interval_seconds
from atoll.node.mesh.witness import ROWS_PER_SLICE, VOTERS_MAX, Slice, Witness
from atoll.node.postgres.server import Postgres
from atoll.observe.metrics import counter, gauge
from atoll.sql import query

PASS_SECONDS_MIN = 5.0
WALK_ALL_SECONDS = 600.0
BUSY_SECONDS = 5.0
AGAIN_SECONDS = 2.0
DIFFERENT_PER_SLICE_MAX = 200
ASKED_SECONDS_MAX = 240.0
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Walked:
    """What a table's walks found of late; each begins with the next neighbour."""

    at: float
    writes: int
    """How often the table had been written before the last one."""
    turn: int
    same: int
    """So many of them, in a row and without a write between, found no difference."""

    def is_due(self, writes: int, neighbours: int, now: float) -> bool:
        has_met_all = self.same >= min(neighbours, VOTERS_MAX)
        return writes != self.writes or not has_met_all or now - self.at >= WALK_ALL_SECONDS

    def after(self, writes: int, is_same: bool, now: float) -> Walked:
        before = self.same if writes == self.writes else 0
        return Walked(now, writes, self.turn + 1, before + 1 if is_same else 0)


NEVER = Walked(float("-inf"), -1, -1, 0)


class Scrub:
    """`share` is of a core; None compares only when somebody asks."""

    def __init__(self, postgres: Postgres, links: Links, *, share: float | None, is_auto: bool) -> None:
        self._postgres = postgres
        self._links = links
        self._share = share
        self._witness = Witness(postgres, links, share)
        self._mending = Mending(self._witness, links.me.number, is_auto=is_auto)
        self._turn = asyncio.Lock()
        self._walked: dict[str, Walked] = {}
        self._rows = 0
        self._seconds = 0.0

    async def run(self) -> None:
        try:
            while True:
                try:
                    async with await self._postgres.connect() as connection:
                        while True:
                            async with self._turn:
                                near = await self._neighbours(connection)
                                await self._mending.tend(connection, near)
                            began = time.monotonic()
                            if self._share is not None:
                                await self._pass(connection, self._share)
                            await self._wait(connection, began + PASS_SECONDS_MIN)
                except (psycopg.Error, OSError, AtollError) as error:
                    log.debug("comparing waits: %s", str(error).strip())
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            await self._witness.close()

    async def mend(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Compare tables with every neighbour now, and mend what differs here unless it is a rehearsal."""
        tables: list[str] = asked.get("tables") or []
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = began + ASKED_SECONDS_MAX
        done: list[dict[str, Any]] = []
        async with self._turn, await self._postgres.connect() as connection:
            near = await self._neighbours(connection)
            known = [row[0] for row in await (await connection.execute(query("scrub", "tables"))).fetchall()]
            for table in tables or known:
                if table not in known:
                    raise DataError(
                        "table-not-shared",
                        f"table {table} is not shared with others",
                        hint="See what is: atoll tables",
                    )
                for neighbour in near:
                    await self._walk(connection, table, [neighbour], None)
            wanted = set(tables or known)
            while loop.time() < ends:
                done += await self._mending.tend(connection, near, may_mend=not asked.get("dry"))
                open_ = [case for case in self._mending.cases.values() if case.table in wanted]
                if all(case.suspect.lasts and case.looked_at >= began for case in open_):
                    break
                await asyncio.sleep(1.0)
            left = [
                case.as_dict() | {"lasts": case.suspect.lasts}
                for case in self._mending.cases.values()
                if case.table in wanted
            ]
        return {"compared": [n.number for n in near], "mended": done, "left": left}

    # Walking

    async def _neighbours(self, on: Connection) -> list[Neighbour]:
        row = await (await on.execute(query("scrub", "is_seeded"))).fetchone()
        if not (row and row[0]):
            return []
        up = {report.number for report in self._links.report() if report.state == "up"}
        rows = await (await on.execute(query("scrub", "neighbours"))).fetchall()
        counted = await (await on.execute(query("fleet", "members_and_standbys"))).fetchone()
        self._mending.settle_seconds = 2.0 + 2 * interval_seconds(counted[0] if counted else 1)
        return [
            Neighbour(number, bool(is_up), frozenset(scopes or ()))
            for number, is_up, scopes in rows
            if number in up
        ]

    async def _pass(self, on: Connection, share: float) -> None:
        """Every table that has a reason to be walked."""
        near = await self._neighbours(on)
        if not near:
            return
        rows = await (await on.execute(query("scrub", "tables"))).fetchall()
        for name, _, _, writes in rows:
            last = self._walked.get(name, NEVER)
            if last.is_due(writes, len(near), time.monotonic()):
                turn = (last.turn + 1) % len(near)
                is_same = await self._walk(on, name, near[turn:] + near[:turn], share)
                self._walked[name] = last.after(writes, is_same, time.monotonic())
        await on.execute(query("scrub", "forget_repairs"))

    async def _walk(self, on: Connection, table: str, near: Sequence[Neighbour], share: float | None) -> bool:
        """One table from end to end; says whether nothing differed. Without a share it does not pause."""
        after, is_same, began = "", True, time.monotonic()
        starts: list[str] = []
        while True:
            neighbour = near[len(starts) % len(near)]
            at = time.monotonic()
            row = await (
                await on.execute(query("scrub", "slice_end"), (table, after, ROWS_PER_SLICE))
            ).fetchone()
            upto = row[0] if row else None
            scopes = sorted(neighbour.scopes)
            mine = await self._witness.slice(on, table, after, upto, scopes)
            spent = time.monotonic() - at
            self._seconds += spent
            self._rows += mine.n_all
            starts.append(after)
            is_same = (
                await self._compare(on, table, (after, upto), mine, neighbour, share is None) and is_same
            )
            if share is not None:
                await self._wait(on, time.monotonic() + spent / share)
            if upto is None:
                age = time.monotonic() - began + 1
                await on.execute(query("scrub", "forget_slices"), (table, age, starts))
                return is_same
            after = upto

    async def _wait(self, on: Connection, until: float) -> None:
        """Pauses are when suspects are looked at again."""
        while (left := until - time.monotonic()) > 0:
            if self._mending.cases:
                async with self._turn:
                    await self._mending.tend(on, await self._neighbours(on))
            await asyncio.sleep(min(max(left, 0.001), AGAIN_SECONDS))

    async def _compare(
        self,
        on: Connection,
        table: str,
        place: tuple[str, str | None],
        mine: Slice,
        neighbour: Neighbour,
        is_asked: bool,
    ) -> bool:
        try:
            shape, told = await self._witness.ask_slice(neighbour.number, table, *place, urgent=is_asked)
            if shape != mine.shape:
                return False  # one of the two has yet to change the table
            if told == mine.told and not mine.odd:
                await self._note(on, table, place, mine)
                return True
            here = await self._witness.rows(on, table, *place, sorted(neighbour.scopes))
            there = await self._witness.ask_rows(neighbour.number, table, *place)
        except AtollError as error:
            if error.code == "receipts-busy":
                await asyncio.sleep(BUSY_SECONDS)
            log.debug("could not compare %s with node %s: %s", table, neighbour.number, error)
            return False
        now = asyncio.get_running_loop().time()
        keys = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
        keys += [key for key, row in here.items() if row[2] is not None and key not in keys]
        for key in sorted(keys)[:DIFFERENT_PER_SLICE_MAX]:
            self._mending.suspect(table, key, now)
        return not keys

    async def _note(self, on: Connection, table: str, place: tuple[str, str | None], mine: Slice) -> None:
        """Remember the stretch as right, unless only part of it was compared and the rest is altered."""
        asked = await on.execute(query("scrub", "known_slice"), (table, place[0], place[1]))
        known = await asked.fetchone()
        is_altered = (
            known is not None
            and known == (mine.n_all, mine.stamps_all, known[2], mine.shape)
            and known[2] != mine.values_all
        )
        if mine.n == mine.n_all or not is_altered:
            values = (table, *place, mine.shape, mine.n_all, mine.stamps_all, mine.values_all)
            await on.execute(query("scrub", "note_slice"), values)

    def numbers(self) -> Iterable[Metric]:
        cases = self._mending.cases.values()
        lasting = float(len(self._mending.lasting()))
        yield gauge("atoll_differences", "Rows that differ from a neighbour's, lastingly.", lasting)
        yield gauge("atoll_suspects", "Rows that differ from a neighbour's, for now.", float(len(cases)))
        yield counter("atoll_repairs", "Rows mended here.", float(self._mending.mended))
        yield counter("atoll_compared_rows", "Rows hashed to compare them.", float(self._rows))
        yield counter("atoll_comparing_seconds", "Time that hashing them took.", self._seconds)
