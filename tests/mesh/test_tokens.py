"""An application that moves from node to node reads what it wrote, and knows how many nodes have it."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.fix_mesh import pairs as pairs_of

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
ROUNDS = 40
WAIT = "select atoll.wait_for(%s, '60 s')"


async def test_what_was_written_on_one_node_is_read_on_the_next_and_the_one_after(mesh: Mesh) -> None:
    await mesh.share("visit", "id integer primary key, place text not null")
    token = ""
    for number in range(ROUNDS):
        node = mesh.nodes[number % 3]
        if token:
            assert await mesh.app(node, WAIT, token) == [(True,)]
        assert await mesh.app(node, "select count(*) from visit") == [(number,)], (
            "nothing that it wrote is missing"
        )
        await mesh.app(node, "insert into visit values (%s, %s)", number, node.name)
        token = (await mesh.app(node, "select atoll.token(%s)", token))[0][0]
    await mesh.app(mesh.nodes[0], "select atoll.unshare('visit')")


async def test_a_write_is_confirmed_by_so_many_nodes(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    await mesh.share("deed", "id integer primary key")
    await mesh.app(one, "insert into deed values (1)")
    reached = (await mesh.app(one, "select atoll.confirm(2, '60 s')"))[0][0]
    assert reached == 2
    for node in (two, three):
        assert await mesh.sql(node, "select id from deed") == [(1,)], "who has confirmed has it"
    for a, b in pairs_of(mesh.nodes):
        if three in (a, b):
            await mesh.between(a, b).cut()
    await mesh.app(one, "insert into deed values (2)")
    assert await mesh.app(one, "select atoll.confirm(1, '60 s')") == [(1,)]
    assert await mesh.sql(two, "select id from deed where id = 2") == [(2,)]
    with pytest.raises(psycopg.Error) as refused:
        await mesh.app(one, "select atoll.confirm(2, '1 s')")
    assert refused.value.diag.constraint_name == "copies-missing"
    await mesh.everywhere().calm()
    assert await mesh.app(one, "select atoll.confirm(2, '60 s')") == [(2,)]
    assert await mesh.sql(three, "select id from deed where id = 2") == [(2,)]
    await mesh.app(one, "select atoll.unshare('deed')")


@pytest.mark.slow
async def test_a_token_passes_through_a_hub_and_a_busy_node_covers_it_soon(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh(room=3)
    for tier in ("hub", "edge", "edge"):
        await mesh.add("18", "--tier", tier)
    await mesh.form()
    _, here, there = mesh.nodes
    await mesh.share("visit", "id integer primary key")
    enough = asyncio.Event()
    busy = asyncio.create_task(_write_on(here, enough))
    try:
        for number in range(10):
            await mesh.app(here, "insert into visit values (%s)", number)
            token = (await mesh.app(here, "select atoll.token()"))[0][0]
            assert await mesh.app(there, WAIT, token) == [(True,)]
            assert await mesh.sql(there, "select id from visit where id = %s", number) == [(number,)]
        assert await mesh.app(here, "select atoll.confirm(1, '60 s')") == [(1,)]
        with pytest.raises(psycopg.Error) as refused:
            await mesh.app(here, "select atoll.confirm(2)")
        assert refused.value.diag.constraint_name == "copies-too-many", "an edge tells its hub alone"
    finally:
        enough.set()
        await busy


async def _write_on(node: MeshNode, enough: asyncio.Event) -> None:
    """Transactions that take their time, so that one of them is always running."""
    for number in range(10_000):
        if enough.is_set():
            return
        async with await psycopg.AsyncConnection.connect(node.dsn(as_owner=False)) as connection:
            await connection.execute("insert into visit values (%s)", [1_000 + number])
            await connection.execute("select pg_sleep(0.05)")
