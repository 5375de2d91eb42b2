"""A member that was away for so long that the others have forgotten what they deleted comes back."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.fix_mesh import DEADLINE, Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

DEFINITION = "id integer primary key, word text, qty integer not null default 0"
BURIED = 'select count(*) from atoll_side."public.item" where atoll_death > greatest(atoll_birth, word, qty)'
ABSENT = "select atoll.is_absent(%s)"
BACK = "select exists (select from atoll.absence where number = %s and since <= returned_at)"


async def three_with_items(make_mesh: MeshMaker) -> Mesh:
    mesh = await make_mesh("18", "18", "18")
    one, _, three = mesh.nodes
    await mesh.share("item", DEFINITION, '{"qty": "counter"}')
    await mesh.share("fact", "id bigint primary key default atoll.id(), word text", kind="append")
    await mesh.app(one, "insert into item select n, 'x', n from generate_series(1, 2000) n")
    await mesh.app(three, "insert into item select n, 'x', n from generate_series(2001, 2200) n")
    await mesh.settle()
    written = await mesh.sql(three, 'select max(atoll_birth) from atoll_side."public.item" where id > 2000')
    for node in mesh.nodes[:2]:
        covered = "select covered >= %s from atoll.heard where origin = 3 and scope = 'global'"
        await mesh.until(node, covered, written[0][0])
    return mesh


async def until_forgotten(mesh: Mesh, nodes: list[MeshNode]) -> None:
    """Marks say who knows what; they are made soon where something is written."""
    deadline = time.monotonic() + DEADLINE
    while any([(await mesh.sql(node, BURIED))[0][0] for node in nodes]):
        assert time.monotonic() < deadline, [await mesh.sql(node, BURIED) for node in nodes]
        for node in nodes:
            await mesh.app(node, "insert into fact (word) values ('tick')")
        await asyncio.sleep(0.5)


async def be_forgotten(mesh: Mesh, away: MeshNode) -> None:
    """The others delete, stop waiting for the one that is away, and forget what they deleted."""
    one, two, _ = mesh.nodes
    await mesh.app(one, "delete from item where id between 1 and 500 or id between 2001 and 2100")
    await mesh.app(two, "update item set word = 'theirs' where id between 600 and 700 or id = 1002")
    await mesh.app(two, "update item set qty = qty + 1 where id = 1003")
    for node in mesh.nodes:
        await mesh.sql(
            node,
            "update atoll.setting set value = '0 s' where name in ('absence_max', 'tombstone_retention')",
        )
    for node in (one, two):
        # Nothing of what was done meanwhile is kept for it.
        if not away.is_revoked:
            await mesh.until(node, ABSENT, away.number)
            await mesh.until(
                node, "select not active from pg_replication_slots where slot_name = 'atoll_to_3'"
            )
            await mesh.sql(node, "select pg_drop_replication_slot('atoll_to_3')")
        await mesh.sql(node, "delete from atoll.change")
    await until_forgotten(mesh, [one, two])
    await mesh.app(one, "insert into item values (1, 'anew', 7), (2001, 'anew', 7)")
    for node in mesh.nodes:
        await mesh.sql(node, "update atoll.setting set value = '1 hour' where name = 'absence_max'")


async def write_alone(mesh: Mesh, away: MeshNode) -> None:
    await mesh.app(away, "insert into item values (5000, 'mine', 1)")
    await mesh.app(away, "update item set word = 'mine' where id in (10, 2010, 1000, 1002)")
    await mesh.app(away, "update item set qty = qty + 1000 where id = 1003")
    await mesh.app(away, "delete from item where id = 1004")
    await mesh.app(away, "insert into fact (word) values ('mine')")
    for _ in range(2):
        # As a node does that is alone for minutes: its log says itself that all of this is in it.
        await mesh.sql(away, "select atoll.make_marks(true)")


async def assert_returned(mesh: Mesh, number: int = 3) -> None:
    for node in mesh.nodes:
        await mesh.until(node, BACK, number)
    await until_forgotten(mesh, mesh.nodes)
    await mesh.settle()
    gone = "select id from item where (id between 1 and 500 or id between 2001 and 2100) order by id"
    assert await mesh.same(gone) == [(1,), (10,), (2001,), (2010,)]
    some = (
        "select id, word, qty from item where id in (1, 10, 1000, 1002, 1003, 1004, 2001, 5000) order by id"
    )
    assert await mesh.same(some) == [
        (1, "anew", 7),
        (10, "mine", 10),
        (1000, "mine", 1000),
        (1002, "theirs", 1002),
        (1003, "x", 2004),
        (2001, "anew", 7),
        (5000, "mine", 1),
    ]
    assert await mesh.same("select count(*) from item where word = 'theirs'") == [(102,)]
    assert await mesh.same("select count(*) from fact where word = 'mine'") == [(1,)]
    three = mesh.nodes[2]
    listed = await mesh.sql(
        three, "select key->>'id', kind from atoll.conflicts where \"table\" = 'public.item'"
    )
    assert {("10", "delete"), ("2010", "delete"), ("1002", "update")} <= set(listed)


async def test_what_was_deleted_stays_away_and_what_was_written_arrives(make_mesh: MeshMaker) -> None:
    mesh = await three_with_items(make_mesh)
    three = mesh.nodes[2]
    await mesh.around(three).cut()
    await write_alone(mesh, three)
    await be_forgotten(mesh, three)
    await mesh.around(three).calm()
    await assert_returned(mesh)
    assert not (await mesh.sql(three, "select exists (select from atoll.returning)"))[0][0]


async def test_a_return_that_is_killed_goes_on(make_mesh: MeshMaker) -> None:
    mesh = await three_with_items(make_mesh)
    one, _, three = mesh.nodes
    await mesh.around(three).cut()
    await write_alone(mesh, three)
    await be_forgotten(mesh, three)
    await mesh.around(three).throttle(40_000)
    await mesh.until(three, "select exists (select from atoll.returning)")
    await mesh.kill(three)
    await mesh.up(three)
    await mesh.kill(one)
    await mesh.up(one)
    mesh.kill_postgres(three)
    await mesh.around(three).calm()
    await mesh.until(
        three, "select not exists (select from atoll.returning) and exists (select from atoll.absence)"
    )
    await assert_returned(mesh)


async def test_a_member_that_was_shut_out_joins_again_and_keeps_what_it_wrote(make_mesh: MeshMaker) -> None:
    mesh = await three_with_items(make_mesh)
    one, two, three = mesh.nodes
    await mesh.around(three).cut()
    await write_alone(mesh, three)
    await mesh.run("revoke", three.name, "--yes", "--home", str(one.home))
    three.is_revoked = True
    await mesh.until(two, "select revoked_at is not null from atoll.node where number = 3")
    await be_forgotten(mesh, three)
    await mesh.around(three).calm()
    token = await mesh.invite(one)
    await mesh.run("join", token, "--with-data", "--yes", "--home", str(three.home))
    three.is_revoked = False
    await assert_returned(mesh, 4)
