"""Holds layers of another node's model, in a worker's process that lives as long as the stream it serves.

A node lends to nodes of its own region, memory that is free here, and only where its owner has built what it
takes. The engine's protocol lets a client do all that the worker may, so nobody else gets to its socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from atoll.domain.errors import AtollError, LinkError, PolicyDenied
from atoll.identity.certificate import PeerIdentity
from atoll.link.stream import Pipe, Stream
from atoll.node.home import Home
from atoll.node.layer_stream import carry, read_message, write_message
from atoll.node.postgres.server import Postgres
from atoll.registry.adding import ENGINE_BYTES
from atoll.runtimes.llama.course import why_ended
from atoll.runtimes.llama.native import engine_version
from atoll.runtimes.llama.process import EngineProcess
from atoll.runtimes.llama.split import WORKER
from atoll.runtimes.llama.split.kept import make_room
from atoll.runtimes.llama.split.plugin import plugin_in
from atoll.serving.service import Serving
from atoll.sql import query

START_SECONDS_MAX = 30.0
LOOK_SECONDS = 2.0
EXCESS = 1.25  # a worker may take so much more than was asked for, and what it weighs itself
WORKER_BYTES = 128 * 1024**2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Asked:
    model: str
    bytes: int
    engine: str


class Lending:
    def __init__(self, home: Home, region: str, serving: Serving, postgres: Postgres, kept_max: int) -> None:
        """Of layers that were held once, `kept_max` bytes stay on the disk, and need not come again."""
        self._home = home
        self._region = region
        self._serving = serving
        self._postgres = postgres
        self._kept_max = kept_max

    async def serve(self, peer: PeerIdentity, stream: Stream) -> None:
        """One stream: what is asked, an answer, then the bytes of the engine there and the worker here."""
        pipe = Pipe(stream)
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                asked = _read(await read_message(pipe))
                await self._check(peer, asked)
            with self._serving.lend(max(asked.bytes, ENGINE_BYTES)):
                async with self._worker(asked) as (process, socket):
                    log.info('holding layers of model "%s" for node "%s"', asked.model, peer.name)
                    await write_message(pipe, {"ready": True})
                    await _until_over(process, asked, _carry_all(pipe, socket))
            log.info('model "%s" of node "%s" needs its layers here no more', asked.model, peer.name)
        except AtollError as error:
            log.warning('could not hold layers for node "%s": %s', peer.name, error)
            pipe.close(error)
        except (OSError, TimeoutError, psycopg.Error) as error:
            log.warning('could not hold layers for node "%s": %s', peer.name, error)
        finally:
            pipe.close()

    async def _check(self, peer: PeerIdentity, asked: _Asked) -> None:
        if asked.engine != engine_version():
            raise LinkError(
                "split-engines-differ",
                f"cannot hold layers: the engine is {engine_version()} here and {asked.engine} there",
                hint="Bring both nodes to the same version of Atoll.",
            )
        async with await self._postgres.connect() as connection:
            rows = await (await connection.execute(query("room", "region_of"), (peer.number,))).fetchall()
        if rows != [(self._region,)]:
            raise PolicyDenied(
                "split-other-region", f'cannot hold layers for node "{peer.name}": it is in another region'
            )

    @asynccontextmanager
    async def _worker(self, asked: _Asked) -> AsyncIterator[tuple[EngineProcess, Path]]:
        plugin = plugin_in(self._home.split)
        if plugin is None:
            raise LinkError("split-unbuilt", "this node cannot hold layers", hint="Run: atoll runtime split")
        kept = self._home.split / "kept"
        await asyncio.to_thread(make_room, kept, self._kept_max, asked.bytes)
        folder = self._home.run / "models"
        folder.mkdir(exist_ok=True, mode=0o700)
        socket = folder / f"layers-{secrets.token_hex(4)}.sock"
        told = {
            "plugin": str(plugin),
            "socket": str(socket),
            "kept": str(kept),
            "threads": max(1, (os.cpu_count() or 1) - 1),
            "bytes": _most(asked),
        }
        process = await EngineProcess.launch(told, self._home.logs / "layers.log", program=WORKER)
        try:
            await _until_listening(process, socket)
            yield process, socket
        finally:
            await process.kill()
            socket.unlink(missing_ok=True)


async def _carry_all(pipe: Pipe, socket: Path) -> None:
    """Whoever asks ends it, by ending the stream."""
    while True:
        await carry(pipe, await asyncio.open_unix_connection(str(socket)))


async def _until_over(process: EngineProcess, asked: _Asked, carrying: Coroutine[Any, Any, None]) -> None:
    """Until the stream ends, or the worker, or that takes more memory than was asked for.

    An engine notices only at its next request that a worker is gone, so whoever asked is told.
    """
    passing, ending = asyncio.create_task(carrying), asyncio.create_task(process.wait())
    most = _most(asked)
    try:
        while not passing.done():
            await asyncio.wait({passing, ending}, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            if ending.done() and (code := ending.result()) is not None:
                raise LinkError("split-broken", f"the worker ended: {why_ended(code)}")
            if (taken := process.memory_bytes()) > most:
                raise LinkError(
                    "room-lacking",
                    f"the layers took {taken >> 20} MB, and {asked.bytes >> 20} MB were asked for",
                )
    finally:
        passing.cancel()
        ending.cancel()
        await asyncio.gather(passing, ending, return_exceptions=True)


async def _until_listening(process: EngineProcess, socket: Path) -> None:
    async with asyncio.timeout(START_SECONDS_MAX):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(str(socket))
            except (FileNotFoundError, ConnectionRefusedError):
                if await process.wait(0.02) is not None:
                    said = "\n".join(process.last_lines[-3:])
                    raise LinkError("split-broken", "the worker did not start", detail=said) from None
            else:
                writer.close()
                return


def _most(asked: _Asked) -> int:
    return int(asked.bytes * EXCESS) + WORKER_BYTES


def _read(told: dict[str, Any]) -> _Asked:
    model, size, engine = told.get("model"), told.get("bytes"), told.get("engine")
    if not (
        isinstance(model, str)
        and len(model) <= 200
        and type(size) is int
        and size > 0
        and isinstance(engine, str)
        and len(engine) <= 100
    ):
        raise LinkError("protocol", "the peer asked for layers in words that cannot be read")
    return _Asked(model, size, engine)
