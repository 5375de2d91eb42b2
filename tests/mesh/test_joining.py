"""Nodes that come, nodes that may not, and nodes that are shut out."""

from __future__ import annotations

import pytest

from atoll.identity import token
from support.fix_mesh import MeshMaker, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


async def test_a_fourth_node_joins_while_everybody_writes(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18", room=4)
    async with Load(mesh, make_seed()) as load:
        await load.written(150)
        fourth = await mesh.add("18")
        await mesh.until(fourth, "select seeded_at is not null from atoll.self")
        load.join(fourth)
        await load.written(100)
    await mesh.settle()
    await load.verify()


async def test_a_node_that_joins_while_another_is_away_misses_nothing(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18", room=4)
    two = mesh.nodes[1]
    async with Load(mesh, make_seed()) as load:
        await load.written(60)
        # The second node hears nothing of the newcomer, and the copy comes without what it wrote last.
        await mesh.sql(two, "alter subscription atoll_from_1 disable")
        await mesh.kill(two)
        fourth = await mesh.add("18")
        await mesh.until(fourth, "select seeded_at is not null from atoll.self")
        assert (await mesh.sql(fourth, "select seeded_without from atoll.self"))[0][0] == [two.number]
        await mesh.up(two)
        await load.written(60)
    await mesh.settle()
    await load.verify()
    assert (await mesh.sql(fourth, "select seeded_without from atoll.self"))[0][0] == []


async def test_tokens_used_expired_unknown_or_foreign_are_refused_and_counted(
    make_mesh: MeshMaker,
) -> None:
    mesh, other = await make_mesh("18", room=6), await make_mesh("18")
    one = mesh.nodes[0]
    used = await mesh.invite(one)
    await mesh.join(mesh.plan(), used)
    short = await mesh.invite(one, "--expires", "1s")
    unknown = await mesh.invite(one)
    await mesh.sql(
        one, "delete from atoll.invitation where used_at is null and expires_at > now() + interval '1 min'"
    )
    foreign = token.decode(await other.invite(other.nodes[0]), now=0)
    forged = token.encode(
        token.Token(**{**foreign.__dict__, "addresses": token.decode(unknown, now=0).addresses})
    )
    for wrong, says in (
        (used, "the token has been used"),
        (unknown, "the token is not known here"),
        (forged, "has another authority than the token names"),
        (short, "has expired"),
    ):
        home = mesh.folder / "refused"
        said = await mesh.run("join", wrong, "--home", str(home), "--name", "refused", fails=True)
        assert says in said
        assert not home.exists()
    reasons = await mesh.reasons(one)
    assert reasons["token-used"] == 1
    assert reasons["token-unknown"] == 1
    assert "refused 127.0.0.1" in one.log()


async def test_a_node_that_is_shut_out_is_refused_and_the_rest_agree(
    make_mesh: MeshMaker,
) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, out = mesh.nodes
    async with Load(mesh, make_seed()) as load:
        await load.written(60)
        # What it writes last reaches one of the two only.
        await mesh.between(two, out).cut()
        await load.written(60)
    stopped = "select not exists (select from atoll.link_state where state = 'up' and peer = %s)"
    await mesh.until(two, stopped, out.number)
    await mesh.app(out, "insert into fence values (99, 99)")
    await mesh.until(one, "select true from fence where node = 99")
    await mesh.run("revoke", out.name, "--yes", "--home", str(one.home))
    out.is_revoked = True
    await mesh.between(two, out).calm()
    for node in (one, two):
        await mesh.until(node, "select revoked_at is not null from atoll.node where number = %s", out.number)
        kept = "select not exists (select from pg_replication_slots where slot_name = %s)"
        await mesh.until(node, kept, f"atoll_to_{out.number}")
        await mesh.until(
            node,
            "select not exists (select from pg_subscription where subname = %s)",
            f"atoll_from_{out.number}",
        )
    await mesh.settle()
    await load.verify()
    assert await mesh.same("select n from fence where node = 99") == [(99,)]
    await mesh.app(out, "insert into fence values (100, 100)")
    for node in (one, two):
        await mesh.until_counted(node, "revoked")
        assert "has been revoked" in node.log(400)
        assert await mesh.sql(node, "select from fence where node = 100") == []
