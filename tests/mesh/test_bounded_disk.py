"""The disk of those who stay is bounded, however long somebody is away and however much is written."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.fix_mesh import DEADLINE, Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MB = 1024 * 1024
LOG_BYTES = 16 * MB
WAL_BYTES = 32 * MB
CYCLES = 80
ROWS = 200
SIDE = 'atoll_side."public.reading"'


async def budget(mesh: Mesh, node: MeshNode) -> None:
    """A node with little room."""
    for name, value in (
        ("change_bytes_max", str(LOG_BYTES)),
        ("tombstone_retention", "0 s"),
        ("absence_max", "0 s"),
    ):
        await mesh.sql(node, "update atoll.setting set value = %s where name = %s", value, name)
    for setting in (
        f"max_wal_size = '{WAL_BYTES // MB}MB'",
        "min_wal_size = '32MB'",
        "autovacuum_naptime = '1s'",
        "autovacuum_vacuum_cost_delay = '0'",
    ):
        await mesh.sql(node, f"alter system set {setting}")
    await mesh.sql(node, "select pg_reload_conf()")


async def written(mesh: Mesh, node: MeshNode) -> int:
    return int((await mesh.sql(node, "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"))[0][0])


async def until_small(mesh: Mesh, node: MeshNode, what: str, query: str, bound: int) -> None:
    """What has been freed shows once vacuum and a checkpoint have been there."""
    deadline = time.monotonic() + DEADLINE
    while True:
        await mesh.sql(node, "checkpoint")
        size = int((await mesh.sql(node, query))[0][0] or 0)
        if size <= bound:
            print(f"{what} of {node.name}: {size:,}")
            return
        assert time.monotonic() < deadline, f"{what} of {node.name}: {size:,} of {bound:,}"
        for other in mesh.live():
            await mesh.app(other, "insert into pulse (word) values ('tick')")
        await asyncio.sleep(0.5)


async def test_the_disk_stays_bounded_while_somebody_is_away(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18", flags=("--wal-keep", f"{WAL_BYTES // MB}MB"))
    one, two, away = mesh.nodes
    await mesh.share("reading", "id bigint primary key, body text")
    await mesh.share("pulse", "id bigint primary key default atoll.id(), word text", kind="append")
    await mesh.settle()
    for node in mesh.nodes:
        await budget(mesh, node)
    await mesh.kill(away)
    began = await written(mesh, one)
    for cycle in range(CYCLES):
        await mesh.app(
            one,
            "insert into reading select n, repeat(md5(n::text), 128) from generate_series(%s::int, %s) n",
            cycle * ROWS,
            (cycle + 1) * ROWS - 1,
        )
        # Those who stay keep up: months of writing are not written in a minute.
        last = "select exists (select from reading where id = %s)"
        await mesh.until(two, last, (cycle + 1) * ROWS - 1)
        first = (cycle - 1) * ROWS
        await mesh.app(two, "delete from reading where id < %s", first)
    for node in (one, two):
        await mesh.until(node, "select atoll.is_absent(3)")
    print(f"WAL written: {await written(mesh, one) - began:,}")
    for node in (one, two):
        await until_small(mesh, node, "WAL", "select sum(size) from pg_ls_waldir()", 3 * WAL_BYTES)
        await until_small(mesh, node, "log", "select pg_table_size('atoll.change')", 4 * LOG_BYTES)
        # The latest may wait for a mark; of the many before them nothing is left.
        buried = f"select count(*) - {2 * ROWS} from {SIDE}"
        await until_small(mesh, node, "tombstones", buried, CYCLES * ROWS // 4)
        sizes = f"select pg_total_relation_size('reading') + pg_total_relation_size('{SIDE}')"
        await until_small(mesh, node, "table and sidecar", sizes, CYCLES * ROWS * 4096 // 3)
    for node in (one, two):
        await mesh.sql(node, "update atoll.setting set value = '1 hour' where name = 'absence_max'")
    await mesh.up(away)
    await mesh.sql(away, "update atoll.setting set value = '1 hour' where name = 'absence_max'")
    for node in mesh.nodes:
        await mesh.until(node, "select not atoll.is_absent(3)")
    await mesh.catch_up()
    assert await mesh.same("select count(*), min(id) from reading") == [(2 * ROWS, (CYCLES - 2) * ROWS)]
    for node in mesh.nodes:
        await until_small(mesh, node, "WAL", "select sum(size) from pg_ls_waldir()", 3 * WAL_BYTES)
