"""Partitions, and kill -9 of nodes and of PostgreSQL, while everybody writes: nothing is lost."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
deep = pytest.mark.deep
every_postgres = pytest.mark.parametrize(
    "trio",
    ["18", pytest.param("16", marks=deep), pytest.param("mixed", marks=deep)],
    indirect=True,
    scope="session",
)


@pytest.mark.parametrize(
    "trio", ["18", "mixed", pytest.param("16", marks=deep)], indirect=True, scope="session"
)
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


@every_postgres
async def test_a_node_that_is_killed_under_load_comes_back_with_everything(mesh: Mesh) -> None:
    victim = mesh.nodes[1]
    async with Load(mesh, make_seed()) as load:
        await load.written(60)
        await mesh.kill(victim)
        await load.written(60)
        await mesh.up(victim)
        await load.written(60)
    await mesh.settle()
    await load.verify()


@every_postgres
async def test_a_postgres_that_is_killed_under_load_comes_back_with_everything(mesh: Mesh) -> None:
    async with Load(mesh, make_seed()) as load:
        for victim in mesh.nodes:
            await load.written(40)
            before = victim.postmaster()
            mesh.kill_postgres(victim)
            await mesh.until(victim, "select true")
            assert victim.postmaster() != before
        await load.written(60)
    await mesh.settle()
    await load.verify()


@pytest.mark.slow
async def test_nodes_that_are_killed_at_once_come_back_with_everything(mesh: Mesh) -> None:
    async with Load(mesh, make_seed()) as load:
        await load.written(100)
        for victim in mesh.nodes:
            await mesh.kill(victim)
        for victim in mesh.nodes:
            await mesh.up(victim)
        await load.written(60)
    await mesh.settle()
    await load.verify()
