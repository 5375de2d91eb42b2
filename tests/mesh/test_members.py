"""Members that leave in order."""

from __future__ import annotations

import json

import pytest

from support.fix_mesh import MeshMaker

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_the_authority_does_not_leave_unasked(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18")
    for node in mesh.nodes:
        assert await mesh.sql(node, "select * from atoll.conflict") == [], "who joins overrules nobody"
    home = ("--home", str(mesh.nodes[0].home))
    said = await mesh.run("leave", "--yes", *home, fails=True)
    assert "code: leave-authority" in said
    await mesh.run("regions", "local", "--law", "GDPR", *home)
    assert "code: config-invalid" in await mesh.run("regions", "x y", *home, fails=True)
    (region,) = json.loads(await mesh.run("regions", "--json", *home))
    assert region == {"name": "local", "law": "GDPR", "note": "", "nodes": ["n1", "n2"]}


async def test_a_node_that_leaves_hands_everything_over(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    await mesh.app(one, "create table item (id integer primary key, word text)")
    await mesh.app(one, "select atoll.share('item')")
    await mesh.until_known("item")
    await mesh.around(three).cut()
    await mesh.app(three, "insert into item select n, 'from three' from generate_series(1, 5000) n")
    said = await mesh.run("leave", "--yes", "--timeout", "2", "--home", str(three.home), fails=True)
    assert "code: leave-not-drained" in said
    await mesh.app(three, "insert into item values (6000, 'writes are allowed again')")
    await mesh.around(three).calm()
    said = await mesh.run("leave", "--yes", "--home", str(three.home))
    assert 'node "n3" has left' in said
    await mesh.gone(three)
    for node in (one, two):
        assert await mesh.app(node, "select count(*) from item") == [(5001,)]
        await mesh.until(node, "select not exists (select from pg_publication where pubname = 'atoll_to_3')")
    listed = await mesh.run("nodes", "--home", str(one.home))
    assert "left" in listed
    await mesh.settle()
