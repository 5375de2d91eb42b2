"""Nodes with data of their own join: a lone one moves into an atoll, a former member comes back."""

from __future__ import annotations

import asyncio

import pytest

from atoll.node.home import open_home
from atoll.node.mesh import membership
from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ITEM = "id integer primary key, word text, qty integer not null default 0"


async def alone(mesh: Mesh) -> MeshNode:
    """A node with an atoll of its own, and with rows of which some have a key that there is elsewhere too."""
    node = mesh.plan()
    await mesh.up(node)
    await mesh.app(node, f"create table item ({ITEM})")
    await mesh.app(node, """select atoll.share('item', '{"qty": "counter"}')""")
    await mesh.app(node, "create table harvest (id bigint primary key default atoll.id(), kg integer)")
    await mesh.app(node, "select atoll.share('harvest')")
    await mesh.app(node, "insert into item select n, 'theirs', 1 from generate_series(4001, 9000) n")
    await mesh.app(node, "insert into harvest (kg) select n from generate_series(1, 300) n")
    return node


async def test_two_atolls_become_one_and_a_crash_in_between_changes_nothing(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", room=3)
    one, two = mesh.nodes
    await mesh.share("item", ITEM, '{"qty": "counter"}')
    await mesh.app(one, "insert into item select n, 'ours', 10 from generate_series(1, 5000) n")
    mover = await alone(mesh)
    await mesh.app(one, "update item set word = 'ours, later' where id between 4001 and 4100")
    await mesh.app(mover, "update item set word = 'theirs, last' where id between 4051 and 4100")
    token = await mesh.invite(one)
    at_home = ("--home", str(mover.home))
    assert "code: home-in-use" in await mesh.run("join", token, *at_home, fails=True)
    assert "code: join-settings" in await mesh.run(
        "join", token, "--with-data", "--region", "us", *at_home, fails=True
    )
    home = open_home(mover.home)
    joining = asyncio.create_task(mesh.run("join", token, "--with-data", "--yes", *at_home))
    while not home.next_keys.exists():
        assert not joining.done(), await joining
        await asyncio.sleep(0.01)
    await mesh.kill(mover)
    await mesh.up(mover)
    assert 'joined as node "n3", number 3' in await joining
    assert not membership.may_admit(home)
    await mesh.until_known("harvest")
    await mesh.until(mover, "select not moves from atoll.self")
    await mesh.app(mover, "insert into harvest (kg) values (1000)")
    await mesh.settle()
    words = "select word, count(*), sum(qty) from item group by word order by word"
    assert await mesh.same(words) == [
        ("ours", 4000, 40_000),
        ("ours, later", 50, 550),
        ("theirs", 4900, 4000 + 900 * 11),
        ("theirs, last", 50, 550),
    ]
    assert await mesh.same("select count(*), max(kg) from harvest") == [(301, 1000)]
    assert await mesh.sql(two, "select count(*) > 0 from atoll.conflict where tbl = 'public.item'") == [
        (True,)
    ]
    await mesh.stop(mover)
    await mesh.up(mover)
    await mesh.app(mover, "delete from item where id > 8000")
    await mesh.settle()


async def test_a_member_of_an_atoll_does_not_join_another(make_mesh: MeshMaker) -> None:
    mesh, other = await make_mesh("18", "18"), await make_mesh("18")
    token = await other.invite(other.nodes[0])
    home = ("--home", str(mesh.nodes[1].home))
    assert "code: join-member" in await mesh.run("join", token, "--with-data", "--yes", *home, fails=True)
    again = await mesh.invite(mesh.nodes[0])
    assert "code: join-member" in await mesh.run("join", again, "--with-data", "--yes", *home, fails=True)
    await mesh.settle()


async def test_a_node_that_left_joins_again_and_what_was_deleted_stays_away(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18")
    one, two = mesh.nodes
    await mesh.share("item", ITEM, '{"qty": "counter"}')
    await mesh.app(two, "insert into item select n, 'x', 10 from generate_series(1, 1000) n")
    await mesh.settle()
    home = ("--home", str(two.home))
    await mesh.run("leave", "--yes", *home)
    await mesh.gone(two)
    await mesh.app(one, "delete from item where id <= 500")
    await mesh.app(one, "update item set qty = qty + 1 where id = 600")
    await mesh.sql(one, 'delete from atoll_side."public.item" where id <= 500')
    await mesh.up(two)
    assert "it has left its atoll" in await mesh.run("status", *home)
    await mesh.run("join", await mesh.invite(one), "--with-data", "--yes", *home)
    back = "select exists (select from atoll.absence where number = 3 and since <= returned_at)"
    for node in mesh.nodes:
        await mesh.until(node, back)
    await mesh.app(two, "update item set qty = qty + 1 where id = 600")
    await mesh.settle()
    assert await mesh.same("select count(*), min(id), max(qty) from item") == [(500, 501, 12)]
