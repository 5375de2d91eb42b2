"""The change log: kept for whoever is away, within bounds, and empty once everybody has everything."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, MeshMaker, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
MISSED = "select missed from atoll.progress where peer = %s"
EMPTY = "select not exists (select from atoll.change)"


async def test_changes_are_kept_for_an_absent_node_and_deleted_once_all_have_them(mesh: Mesh) -> None:
    one, _, away = mesh.nodes
    async with Load(mesh, make_seed()) as load:
        await load.written(20)
        await mesh.kill(away)
        await load.written(60)
        kept = await mesh.sql(one, "select count(*) from atoll.change where origin = atoll.me()")
        assert kept[0][0] >= 20
        await mesh.up(away)
    await mesh.settle()
    await load.verify()
    for node in mesh.nodes:
        await mesh.until(node, EMPTY)
        assert (await mesh.sql(node, "select count(*) from atoll.waypoint"))[0][0] < 5


async def test_a_node_absent_beyond_the_bound_of_the_log_gets_a_copy_of_everything(mesh: Mesh) -> None:
    one, _, away = mesh.nodes
    await mesh.share("reading", "id bigint primary key default atoll.id(), body text")
    await mesh.settle()
    bound = 4 * 1024 * 1024
    await mesh.sql(one, "update atoll.setting set value = %s where name = 'change_bytes_max'", str(bound))
    write = "insert into reading (body) select repeat(md5(random()::text), 16) from generate_series(1, 400)"
    async with Load(mesh, make_seed()) as load:
        await load.written(20)
        await mesh.kill(away)
        await load.written(20)
        for _ in range(30):
            await mesh.app(one, write)
        await mesh.until(one, "select cut > '0' from atoll.progress where peer = %s", away.number)
        # It may have been cut in the middle of what was written, and is then cut once more.
        await mesh.until(one, "select sum(pg_column_size(vals)) <= %s from atoll.change", bound)
        await load.written(20)
        assert await mesh.sql(one, MISSED, away.number) == [(False,)], "the WAL still has them"
        await mesh.sql(one, "select atoll.drop_slot('atoll_to_' || %s)", str(away.number))
        await mesh.up(away)
        await mesh.until(one, "select misses > 0 from atoll.progress where peer = %s", away.number)
        await load.written(20)
    await mesh.settle()
    await load.verify()
    assert await mesh.same("select count(*) from reading") == [(12000,)]
    await mesh.sql(one, "update atoll.setting set value = '2147483648' where name = 'change_bytes_max'")
    for node in mesh.nodes:
        await mesh.until(node, EMPTY)


@pytest.mark.deep
async def test_a_copy_may_be_larger_than_the_bound_of_the_log(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", room=2)
    one = mesh.nodes[0]
    await mesh.sql(one, "update atoll.setting set value = '1000000' where name = 'change_bytes_max'")
    await mesh.share("reading", "id bigint primary key default atoll.id(), body text")
    write = "insert into reading (body) select repeat(md5(random()::text), 16) from generate_series(1, 20000)"
    await mesh.app(one, write)
    await mesh.add("18")
    await mesh.form()
    await mesh.settle()
    assert await mesh.same("select count(*) from reading") == [(20000,)]
    for node in mesh.nodes:
        await mesh.until(node, EMPTY)
