"""What does it cost to ask a peer's model over the link, against asking that node's own HTTP interface?

One real node, and a member of its atoll in this process that asks it both ways by turns: through the link, as
a node asks another, and at /v1 and /v2, as a program does. Both on warm connections. The model is the one
that comes along, which says a word in less than a millisecond: with a larger one the same is added to more.

    python benchmarks/peer_asking.py [--model FILE] [--tokens 128] [--rounds 15] [--seconds 4] [--callers 8]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from atoll.demo.ports import free_ports
from atoll.domain.models import Skill
from atoll.identity import certificate
from atoll.link.greeting import Purpose
from atoll.link.peers import Links
from atoll.link.report import Peer
from atoll.node.home import open_home
from atoll.runtimes import events, tensor_data
from atoll.runtimes.contract import Ask, Facts
from atoll.runtimes.peer.pool import Pool
from atoll.runtimes.peer.runtime import PeerRuntime
from support import nodes, report

CHAT, TALKS, SEES = "/v1/chat/completions", "pebble", "digits"
SEED = 7
Taken = tuple[float, float]  # milliseconds to the first word, tokens per second after it


def question(rng: random.Random, tokens: int) -> dict[str, Any]:
    words = " ".join(str(rng.randrange(1000)) for _ in range(12))
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": tokens, "temperature": 0}
    return {**body, "ignore_eos": True, "stream": True, "model": TALKS}


async def clocked(stream: AsyncIterator[bytes]) -> Taken:
    began, words = time.perf_counter(), []
    async for event in stream:
        found = (events.content(event) or {}).get("choices")
        if found and found[0]["delta"].get("content"):
            words.append(time.perf_counter())
    return (words[0] - began) * 1000, (len(words) - 1) / (words[-1] - words[0])


async def over_link(runtime: PeerRuntime, body: dict[str, Any]) -> AsyncIterator[bytes]:
    async with runtime.generate(Ask(CHAT, body)) as stream:
        async for event in stream:
            yield event


async def over_http(session: aiohttp.ClientSession, base: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    splitter = events.Splitter()
    async with session.post(base + CHAT, json=body) as response:
        async for block in response.content.iter_any():
            for event in splitter.feed(block):
                yield event


async def per_second(ask: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    ends, count = time.perf_counter() + seconds, 0

    async def call() -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await ask()
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return count / (time.perf_counter() - began)


@asynccontextmanager
async def asker(folder: Path) -> AsyncIterator[tuple[Links, str]]:
    """A node, and the links of a member to it."""
    link, http = free_ports(2)
    flags = ("--name", "n1", "--http", f"127.0.0.1:{http}", "--link", f"127.0.0.1:{link}")
    async with nodes.node(folder / "1", *flags):
        token = (await nodes.command("invite", "--home", str(folder / "1"))).strip().splitlines()[-1]
        joining = ("join", token, "--home", str(folder / "2"), "--name", "n2", "--link", "off")
        await nodes.command(*joining)
        identity = certificate.load_identity(open_home(folder / "2").keys)
        links = Links(identity, release="bench", boot="bench", is_revoked=lambda number, serial: False)
        await links.start()
        try:
            links.set_peers([Peer(1, "n1", (f"127.0.0.1:{link}",))])
            async with asyncio.timeout(30):
                await links.until_up(1)
            yield links, f"http://127.0.0.1:{http}"
        finally:
            await links.stop()


async def measure(folder: Path, given: argparse.Namespace) -> None:
    rng = random.Random(SEED)
    async with asker(folder) as (links, base), aiohttp.ClientSession() as session:
        if given.model is not None:
            told = ("--name", TALKS, "--keep", "--home", str(folder / "1"))
            await nodes.command("model", "add", str(given.model), *told)
        pool = Pool("n1", partial(links.open_stream, 1, Purpose.MODEL))
        facts = Facts(frozenset(Skill), 0)
        runtime, seeing = PeerRuntime(pool, TALKS, facts), PeerRuntime(pool, SEES, facts)
        far: list[Taken] = []
        near: list[Taken] = []
        for _ in range(given.rounds + 1):
            near.append(await clocked(over_http(session, base, question(rng, given.tokens))))
            far.append(await clocked(over_link(runtime, question(rng, given.tokens))))
        for what, found in (("/v1", near[1:]), ("link", far[1:])):
            first, rate = ([one[place] for one in found] for place in (0, 1))
            print(
                f"{what:9} {report.spread(rate, '.0f')} tokens/s; first word {report.spread(first, '.2f')} ms"
            )
        pairs = list(zip(far[1:], near[1:], strict=True))
        print(f"added     {statistics.median(f[0] - n[0] for f, n in pairs):.2f} ms to the first word")
        print(f"ratio     {statistics.median(f[1] / n[1] for f, n in pairs):.3f} of the tokens per second")

        async with session.get(f"{base}/v2/models/{SEES}") as response:
            told = (await response.json())["inputs"][0]
        shape = [1 if size < 0 else size for size in told["shape"]]
        image = np.random.default_rng(SEED).random(shape, np.float32)
        raw = bytes(tensor_data.to_bytes(image))
        binary = {"binary_data_size": len(raw)}
        one = {"name": told["name"], "datatype": "FP32", "shape": shape, "parameters": binary}
        head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}

        async def direct() -> None:
            url = f"{base}/v2/models/{SEES}/infer"
            async with session.post(url, data=head + raw, headers=headers) as response:
                assert response.status == 200
                await response.read()

        async def linked() -> None:
            await seeing.infer({told["name"]: image})

        for callers in (1, given.callers):
            rates: dict[str, list[float]] = {"/v2": [], "link": []}
            for _ in range(3):
                rates["/v2"].append(await per_second(direct, callers, given.seconds / 3))
                rates["link"].append(await per_second(linked, callers, given.seconds / 3))
            near_rate, far_rate = (statistics.median(found) for found in rates.values())
            words = f"{near_rate:.0f} requests/s at /v2, {far_rate:.0f} over the link"
            print(f"{callers} callers  {words}: {far_rate / near_rate:.2f}")
        opened = links.report()[0].streams_opened
        print(f"streams   {opened} were opened, {pool.idle} are kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file, instead of the one that comes along")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--callers", type=int, default=8)
    given = parser.parse_args()
    print("What does asking a peer's model over the link cost, against asking the peer's own interface?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}; seed {SEED}")
    print("baseline  the same node asked at /v1 and /v2 (binary), by turns", flush=True)
    with nodes.homes() as folder:
        asyncio.run(measure(folder, given))


if __name__ == "__main__":
    main()
