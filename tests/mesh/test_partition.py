"""Nodes that are cut off from each other go on writing; once the network is back all of them are the same."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
every_postgres = pytest.mark.parametrize("trio", ["18", "16", "mixed"], indirect=True, scope="session")


@every_postgres
async def test_everybody_writes_through_a_partition_and_all_agree_after_it(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    async with Load(mesh, make_seed()) as load:
        await load.written(60)
        await mesh.between(one, two).cut()
        await mesh.around(three).cut()
        await load.written(150)
        await mesh.everywhere().calm()
        await load.written(30)
    await mesh.settle()
    await load.verify()


async def test_a_change_takes_effect_whichever_node_it_is_written_on(mesh: Mesh) -> None:
    await mesh.share("note", "id text primary key, body text")
    for node in mesh.nodes:
        await mesh.app(node, "insert into note values (%s, 'first')", node.name)
    await mesh.settle()
    for node, other in zip(mesh.nodes, [*mesh.nodes[1:], mesh.nodes[0]], strict=True):
        await mesh.app(node, "update note set body = %s where id = %s", f"by {node.name}", other.name)
    await mesh.settle()
    assert await mesh.same("select id, body from note order by id") == [
        ("n1", "by n3"),
        ("n2", "by n1"),
        ("n3", "by n2"),
    ]
