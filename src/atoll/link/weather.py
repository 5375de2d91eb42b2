"""A TCP proxy between two nodes whose weather can be changed: calm, cut, silent, delayed, throttled.

It stands in for the network in tests and in the demo: a node dials it instead of its peer (dial overrides).
It moves bytes and knows nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CHUNK_BYTES = 64 * 1024
STEP_SECONDS = 0.05
# Of bytes on their way, so that a delay does not turn into a stop-and-wait and memory stays bounded.
FLIGHT_BYTES_MAX = 4 * 1024 * 1024
CONNECT_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class Sky:
    """What the network does. `cut` refuses and resets; `silent` takes what comes and lets nothing through.

    The delay is each way; the rate is per direction of a connection.
    """

    state: Literal["calm", "cut", "silent"] = "calm"
    delay_seconds: float = 0.0
    bytes_per_second: int | None = None


CALM = Sky()


class Weather:
    def __init__(self, host: str, port: int) -> None:
        """Where calm connections go: the node that is really meant."""
        self._target = (host, port)
        self._sky = CALM
        self._changed = asyncio.Event()
        self._listener: socket.socket | None = None
        # Bound and never listening: nobody else gets the port while nobody listens on it.
        self._claim: socket.socket | None = None
        self._port = 0
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def sky(self) -> Sky:
        return self._sky

    @property
    def address(self) -> str:
        """What to dial instead of the node."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._claim = socket.socket()
        self._claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._claim.bind(("127.0.0.1", 0))
        self._port = int(self._claim.getsockname()[1])
        self._listen()

    async def stop(self) -> None:
        self._close_listener()
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        await self._reset_all()

    async def calm(self) -> None:
        await self._set(CALM)

    async def cut(self) -> None:
        """Existing connections are reset and new ones refused."""
        await self._set(Sky("cut"))

    async def fall_silent(self) -> None:
        """Nothing is reset, nothing arrives: the cut that only keep-alive notices."""
        await self._set(Sky("silent"))

    async def delay(self, seconds: float) -> None:
        await self._set(Sky(delay_seconds=seconds))

    async def throttle(self, bytes_per_second: int, delay_seconds: float = 0.0) -> None:
        await self._set(Sky("calm", delay_seconds, bytes_per_second))

    async def _set(self, sky: Sky) -> None:
        was_silent = self._sky.state == "silent"
        self._sky = sky
        self._changed.set()
        self._changed = asyncio.Event()
        if sky.state == "cut":
            self._close_listener()
        if sky.state == "cut" or was_silent:
            # What was swallowed is lost: a connection that missed bytes must not go on.
            await self._reset_all()
        if sky.state != "cut" and self._listener is None:
            self._listen()

    def _listen(self) -> None:
        """Without asyncio's server: closed in the middle of an accept, it forgets the connection unclosed."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._listener.setblocking(False)
        # Connections inherit it: a network does not hold back what is small until the last piece has arrived.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _close_listener(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _reset_all(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except OSError:
            return  # The caller has gone again.
        caller.setblocking(False)
        task = asyncio.create_task(self._carry(caller), name="weather")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # A task that is cancelled before its first step has nobody else who closes.
        task.add_done_callback(lambda _: caller.close())

    async def _carry(self, caller: socket.socket) -> None:
        near, near_writer = await asyncio.open_connection(sock=caller, limit=CHUNK_BYTES)
        writers = [near_writer]
        try:
            while self._sky.state == "silent":
                await self._changed.wait()
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                far, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK_BYTES)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_Direction(self._read_sky, near, far_writer).run())
                group.create_task(_Direction(self._read_sky, far, near_writer).run())
        except (OSError, TimeoutError, ExceptionGroup):
            # A real silence carries no end of a connection either: the other side has to notice by itself.
            while self._sky.state == "silent":
                await self._changed.wait()
        finally:
            for writer in writers:
                _reset(writer)

    def _read_sky(self) -> Sky:
        return self._sky


class _Direction:
    """One direction of one connection: a queue of chunks, each with the time at which it may arrive."""

    def __init__(
        self, sky: Callable[[], Sky], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._sky = sky
        self._reader = reader
        self._writer = writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(FLIGHT_BYTES_MAX // CHUNK_BYTES)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._deliver())

    async def _take(self) -> None:
        clock = asyncio.get_running_loop().time
        while block := await self._reader.read(CHUNK_BYTES):
            while block and (sky := self._sky()).state != "silent":
                step = _step_bytes(sky)
                chunk, block = block[:step], block[step:]
                await self._queue.put((clock() + sky.delay_seconds, chunk))
                if sky.bytes_per_second:
                    await asyncio.sleep(len(chunk) / sky.bytes_per_second)
        await self._queue.put((0.0, b""))

    async def _deliver(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, chunk = await self._queue.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if self._sky().state == "silent":
                # This connection is reset when the silence ends.
                await asyncio.Event().wait()
            if not chunk:
                break
            self._writer.write(chunk)
            await self._writer.drain()
        with contextlib.suppress(OSError):
            self._writer.write_eof()


def _step_bytes(sky: Sky) -> int:
    """A narrow line gives what it carries bit by bit, not in a lump."""
    rate = sky.bytes_per_second
    return min(CHUNK_BYTES, max(1, int(rate * STEP_SECONDS))) if rate else CHUNK_BYTES


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset, as a router that lost its mind would."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
