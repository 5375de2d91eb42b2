"""Thirty real nodes on one machine, in three tiers and two regions: they form, converge, and outlive a hub.

It takes minutes and some gigabytes, so it runs by itself: `make fleet`. ATOLL_FLEET says how many nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from atoll.demo.ports import free_ports
from atoll.link.weather import Weather
from atoll.node.postgres.leftover import processes_in
from support.fix_mesh import FENCES, Mesh, MeshNode
from support.folders import short_folder

SIZE = int(os.environ.get("ATOLL_FLEET", "0"))
pytestmark = [
    pytest.mark.mesh,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(3600),
    pytest.mark.skipif(SIZE < 10, reason="make fleet runs it"),
]
UPPER = ("cloud/eu", "cloud/us", "hub/eu", "hub/us", "hub/eu", "hub/us")
PATIENCE_SECONDS = 900.0
AT_ONCE = 3
SEEDED = "select seeded_at is not null from atoll.self"


@dataclass(frozen=True)
class Road:
    """The way to a node without weather: a proxy for every pair of thirty would be nine hundred."""

    address: str

    async def stop(self) -> None:
        return None


class PlainMesh(Mesh):
    async def open(self) -> None:
        self._ports = free_ports(self.room)
        for a in range(1, self.room + 1):
            for b in range(1, self.room + 1):
                road: Weather = Road(f"127.0.0.1:{self._ports[b - 1]}")  # type: ignore[assignment]
                self._weather[a, b] = road


def places() -> list[tuple[str, str]]:
    """Tier and region of each node; the founder is a cloud."""
    edges = [f"edge/{('eu', 'us')[n % 2]}" for n in range(SIZE - len(UPPER))]
    return [(tier, region) for tier, _, region in (place.partition("/") for place in (*UPPER, *edges))]


async def build(mesh: Mesh) -> None:
    """Clouds and hubs one after the other, then edges, a few at a time.

    Numbers are given in the order of joining. Who hangs off a node that waits for its own copy would get an
    empty one from it, and notice what is missing a minute later.
    """
    nodes = [mesh.plan("18", "--tier", tier, "--region", region) for tier, region in places()]
    await mesh.up(nodes[0])
    await mesh.app(nodes[0], FENCES)
    await mesh.app(nodes[0], "select atoll.share('fence')")
    upper, edges = nodes[1 : len(UPPER)], nodes[len(UPPER) :]
    batches = [[node] for node in upper] + [edges[n : n + AT_ONCE] for n in range(0, len(edges), AT_ONCE)]
    for batch in batches:
        for node in batch:
            await mesh.join(node, await mesh.invite(nodes[0]))
        await asyncio.gather(*(mesh.up(node) for node in batch))
        for node in batch:
            await mesh.until(node, SEEDED, seconds=PATIENCE_SECONDS)


async def spread(mesh: Mesh, writer: MeshNode, key: int) -> list[float]:
    """How long until each other node knows that it has what one wrote, in order."""
    await mesh.app(writer, "insert into item values (%s, %s)", key, writer.name)
    token = (await mesh.app(writer, "select atoll.token()"))[0][0]
    began = time.monotonic()

    async def wait(node: MeshNode) -> float:
        assert await mesh.app(node, "select atoll.wait_for(%s, '300 s')", token) == [(True,)], node
        assert await mesh.app(node, "select word from item where id = %s", key) == [(writer.name,)]
        return time.monotonic() - began

    return sorted(await asyncio.gather(*(wait(node) for node in mesh.live() if node is not writer)))


def megabytes(mesh: Mesh) -> float:
    """What the nodes take, memory that processes share counted once."""
    pids = [pid for node in mesh.live() for pid in processes_in(node.home / "data")]
    pids += [node.running.process.pid for node in mesh.live() if node.running is not None]
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(
                r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE
            )
            total += int(found[1]) if found else 0
    return total / 1024


def make_folder() -> Path:
    """A folder that PostgreSQL's user can pass, with a short name: sockets will be in it."""
    folder = short_folder("atoll-")
    folder.chmod(0o711)
    return folder


def remove_folder(folder: Path) -> None:
    for data in folder.glob("*/data"):
        for pid in processes_in(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="session")
async def mesh() -> AsyncIterator[Mesh]:
    """Not the trio of the other tests."""
    folder = make_folder()
    made = PlainMesh(folder, SIZE, ("--wal-keep", "64MB"))
    try:
        await made.open()
        yield made
    finally:
        await made.close()
        remove_folder(folder)


async def test_a_fleet_forms_converges_and_outlives_a_hub(mesh: Mesh) -> None:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", flush=True)

    await build(mesh)
    tell(f"{SIZE} nodes have joined")
    await mesh.form(PATIENCE_SECONDS)
    tell(f"every node has its links and its copy; {megabytes(mesh):,.0f} MB in all")
    await mesh.app(mesh.nodes[0], "create table item (id integer primary key, word text not null)")
    await mesh.app(mesh.nodes[0], "select atoll.share('item')")
    await mesh.until_known("item")
    for node in mesh.nodes:
        tier, region = places()[node.number - 1]
        near = await mesh.sql(
            node, "select n.number, a.tier, a.region from atoll.neighbour n join atoll.node a using (number)"
        )
        if tier == "edge":
            assert [(t, r) for _, t, r in near] == [("hub", region)] * 2, node
    tell("the table is everywhere; each edge has two hubs of its region and no other neighbour")
    delays = [await spread(mesh, node, node.number) for node in mesh.nodes[-5:]]
    tell(
        f"a write on an edge is everywhere after {statistics.median(d[-1] for d in delays):.2f} s, "
        f"half of the nodes have it after {statistics.median(d[len(d) // 2] for d in delays):.2f} s"
    )
    for node in mesh.nodes[:-5]:
        await mesh.app(node, "insert into item values (%s, %s)", node.number, node.name)
    await mesh.settle(PATIENCE_SECONDS)
    tell(f"all {SIZE} are the same after each has written")
    gone = mesh.nodes[2]
    assert places()[2] == ("hub", "eu")
    orphans = [
        node
        for node in mesh.nodes[len(UPPER) :]
        if await mesh.sql(
            node, "select number from atoll.neighbour where role = 'up' and in_use and number = 3"
        )
    ]
    assert orphans
    await mesh.kill(gone)
    for node in orphans:
        await mesh.app(node, "insert into item values (%s, 'while its hub was away')", 100 + node.number)
    for node in orphans:
        await mesh.until(
            node,
            "select exists (select from atoll.neighbour where role = 'up' and in_use and number <> 3)",
            seconds=PATIENCE_SECONDS,
        )
    await mesh.settle(PATIENCE_SECONDS)
    tell(f"a hub was killed, its {len(orphans)} edges went on with the other, and all are the same")
    await mesh.up(gone)
    await mesh.settle(PATIENCE_SECONDS)
    assert len(await mesh.sql(gone, "select id from item")) == SIZE + len(orphans)
    tell("the hub is back, and all are the same")
