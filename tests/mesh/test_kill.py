"""kill -9 of a node and of its PostgreSQL while everybody writes: nothing acknowledged is lost."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
every_postgres = pytest.mark.parametrize("trio", ["18", "16", "mixed"], indirect=True, scope="session")


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
