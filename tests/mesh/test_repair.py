"""Nodes that are tampered with past every trigger heal by themselves, and say what they replaced."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

STOCK = "id bigint primary key, name text, qty integer not null default 0, tags jsonb not null default '[]'"
HEAL_SECONDS = 120.0


async def past(mesh: Mesh, node: MeshNode, *statements: str) -> None:
    """Writes that no trigger sees, in one transaction."""
    body = "; ".join(statements)
    await mesh.sql(node, f"do $$ begin set local session_replication_role = replica; {body}; end $$")


async def fill(mesh: Mesh, table: str) -> None:
    await mesh.share(table, STOCK, '{"qty": "counter", "tags": "set"}')
    await mesh.app(
        mesh.nodes[0],
        f"insert into {table} select g, 'n' || g, g from generate_series(1, 1500) g",
    )
    await mesh.app(mesh.nodes[0], f"delete from {table} where id > 1490")
    await mesh.settle()


async def until_same(mesh: Mesh, table: str, wanted: str) -> None:
    """Wait until every node has the receipt that it should have."""
    deadline = time.monotonic() + HEAL_SECONDS
    seen: object = None
    while time.monotonic() < deadline:
        seen = await mesh.everywhere_sql("select atoll.receipt('public.' || %s)", table)
        if all(rows == [(wanted,)] for rows in seen.values()):  # type: ignore[union-attr,attr-defined]
            return
        await asyncio.sleep(0.2)
    pytest.fail(f"not healed: {seen}, wanted {wanted}\n{mesh.nodes[0].log()}")


@pytest.mark.slow
async def test_nodes_heal_whatever_was_done_to_them(make_mesh: MeshMaker) -> None:
    """Every way past the triggers, on three nodes, at once; what Atoll itself shares heals alike."""
    mesh = await make_mesh("18", "18", "18", flags=("--receipts", "20%", "--repair", "auto"))
    one, two, three = mesh.nodes
    await fill(mesh, "stock")
    ((right,),) = await mesh.same("select atoll.receipt('public.stock')")
    await past(
        mesh,
        one,
        "update public.stock set name = 'aaa' where id in (3, 700)",
        "update public.stock set qty = 99999 where id = 4",
        "delete from public.stock where id between 10 and 14",
    )
    await mesh.sql(two, "alter table stock disable trigger all")
    await mesh.sql(two, "update stock set name = 'zzz', tags = '[1]' where id = 5")
    await mesh.sql(two, "insert into stock values (1495, 'was deleted everywhere')")
    await past(
        mesh,
        three,
        'delete from atoll_side."public.stock" where id in (6, 7)',
        "delete from public.stock where id = 6",
        'update atoll_side."public.stock" set name = atoll_birth + 1 where id = 8',
    )
    deadline = time.monotonic() + HEAL_SECONDS
    adopted = "select exists (select from stock where id = 1495)"
    for node in mesh.nodes:
        await mesh.until(node, adopted)
    await mesh.app(one, "delete from stock where id = 1495")
    await until_same(mesh, "stock", right)
    assert time.monotonic() < deadline
    await mesh.settle()
    repairs = await mesh.everywhere_sql(
        "select key, kind, was->>'name' from atoll.repair where tbl = 'public.stock' order by id"
    )
    assert {(key, kind) for key, kind, _ in repairs["n1"]} >= {
        ("{3}", "value"),
        ("{700}", "value"),
        ("{4}", "value"),
    }
    assert ("{3}", "value", "aaa") in repairs["n1"]
    assert {key for key, kind, was in repairs["n1"] if was is None} >= {f"{{{n}}}" for n in range(10, 15)}
    assert ("{5}", "value", "zzz") in repairs["n2"]
    assert {(key, kind) for key, kind, _ in repairs["n2"]} >= {("{1495}", "adopt")}
    assert {key for key, kind, _ in repairs["n3"] if kind == "join"} >= {"{6}", "{7}"}
    before = await mesh.same("select number, region from atoll.node order by 1")
    await past(mesh, two, "update atoll.node set region = 'nowhere' where number = 3")
    await mesh.until(two, "select not exists (select from atoll.node where region = 'nowhere')")
    assert await mesh.same("select number, region from atoll.node order by 1") == before
    seen = json.loads(await mesh.run("repair", "--list", "--json", "--home", str(two.home)))
    assert ("atoll.node", "nowhere") in {(row["tbl"], (row["was"] or {}).get("region")) for row in seen}


async def test_two_nodes_know_which_of_them_was_altered(make_mesh: MeshMaker) -> None:
    """There is no majority of two: the node whose rows changed without a write is not believed."""
    mesh = await make_mesh("18", "18", flags=("--receipts", "20%", "--repair", "auto"))
    one, two = mesh.nodes
    await fill(mesh, "stock")
    noted = "select count(*) >= 3 from atoll.slice where tbl = 'public.stock'"
    for node in mesh.nodes:
        await mesh.until(node, noted)
    ((right,),) = await mesh.same("select atoll.receipt('public.stock')")
    for node, name in ((two, "zzz"), (one, "zzz"), (one, "aaa")):
        await past(mesh, node, f"update public.stock set name = '{name}' where id = 9")
        await until_same(mesh, "stock", right)
    repaired = await mesh.everywhere_sql("select was->>'name' from atoll.repair order by id")
    assert repaired == {"n1": [("zzz",), ("aaa",)], "n2": [("zzz",)]}


async def test_people_look_before_they_mend(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18", flags=("--receipts", "20%"))
    one, *_ = mesh.nodes
    await fill(mesh, "stock")
    ((right,),) = await mesh.same("select atoll.receipt('public.stock')")
    await past(
        mesh,
        one,
        "update public.stock set name = 'bad' where id = 9",
        "delete from public.stock where id = 11",
    )
    home = ("--home", str(one.home))
    await mesh.until(one, "select count(*) = 2 from atoll.difference")
    assert "2 rows differ" in await mesh.run("status", *home)
    assert one.running is not None
    _, metrics = await asyncio.to_thread(one.running.get, "/metrics")
    assert "atoll_differences 2.0" in metrics
    await mesh.run("repair", "stock", "--dry-run", *home, fails=True)
    assert (await mesh.sql(one, "select name from stock where id = 9")) == [("bad",)]
    said = await mesh.run("repair", "stock", *home)
    assert "2 mended, 0 left" in said
    lines = {await mesh.run("receipt", "stock", "--home", str(node.home)) for node in mesh.nodes}
    assert lines == {f"public.stock {right}\n"}
    listed = json.loads(await mesh.run("repair", "--list", "--json", *home))
    assert {row["key"] for row in listed} == {"{9}", "{11}"}
    await mesh.until(one, "select not exists (select from atoll.difference)")
