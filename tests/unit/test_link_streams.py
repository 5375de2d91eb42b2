"""Streams between two nodes: by whoever can dial, whole, in order, packed or not, bounded, gone after."""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import replace

import pytest

from atoll.domain.errors import LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.link.stream import Pipe, Stream
from support.fix_link import FAST, Shore, connect, echo, eventually, exchange, peer_of, shore

__all__ = ["shore"]


async def two_nodes(shore: Shore, *, both_dial: bool = True, **changes: object) -> tuple[Links, Links]:
    settings = replace(FAST, **changes)  # type: ignore[arg-type]
    one = await shore.links(1, settings=settings)
    two = await shore.links(2, settings=settings, listen=("127.0.0.1", 0))
    for links in (one, two):
        links.serve_streams(echo)
    await connect(one, two, both_dial=both_dial)
    return one, two


@pytest.mark.parametrize("opener", [1, 2])
@pytest.mark.parametrize("both_dial", [True, False])
async def test_streams_open_in_both_directions(shore: Shore, opener: int, both_dial: bool) -> None:
    one, two = await two_nodes(shore, both_dial=both_dial)
    links = {1: one, 2: two}[opener]
    data = bytes(range(256)) * 8192
    assert await exchange(Pipe(await links.open_stream(3 - opener)), data) == data
    await eventually(lambda: one.report()[0].streams == two.report()[0].streams == 0)


async def test_small_answers_are_not_held_back_for_larger_ones(shore: Shore) -> None:
    one, two = await two_nodes(shore)
    await Pipe(await one.open_stream(2)).write(b"x")
    await eventually(lambda: two.report()[0].streams == 1)
    for framed in [*one._live, *two._live]:
        assert framed.transport_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_node_that_does_not_listen_still_gets_streams_both_ways(shore: Shore) -> None:
    hidden, open_ = await shore.links(1, listen=None), await shore.links(2)
    for links in (hidden, open_):
        links.serve_streams(echo)
    hidden.set_peers([peer_of(open_)])
    await open_.until_up(1)
    await hidden.until_up(2)
    assert await exchange(Pipe(await open_.open_stream(1)), b"to the hidden node") == b"to the hidden node"
    assert await exchange(Pipe(await hidden.open_stream(2)), b"from it") == b"from it"
    assert open_.report()[0].state == "up"


@pytest.mark.parametrize("compression", ["off", "on", "auto"])
async def test_what_is_sent_arrives_whatever_it_is(shore: Shore, compression: str) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    one, two = await two_nodes(shore, compression=compression)
    far: list[bytes] = []

    async def collect(peer: PeerIdentity, stream: Stream) -> None:
        pipe = Pipe(stream)
        while chunk := await pipe.read():
            far.append(chunk)
        pipe.close()

    two.serve_streams(collect)
    pipe = Pipe(await one.open_stream(2))
    sent = b""
    for _ in range(150):
        size = rng.choice([1, 30, 300, 5_000, 70_000, 262_144, 300_000])
        kind = rng.randrange(3)
        piece = [rng.randbytes(size), b"\0" * size, (b'{"id": 1, "status": "paid"}' * size)[:size]][kind]
        sent += piece
        await pipe.write(piece)
    pipe.write_end()
    assert await pipe.read() == b""
    assert b"".join(far) == sent
    report = one.report()[0]
    assert report.raw_out_bytes >= len(sent)
    if compression == "on":
        assert report.wire_out_bytes < 0.6 * len(sent)
    if compression == "off":
        assert report.wire_out_bytes > len(sent)


async def test_a_near_peer_does_not_pay_for_compression(
    shore: Shore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("FAR_RTT_SECONDS", "NEAR_RTT_SECONDS"):
        # A busy machine answers late also on loopback.
        monkeypatch.setattr(f"atoll.link.compression.{bound}", 10.0)
    one, _ = await two_nodes(shore)
    pipe = Pipe(await one.open_stream(2))
    data = b"the same again and again " * 20_000
    assert await exchange(pipe, data) == data
    assert one.report()[0].wire_out_bytes > len(data)


@pytest.mark.slow
async def test_two_hundred_streams_leave_nothing_behind(shore: Shore) -> None:
    one, two = await two_nodes(shore, strangers_max=64)
    tasks_before = len(asyncio.all_tasks())

    async def use(links: Links, number: int) -> None:
        pipe = Pipe(await links.open_stream(number))
        assert await exchange(pipe, b"x" * 1000) == b"x" * 1000
        pipe.close()

    for _ in range(10):
        await asyncio.gather(*(use(one, 2) for _ in range(10)), *(use(two, 1) for _ in range(10)))
    await eventually(lambda: one.report()[0].streams == two.report()[0].streams == 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before, "ending of tasks")
    assert one.report()[0].streams_opened == two.report()[0].streams_opened == 200
    assert one._openings.awaited == two._openings.awaited == 0


async def test_more_streams_than_the_bound_are_refused_until_one_ends(shore: Shore) -> None:
    one, _ = await two_nodes(shore, streams_max=3)
    pipes = [Pipe(await one.open_stream(2)) for _ in range(3)]
    with pytest.raises(LinkError) as caught:
        await one.open_stream(2)
    assert caught.value.code == "streams-exhausted"
    pipes[0].close()
    await eventually(lambda: one.report()[0].streams == 2)
    assert await exchange(Pipe(await one.open_stream(2)), b"again") == b"again"


@pytest.mark.slow
async def test_a_reader_that_does_not_read_stops_the_writer_and_not_the_link(shore: Shore) -> None:
    one, two = await two_nodes(shore)
    go = asyncio.Event()
    read = 0

    async def lazy(peer: PeerIdentity, stream: Stream) -> None:
        nonlocal read
        pipe = Pipe(stream)
        await go.wait()
        while chunk := await pipe.read():
            read += len(chunk)
        pipe.close()

    two.serve_streams(lazy)
    pipe = Pipe(await one.open_stream(2))
    written = await write_until_it_stops(pipe)
    # What is in flight is bounded by buffers; nobody was taken for dead although nothing moved.
    assert written < 50_000_000
    assert one.report()[0].streams == 1
    go.set()
    await pipe.write(b"end")
    pipe.write_end()
    assert await pipe.read() == b""
    assert read >= written


@pytest.mark.slow
async def test_the_rate_limit_holds_over_all_streams_of_a_link(shore: Shore) -> None:
    limit = 2_000_000
    one, two = await two_nodes(shore, rate_bytes_per_second=limit, compression="off")
    two.serve_streams(swallow)
    pipes = [Pipe(await one.open_stream(2)) for _ in range(3)]
    clock = asyncio.get_running_loop().time
    before, began = one.report()[0].wire_out_bytes, clock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.0):
            await asyncio.gather(*(pipe.write(b"x" * 50_000_000) for pipe in pipes))
    sent, seconds = one.report()[0].wire_out_bytes - before, clock() - began
    # Each stream may be one chunk in debt, and the bucket starts full.
    assert sent <= limit * (seconds + 0.1) + 3 * FAST.chunk_bytes_max + 100_000
    assert sent >= limit * 0.5


async def write_until_it_stops(pipe: Pipe) -> int:
    written = 0
    chunk = random.Random(7).randbytes(100_000)  # compressed, equal bytes would all fit into the buffers
    while written < 1_000_000_000:
        try:
            async with asyncio.timeout(2 * FAST.silent_after_seconds):
                await pipe.write(chunk)
        except TimeoutError:
            break
        written += 100_000
    return written


async def swallow(peer: PeerIdentity, stream: Stream) -> None:
    pipe = Pipe(stream)
    while True:
        try:
            if not await pipe.read():
                return
        except LinkError:
            return


async def test_a_stream_that_nobody_serves_is_refused(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    await connect(one, two)
    with pytest.raises(LinkError):
        await Pipe(await one.open_stream(2)).read()
    assert two.refusals()["no-service"] >= 1
