"""Links between nodes of one atoll, over real TLS on loopback; with settings that make a test fast."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atoll.domain.errors import AtollError
from atoll.identity import authority as authorities
from atoll.identity.authority import Authority
from atoll.identity.certificate import Identity, PeerIdentity, make_key, make_request, save_identity
from atoll.link.peers import Links
from atoll.link.report import Peer
from atoll.link.settings import LinkSettings
from atoll.link.stream import Pipe, Stream

FAST = LinkSettings(
    ping_every_seconds=0.2,
    silent_after_seconds=0.8,
    dial_seconds_max=3.0,
    backoff_first_seconds=0.02,
    backoff_last_seconds=0.3,
    close_seconds_max=1.0,
)
PATIENCE_SECONDS = 20.0


async def eventually(condition: Callable[[], Any], what: str = "it") -> None:
    """Wait until the condition holds; fail, naming it, when it does not within a generous while."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.01)


def make_identity(authority: Authority, folder: Path, number: int, name: str) -> Identity:
    key = make_key()
    certificate = authority.issue(make_request(key, name), number=number, name=name, now=datetime.now(UTC))
    return save_identity(folder, key_pem=key, certificate_pem=certificate, authority_pem=authority.pem)


@dataclass
class Shore:
    """Makes nodes' links on this machine, and stops them in the end."""

    authority: Authority
    folder: Path
    revoked: set[int] = field(default_factory=set)
    made: list[Links] = field(default_factory=list)
    _homes: Iterator[int] = field(default_factory=itertools.count)

    def identity(self, number: int, authority: Authority | None = None) -> Identity:
        folder = self.folder / f"home{next(self._homes)}"
        return make_identity(authority or self.authority, folder, number, f"n{number}")

    async def links(self, number: int, **options: Any) -> Links:
        """Started links of node `number`, named n<number>; listening on a free port unless `listen=None`."""
        options = {
            "settings": FAST,
            "listen": ("127.0.0.1", 0),
            "is_revoked": lambda number, serial: number in self.revoked,
            "release": "test",
            "boot": f"boot{number}",
            "rng": random.Random(number),
            **options,
        }
        identity = options.pop("identity", None) or self.identity(number)
        links = Links(identity, **options)
        await links.start()
        self.made.append(links)
        return links


def peer_of(links: Links, *, reachable: bool = True) -> Peer:
    addresses = (f"127.0.0.1:{links.port}",) if reachable else ()
    return Peer(links.me.number, links.me.name, addresses)


async def connect(one: Links, two: Links, *, both_dial: bool = True) -> None:
    """Make the two peers of each other and wait until the link is up on both."""
    one.set_peers([peer_of(two)])
    two.set_peers([peer_of(one, reachable=both_dial)])
    async with asyncio.timeout(PATIENCE_SECONDS):
        await one.until_up(two.me.number)
        await two.until_up(one.me.number)


async def echo(peer: PeerIdentity, stream: Stream) -> None:
    """A far end that sends back what it gets."""
    pipe = Pipe(stream)
    try:
        while chunk := await pipe.read():
            await pipe.write(chunk)
        pipe.write_end()
    except AtollError:
        return
    pipe.close()


async def exchange(pipe: Pipe, data: bytes) -> bytes:
    """Send everything and, at the same time, read until the far end has ended."""

    async def send() -> None:
        await pipe.write(data)
        pipe.write_end()

    sender = asyncio.create_task(send())
    found = bytearray()
    while chunk := await pipe.read():
        found += chunk
    await sender
    return bytes(found)


@pytest.fixture
async def shore(tmp_path: Path) -> AsyncIterator[Shore]:
    shore = Shore(authorities.create(now=datetime.now(UTC)), tmp_path)
    yield shore
    for links in shore.made:
        await links.stop()
