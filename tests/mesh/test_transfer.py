"""Two nodes that no link joins converge by files, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

GOODS = (
    "id bigint primary key default atoll.id(), name text unique, qty int not null default 0,"
    " tags jsonb not null default '[]', made timestamptz default now(), note text"
)
PUT = "insert into goods (name, qty, note) values (%s, 1, %s)"
ALL = "select string_agg(name || '=' || qty, ' ' order by name) from goods"


async def carry(mesh: Mesh, a: MeshNode, b: MeshNode, name: str, *options: str) -> tuple[Path, str]:
    """A file from one node to another, and what the import of it said."""
    file = mesh.folder / name
    await mesh.run("export", str(file), "--for", b.name, "--home", str(a.home), *options)
    return file, await mesh.run("import", str(file), "--home", str(b.home))


async def values(mesh: Mesh, node: MeshNode, query: str = ALL) -> str:
    return str((await mesh.sql(node, query))[0][0])


async def test_two_nodes_without_a_link_converge_by_files(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "16")
    one, two = mesh.nodes
    await mesh.share("goods", GOODS, '{"qty": "counter", "tags": "set"}')
    await mesh.share("facts", "id bigint primary key default atoll.id(), what text", kind="append")
    await mesh.app(one, PUT, "rope", 'it\'s {"quoted", \\ back}')
    await mesh.until(two, f"select ({ALL}) = 'rope=1'")
    await mesh.everywhere().cut()
    await mesh.app(one, "update goods set qty = qty + 10, tags = '[\"a\"]'")
    await mesh.app(two, "update goods set qty = qty - 3, tags = '[\"b\"]', note = null")
    await mesh.app(one, "insert into goods (name) select 'g' || g from generate_series(1, 1200) g")
    await mesh.app(two, PUT, "only two", "")
    await mesh.app(two, "insert into facts (what) values ('seen')")
    await mesh.app(one, "delete from goods where name = 'g7'")
    first, said = await carry(mesh, one, two, "first")
    assert 'what node "n1" wrote at ' in said
    assert "public.goods  1201 new rows" in said
    await carry(mesh, two, one, "back")
    for query in ("select atoll.receipt('public.goods')", "select atoll.receipt('public.facts')"):
        assert await values(mesh, one, query) == await values(mesh, two, query)
    assert (
        await values(mesh, one, "select qty || ' ' || tags from goods where name = 'rope'") == '8 ["a", "b"]'
    )
    assert await values(mesh, one, "select count(*) from goods where name = 'g7'") == "0"
    # Once more changes nothing.
    before = await mesh.states(two, "public.goods")
    said = await mesh.run("import", str(first), "--home", str(two.home))
    assert "it had been imported before" in said
    assert "public.goods  0 new rows" in said
    assert await mesh.states(two, "public.goods") == before
    # Only what is new goes into the next one, for the other side has said what it read.
    await mesh.app(one, PUT, "new", "")
    second, said = await carry(mesh, one, two, "second")
    assert second.stat().st_size < first.stat().st_size / 2
    assert "public.goods  1 new rows" in said
    await mesh.everywhere().calm()
    await mesh.settle()


async def test_what_is_imported_goes_on_to_those_who_have_links(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    await mesh.share("goods", GOODS, '{"qty": "counter"}')
    await mesh.around(one).cut()
    await mesh.app(one, PUT, "from one", "")
    await mesh.until(two, "select state <> 'up' from atoll.link_state where peer = 1")
    await carry(mesh, one, two, "file")
    await mesh.until(three, f"select ({ALL}) = 'from one=1'")
    await mesh.around(one).calm()
    await mesh.settle()


async def test_files_that_may_not_be_read_are_refused(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    await mesh.share("goods", GOODS)
    await mesh.everywhere().cut()
    await mesh.app(one, PUT, "secret-marker", "")
    file = mesh.folder / "file"
    await mesh.run("export", str(file), "--for", "n2", "--home", str(one.home))
    whole = file.read_bytes()
    assert b"secret-marker" not in whole
    wrong = mesh.folder / "wrong"
    for content, says in (
        (whole[:-40], "it is damaged"),
        (whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:], "it is damaged"),
        (whole + b"x", "it is damaged"),
        (whole.replace(b'"receiver": 2', b'"receiver": 3'), "it is damaged"),
        (b"", "it is damaged"),
    ):
        wrong.write_bytes(content)
        for node in (two, three):
            said = await mesh.run("import", str(wrong), "--home", str(node.home), fails=True)
            if node is two or says not in said:
                assert says in said or "is for node 2" in said
        assert await mesh.sql(two, "select from goods") == []
    said = await mesh.run("import", str(file), "--home", str(three.home), fails=True)
    assert "it is for node 2, and this is node 3" in said
    said = await mesh.run("export", str(file), "--for", "n2", "--home", str(one.home), fails=True)
    assert "there is such a file" in said
    # A file that builds on one that never arrived.
    later = mesh.folder / "later"
    await mesh.run("export", str(later), "--for", "n2", "--since", "last", "--home", str(one.home))
    said = await mesh.run("import", str(later), "--home", str(two.home), fails=True)
    assert "builds on another" in said
    # A sender that was shut out meanwhile.
    await mesh.sql(two, "update atoll.node set revoked_at = now() where number = 1")
    said = await mesh.run("import", str(file), "--home", str(two.home), fails=True)
    assert "is no member" in said
    assert await mesh.sql(two, "select from goods") == []
