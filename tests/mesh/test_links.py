"""Bad networks: lagging, throttled, silent, flapping, one-way. All write on, and agree in the end."""

from __future__ import annotations

import asyncio

import pytest

from support.fix_mesh import Mesh, MeshMaker, make_seed, pairs
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


async def test_nodes_on_slow_links_converge(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    await mesh.between(one, two).delay(0.3)
    await mesh.between(two, three).throttle(64 * 1024, delay_seconds=0.05)
    async with Load(mesh, make_seed()) as load:
        await load.written(150)
    await mesh.settle()
    await load.verify()


async def test_a_link_that_falls_silent_is_noticed_and_replaced(mesh: Mesh) -> None:
    one, two, _ = mesh.nodes
    async with Load(mesh, make_seed()) as load:
        await load.written(30)
        await mesh.between(one, two).fall_silent()
        for node, peer in ((one, two), (two, one)):
            gone = "select state <> 'up' from atoll.link_state where peer = %s"
            await mesh.until(node, gone, peer.number)
        await load.written(30)
        await mesh.between(one, two).calm()
        await load.written(30)
    await mesh.settle()
    await load.verify()


async def test_links_that_flap_under_load_lose_nothing(mesh: Mesh) -> None:
    rng = make_seed()
    async with Load(mesh, rng) as load:
        for _ in range(12):
            pair = mesh.between(*rng.choice(pairs(mesh.nodes)))
            await pair.cut()
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            await pair.calm()
            await load.written(10)
    await mesh.settle()
    await load.verify()


async def test_a_node_that_can_only_dial_out_replicates_in_both_directions(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", room=3)
    hidden = await mesh.add("18", behind_nat=True)
    await mesh.add("18")
    async with Load(mesh, make_seed()) as load:
        await load.written(60)
        await mesh.around(hidden).cut()
        await load.written(60)
        await mesh.around(hidden).calm()
        await load.written(30)
    await mesh.settle()
    await load.verify()
    dialled = await mesh.same("select addresses from atoll.node where number = %s", hidden.number)
    assert dialled == [([],)]
    for node in mesh.nodes:
        if node is not hidden:
            by = await mesh.sql(
                node, "select dialled_by from atoll.link_state where peer = %s", hidden.number
            )
            assert by == [(hidden.number,)]
