"""Three real nodes on this machine, a `Weather` on every road between them, and nothing left at the end.

Each node is `atoll up` as a process of its own, in a home of its own. What is played is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.demo import folders, program
from atoll.demo.ports import free_ports
from atoll.demo.program import Program
from atoll.demo.scenario import Site
from atoll.domain.errors import AtollError
from atoll.link.weather import Weather
from atoll.node import config, credentials
from atoll.node.home import open_home, write_file

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Place:
    """Where a site of the demo is to be found."""

    site: Site
    home: Path
    http_port: int
    link_port: int

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def dsn(self, *, is_admin: bool = False) -> str:
        return credentials.dsn(open_home(self.home), is_admin=is_admin)


class Stage:
    """The nodes and the roads between them."""

    def __init__(self, folder: Path, sites: Sequence[Site]) -> None:
        self.folder = folder
        ports = free_ports(2 * len(sites))
        self.places = {
            site.name: Place(site, folder / site.name, ports[2 * i], ports[2 * i + 1])
            for i, site in enumerate(sites)
        }
        self._roads = {
            (one, other): Weather("127.0.0.1", self.places[other].link_port)
            for one in self.places
            for other in self.places
            if one != other
        }
        self._programs: dict[str, Program] = {}

    async def build(self, say: Say) -> None:
        """Start the first node, invite the others, start them too. `say` hears which site does what."""
        for road in self._roads.values():
            await road.start()
        founder, *others = self.places
        say(founder, "starts and founds an atoll")
        first = self.places[founder]
        await self._up(founder, "--name", founder, "--region", first.site.region, *self._flags(first))
        say(founder, "invites " + " and ".join(name.capitalize() for name in others))
        tokens = {}
        for name in others:
            tokens[name] = await program.run("invite", "--name", name, "--home", str(first.home))
        async with asyncio.TaskGroup() as group:
            for name in others:
                group.create_task(self._join(name, tokens[name], say))

    async def _join(self, name: str, token: str, say: Say) -> None:
        place = self.places[name]
        where = ("--home", str(place.home), "--region", place.site.region)
        await program.run("join", token, *where, *self._flags(place))
        say(name, "has joined. It makes its database now")
        await self._up(name)
        say(name, "is up")

    async def _up(self, name: str, *flags: str) -> None:
        node = await program.start(name, "up", "--home", str(self.places[name].home), *flags)
        self._programs[name] = node
        await node.until_ready()

    def _flags(self, place: Place) -> list[str]:
        name = place.site.name
        roads = [f"{other}={road.address}" for (one, other), road in self._roads.items() if one == name]
        listens = ["--http", f"127.0.0.1:{place.http_port}", "--link", f"127.0.0.1:{place.link_port}"]
        return [*listens, "--dial", ",".join(roads)]

    async def cut_off(self, name: str) -> None:
        """No road to a site, and none from it."""
        for ends, road in self._roads.items():
            if name in ends:
                await road.cut()

    async def mend(self) -> None:
        for road in self._roads.values():
            if road.sky.state != "calm":
                await road.calm()

    async def watch(self) -> None:
        """Raise when a node ends by itself."""
        waits = [asyncio.create_task(node.until_ended()) for node in self._programs.values()]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            raise done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    def hurry(self) -> None:
        """Somebody is waiting for the nodes to end."""
        for node in self._programs.values():
            node.stop()

    async def clear(self) -> None:
        """Stop everything that runs."""
        for node in self._programs.values():
            node.stop()
        await asyncio.gather(*(node.ended() for node in self._programs.values()))
        for road in self._roads.values():
            await road.stop()


@contextlib.asynccontextmanager
async def opened(folder: Path | None, sites: Sequence[Site]) -> AsyncIterator[Stage]:
    """A stage in a folder that is kept, or in one that goes away with the stage."""
    path = folders.temporary() if folder is None else folders.chosen(folder)
    try:
        stage = Stage(path, sites)
        try:
            yield stage
        finally:
            await stage.clear()
            if folder is not None:
                _forget_roads(stage)
    finally:
        if folder is None:
            shutil.rmtree(path, ignore_errors=True)


def _forget_roads(stage: Stage) -> None:
    """Homes that are kept dial each other directly from now on: the weather between them is gone."""
    for place in stage.places.values():
        with contextlib.suppress(AtollError, OSError):
            file = place.home / "atoll.toml"
            known = config.read_file(file)
            if known:
                write_file(file, config.new_file({key: known[key] for key in known if key != "dial"}))
