"""A node on somebody else's PostgreSQL, with a role that is no superuser, in a mesh with a bundled one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from atoll.demo.ports import free_ports
from support.fix_foreign import Foreign, foreign_server
from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


@dataclass
class GuestNode(MeshNode):
    """A node whose PostgreSQL is not its own."""

    foreign: Foreign | None = None

    def dsn(self, *, as_owner: bool) -> str:
        assert self.foreign is not None
        return self.foreign.dsn()

    def log(self, lines: int = 40) -> str:
        assert self.foreign is not None
        said = self.running.output.splitlines()[-lines:] if self.running else []
        return "\n".join([f"-- {self.name} says", *said, *self.foreign.log().splitlines()[-lines:]])


@dataclass
class Pairing:
    mesh: Mesh
    own: MeshNode
    guest: GuestNode

    @property
    def foreign(self) -> Foreign:
        assert self.guest.foreign is not None
        return self.guest.foreign

    async def until_guest_says(self, reason: str | None) -> None:
        """Wait until the guest is not ready for this reason, or ready where there is none."""
        async with asyncio.timeout(120):
            while True:
                assert self.guest.running is not None
                seen = await asyncio.to_thread(self.guest.running.status)
                if (reason in seen["reasons"]) if reason else seen["is_ready"]:
                    return
                await asyncio.sleep(0.2)


def alone(mesh: Mesh, foreign: Foreign) -> GuestNode:
    """A node on a server of somebody else's, of which nothing exists yet."""
    place = ("--database", foreign.dsn(), "--gateway", f"127.0.0.1:{free_ports(1)[0]}")
    mesh.nodes[-1:] = [GuestNode(**vars(mesh.plan("18", *place)), foreign=foreign)]
    guest = mesh.nodes[-1]
    assert isinstance(guest, GuestNode)
    return guest


SERVERS = [16, pytest.param(18, marks=pytest.mark.deep)]


@pytest_asyncio.fixture(loop_scope="session", scope="module", params=SERVERS)
async def pairing(request: pytest.FixtureRequest) -> AsyncIterator[Pairing]:
    maker = MeshMaker()
    try:
        with foreign_server(request.param) as foreign:
            mesh = await maker("18", room=2)
            guest = alone(mesh, foreign)
            await mesh.join(guest, await mesh.invite(mesh.nodes[0]))
            await mesh.up(guest)
            await mesh.form()
            yield Pairing(mesh, mesh.nodes[0], guest)
            await mesh.stop(guest)
    finally:
        await maker.close()


async def test_tables_shared_from_either_side_converge(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    await mesh.share("stock", "id text primary key, qty int, tags jsonb", '{"qty": "counter", "tags": "set"}')
    await mesh.app(guest, "create table visit (id bigint primary key default atoll.id(), at timestamptz)")
    await mesh.app(guest, "select atoll.share('visit', kind => 'append')")
    await mesh.until_known("visit")
    await mesh.app(own, "insert into stock values ('rope', 10, '[\"new\"]')")
    await mesh.settle()
    for node in (own, guest):
        await mesh.app(
            node, "update stock set qty = qty + 5, tags = tags || jsonb_build_array(%s::text)", node.name
        )
        await mesh.app(node, "insert into visit (at) select now() from generate_series(1, 2000)")
    await mesh.settle()
    assert await mesh.same("select qty, jsonb_array_length(tags) from stock") == [(20, 3)]
    assert await mesh.same("select count(*) from visit") == [(4000,)]


async def test_rows_that_were_there_before_the_declaration_came_are_taken_up(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    for node in (own, guest):
        await mesh.app(node, "create table shelf (id text primary key, note text)")
        await mesh.app(node, "insert into shelf values (%s, 'mine'), ('both', %s)", node.name, node.name)
    await mesh.app(own, "select atoll.share('shelf')")
    await mesh.until_known("shelf")
    await mesh.settle()
    assert [row[0] for row in await mesh.same("select id from shelf order by 1")] == ["both", "n1", "n2"]


async def test_a_change_that_was_parked_is_merged_later_and_not_taken_for_a_new_one(
    pairing: Pairing,
) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    await mesh.share("gauge", "id int primary key, level int")
    await mesh.app(guest, "alter table gauge add constraint low check (level < 100)")
    await mesh.app(own, "insert into gauge values (1, 1), (2, 500)")
    await mesh.until(guest, "select true from atoll.parked where tbl = 'public.gauge'")
    await mesh.app(guest, "alter table gauge drop constraint low")
    await mesh.until(guest, "select count(*) = 2 from gauge")
    await mesh.settle()
    mine = "select count(*) from atoll.change where tbl = 'public.gauge' and origin = atoll.me()"
    assert await mesh.sql(guest, mine) == [(0,)]


async def test_orphans_are_dealt_with_without_a_superusers_rights(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    await mesh.share("buyer", "id int primary key, name text")
    await mesh.share("bill", "id int primary key, buyer int references buyer")
    await mesh.app(own, "insert into buyer values (1, 'Ann'), (2, 'Bea')")
    await mesh.settle()
    await mesh.around(own).cut()
    await mesh.app(own, "delete from buyer")
    await mesh.app(guest, "insert into bill values (1, 1), (2, 2)")
    await mesh.around(own).calm()
    await mesh.settle()
    await mesh.sql(guest, "select atoll.restore_row('public.buyer', '{1}')")
    remove = (
        "select atoll.mend_orphan('public.bill', '{2}', 'bill_buyer_fkey', '{2}', 'remove', '{buyer}',"
        " atoll.now(), 9223372036854775807)"
    )
    assert await mesh.sql(guest, remove) == [(True,)]
    await mesh.settle()
    assert await mesh.same("select id, name from buyer") == [(1, "Ann")]
    assert await mesh.same("select id from bill") == [(1,)]


async def test_a_lone_node_moves_with_its_database_and_one_that_left_comes_back(
    make_mesh: MeshMaker,
) -> None:
    mesh = await make_mesh("18", room=2)
    await mesh.share("stock", "id text primary key, qty int", '{"qty": "counter"}')
    await mesh.app(mesh.nodes[0], "insert into stock values ('rope', 10)")
    with foreign_server(18) as foreign:
        guest = alone(mesh, foreign)
        await mesh.up(guest)
        await mesh.app(guest, "create table stock (id text primary key, qty int)")
        await mesh.app(guest, """select atoll.share('stock', '{"qty": "counter"}')""")
        await mesh.app(guest, "insert into stock values ('rope', 3), ('wire', 1)")
        home = ("--home", str(guest.home))
        await mesh.run("join", await mesh.invite(mesh.nodes[0]), "--with-data", "--yes", *home)
        await mesh.settle()
        await mesh.run("leave", "--yes", *home)
        await mesh.gone(guest)
        await mesh.up(guest)
        await mesh.run("join", await mesh.invite(mesh.nodes[0]), "--with-data", "--yes", *home)
        await mesh.until(guest, "select not atoll.is_absent(3)")
        await mesh.app(guest, "update stock set qty = qty + 1")
        await mesh.settle()
        assert await mesh.same("select id, qty from stock order by id") == [("rope", 14), ("wire", 2)]
        await mesh.stop(guest)


async def test_a_role_whose_statements_are_cut_short_goes_on(pairing: Pairing) -> None:
    """What somebody has set for the role does not reach the node's own sessions."""
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    for setting in (
        "statement_timeout = '50ms'",
        "default_transaction_read_only = on",
        "idle_session_timeout = '1s'",
    ):
        pairing.foreign.superuser(f"alter role manager set {setting}")
    await mesh.stop(guest)
    await mesh.up(guest)
    await pairing.until_guest_says(None)
    for setting in ("statement_timeout", "default_transaction_read_only", "idle_session_timeout"):
        pairing.foreign.superuser(f"alter role manager reset {setting}")
    await mesh.share("short", "id text primary key")
    await mesh.app(own, "insert into short values ('a')")
    await mesh.settle()


async def test_the_server_is_away_for_a_while(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    await mesh.share("tide", "id text primary key, height int")
    await mesh.app(guest, "insert into tide values ('before', 1)")
    await mesh.settle()
    await asyncio.to_thread(pairing.foreign.stop)
    await pairing.until_guest_says("postgres")
    await mesh.app(own, "insert into tide values ('meanwhile', 2)")
    await asyncio.to_thread(pairing.foreign.start)
    await pairing.until_guest_says(None)
    await mesh.app(guest, "insert into tide values ('after', 3)")
    await mesh.settle()
    assert len(await mesh.same("select id from tide order by 1")) == 3


async def test_the_node_is_killed_and_comes_back(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    await mesh.share("wreck", "id text primary key")
    await mesh.kill(guest)
    await mesh.app(guest, "insert into wreck values ('while the node was dead')")
    await mesh.app(own, "insert into wreck values ('meanwhile')")
    await mesh.up(guest)
    await mesh.settle()
    assert len(await mesh.same("select id from wreck order by 1")) == 2


async def test_the_door_moves_and_the_subscription_follows(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    (port,) = free_ports(1)
    await mesh.stop(guest)
    guest.flags = (*guest.flags, "--gateway", f"127.0.0.1:{port}")
    await mesh.up(guest)
    await mesh.app(own, "insert into fence values (77, 1)")
    await mesh.until(guest, "select true from fence where node = 77")
    await mesh.settle()
    query = "select subconninfo from pg_subscription where subname = 'atoll_from_1'"
    assert f"port={port} " in pairing.foreign.superuser(query)[0][0]


async def test_a_changed_shape_is_seen_where_it_cannot_be_refused(pairing: Pairing) -> None:
    mesh, guest = pairing.mesh, pairing.guest
    await mesh.share("crate", "id text primary key, weight int")
    await mesh.app(guest, "alter table crate add column colour text")
    await pairing.until_guest_says("shape")
    await mesh.app(guest, "alter table crate drop column colour")
    await pairing.until_guest_says(None)
    await mesh.settle()


async def test_a_right_that_is_granted_later_is_used(pairing: Pairing) -> None:
    mesh, own, guest = pairing.mesh, pairing.own, pairing.guest
    switches = (
        "select 'session_replication_role=replica' = any (proconfig) from pg_proc"
        " where pronamespace = 'atoll'::regnamespace and proname = 'retry_parked'"
    )
    assert await mesh.sql(guest, switches) == [(False,)]
    pairing.foreign.superuser("grant set on parameter session_replication_role to manager")
    await mesh.stop(guest)
    await mesh.up(guest)
    assert await mesh.sql(guest, switches) == [(True,)]
    await mesh.app(own, "create table late (id text primary key)")
    await mesh.app(guest, "create table late (id text primary key)")
    await mesh.app(guest, "insert into late values ('there before')")
    await mesh.app(own, "select atoll.share('late')")
    await mesh.until_known("late")
    await mesh.settle()
    assert await mesh.same("select id from late") == [("there before",)]


async def test_commands_know_whose_server_it_is(pairing: Pairing) -> None:
    mesh, guest = pairing.mesh, pairing.guest
    home = ("--home", str(guest.home))
    assert (await mesh.run("dsn", *home)).strip() == pairing.foreign.dsn()
    assert "manager" in await mesh.run("sql", "-c", "select current_user", *home)
    assert f"127.0.0.1:{pairing.foreign.port}/shop" in await mesh.run("status", *home)
    assert "logs-elsewhere" in await mesh.run("logs", "--postgres", *home, fails=True)
    secret = pairing.foreign.dsn().split("password=")[1].split("'")[1][:20]
    for log in (guest.home / "logs").iterdir():
        assert secret not in log.read_text()


async def test_a_second_home_is_refused_the_database(pairing: Pairing) -> None:
    mesh = pairing.mesh
    home = mesh.folder / "second"
    (port,) = free_ports(1)
    told = (
        "--database",
        pairing.foreign.dsn(),
        "--gateway",
        f"127.0.0.1:{port}",
        "--link",
        "off",
        "--http",
        "off",
    )
    await mesh.stop(pairing.guest)
    try:
        complaint = await mesh.run("up", "--home", str(home), "--name", "second", *told, fails=True)
        assert 'belongs to node "n2"' in complaint
    finally:
        await mesh.up(pairing.guest)
    await mesh.settle()
