"""This node's place in the topology: its neighbours, which upstream is in use, and the rows that say so.

What follows from the nodes and ties is topology's; here it is read, compared and written down.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.data.replication.topology import Member, Role, Tie, Topology, choose_upstream, plan
from atoll.link.report import LinkReport
from atoll.sql import query

log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Neighbour:
    number: int
    role: Role
    in_use: bool
    """False for an upstream that stands by."""


class Layout:
    def __init__(self, me: Member) -> None:
        self._me = me
        self._planned_for: object = None
        self._topology = Topology({}, {})
        self._down_since: dict[int, float] = {}
        self._upstream: int | None = None
        self._is_remembered = False

    async def tend(
        self, connection: Connection, members: Sequence[Member], links: Sequence[LinkReport], now: float
    ) -> Mapping[int, Neighbour]:
        """The neighbours as they should be now, written down where SQL looks for them."""
        rows = await (await connection.execute(query("fleet", "ties"))).fetchall()
        ties = [Tie(a, b, kind == "cut") for a, b, kind in rows]
        everybody = [self._me, *members]
        if self._planned_for != (everybody, ties):
            self._topology = plan(everybody, ties)
            self._planned_for = (everybody, ties)
        if not self._is_remembered:
            row = await (await connection.execute(query("fleet", "upstream_in_use"))).fetchone()
            self._upstream = row[0] if row else None
            self._is_remembered = True
        self._choose(links, now)
        roles = self._topology.neighbours.get(self._me.number, {})
        found = {
            number: Neighbour(number, role, role is not Role.UP or number == self._upstream)
            for number, role in roles.items()
        }
        wanted = [{"number": n.number, "role": n.role, "in_use": n.in_use} for n in found.values()]
        row = await (await connection.execute(query("fleet", "set_neighbours"), (Jsonb(wanted),))).fetchone()
        if row and row[0]:
            log.info("neighbours: %s", ", ".join(_describe(found[n]) for n in sorted(found)) or "none")
        return found

    def _choose(self, links: Sequence[LinkReport], now: float) -> None:
        ranked = self._topology.upstreams.get(self._me.number, ())
        up = {report.number: report.up_seconds or 0.0 for report in links if report.state == "up"}
        self._down_since = {n: self._down_since.get(n, now) for n in ranked if n not in up}
        chosen = choose_upstream(
            ranked,
            in_use=self._upstream,
            down_seconds={n: now - since for n, since in self._down_since.items()},
            up_seconds=up,
        )
        if self._upstream is not None and chosen != self._upstream:
            log.warning("upstream is node %s from now on, not node %s", chosen, self._upstream)
        self._upstream = chosen


def _describe(neighbour: Neighbour) -> str:
    return f"{neighbour.number} ({neighbour.role}{'' if neighbour.in_use else ', stands by'})"
