"""A node that comes back older than its peers know it loses nothing that they or it still have."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess

import pytest

from support.fix_home import atoll
from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.shapes import lay

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

GOODS = "id bigint primary key default atoll.id(), name text not null, qty int not null default 0"
PUT = "insert into goods (name, qty) values (%s, 1)"
ADD = "update goods set qty = qty + 10 where name = 'first'"
ALL = "select string_agg(name || '=' || qty, ' ' order by name) from goods"


async def keep(mesh: Mesh, node: MeshNode) -> None:
    """What a snapshot of the machine's disk would hold."""
    await mesh.stop(node)
    command = ["cp", "-a", str(node.home), str(mesh.folder / "older")]
    await asyncio.to_thread(subprocess.run, command, check=True)
    await mesh.up(node)


async def put_back(mesh: Mesh, node: MeshNode, part: str) -> None:
    """The home, or a part of it, as it was then."""
    await mesh.stop(node)
    target, source = node.home / part, mesh.folder / "older" / part
    await asyncio.to_thread(shutil.rmtree, target)
    source.rename(target)


async def same_everywhere(mesh: Mesh, wanted: str) -> None:
    for node in mesh.live():
        await mesh.until(node, f"select ({ALL}) = %s", wanted)
    said = await mesh.run("check", "--home", str(mesh.nodes[0].home), "--wait", "60")
    assert f"compared on {len(mesh.live())} nodes" in said
    assert "differ" not in said


async def number(mesh: Mesh, node: MeshNode) -> int:
    return int((await mesh.sql(node, "select atoll.me()"))[0][0])


deep = pytest.mark.deep


@pytest.mark.parametrize(
    ("back", "part"), [pytest.param(1, "", marks=deep), (1, "data"), pytest.param(0, "", marks=deep)]
)
async def test_an_older_disk_loses_nothing(make_mesh: MeshMaker, back: int, part: str) -> None:
    mesh = await make_mesh("18", "18", "18")
    node, other = mesh.nodes[back], mesh.nodes[2]
    await mesh.share("goods", GOODS, '{"qty": "counter"}')
    await mesh.app(node, PUT, "first")
    await same_everywhere(mesh, "first=1")
    await keep(mesh, node)
    await mesh.app(node, PUT, "lost here")
    await mesh.app(node, ADD)
    await same_everywhere(mesh, "first=11 lost here=1")
    await put_back(mesh, node, part)
    # It is written to before anybody can tell it what it lost.
    await mesh.around(node).cut()
    await mesh.up(node)
    await mesh.app(node, PUT, "new")
    await mesh.app(other, PUT, "meanwhile")
    await mesh.around(node).calm()
    await same_everywhere(mesh, "first=11 lost here=1 meanwhile=1 new=1")
    taken = await number(mesh, node)
    assert taken > 32767
    nodes = "select number, revoked_at is null from atoll.node where name = %s order by 1"
    assert await mesh.same(nodes, node.name) == [(back + 1, False), (taken, True)]
    await mesh.app(node, ADD)
    await mesh.app(other, ADD)
    await same_everywhere(mesh, "first=31 lost here=1 meanwhile=1 new=1")


@pytest.mark.parametrize("back", [pytest.param(0, marks=deep), 1])
async def test_a_lost_node_comes_back_from_its_backup(make_mesh: MeshMaker, back: int) -> None:
    mesh = await make_mesh("18", "18")
    node, other = mesh.nodes[back], mesh.nodes[1 - back]
    await mesh.share("goods", GOODS, '{"qty": "counter"}')
    await mesh.app(node, PUT, "first")
    await same_everywhere(mesh, "first=1")
    file = mesh.folder / "kept"
    await mesh.run("backup", str(file), "--with-authority", "--home", str(node.home))
    await mesh.app(node, PUT, "since")
    await mesh.app(node, ADD)
    await same_everywhere(mesh, "first=11 since=1")
    await mesh.stop(node)
    shutil.rmtree(node.home)
    await mesh.app(other, PUT, "meanwhile")
    await mesh.run("restore", str(file), "--home", str(node.home))
    # While nobody can be asked, it serves its own site, under the number that it has taken.
    await mesh.around(node).cut()
    await mesh.up(node)
    await mesh.app(node, ADD)
    assert await mesh.sql(node, ALL) == [("first=11",)]
    assert await number(mesh, node) > 32767
    await mesh.around(node).calm()
    await same_everywhere(mesh, "first=21 meanwhile=1 since=1")


async def test_a_copy_that_is_alive_too_is_refused_by_name(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", room=3)
    one, two = mesh.nodes
    await keep(mesh, two)
    await mesh.form()
    copy = mesh.plan()
    (mesh.folder / "older").rename(copy.home)
    # As two, from another machine: its name and number, another place.
    copy.flags = (*two.flags[:3], "127.0.0.1:0", "--link", "off", *two.flags[6:])
    await mesh.up(copy)
    await mesh.until_counted(one, "node-twice")
    assert 'node "n2" (number 2) is alive twice' in one.log(400)
    said = ""
    for _ in range(600):
        said = (await asyncio.to_thread(atoll, "status", "--home", str(copy.home))).stdout
        if "is alive" in said:
            break
    assert "the node with the number 2 is alive elsewhere too" in said
    # The other goes on as before.
    await mesh.stop(copy)
    mesh.nodes.remove(copy)
    await mesh.settle()


async def test_a_home_that_was_moved_stays_itself(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18")
    _, two = mesh.nodes
    await mesh.stop(two)
    two.home = two.home.rename(mesh.folder / "elsewhere")
    await mesh.up(two)
    await mesh.settle()
    assert await number(mesh, two) == 2


async def test_a_founder_that_nobody_can_be_dialled_by_is_known_again(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", room=2)
    one = mesh.nodes[0]
    await mesh.share("goods", GOODS)
    hidden = await mesh.add("18", behind_nat=True)
    await mesh.form()
    await keep(mesh, one)
    await mesh.app(one, PUT, "lost here")
    await mesh.until(hidden, f"select ({ALL}) = 'lost here=1'")
    await put_back(mesh, one, "data")
    await mesh.up(one)
    await mesh.app(one, PUT, "new")
    await same_everywhere(mesh, "lost here=1 new=1")


async def test_a_certificate_is_asked_for_through_others(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    await mesh.share("goods", GOODS)
    await keep(mesh, three)
    await mesh.form()
    await mesh.app(three, PUT, "lost here")
    await same_everywhere(mesh, "lost here=1")
    await put_back(mesh, three, "data")
    await mesh.between(one, three).cut()
    await mesh.up(three)
    await mesh.app(three, PUT, "new")
    await mesh.until(two, f"select ({ALL}) = 'lost here=1 new=1'")
    await mesh.between(one, three).calm()
    await same_everywhere(mesh, "lost here=1 new=1")


async def test_a_database_that_is_put_back_under_a_running_node_is_noticed(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18")
    one, two = mesh.nodes
    await mesh.share("goods", GOODS)
    await keep(mesh, two)
    await mesh.form()
    await mesh.app(two, PUT, "lost here")
    await mesh.until(one, f"select ({ALL}) = 'lost here=1'")
    assert two.running is not None
    # As when somebody else's server is recovered to an earlier time while the node waits for it.
    os.kill(two.running.pid, signal.SIGSTOP)
    server = two.postmaster()
    os.kill(server, signal.SIGQUIT)
    while two.running.server_processes():
        await asyncio.sleep(0.05)
    shutil.rmtree(two.home / "data")
    (mesh.folder / "older" / "data").rename(two.home / "data")
    os.kill(two.running.pid, signal.SIGCONT)
    await mesh.until(two, "select atoll.me() > 32767")
    await mesh.app(two, PUT, "new")
    await same_everywhere(mesh, "lost here=1 new=1")


async def test_what_an_edge_has_reaches_all_through_its_hub(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh(room=3)
    hub = await mesh.add("18", "--tier", "hub")
    edge = await mesh.add("18", "--tier", "edge")
    other = await mesh.add("18", "--tier", "edge")
    await mesh.app(hub, f"create table goods ({GOODS})")
    await mesh.app(hub, "select atoll.share('goods')")
    await mesh.until_known("goods")
    await mesh.app(edge, PUT, "first")
    await mesh.until(other, f"select ({ALL}) = 'first=1'")
    assert await mesh.sql(edge, "select number from atoll.neighbour") == [(1,)]
    await keep(mesh, edge)
    await mesh.app(edge, PUT, "lost here")
    await mesh.until(other, f"select ({ALL}) = 'first=1 lost here=1'")
    await put_back(mesh, edge, "data")
    await mesh.around(edge).cut()
    await mesh.up(edge)
    await mesh.app(edge, PUT, "new")
    await mesh.around(edge).calm()
    for node in mesh.live():
        await mesh.until(node, f"select ({ALL}) = 'first=1 lost here=1 new=1'")


@pytest.mark.slow
async def test_links_that_were_made_by_hand_stay_with_a_node_that_is_put_back(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    await mesh.share("goods", GOODS)
    await lay(mesh, {(1, 2), (2, 3)})
    await keep(mesh, two)
    await mesh.form()
    await mesh.app(two, PUT, "lost here")
    await mesh.until(one, f"select ({ALL}) = 'lost here=1'")
    await put_back(mesh, two, "data")
    await mesh.up(two)
    await mesh.app(one, PUT, "new")
    await mesh.until(three, f"select ({ALL}) = 'lost here=1 new=1'")
    taken = await number(mesh, two)
    for end in (one, three):
        assert await mesh.sql(end, "select number, role from atoll.neighbour") == [(taken, "tie")]
    await mesh.app(three, PUT, "old")
    await mesh.until(one, f"select ({ALL}) = 'lost here=1 new=1 old=1'")
