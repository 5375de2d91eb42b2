"""Bad weather between two nodes: cut, silent, slow. Links notice, say so, and come back."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from atoll.domain.errors import LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.link.stream import Pipe, Stream
from atoll.link.weather import Weather
from support.fix_link import FAST, Shore, echo, eventually, exchange, peer_of, shore

pytestmark = pytest.mark.slow

__all__ = ["shore"]


class Strait:
    """Two nodes with weather in between; only the second can dial the first."""

    def __init__(self, one: Links, two: Links, weather: Weather) -> None:
        self.one, self.two, self.weather = one, two, weather

    @property
    def is_up(self) -> bool:
        return self.one.report()[0].state == self.two.report()[0].state == "up"


@pytest.fixture
async def strait(shore: Shore) -> AsyncIterator[Strait]:
    one = await shore.links(1)
    weather = Weather("127.0.0.1", one.port)
    await weather.start()
    settings = replace(FAST, streams_max=8)
    two = await shore.links(2, settings=settings, listen=None, dial_overrides={"n1": weather.address})
    for links in (one, two):
        links.serve_streams(echo)
    two.set_peers([peer_of(one)])
    strait = Strait(one, two, weather)
    await eventually(lambda: one.report() and strait.is_up)
    yield strait
    await weather.stop()


async def test_a_cut_is_noticed_and_the_link_comes_back(strait: Strait) -> None:
    pipe = Pipe(await strait.one.open_stream(2))
    await strait.weather.cut()
    await eventually(
        lambda: strait.one.report()[0].state == "removed" and strait.two.report()[0].state == "dialling"
    )
    with pytest.raises(LinkError):
        await pipe.read()
    with pytest.raises(LinkError):
        await strait.two.request(1, "x", {})
    assert strait.two.report()[0].last_error
    await strait.weather.calm()
    await eventually(lambda: strait.is_up, "coming back")
    assert strait.two.report()[0].reconnects == 1
    assert await exchange(Pipe(await strait.one.open_stream(2)), b"again") == b"again"


async def test_a_silent_peer_is_noticed_on_both_sides_without_any_reset(strait: Strait) -> None:
    pipes = [Pipe(await strait.one.open_stream(2)), Pipe(await strait.two.open_stream(1))]
    await strait.weather.fall_silent()
    for pipe in pipes:
        with pytest.raises(LinkError) as caught:
            await pipe.read()
        assert caught.value.code == "peer-silent"
    await eventually(lambda: not strait.one.report()[0].up_seconds and not strait.two.report()[0].up_seconds)
    await eventually(lambda: strait.one.report()[0].streams == strait.two.report()[0].streams == 0)
    await strait.weather.calm()
    await eventually(lambda: strait.is_up, "coming back")


async def test_a_healthy_idle_link_is_never_given_up(strait: Strait) -> None:
    pipe = Pipe(await strait.one.open_stream(2))
    await asyncio.sleep(3 * FAST.silent_after_seconds)
    assert strait.is_up
    assert strait.two.report()[0].reconnects == 0
    assert await exchange(pipe, b"still there") == b"still there"


async def test_flapping_weather_leaves_one_link_and_no_streams(strait: Strait) -> None:
    async def use() -> None:
        try:
            await exchange(Pipe(await strait.one.open_stream(2)), b"x" * 10_000)
        except LinkError:
            return

    for _ in range(6):
        users = asyncio.gather(*(use() for _ in range(4)))
        await strait.weather.cut()
        await strait.weather.calm()
        await users
        await eventually(lambda: strait.is_up, "coming back")
    await eventually(lambda: strait.one.report()[0].streams == strait.two.report()[0].streams == 0)


async def test_a_delay_is_seen_in_the_round_trip_and_turns_compression_on(strait: Strait) -> None:
    await strait.weather.delay(0.02)
    await eventually(lambda: (strait.two.report()[0].rtt_seconds or 0) >= 0.04, "seeing the delay")
    data = b"a row that looks like the row before it; " * 10_000
    before = strait.two.report()[0].wire_out_bytes
    assert await exchange(Pipe(await strait.two.open_stream(1)), data) == data
    assert strait.two.report()[0].wire_out_bytes - before < len(data) / 4


async def test_a_throttled_link_carries_everything_and_is_not_taken_for_dead(strait: Strait) -> None:
    await strait.weather.throttle(300_000)

    async def collect(peer: PeerIdentity, stream: Stream) -> None:
        pipe = Pipe(stream)
        size = 0
        while chunk := await pipe.read():
            size += len(chunk)
        await pipe.write(str(size).encode())
        pipe.write_end()

    strait.one.serve_streams(collect)
    pipe = Pipe(await strait.two.open_stream(1))
    data = bytes(range(256)) * 3000
    assert int(await exchange(pipe, data)) == len(data)
    assert strait.two.report()[0].reconnects == 0


async def test_nobody_takes_the_port_during_a_cut() -> None:
    weather = Weather("127.0.0.1", 9)
    await weather.start()
    host, _, port = weather.address.partition(":")
    await weather.cut()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    await weather.calm()
    with socket.create_connection((host, int(port))):
        await weather.stop()


@pytest.mark.parametrize("steps", range(8))
async def test_a_cut_in_the_middle_of_an_accept_leaves_nothing_open(steps: int) -> None:
    weather = Weather("127.0.0.1", 9)
    await weather.start()
    host, _, port = weather.address.partition(":")
    gc.collect()
    with warnings.catch_warnings(record=True) as left, socket.create_connection((host, int(port))):
        warnings.simplefilter("always")
        for _ in range(steps):
            await asyncio.sleep(0)
        await weather.stop()
        await asyncio.sleep(0.01)
        gc.collect()
    assert [str(warning.message) for warning in left] == []


@pytest.mark.parametrize("is_open_before", [False, True])
async def test_a_throttle_gives_bit_by_bit(is_open_before: bool) -> None:
    async def say_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(bytes(4000))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say_much, "127.0.0.1", 0) as server:
        weather = Weather("127.0.0.1", server.sockets[0].getsockname()[1])
        await weather.start()
        if not is_open_before:
            await weather.throttle(10_000)
        with socket.socket() as caller:
            caller.setblocking(False)
            host, _, port = weather.address.partition(":")
            loop = asyncio.get_running_loop()
            await loop.sock_connect(caller, (host, int(port)))
            await asyncio.sleep(0.1)
            await weather.throttle(10_000)
            await loop.sock_sendall(caller, b"!")
            pieces = []
            while piece := await loop.sock_recv(caller, 4000):
                pieces.append(len(piece))
        await weather.stop()
    assert sum(pieces) == 4000
    assert pieces[0] < 4000
