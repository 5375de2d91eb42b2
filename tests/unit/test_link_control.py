"""Control links between real nodes over TLS: greeting, requests both ways, one link per pair."""

from __future__ import annotations

import asyncio

import pytest
from support.fix_link import FAST, Shore, connect, eventually, peer_of, shore

from atoll.domain.errors import LinkError, PolicyDenied
from atoll.link.stream import Pipe

__all__ = ["shore"]


async def test_requests_are_answered_in_both_directions(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    for links in (one, two):

        async def greet(peer, payload, me=links.me.number):
            return {"me": me, "you": peer.number, "said": payload["say"]}

        links.handle("greet", greet)
    await connect(one, two)
    assert await one.request(2, "greet", {"say": "höi"}) == {"me": 2, "you": 1, "said": "höi"}
    assert await two.request(1, "greet", {"say": "x"}) == {"me": 1, "you": 2, "said": "x"}


async def echo(peer, stream) -> None:
    pipe = Pipe(stream)
    while chunk := await pipe.read():
        await pipe.write(chunk)
    pipe.write_end()
    pipe.close()


@pytest.mark.parametrize("opener", [1, 2])
@pytest.mark.parametrize("both_dial", [True, False])
async def test_streams_open_in_both_directions(shore: Shore, opener: int, both_dial: bool) -> None:
    one, two = await shore.links(1), await shore.links(2)
    for links in (one, two):
        links.serve_streams(echo)
    await connect(one, two, both_dial=both_dial)
    links = {1: one, 2: two}[opener]
    pipe = Pipe(await links.open_stream(3 - opener))
    data = bytes(range(256)) * 4096

    async def send():
        await pipe.write(data)
        pipe.write_end()

    sender = asyncio.create_task(send())
    found = b""
    while chunk := await pipe.read():
        found += chunk
    await sender
    assert found == data
    await eventually(lambda: one.report()[0].streams == two.report()[0].streams == 0)
