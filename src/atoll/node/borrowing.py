"""Borrows memory of other nodes for the layers of a model that is too large for this one.

Who holds what is planned anew each time the model is loaded, over the nodes that there is a link to then. For
the engine each of them is a Unix socket of this node, with a stream of the link behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from atoll.domain.errors import AtollError, LinkError
from atoll.link.greeting import Purpose
from atoll.link.peers import Links
from atoll.link.stream import Pipe
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.layer_stream import carry, read_message, write_message
from atoll.node.postgres.server import Postgres
from atoll.runtimes.llama.native import engine_version
from atoll.runtimes.llama.split.plugin import plugin_in
from atoll.runtimes.llama.split.shares import Share, described
from atoll.runtimes.llama.wants import Worker
from atoll.serving.fitting import Needs, Part, Room, split_around
from atoll.sql import query

ASK_SECONDS_MAX = 40.0
AVOID_SECONDS = 60.0  # a node that refused, or lost layers, where others will do
CONNECTIONS_MAX = 8  # of an engine that wait: it has one at a time
log = logging.getLogger(__name__)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Held:
    """What was borrowed for one model."""

    plugin: Path
    mine: Share
    shares: list[Share] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    ways: list[asyncio.Task[str]] = field(default_factory=list)

    async def lost(self) -> str:
        done, _ = await asyncio.wait(self.ways, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()


class Borrowing:
    def __init__(self, home: Home, settings: Settings, postgres: Postgres) -> None:
        self._home = home
        self._settings = settings
        self._postgres = postgres
        self._links: Links | None = None
        self._avoided: dict[str, float] = {}  # nodes, each until then

    def attach(self, links: Links) -> None:
        self._links = links

    @asynccontextmanager
    async def borrow(self, model: str, needs: Needs, own_bytes: int, folder: Path) -> AsyncIterator[Held]:
        """Layers of a model held by others, those before them here in `own_bytes`; sockets in `folder`."""
        if self._links is None:
            raise LinkError("split-nowhere", f'could not place layers of "{model}": there are no links yet')
        links, plugin = self._links, plugin_in(self._home.split)
        if plugin is None:
            raise LinkError(
                "split-unbuilt", f'this node cannot split "{model}" yet', hint="Run: atoll runtime split"
            )
        numbers, rooms = await self._rooms()
        mine, *others = self._plan(model, needs, own_bytes, rooms)
        async with AsyncExitStack() as stack:
            held = Held(plugin, Share(mine.node, mine.layers))
            for part in others:
                try:
                    pipe = await _asked(links, numbers[part.node], model, part)
                except AtollError:
                    self._avoid(part.node)
                    raise
                stack.callback(pipe.close)
                socket = folder / f"split-{secrets.token_hex(4)}.sock"
                way = await stack.enter_async_context(_way(pipe, socket, part.node))
                way.add_done_callback(partial(self._look_at, part.node))
                held.ways.append(way)
                held.shares.append(Share(part.node, part.layers))
                held.workers.append(Worker(socket, len(part.layers)))
            log.info('model "%s" is split: %s', model, described(held))
            yield held

    async def _rooms(self) -> tuple[dict[str, int], list[Room]]:
        """The nodes that may hold layers now, and how much of them."""
        try:
            async with await self._postgres.connect() as connection:
                cursor = connection.cursor(row_factory=dict_row)
                rows = await (await cursor.execute(query("room", "lenders"), (engine_version(),))).fetchall()
        except (psycopg.Error, OSError) as error:
            raise LinkError(
                "split-nowhere", "could not ask who can hold layers", detail=f"{error}."
            ) from error
        near = [row for row in rows if self._is_up(row["number"])]
        rooms = [Room(row["node"], row["region"], row["bytes_max"], row["bytes_taken"]) for row in near]
        return {row["node"]: row["number"] for row in near}, rooms

    def _is_up(self, number: int) -> bool:
        report = self._links.link(number) if self._links is not None else None
        return report is not None and report.state == "up"

    def _plan(self, model: str, needs: Needs, own_bytes: int, rooms: Sequence[Room]) -> Sequence[Part]:
        me, now = self._settings.name, asyncio.get_running_loop().time()
        avoided = {node for node, until in self._avoided.items() if now < until}
        sizes = {me: own_bytes} | {room.node: room.free for room in rooms}
        if parts := split_around(needs, sizes, me, avoided):
            return parts
        names = ", ".join(f"{room.node} {room.free >> 20} MB" for room in rooms) or "none"
        raise LinkError(
            "split-nowhere",
            f'could not place the layers of "{model}", which needs {needs.whole >> 20} MB',
            detail=f"This node gives it {own_bytes >> 20} MB; nodes that could help have free: {names}.",
            hint="A node of this region that has a link can help after: atoll runtime split",
        )

    def _avoid(self, node: str) -> None:
        self._avoided[node] = asyncio.get_running_loop().time() + AVOID_SECONDS

    def _look_at(self, node: str, way: asyncio.Task[str]) -> None:
        """A way that was not given back has ended with what it led to."""
        if not way.cancelled():
            self._avoid(node)


async def _asked(links: Links, number: int, model: str, part: Part) -> Pipe:
    """A stream to a worker that was started for this."""
    pipe = Pipe(await links.open_stream(number, Purpose.LAYERS))
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            await write_message(pipe, {"model": model, "bytes": part.bytes, "engine": engine_version()})
            await read_message(pipe)
    except TimeoutError as error:
        pipe.close()
        raise LinkError("split-slow", f"node {part.node} did not make room in time") from error
    except BaseException:
        pipe.close()
        raise
    return pipe


@asynccontextmanager
async def _way(pipe: Pipe, socket: Path, node: str) -> AsyncIterator[asyncio.Task[str]]:
    """The engine's way to a worker; the task ends with it, and says what happened."""
    coming: asyncio.Queue[Connection] = asyncio.Queue(CONNECTIONS_MAX)

    def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if coming.full():
            writer.close()
        else:
            coming.put_nowait((reader, writer))

    server = await asyncio.start_unix_server(come, str(socket))
    way = asyncio.create_task(_until_over(pipe, coming, node))
    try:
        yield way
    finally:
        way.cancel()
        await asyncio.gather(way, return_exceptions=True)
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket)


async def _until_over(pipe: Pipe, coming: asyncio.Queue[Connection], node: str) -> str:
    """An engine that nobody asks reads nothing, so the stream's end is waited for besides."""
    problem: BaseException
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_carry_all(pipe, coming))
            group.create_task(pipe.until_over())
    except* (AtollError, OSError) as errors:
        problem = errors.exceptions[0]
    return f"the layers on node {node} were lost: {problem}"


async def _carry_all(pipe: Pipe, coming: asyncio.Queue[Connection]) -> None:
    while True:
        await carry(pipe, await coming.get())
