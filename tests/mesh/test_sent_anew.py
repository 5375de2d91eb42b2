"""A log that is copied anew holds changes heard long ago, whose deletions may have been forgotten since."""

from __future__ import annotations

import asyncio

import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

FORGET_AT_ONCE = "update atoll.setting set value = '0 s' where name in ('absence_max', 'tombstone_retention')"
LEFT = 'select (select count(*) from item), (select count(*) from atoll_side."public.item")'
KEPT = "select exists (select from atoll.change where tbl = 'public.item' and op = 'I')"
BEGAN = "select since > '0' from atoll.progress where peer = 2"


async def forget(mesh: Mesh, nodes: tuple[MeshNode, ...]) -> None:
    """Write on until nothing is left of what was deleted."""
    async with asyncio.timeout(60):
        for node in nodes:
            while await mesh.sql(node, LEFT) != [(0, 0)]:
                for writer in nodes:
                    await mesh.app(writer, "insert into fact (word) values ('tick')")
                await asyncio.sleep(0.5)


async def test_what_is_sent_anew_does_not_come_back(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, away = mesh.nodes
    await mesh.share("item", "id integer primary key, word text")
    await mesh.share("fact", "id bigint primary key default atoll.id(), word text", kind="append")
    await mesh.settle()
    # The log is kept for who is away, and the tombstones are not.
    await mesh.kill(away)
    for node in (one, two):
        await mesh.sql(node, FORGET_AT_ONCE)
    await mesh.app(one, "insert into item select n, 'x' from generate_series(1, 100) n")
    await mesh.until(two, "select count(*) = 100 from item")
    await mesh.app(two, "delete from item")
    for node in (one, two):
        await mesh.until(node, "select atoll.is_absent(3)")
        await mesh.app(node, "insert into fact (word) values ('tick')")
    await forget(mesh, (one, two))
    assert await mesh.sql(one, KEPT) == [(True,)]
    await mesh.sql(one, "select atoll.drop_slot('atoll_to_2')")
    await mesh.app(one, "insert into fact (word) values ('last')")
    await mesh.until(two, "select exists (select from fact where word = 'last')")
    assert await mesh.sql(one, BEGAN) == [(True,)]
    assert await mesh.sql(two, LEFT) == [(0, 0)]
