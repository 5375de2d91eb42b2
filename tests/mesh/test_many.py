"""A full mesh forms by itself, however many nodes there are, up to eight."""

from __future__ import annotations

import pytest

from support.fix_mesh import MeshMaker

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.deep
async def test_a_mesh_of_eight_forms_by_itself(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh(*["18", "16"] * 4)
    await mesh.share("word", "id text primary key, body text")
    for node in mesh.nodes:
        await mesh.app(node, "insert into word values (%s, 'hello')", node.name)
    await mesh.settle(seconds=240)
    assert len(await mesh.same("select id from word order by id")) == len(mesh.nodes)
    for node in mesh.nodes:
        links = await mesh.sql(node, "select count(*) from atoll.link_state where state = 'up'")
        assert links == [(len(mesh.nodes) - 1,)]
