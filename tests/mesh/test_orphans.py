"""Real nodes find rows whose parent was deleted behind a cut, and deal with them as the rules say."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from support.fix_mesh import DEADLINE, Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

OPEN = "select count(*) from atoll.orphan where done is null"


async def until_counted(node: MeshNode, wanted: int) -> None:
    """The node counts them every few seconds."""
    assert node.running is not None
    wanted_line, numbers = f"atoll_orphans {wanted}.0", ""
    async with asyncio.timeout(DEADLINE):
        while wanted_line not in numbers.splitlines():
            await asyncio.sleep(0.5)
            _, numbers = await asyncio.to_thread(node.running.get, "/metrics")


async def until_handled(mesh: Mesh, wanted: int) -> None:
    """Everybody goes on writing, so that everybody is heard, until so many orphans are left on each node."""
    deadline = time.monotonic() + DEADLINE
    seen: object = None
    while time.monotonic() < deadline:
        await mesh.catch_up()
        seen = await mesh.everywhere_sql(OPEN)
        if all(rows == [(wanted,)] for rows in seen.values()):  # type: ignore[attr-defined]
            return
        await asyncio.sleep(0.5)
    listed = await mesh.everywhere_sql("select * from atoll.orphans")
    pytest.fail(f"{wanted} orphans wanted: {seen}\n{listed}\n{mesh.nodes[0].log()}")


async def test_orphans_are_found_listed_and_dealt_with(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "16", "18")
    one, two, three = mesh.nodes
    await mesh.share("customer", "id integer primary key, name text, visits integer", '{"visits": "counter"}')
    await mesh.share("bill", "id integer primary key, customer integer references customer")
    await mesh.share("line", "id integer primary key, bill integer references bill on delete cascade")
    await mesh.share(
        "visit", "id integer primary key, customer integer references customer on delete set null"
    )
    await mesh.app(one, "insert into customer values (1, 'Ann', 3), (2, 'Bea', 4), (3, 'Cid', 5)")
    await mesh.settle()
    await mesh.around(two).cut()
    await mesh.app(one, "delete from customer where id < 3")
    await mesh.app(two, "insert into bill values (1, 1), (2, 2), (3, 3)")
    await mesh.app(two, "insert into line values (1, 1), (2, 2), (3, 3)")
    await mesh.app(two, "insert into visit values (1, 2), (2, 3)")
    await mesh.around(two).calm()
    await mesh.settle()
    await until_handled(mesh, 3)
    home = ("--home", str(three.home))
    listed = json.loads(await mesh.run("orphans", "--json", *home))
    assert sorted((row["table"], row["key"], row["why"], row["policy"]) for row in listed) == [
        ("public.bill", "{1}", "deleted", "report"),
        ("public.bill", "{2}", "deleted", "report"),
        ("public.visit", "{1}", "deleted", "report"),
    ]
    assert "3 rows without the parent that they name" in await mesh.run("status", *home)
    await until_counted(three, 3)

    assert "orphans of public.visit: follow" in await mesh.run(
        "orphans", "visit", "--policy", "follow", *home
    )
    await mesh.run("orphans", "bill", "--policy", "restore", *home)
    await until_handled(mesh, 0)
    await mesh.settle()
    assert await mesh.same("select * from customer order by id") == [
        (1, "Ann", 3),
        (2, "Bea", 4),
        (3, "Cid", 5),
    ]
    assert await mesh.same("select id from bill order by id") == [(1,), (2,), (3,)]
    done = [await mesh.run("orphans", "--home", str(node.home)) for node in mesh.nodes]
    assert any("parent restored" in said for said in done), "whoever was first says so"

    await mesh.run("orphans", "bill", "--policy", "remove", *home)
    await mesh.around(two).cut()
    await mesh.app(one, "delete from bill where id = 3")
    await mesh.app(one, "delete from customer where id = 3")
    await mesh.app(two, "insert into bill values (4, 3)")
    await mesh.app(two, "insert into line values (4, 4)")
    await mesh.around(two).calm()
    await mesh.settle()
    for node in mesh.nodes:
        await mesh.run("orphans", "--now", "--home", str(node.home))
    await until_handled(mesh, 0)
    await mesh.settle()
    assert await mesh.same("select id from bill order by id") == [(1,), (2,)]
    assert await mesh.same("select id from line order by id") == [(1,), (2,)]
    assert "code: table-without-parents" in await mesh.run("orphans", "customer", "--now", *home, fails=True)
    assert "code: orphan-policy" in await mesh.run(
        "orphans", "bill", "--policy", "explode", *home, fails=True
    )
