"""What docs/promises.md says and no other suite shows: nodes need nobody, and nothing stops a link."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, MeshMaker

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
# A statement that asked another node would wait for longer than this while all links are silent.
PATIENCE = "set statement_timeout = '20 s';"


async def test_every_node_reads_and_writes_while_it_hears_nobody(mesh: Mesh) -> None:
    await mesh.share("harbour", "id bigint primary key, ships int default 0", '{"ships": "counter"}')
    await mesh.app(mesh.nodes[0], "insert into harbour values (1)")
    await mesh.settle()
    await mesh.everywhere().fall_silent()
    for node in mesh.nodes:
        await mesh.app(node, f"{PATIENCE} update harbour set ships = ships + 1 where id = 1")
        await mesh.app(node, f"{PATIENCE} insert into harbour values ({node.number + 10}, {node.number})")
        await mesh.app(node, f"{PATIENCE} delete from harbour where id = {node.number + 20}")
        seen = await mesh.app(node, "select id, ships from harbour order by id")
        assert seen == [(1, 1), (node.number + 10, node.number)]
    await mesh.everywhere().calm()
    await mesh.settle()
    assert await mesh.same("select id, ships from harbour order by id") == [(1, 3), (11, 1), (12, 2), (13, 3)]


@pytest.mark.slow
async def test_one_node_of_three_goes_on_alone(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    founder, other, last = mesh.nodes
    await mesh.share("harbour", "id bigint primary key, name text")
    await mesh.settle()
    await mesh.kill(founder)
    await mesh.kill(other)
    await mesh.app(last, "insert into harbour values (1, 'Faro')")
    await mesh.app(last, "alter table harbour add column depth int default 4")
    await mesh.app(last, "create table ship (id bigint primary key, name text)")
    await mesh.app(last, "select atoll.share('ship')")
    await mesh.app(last, "insert into ship values (1, 'Pequod')")
    assert await mesh.app(last, "select * from harbour") == [(1, "Faro", 4)]
    # A restart needs nobody either.
    await mesh.stop(last)
    await mesh.up(last)
    await mesh.app(last, "update ship set name = 'Rachel'")
    await mesh.up(founder)
    await mesh.up(other)
    await mesh.until_known("ship")
    await mesh.settle()
    assert await mesh.same("select * from harbour") == [(1, "Faro", 4)]
    assert await mesh.same("select * from ship") == [(1, "Rachel")]


async def test_a_change_that_cannot_be_applied_stops_no_link(mesh: Mesh) -> None:
    one, two, _ = mesh.nodes
    await mesh.share("cargo", "id bigint primary key, tons int")
    await mesh.settle()
    # A rule that the others do not have, as somebody's own trigger may be.
    await mesh.sql(
        two,
        "create function heavy() returns trigger language plpgsql as"
        " $$ begin raise exception 'no more than 100 tons here'; end $$;"
        "create trigger heavy before insert on cargo"
        " for each row when (new.tons > 100) execute function heavy();"
        "alter table cargo enable always trigger heavy",
    )
    await mesh.app(one, "insert into cargo values (1, 500)")
    parked = await mesh.until(two, "select tbl, reason from atoll.parked")
    assert parked[0][0] == "public.cargo"
    assert "no more than 100 tons here" in parked[0][1]
    await mesh.app(one, "insert into cargo values (2, 50)")
    await mesh.until(two, "select exists (select from cargo where id = 2)")
    state = "select state, receiving from atoll.link_state where peer = %s"
    assert await mesh.sql(two, state, one.number) == [("up", "yes")]
    await mesh.sql(two, "drop trigger heavy on cargo")
    await mesh.settle()
    assert await mesh.same("select id, tons from cargo order by id") == [(1, 500), (2, 50)]
