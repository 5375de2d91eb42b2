"""What somebody breaks by hand or by being away, the nodes mend by themselves, and nothing is lost by it."""

from __future__ import annotations

import pytest

from support.fix_mesh import Mesh, MeshNode, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

DROP_SLOT = """
do $$
declare
    name text := 'atoll_to_{peer}';
begin
    for attempt in 1..200 loop
        perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = name;
        begin
            perform pg_drop_replication_slot(name);
            return;
        exception when object_in_use then
            perform pg_sleep(0.02);
        end;
    end loop;
end $$
"""


BULK = "insert into bulk (body) select repeat(md5(g::text), 40) from generate_series(1, 5000) g"


async def test_a_slot_that_is_dropped_is_made_again_and_nothing_is_lost(mesh: Mesh) -> None:
    one, two, _ = mesh.nodes
    async with Load(mesh, make_seed()) as load:
        await load.written(30)
        await mesh.sql(one, DROP_SLOT.format(peer=two.number))
        await load.written(60)
        slot = "select active from pg_replication_slots where slot_name = %s"
        await mesh.until(one, slot, f"atoll_to_{two.number}")
        await load.written(30)
    await mesh.settle()
    await load.verify()


async def test_a_peer_away_for_longer_than_the_wal_is_kept_catches_up_from_the_log(mesh: Mesh) -> None:
    one, _, away = mesh.nodes
    await mesh.share("bulk", "id bigint primary key default atoll.id(), body text")
    async with Load(mesh, make_seed()) as load:
        await load.written(30)
        await mesh.kill(away)
        await _keep_wal(mesh, one, "2MB")
        wal_before = await mesh.sql(one, "select pg_current_wal_lsn()")
        for _ in range(3):
            await mesh.app(
                one, "insert into bulk (body) select repeat(md5(g::text), 40) from generate_series(1, 5000) g"
            )
            await mesh.sql(one, "select pg_switch_wal()")
            await mesh.sql(one, "checkpoint")
        gone = "select not exists (select from pg_replication_slots where slot_name = %s)"
        await mesh.until(one, gone, f"atoll_to_{away.number}")
        files = await mesh.sql(one, "select sum(size) from pg_ls_waldir()")
        written = await mesh.sql(one, "select pg_current_wal_lsn() - %s::pg_lsn", wal_before[0][0])
        assert written[0][0] > 2 * 16 * 1024**2, "too little was written to lose a slot"
        assert files[0][0] < 10 * 16 * 1024**2
        await load.written(30)
        await mesh.up(away)
        await load.written(30)
    await mesh.settle()
    await _keep_wal(mesh, one, "1GB")
    await load.verify()
    assert await mesh.same("select count(*) from bulk") == [(15000,)]


async def _keep_wal(mesh: Mesh, node: MeshNode, size: str) -> None:
    await mesh.sql(node, f"alter system set max_slot_wal_keep_size = '{size}'")
    await mesh.sql(node, "alter system set min_wal_size = '32MB'")
    await mesh.sql(node, "select pg_reload_conf()")


async def test_triggers_that_somebody_switched_off_are_switched_on(mesh: Mesh) -> None:
    one = mesh.nodes[0]
    await mesh.share("gate", "id bigint primary key default atoll.id(), body text")
    whole = (
        "select count(*) = 4 from pg_trigger where tgrelid = 'gate'::regclass"
        " and tgname like 'atoll_capture%' and tgenabled = 'O'"
    )
    for breaks in (
        "alter table gate disable trigger all",
        "alter table gate enable replica trigger atoll_capture_insert",
        "drop trigger atoll_capture_update on gate",
    ):
        await mesh.sql(one, breaks)
        await mesh.until(one, whole)
        await mesh.app(one, "insert into gate (body) values ('new')")
        await mesh.app(one, "update gate set body = 'changed' where body = 'new'")
    await mesh.settle()
    assert await mesh.same("select count(*) from gate where body = 'changed'") == [(3,)]


async def test_triggers_of_the_log_that_fire_for_everybody_are_mended(mesh: Mesh) -> None:
    two = mesh.nodes[1]
    await mesh.sql(two, "alter table atoll.change enable trigger all")
    right = "select tgenabled = 'R' from pg_trigger where tgname = 'arrive'"
    await mesh.until(two, right)
    async with Load(mesh, make_seed()) as load:
        await load.written(60)
    await mesh.settle()
    await load.verify()


async def test_a_subscription_that_somebody_broke_is_mended(mesh: Mesh) -> None:
    two = mesh.nodes[1]
    whole = (
        "select bool_and(subenabled and subconninfo like '%%/peers%%') and count(*) = 2 from pg_subscription"
        " join pg_stat_subscription on subid = oid and relid is null and pid is not null"
    )
    async with Load(mesh, make_seed()) as load:
        for breaks in (
            ["alter subscription atoll_from_1 disable"],
            ["drop subscription atoll_from_1"],
            [
                "alter subscription atoll_from_1 disable",
                "alter subscription atoll_from_1 set (slot_name = none)",
                "drop subscription atoll_from_1",
            ],
            [
                "alter subscription atoll_from_1 disable",
                "alter subscription atoll_from_1 set (slot_name = none)",
            ],
            ["alter subscription atoll_from_1 connection 'host=/nowhere dbname=atoll'"],
        ):
            await load.written(15)
            for statement in breaks:
                await mesh.sql(two, statement)
            await mesh.until(two, whole)
        await load.written(15)
    await mesh.settle()
    await load.verify()


FORGET_THE_END_OF_THE_COPY = """
select set_config('allow_system_table_mods', 'on', false);
update pg_subscription_rel set srsubstate = 'f'
  from pg_subscription s where s.oid = srsubid and subname = 'atoll_from_1'
"""


async def test_a_copy_whose_slot_is_gone_is_begun_anew(mesh: Mesh) -> None:
    """As a power cut leaves it: the peer has dropped the slot, and that the copy ended was not flushed."""
    two = mesh.nodes[1]
    async with Load(mesh, make_seed()) as load:
        await load.written(30)
        await mesh.sql(two, FORGET_THE_END_OF_THE_COPY)
        await mesh.until(two, "select count(*) = 2 and bool_and(srsubstate = 'r') from pg_subscription_rel")
        await load.written(30)
    await mesh.settle()
    await load.verify()


async def test_a_publication_that_somebody_broke_is_mended_and_nothing_is_lost(mesh: Mesh) -> None:
    one = mesh.nodes[0]
    async with Load(mesh, make_seed()) as load:
        for breaks in (
            "drop publication atoll_to_2",
            "alter publication atoll_to_2 drop table atoll.change",
            "alter publication atoll_to_2 set (publish = 'update')",
            "alter publication atoll_to_2 set table atoll.change where (origin = 99)",
        ):
            await load.written(15)
            await mesh.sql(one, breaks)
            await load.written(30)
            await mesh.until(one, "select atoll.is_published_to(2)")
    await mesh.settle()
    await load.verify()
