"""Declaring on one node declares on all, ending it ends it on all, and a feed sees what everybody wrote."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import pytest

from atoll.data.feed import FeedRow, follow
from support.fix_mesh import Mesh, MeshNode, make_seed
from support.load import Load, prepare

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


async def test_a_table_shared_on_one_node_appears_on_all_with_everybodys_rows(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    for node in (two, three):
        await mesh.app(
            node, 'create table "Fruit Stand" (id text, place int, ripe jsonb, primary key (id, place))'
        )
        await mesh.app(
            node, "insert into \"Fruit Stand\" values (%s, 1, '[\"fig\"]'), ('both', 2, null)", node.name
        )
    await mesh.app(two, 'select atoll.share(\'"Fruit Stand"\', \'{"ripe": "set"}\')')
    for node in mesh.nodes:
        await mesh.until(node, "select true from atoll.local_table where name = 'public.\"Fruit Stand\"'")
    await mesh.settle()
    await mesh.app(one, "insert into \"Fruit Stand\" values ('n1', 1, '[\"date\"]')")
    await mesh.app(three, "update \"Fruit Stand\" set ripe = '[\"plum\"]' where id = 'both'")
    await mesh.settle()
    rows = await mesh.same('select id, place, ripe from "Fruit Stand" order by 1, 2')
    assert rows == [("both", 2, ["plum"]), ("n1", 1, ["date"]), ("n2", 1, ["fig"]), ("n3", 1, ["fig"])]


async def test_unsharing_on_one_node_ends_it_on_all_and_sharing_again_brings_it_back(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    await mesh.share("lease", "id text primary key, holder text")
    await mesh.app(one, "insert into lease values ('a', 'n1')")
    await mesh.settle()
    await mesh.app(two, "select atoll.unshare('lease')")
    for node in mesh.nodes:
        await mesh.until(
            node, "select not exists (select from atoll.local_table where name = 'public.lease')"
        )
        await mesh.app(node, "insert into lease values (%s, 'alone')", node.name)
    await mesh.settle()
    for node in mesh.nodes:
        found = await mesh.sql(node, "select id from lease order by 1")
        assert found == [("a",), (node.name,)]
    await mesh.app(three, "select atoll.share('lease')")
    await mesh.until_known("lease")
    await mesh.settle()
    assert await mesh.same("select id from lease order by 1") == [("a",), ("n1",), ("n2",), ("n3",)]


async def test_a_feed_on_one_node_sees_what_all_nodes_wrote_once_each(mesh: Mesh) -> None:
    two = mesh.nodes[1]
    await prepare(mesh)
    seen: list[FeedRow] = []
    reading = asyncio.create_task(_read(two, seen))
    await mesh.until(two, "select true from atoll.cursor where name = 'watch'")
    try:
        async with Load(mesh, make_seed()) as load:
            await load.written(40)
            await mesh.around(two).cut()
            await load.written(40)
            await mesh.around(two).calm()
            await load.written(40)
        await mesh.settle()
        await load.verify()
        wanted = {line for writer in load.writers for line in writer.books.acknowledged}
        async with asyncio.timeout(60):
            while wanted - {_line(row) for row in seen}:
                await asyncio.sleep(0.1)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await mesh.app(two, "select atoll.close_feed('watch')")
    places = [(row.origin, row.xid, row.pos) for row in seen]
    assert len(places) == len(set(places)), "a place was read twice"
    lines = [_line(row) for row in seen]
    assert len(lines) == len(set(lines)), "a line was seen twice"
    order = [(int(xid), pos) for _, xid, pos in places]
    assert order == sorted(order)


async def _read(node: MeshNode, seen: list[FeedRow]) -> None:
    connecting = psycopg.AsyncConnection.connect(node.dsn(as_owner=False), autocommit=True)
    async with await connecting as connection:
        async for batch in follow(connection, "watch", ["journal"]):
            seen += batch


def _line(row: FeedRow) -> uuid.UUID:
    return uuid.UUID(row.row["id"])
