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


class Readings:
    """One node writes, another one deletes all but the latest two batches."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.batches = 0

    async def write(self) -> None:
        one, two = self.mesh.nodes[:2]
        first = self.batches * ROWS
        self.batches += 1
        await self.mesh.app(
            one,
            "insert into reading select n, repeat(md5(n::text), 128) from generate_series(%s::int, %s) n",
            first,
            first + ROWS - 1,
        )
        # Those who stay keep up: months of writing are not written in a minute.
        await self.mesh.until(two, "select exists (select from reading where id = %s)", first + ROWS - 1)
        await self.mesh.app(two, "delete from reading where id < %s", first - ROWS)

    async def until_small(self, node: MeshNode, what: str, query: str, bound: int) -> None:
        """What has been freed shows once vacuum and a checkpoint have been there.

        A file grows shorter once what lies at its end has gone: writing goes on.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            await self.mesh.sql(node, "checkpoint")
            size = int((await self.mesh.sql(node, query))[0][0] or 0)
            if size <= bound:
                print(f"{what} of {node.name}: {size:,}")
                return
            assert time.monotonic() < deadline, f"{what} of {node.name}: {size:,} of {bound:,}"
            await self.write()
            for other in self.mesh.live():
                await self.mesh.app(other, "insert into pulse (word) values ('tick')")
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
    readings = Readings(mesh)
    while readings.batches < CYCLES:
        await readings.write()
    for node in (one, two):
        await mesh.until(node, "select atoll.is_absent(3)")
    print(f"WAL written: {await written(mesh, one) - began:,}")
    for node in (one, two):
        await readings.until_small(node, "WAL", "select sum(size) from pg_ls_waldir()", 3 * WAL_BYTES)
        await readings.until_small(node, "log", "select pg_table_size('atoll.change')", 4 * LOG_BYTES)
        # The latest may wait for a mark; of the many before them nothing is left.
        buried = f"select count(*) - {2 * ROWS} from {SIDE}"
        await readings.until_small(node, "tombstones", buried, CYCLES * ROWS // 4)
        sizes = f"select pg_total_relation_size('reading') + pg_total_relation_size('{SIDE}')"
        await readings.until_small(node, "table and sidecar", sizes, CYCLES * ROWS * 4096 // 3)
    for node in (one, two):
        await mesh.sql(node, "update atoll.setting set value = '1 hour' where name = 'absence_max'")
    await mesh.up(away)
    await mesh.sql(away, "update atoll.setting set value = '1 hour' where name = 'absence_max'")
    for node in mesh.nodes:
        await mesh.until(node, "select not atoll.is_absent(3)")
    await mesh.catch_up()
    assert await mesh.same("select count(*), min(id) from reading") == [
        (2 * ROWS, (readings.batches - 2) * ROWS)
    ]
    for node in mesh.nodes:
        await readings.until_small(node, "WAL", "select sum(size) from pg_ls_waldir()", 3 * WAL_BYTES)
