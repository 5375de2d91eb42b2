"""Lending memory to models of other nodes: what is lent counts, bytes arrive whole, kept weights are few."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from atoll.domain.errors import LinkError
from atoll.node.layer_stream import carry, read_message, write_message
from atoll.runtimes.llama.split.kept import make_room
from atoll.serving.service import LOANS_MAX, Serving


class Pair:
    """Two ends of a stream in memory, each read and written as a link's."""

    def __init__(self) -> None:
        self._there: asyncio.Queue[bytes] = asyncio.Queue()
        self._held = b""
        self.other: Pair | None = None

    async def write(self, data: bytes) -> None:
        assert self.other is not None
        self.other._there.put_nowait(bytes(data))

    async def read_exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            chunk = await self._there.get()
            if not chunk:
                raise LinkError("stream-ended", "the stream ended too early")
            self._held += chunk
        found, self._held = self._held[:size], self._held[size:]
        return found


def pair() -> tuple[Pair, Pair]:
    one, two = Pair(), Pair()
    one.other, two.other = two, one
    return one, two


@asynccontextmanager
async def shouting(path: Path) -> AsyncIterator[list[bytes]]:
    """Listens, and says everything back in capitals when its visitor has ended."""
    heard: list[bytes] = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.write(heard[-1].upper())
        writer.close()

    async with await asyncio.start_unix_server(shout, str(path)):
        yield heard


async def test_connections_pass_one_after_the_other_whole(tmp_path: Path) -> None:
    near, far = pair()
    coming: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda *both: coming.put_nowait(both), str(tmp_path / "engine"))
    async with server, shouting(tmp_path / "worker") as heard:

        async def here() -> None:
            while True:
                await carry(near, await coming.get())  # type: ignore[arg-type]

        async def there() -> None:
            while True:
                await carry(far, await asyncio.open_unix_connection(tmp_path / "worker"))  # type: ignore[arg-type]

        tasks = [asyncio.create_task(here()), asyncio.create_task(there())]
        long = os.urandom(1_000_000).hex().encode()
        for said in (b"layers", b"", long):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "engine")
            writer.write(said)
            writer.write_eof()
            async with asyncio.timeout(60):
                assert await reader.read() == said.upper()
            writer.close()
        assert heard[:3] == [b"layers", b"", long]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\xff\xff\xff\xff", id="too long"),
        pytest.param(b"\0\0\0\x02{]", id="no JSON"),
        pytest.param(b"\0\0\0\x02[]", id="no object"),
    ],
)
async def test_a_message_that_is_none_is_an_error(sent: bytes) -> None:
    near, far = pair()
    await near.write(sent)
    with pytest.raises(LinkError, match="the peer sent a message") as caught:
        await read_message(far)  # type: ignore[arg-type]
    assert caught.value.code == "protocol"
    await near.write(b"")
    with pytest.raises(LinkError, match="ended too early"):
        await read_message(far)  # type: ignore[arg-type]


async def test_a_message_arrives_as_it_was_sent() -> None:
    near, far = pair()
    await write_message(near, {"model": "größer", "bytes": 3})  # type: ignore[arg-type]
    assert await read_message(far) == {"model": "größer", "bytes": 3}  # type: ignore[arg-type]


async def test_what_is_lent_is_taken_until_it_comes_back() -> None:
    serving = Serving(1000 * 1024**2)
    with serving.lend(600 * 1024**2):
        assert serving.taken_bytes() == 600 * 1024**2
        with pytest.raises(LinkError, match="cannot hold 500 MB for another node: 400 MB are free"):
            serving.lend(500 * 1024**2).__enter__()
    assert serving.taken_bytes() == 0


async def test_no_more_is_lent_at_once_than_a_few_workers_however_little_each_asks_for() -> None:
    serving = Serving(1000 * 1024**2)
    with ExitStack() as stack:
        for _ in range(LOANS_MAX):
            stack.enter_context(serving.lend(1))
        with pytest.raises(LinkError, match="8 workers are here already") as caught:
            stack.enter_context(serving.lend(1))
        assert caught.value.code == "room-lacking"
    with serving.lend(1):
        assert serving.taken_bytes() == 1


def test_kept_weights_make_room_for_what_comes_the_oldest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    make_room(tmp_path, 400, 100)
    assert len(list(tmp_path.iterdir())) == 3
    make_room(tmp_path, 400, 250)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new"]
    make_room(tmp_path / "fresh", 400, 1000)
    assert not list((tmp_path / "fresh").iterdir())
