"""Rows that move between regions, as a part of the load, and what their books say must be where.

The log of a node reaches another region only through nodes that may have the rows. So where not every node
is linked to every other, a row moves between its own region and everywhere, and is moved in its region only.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from support.fix_mesh import Mesh, MeshNode
    from support.load import Line

SHARE = 0.25
GLOBAL = "global"


@dataclass(frozen=True)
class Places:
    """The region of each node, by the node's name, and whether rows may move from any region to any other."""

    regions: dict[str, str]
    is_open: bool

    def post(self, node: MeshNode) -> Post:
        region = self.regions[node.name]
        return Post(region, tuple(sorted({*self.regions.values()} if self.is_open else {region})))


@dataclass(frozen=True)
class Post:
    """What a writer may do: it moves rows that were born in one of `regions`, to these and to everywhere."""

    region: str
    regions: tuple[str, ...]

    async def act(
        self, connection: psycopg.AsyncConnection[Any], rng: random.Random, line_id: uuid.UUID
    ) -> tuple[str, str, int] | None:
        """One statement: the verb, the scope that it wrote, and the row's key."""
        what = rng.choices(["ship", "send", "wrap"], [2, 2, 2])[0]
        home = rng.choice([*self.regions, GLOBAL])
        if what == "ship":
            query = "insert into parcel (born, home, body) values (%s, %s, %s) returning id"
            cursor = await connection.execute(query, (self.region, home, str(line_id)))
            return what, home, (await cursor.fetchall())[0][0]
        query = "select id from parcel where %s or born = any (%s) order by id desc limit 20"
        cursor = await connection.execute(query, (what == "wrap", list(self.regions)))
        found = await cursor.fetchall()
        if not found:
            return None
        key = rng.choice(found)[0]
        if what == "send":
            query = "update parcel set home = %s where id = %s and home <> %s"
            await connection.execute(query, (home, key, home))
            return what, home, key
        await connection.execute("update parcel set body = %s where id = %s", (str(line_id), key))
        return what, "", key


async def prepare(mesh: Mesh) -> None:
    """The table, shared and known everywhere."""
    first = mesh.nodes[0]
    if not await mesh.sql(first, "select true from atoll.local_table where name = 'public.parcel'"):
        await mesh.app(
            first,
            "create table parcel (id bigint primary key default atoll.id(), born text not null,"
            " home text not null, body text not null)",
        )
        await mesh.app(first, "select atoll.share('parcel', scope_column => 'home')")
    await mesh.until_known("parcel")


async def verify(mesh: Mesh, journal: Sequence[Line]) -> None:
    """Every node has the parcels that it may have, as they were written last, and no other."""
    homes: dict[int, Line] = {}
    bodies: dict[int, Line] = {}
    for line in journal:
        if line.what in ("ship", "send"):
            homes[line.amount] = max(homes.get(line.amount, line), line, key=lambda one: one.stamp)
        if line.what in ("ship", "wrap"):
            bodies[line.amount] = max(bodies.get(line.amount, line), line, key=lambda one: one.stamp)
    for region, nodes in (await mesh.regions()).items():
        wanted = {
            key: (line.item, str(bodies[key].id))
            for key, line in homes.items()
            if line.item in (GLOBAL, region)
        }
        for node in nodes:
            rows = await mesh.sql(node, "select id, home, body from parcel")
            found = {key: (home, body) for key, home, body in rows}
            odd = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
            told = [(key, wanted.get(key), found.get(key), _story(journal, key)) for key in odd[:3]]
            assert not odd, f"{node.name} has {len(odd)} parcels otherwise than was written: {told}"
    print(f"verified {len(homes)} parcels, {sum(line.what == 'send' for line in journal)} moves")


def _story(journal: Sequence[Line], key: int) -> list[str]:
    """What was done to a parcel, in the order of the stamps."""
    lines = sorted((line for line in journal if line.amount == key), key=lambda line: line.stamp)
    return [f"n{line.node} {line.what} {line.item} at {line.stamp}" for line in lines]
