"""Clocks that are wrong: an hour ahead or behind, or standing still, so that all stamps are ties."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, MeshMaker, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
HOUR = 3600


async def test_nodes_whose_clocks_are_hours_apart_converge(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18", flags=("--future-bound", "3h"))
    ahead, behind, _ = mesh.nodes
    await mesh.settle()
    await mesh.set_clock(ahead, HOUR)
    await mesh.set_clock(behind, -HOUR)
    async with Load(mesh, make_seed()) as load:
        await load.written(150)
        await mesh.set_clock(ahead, -HOUR)
        await mesh.set_clock(behind, HOUR)
        await load.written(100)
    await mesh.settle()
    await load.verify()


async def test_a_node_that_lags_an_hour_parks_what_comes_and_merges_it_when_its_clock_is_mended(
    mesh: Mesh,
) -> None:
    slow = mesh.nodes[2]
    async with Load(mesh, make_seed()) as load:
        await load.written(20)
        await mesh.set_clock(slow, -HOUR)
        await mesh.until(slow, "select count(*) > 20 from atoll.parked where code = 'stamp-in-future'")
        await load.written(60)
        await mesh.set_clock(slow, 0)
        await load.written(20)
    await mesh.settle()
    await load.verify()


@pytest.mark.deep
async def test_writes_of_the_same_millisecond_end_the_same_everywhere(mesh: Mesh) -> None:
    (now,) = (await mesh.sql(mesh.nodes[0], "select atoll.clock_ms()"))[0]
    await mesh.share("tie", "id int primary key, body text, hits int default 0", '{"hits": "counter"}')
    await mesh.app(mesh.nodes[0], "insert into tie select g from generate_series(1, 30) g")
    await mesh.settle()
    await mesh.stop_clocks(now + 1000)
    try:
        for turn in range(3):
            await mesh.everywhere().cut()
            for node in mesh.nodes:
                await mesh.app(node, "update tie set body = %s, hits = hits + 1", f"{node.name} {turn}")
                await mesh.app(node, "delete from tie where id %% 10 = %s", node.number + turn)
                await mesh.app(
                    node, "insert into tie values (%s, %s) on conflict do nothing", 100 + turn, node.name
                )
            await mesh.everywhere().calm()
            await mesh.settle()
    finally:
        await mesh.stop_clocks(None)
    stamps = await mesh.same('select distinct atoll_birth >> 22 from atoll_side."public.tie" where id >= 100')
    assert stamps == [(now + 1000,)]
    assert await mesh.same("select distinct body from tie where id < 100") == [("n3 2",)]
    assert await mesh.same("select sum(hits) >= 3 * 3 from tie where id < 100") == [(True,)]
