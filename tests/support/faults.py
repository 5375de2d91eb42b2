"""The faults that a mesh has to bear, each as a block: it begins, lasts while the block runs, and is healed.

A fault yields the node that is hit, which may be unable to serve anybody meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from support.fix_mesh import DEADLINE, POLL_SECONDS, Mesh, MeshNode
from support.load import Load

SPARE_BYTES = 150 * 1024**2
FLOOR = "48MB"


@dataclass(frozen=True)
class Stage:
    """Where a fault happens."""

    mesh: Mesh
    load: Load
    rng: random.Random

    def anybody(self) -> MeshNode:
        return self.rng.choice(self.mesh.live())

    async def linked(self) -> tuple[MeshNode, MeshNode]:
        """Two nodes that have a link in use."""
        members = await self.mesh.numbers()
        found = []
        for number, node in sorted(members.items()):
            rows = await self.mesh.sql(node, "select number from atoll.neighbour where in_use order by 1")
            found += [(node, members[other]) for (other,) in rows if other in members and other > number]
        one, other = self.rng.choice(found)
        return self.rng.choice([(one, other), (other, one)])

    async def numbered(self, node: MeshNode) -> int:
        return int((await self.mesh.sql(node, "select atoll.me()"))[0][0])


Fault = Callable[[Stage], AbstractAsyncContextManager[MeshNode]]


@asynccontextmanager
async def cut(stage: Stage) -> AsyncIterator[MeshNode]:
    """The link between two neighbours breaks."""
    one, two = await stage.linked()
    network = stage.mesh.between(one, two)
    await network.cut()
    yield one
    await network.calm()


@asynccontextmanager
async def island(stage: Stage) -> AsyncIterator[MeshNode]:
    """A node hears nobody and is heard by nobody, without a word."""
    node = stage.anybody()
    await stage.mesh.around(node).fall_silent()
    yield node
    await stage.mesh.around(node).calm()


@asynccontextmanager
async def kill(stage: Stage) -> AsyncIterator[MeshNode]:
    """kill -9 of a node."""
    node = stage.anybody()
    await stage.mesh.kill(node)
    yield node
    await stage.mesh.up(node)


@asynccontextmanager
async def kill_postgres(stage: Stage) -> AsyncIterator[MeshNode]:
    """kill -9 of a PostgreSQL, twice; its node starts it again."""
    node = stage.anybody()
    for _ in range(2):
        before = node.postmaster()
        stage.mesh.kill_postgres(node)
        await stage.mesh.until(node, "select true")
        assert node.postmaster() != before
    yield node


@asynccontextmanager
async def stop(stage: Stage) -> AsyncIterator[MeshNode]:
    """SIGSTOP of a node, until its peers have given it up. Its PostgreSQL goes on."""
    node, other = await stage.linked()
    assert node.running is not None
    number = await stage.numbered(node)
    os.kill(node.running.pid, signal.SIGSTOP)
    try:
        away = "select coalesce((select state from atoll.link_state where peer = %s), '') <> 'up'"
        await stage.mesh.until(other, away, number)
        yield node
    finally:
        os.kill(node.running.pid, signal.SIGCONT)


@asynccontextmanager
async def lose_slot(stage: Stage) -> AsyncIterator[MeshNode]:
    """A neighbour's slot is lost, with all that it had still to send."""
    node, other = await stage.linked()
    network = stage.mesh.between(node, other)
    await network.cut()
    await stage.load.written(10)
    await stage.mesh.sql(node, "select atoll.drop_slot(%s)", f"atoll_to_{await stage.numbered(other)}")
    await network.calm()
    yield node


@asynccontextmanager
async def fill_disk(stage: Stage) -> AsyncIterator[MeshNode]:
    """A node's disk has not one free byte."""
    node = stage.anybody()
    mesh = stage.mesh
    await mesh.stop(node)
    aside = node.home.with_name(f"{node.home.name}-aside")
    await asyncio.to_thread(_mount, node.home, aside)
    try:
        await _up_with_floor(mesh, node)
        ballast = await asyncio.to_thread(fill, node.home)
        assert node.running is not None
        await _until_http(node, 503)
        yield node
        ballast.unlink()
        await mesh.until(node, "select current_setting('default_transaction_read_only') = 'off'")
        await mesh.stop(node)
    finally:
        if node.running is not None:
            await mesh.kill(node)
        await asyncio.to_thread(_unmount, node.home, aside)
    await mesh.up(node)


@asynccontextmanager
async def jump_clock(stage: Stage) -> AsyncIterator[MeshNode]:
    """A clock jumps: within what is taken, or an hour back, so that all that arrives seems to be early."""
    node = stage.anybody()
    await stage.mesh.set_clock(node, stage.rng.choice([stage.rng.uniform(-200, 200), -3600]))
    yield node
    await stage.mesh.set_clock(node, 0)


@asynccontextmanager
async def restore(stage: Stage) -> AsyncIterator[MeshNode]:
    """A node is lost and comes back from a backup, older than its peers know it."""
    mesh, node = stage.mesh, await _with_kin(stage)
    file = mesh.folder / f"backup-{stage.rng.getrandbits(32)}"
    await mesh.run("backup", str(file), "--with-authority", "--home", str(node.home))
    await stage.load.written(30)
    async with stage.load.resting(node):
        token = (await mesh.app(node, "select atoll.token()"))[0][0]
        kin = next(nodes for nodes in (await mesh.regions()).values() if node in nodes)
        for other in kin:
            heard = "select atoll.wait_for(%s, '60 s')"
            assert await mesh.app(other, heard, token) == [(True,)], f"{other.name} does not hear {node.name}"
        await mesh.stop(node)
        await asyncio.to_thread(shutil.rmtree, node.home)
    await mesh.run("restore", str(file), "--home", str(node.home))
    file.unlink()
    await mesh.up(node)
    yield node
    assert await stage.numbered(node) > 32767


@asynccontextmanager
async def clone(stage: Stage) -> AsyncIterator[MeshNode]:
    """An older copy of a node's home runs on another machine at the same time, and is refused."""
    mesh, node = stage.mesh, stage.anybody()
    await mesh.stop(node)
    home = mesh.folder / f"clone-of-{node.name}"
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(node.home), str(home)], check=True)
    await mesh.up(node)
    await stage.load.written(20)
    before = await _refusals(mesh)
    flags = list(node.flags)
    flags[flags.index("--link") + 1] = "off"
    copy = replace(node, home=home, flags=tuple(flags), running=None)
    try:
        await mesh.up(copy)
        deadline = time.monotonic() + DEADLINE
        while await _refusals(mesh) == before:
            assert time.monotonic() < deadline, f"the copy of {node.name} was not refused\n{copy.log()}"
            await asyncio.sleep(POLL_SECONDS)
        yield node
    finally:
        if copy.running is not None:
            await mesh.kill(copy)
        await asyncio.to_thread(shutil.rmtree, home)


@asynccontextmanager
async def skew(stage: Stage) -> AsyncIterator[MeshNode]:
    """A node that is away alters the same table as the others do meanwhile."""
    node = stage.anybody()
    await stage.mesh.around(node).cut()
    column = f"odd_{stage.rng.getrandbits(24)}"
    await migrate(stage.mesh, node, f"alter table sale add column {column} text default 'none'")
    # Its own rows only: to write one that another node deletes meanwhile is to bring it back.
    await stage.mesh.app(node, f"update sale set {column} = 'some' where id & 65535 = atoll.me()")
    yield node
    await stage.mesh.around(node).calm()


FAULTS: dict[str, Fault] = {
    "cut": cut,
    "island": island,
    "kill": kill,
    "kill-postgres": kill_postgres,
    "stop": stop,
    "lost-slot": lose_slot,
    "full-disk": fill_disk,
    "clock": jump_clock,
    "restore": restore,
    "clone": clone,
    "skew": skew,
}


async def migrate(mesh: Mesh, node: MeshNode, statement: str) -> None:
    await mesh.run("migrate", "-c", statement, "--home", str(node.home))


def can_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


async def _with_kin(stage: Stage) -> MeshNode:
    """A node with another in its region, which has what must not leave the region."""
    return stage.rng.choice(
        [n for nodes in (await stage.mesh.regions()).values() if len(nodes) > 1 for n in nodes]
    )


async def _refusals(mesh: Mesh) -> float:
    """How often a node that is alive twice was refused, by all."""
    return sum([(await mesh.reasons(node)).get("node-twice", 0.0) for node in mesh.live()])


async def _up_with_floor(mesh: Mesh, node: MeshNode) -> None:
    usual = node.flags
    node.flags = (*usual, "--disk-floor", FLOOR)
    try:
        await mesh.up(node)
    finally:
        node.flags = usual


async def _until_http(node: MeshNode, status: int) -> None:
    assert node.running is not None
    deadline = time.monotonic() + DEADLINE
    while (await asyncio.to_thread(node.running.get, "/readyz"))[0] != status:
        assert time.monotonic() < deadline, node.log()
        await asyncio.sleep(POLL_SECONDS)


def _mount(home: Path, aside: Path) -> None:
    """The home on a file system of its own, with room for little more than what it has."""
    used = sum(file.lstat().st_blocks * 512 for file in home.rglob("*"))
    home.rename(aside)
    home.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={used + SPARE_BYTES}", "tmpfs", str(home)], check=True
    )
    subprocess.run(["cp", "-a", f"{aside}/.", str(home)], check=True)


def _unmount(home: Path, aside: Path) -> None:
    """The home as it is now, back on the large file system."""
    shutil.rmtree(aside)
    subprocess.run(["cp", "-a", str(home), str(aside)], check=True)
    subprocess.run(["umount", "--lazy", str(home)], check=True)
    point = home.rename(home.with_name(f"{home.name}-point"))
    aside.rename(home)
    if strays := list(point.rglob("*")):
        print(f"below the file system that was full: {strays}", flush=True)
    shutil.rmtree(point)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for block in (b"x" * 1024**2, b"x" * 4096):
            try:
                while True:
                    file.write(block)
            except OSError:
                continue
    return ballast
