"""Edges below hubs: what one edge writes reaches the others through hubs, also when hubs come and go."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
ITEMS = "create table item (id integer primary key, word text not null)"


async def fleet(make_mesh: MeshMaker, *places: str) -> Mesh:
    """A mesh whose nodes have these tiers and regions, such as "hub/eu"."""
    mesh = await make_mesh(room=len(places))
    for place in places:
        tier, region = place.split("/")
        await mesh.add("18", "--tier", tier, "--region", region)
    await mesh.form()
    await mesh.app(mesh.nodes[0], ITEMS)
    await mesh.app(mesh.nodes[0], "select atoll.share('item')")
    return mesh


async def upstream(mesh: Mesh, node: MeshNode) -> MeshNode:
    rows = await mesh.sql(node, "select number from atoll.neighbour where role = 'up' and in_use")
    return mesh.nodes[rows[0][0] - 1]


async def write(mesh: Mesh, node: MeshNode, key: int) -> None:
    await mesh.until(
        node,
        "select to_regclass('item') is not null and to_regclass('atoll_side.\"public.item\"') is not null",
    )
    await mesh.app(node, "insert into item values (%s, %s)", key, f"{node.name} wrote {key}")


async def test_an_edge_goes_on_through_the_other_hub(make_mesh: MeshMaker) -> None:
    mesh = await fleet(make_mesh, "hub/eu", "hub/eu", "edge/eu", "edge/eu", "edge/eu")
    edges = mesh.nodes[2:]
    for node in mesh.nodes:
        await write(mesh, node, node.number)
    await mesh.settle()
    for edge in edges:
        assert not await mesh.sql(
            edge, "select from atoll.neighbour where number = any (%s)", [e.number for e in edges]
        )
    gone = await upstream(mesh, edges[0])
    await mesh.kill(gone)
    for node in mesh.live():
        await write(mesh, node, 10 + node.number)
    await mesh.settle()
    assert await upstream(mesh, edges[0]) is not gone
    await mesh.up(gone)
    await write(mesh, gone, 20)
    await mesh.settle()
    assert len(await mesh.sql(edges[0], "select id from item")) == 10
    for node in mesh.nodes:
        assert "could not make a slot" not in node.log(), "a hub that stands by needs none"


async def test_two_regions_below_a_cloud(make_mesh: MeshMaker) -> None:
    mesh = await fleet(make_mesh, "cloud/us", "hub/eu", "hub/in", "edge/eu", "edge/in")
    for node in mesh.nodes:
        await write(mesh, node, node.number)
    await mesh.settle()
    edge, far = mesh.nodes[3], mesh.nodes[4]
    found = await mesh.sql(edge, "select number, in_use from atoll.neighbour order by 1")
    assert found == [(1, False), (2, True)], "a cloud stands by for the only hub"
    drawn = await mesh.run("topology", "--home", str(far.home))
    assert "└─ n4 (edge, eu)" in drawn, drawn
    await mesh.around(mesh.nodes[0]).cut()
    await write(mesh, edge, 40)
    await write(mesh, far, 50)
    await mesh.until(mesh.nodes[1], "select count(*) = 1 from item where id = 40")
    assert await mesh.sql(far, "select id from item where id = 40") == []
    await mesh.everywhere().calm()
    await mesh.settle()


@pytest.mark.deep
async def test_a_chain_and_a_ring_made_by_hand(make_mesh: MeshMaker) -> None:
    mesh = await fleet(make_mesh, "edge/eu", "edge/eu", "edge/eu", "edge/eu")
    first = mesh.nodes[0]
    chain = {(1, 2), (2, 3), (3, 4)}
    for a in range(1, 5):
        for b in range(a + 1, 5):
            flags = [] if (a, b) in chain else ["--cut"]
            await mesh.run("link", f"n{a}", f"n{b}", *flags, "--home", str(first.home))
    for node in mesh.nodes:
        mine = sorted({n for pair in chain for n in pair if node.number in pair} - {node.number})
        await mesh.until(
            node, "select array_agg(number order by number) = %s::int[] from atoll.neighbour", mine
        )
        await write(mesh, node, node.number)
    await mesh.settle()
    await mesh.run("link", "n1", "n4", "--home", str(first.home))
    for node in (mesh.nodes[0], mesh.nodes[3]):
        await mesh.until(node, "select count(*) = 2 from atoll.neighbour")
    for node in mesh.nodes:
        await write(mesh, node, 10 + node.number)
    await mesh.settle()
    assert len(await mesh.sql(mesh.nodes[3], "select id from item")) == 8
