"""When nodes agree: links are up, what was written has arrived, rows and states and the verdict are the same.

What is awaited has a generous deadline and says what it saw when that passes. The mesh itself is fix_mesh's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from support.fix_mesh import Mesh, MeshNode

DEADLINE = 120.0  # seconds
POLL_SECONDS = 0.1
Rows = list[tuple[Any, ...]]
STATES = (
    "select format('select %%s, atoll_side.%%I(s, t) from atoll_side.%%I s left join %%s t on %%s"
    " order by %%s',"
    " atoll.list(name, 'key', 's.{c}::text'), left(side, 57) || '__read', side, name,"
    " atoll.list(name, 'key', 's.{c} operator({=}) t.{c}', ' and '),"
    " atoll.list(name, 'key', 's.{c}::text collate \"C\"'))"
    " from atoll.local_table where name = %s and kind = 'merge'"
)


class Settling:
    """Waits until the nodes of a mesh agree."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._fence = 0

    async def settle(self, seconds: float = DEADLINE) -> None:
        """Wait until all links are up, what was written has arrived, and all nodes are the same."""
        deadline = time.monotonic() + seconds
        fences: int | None = None
        missing = "nothing was looked at"
        while time.monotonic() < deadline:
            try:
                missing = await self._missing_links()
                if not missing:
                    if fences is None:
                        fences = await self._raise_fences()
                    missing = await self._missing_fences(fences) or await self._missing_work()
                if not missing:
                    missing = await self._differences()
                if not missing:
                    await self._check_verdict()
                    return
            except psycopg.OperationalError as error:
                missing = str(error)
            await asyncio.sleep(POLL_SECONDS)
        logs = "\n".join(node.log() for node in self._mesh.live())
        pytest.fail(f"the nodes did not settle within {seconds:.0f} s: {missing}\n{logs}")

    async def catch_up(self, seconds: float = DEADLINE) -> None:
        """Wait until all links are up and what has been written so far has arrived where it may."""
        await self.form(seconds)
        fences, deadline = await self._raise_fences(), time.monotonic() + seconds
        while missing := await self._missing_fences(fences) or await self._missing_work():
            assert time.monotonic() < deadline, missing
            await asyncio.sleep(POLL_SECONDS)

    async def form(self, seconds: float = DEADLINE) -> None:
        """Wait until every node has what the others have, and a link to each."""
        deadline = time.monotonic() + seconds
        while missing := await self._missing_links():
            assert time.monotonic() < deadline, missing
            await asyncio.sleep(POLL_SECONDS)

    async def _missing_links(self) -> str:
        wanted = await self._wanted_links()
        for node in self._mesh.live():
            rows = await self._mesh.sql(
                node,
                "select peer, state, receiving, problem from atoll.link_state"
                " where state = 'up' and receiving = 'yes' and seen_at > now() - interval '5 s'",
            )
            others = wanted[node.number]
            if others - {row[0] for row in rows}:
                seen = await self._mesh.sql(
                    node, "select peer, state, receiving, problem from atoll.link_state"
                )
                return f"{node.name} lacks links to {others - {row[0] for row in rows}}: {seen}"
            if not (await self._mesh.sql(node, "select seeded_at is not null from atoll.self"))[0][0]:
                return f"{node.name} waits for a copy"
        return ""

    async def numbers(self) -> dict[int, MeshNode]:
        """The live nodes by the number that each has now; one that was restored has taken another."""
        return {(await self._mesh.sql(node, "select atoll.me()"))[0][0]: node for node in self._mesh.live()}

    async def _wanted_links(self) -> dict[int, set[int]]:
        """Whom each node should receive from: the neighbours that use each other."""
        members = await self.numbers()
        used = {
            number: {
                row[0]
                for row in await self._mesh.sql(node, "select number from atoll.neighbour where in_use")
                if row[0] in members
            }
            for number, node in members.items()
        }
        if len(used) > 1 and not all(used.values()):
            used = {number: set(used) - {number} for number in used}
        return {
            members[number].number: {other for other in mine if number in used[other]}
            for number, mine in used.items()
        }

    async def _raise_fences(self) -> int:
        """What each node writes now is behind everything that it wrote before."""
        self._fence += 1
        for node in self._mesh.live():
            await self._mesh.app(
                node,
                "insert into fence values (%s, %s) on conflict (node) do update set n = excluded.n",
                node.number,
                self._fence,
            )
        return self._fence

    async def _missing_fences(self, fence: int) -> str:
        wanted = [(node.number,) for node in self._mesh.live()]
        for node in self._mesh.live():
            seen = await self._mesh.sql(node, "select node from fence where n >= %s order by 1", fence)
            if not set(wanted) <= set(seen):
                return f"{node.name} sees fence {fence} of {seen} only"
        return ""

    async def _missing_work(self) -> str:
        for node in self._mesh.live():
            parked = await self._mesh.sql(node, "select tbl, code, reason, attempts from atoll.parked")
            if parked:
                return f"{node.name} has parked {parked[:5]}"
            owed = "select peer, atoll.me() from atoll.progress where missed and atoll.is_member(peer)"
            for peer, me in await self._mesh.sql(node, owed):
                if await self._takes(peer, me):
                    return f"{node.name} has a peer that missed changes"
        return ""

    async def _takes(self, peer: int, source: int) -> bool:
        """Not who gets its changes from another hub: it is owed a copy for the day when it comes back."""
        taker = (await self._mesh.numbers()).get(peer)
        stands_by = "select from atoll.neighbour where number = %s and not in_use"
        return taker is None or not await self._mesh.sql(taker, stands_by, source)

    async def _differences(self) -> str:
        """The first difference between the nodes, in rows or in what is kept beside them."""
        first, *others = self._mesh.live()
        tables = "select name, scope = 'global' and scope_column is null from atoll.shared_table order by 1"
        found = await self._mesh.sql(first, tables)
        for node in others:
            if await self._mesh.sql(node, tables) != found:
                return f"{node.name} shares other tables than {first.name}"
        for table, is_global in found:
            circles = [self._mesh.live()] if is_global else (await self.regions()).values()
            for circle in circles:
                if difference := await self._difference(table, circle, with_states=is_global):
                    return difference
        return ""

    async def regions(self) -> dict[str, list[MeshNode]]:
        """The live nodes of each region."""
        found: dict[str, list[MeshNode]] = {}
        for node in self._mesh.live():
            region = await self._mesh.sql(node, "select region from atoll.node where number = atoll.me()")
            found.setdefault(region[0][0], []).append(node)
        return found

    async def _difference(self, table: str, nodes: Sequence[MeshNode], *, with_states: bool) -> str:
        receipts = {
            node.name: await self._mesh.sql(node, "select atoll.receipt(%s)", table) for node in nodes
        }
        if len({str(rows) for rows in receipts.values()}) > 1:
            return f"{table} differs: {receipts}"
        if not with_states:
            return ""
        first, *others = nodes
        mine = await self.states(first, table)
        for node in others:
            theirs = await self.states(node, table)
            if theirs != mine:
                odd = [pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]]
                return f"states of {table}: {first.name} {len(mine)}, {node.name} {len(theirs)}: {odd[:3]}"
        return ""

    async def states(self, node: MeshNode, table: str) -> Rows:
        """Key and state of every row that a node knows of, living, dead or set aside."""
        found = await self._mesh.sql(node, STATES, table)
        states = await self._mesh.sql(node, found[0][0].replace("%", "%%")) if found else []
        for row in states:
            row[-1]["v"] = {name: value for name, value in row[-1]["v"].items() if value is not None}
        return states

    async def _check_verdict(self) -> None:
        """What a person would ask says the same."""
        last = self._mesh.live()[-1]
        near = await self._mesh.sql(last, "select state from atoll.link_state")
        if any(state != "up" for (state,) in near):
            return  # who is away cannot be asked
        said = await self._mesh.run("check", "--home", str(last.home), "--wait", "20")
        assert f"compared on {len(near) + 1} nodes" in said, said
        assert "differ" not in said, f"{said}\n{await self._odd_rows()}"

    async def _odd_rows(self) -> str:
        """Rows that nodes hold in different states, and how far each has heard the others."""
        told = []
        for (table,) in await self._mesh.sql(self._mesh.live()[0], "select name from atoll.shared_table"):
            held: dict[str, dict[str, str]] = {}
            for node in self._mesh.live():
                for *key, state in await self.states(node, table):
                    held.setdefault(str(key), {})[node.name] = str(state)
            odd = {key: by for key, by in held.items() if len(set(by.values())) > 1}
            told += [f"{table} {key}: {by}" for key, by in odd.items()]
        for node in self._mesh.live():
            told.append(f"{node.name}: {await self._mesh.sql(node, 'select * from atoll.progress')}")
        return "\n".join(told)
