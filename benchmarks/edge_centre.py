"""How soon does a program at a site have its answer: from the centre, from its own node, or by a route?

Three real nodes with the models that come along: the site's, a hub of the same atoll, and one that plays the
cloud behind an address of HTTP. The network between the site and both is a proxy that delays. A program asks
the centre itself on a connection that stays open, the site's node by the model's name, and a route there that
prefers here, then the hub, then the cloud; all by turns, and chats by a route that gives answers again, to
questions of which there are five. Chats are streams, as people read them. Then every link is cut in the
middle of a load.

    python benchmarks/edge_centre.py [--round-trips 5,40,200] [--asks 25] [--seconds 6]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np

from atoll.demo.ports import free_ports
from atoll.link.weather import Weather
from atoll.runtimes import tensor_data
from support import nodes, report

SEED = 7
LESS_WANTED = 0.5
TALKS, SEES = "pebble", "digits"
WORDS, DONE = 16, b"data: [DONE]\n\n"
SHAPE = [1, 1, 8, 8]  # that the model of digits looks at
READY_SECONDS_MAX = 60.0
ASK_SECONDS_MAX = 10.0
CUT_DELAY_SECONDS = 0.02  # each way
CENTRE, EDGE, ROUTED, AWAY, AGAIN = "centre only", "edge only", "routed", "away first", "cached"
ROUTES = {
    ROUTED: {TALKS: "talk", SEES: "see"},
    AWAY: {TALKS: "talk-away", SEES: "see-away"},
    AGAIN: {TALKS: "talk-again"},
}
QUESTIONS = 5  # that come again and again, where answers are given again


class Heard(NamedTuple):
    """One answer. Where it came from, as far as that is told, and how long it took."""

    place: str
    first_ms: float  # to its first word; a chat is a stream
    whole_ms: float


@dataclass
class Site:
    """Where its node is, where the centre is behind the network, and that network."""

    here: str
    centre: str
    network: list[Weather]
    session: aiohttp.ClientSession
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))

    async def ask(self, way: str, model: str) -> Heard:
        name = ROUTES[way][model] if way in ROUTES else model
        base = self.centre if way == CENTRE else self.here
        url, body, headers = self._chat(name, way == AGAIN) if model == TALKS else self._image(name)
        began, first_ms, text = time.perf_counter(), 0.0, b""
        async with self.session.post(base + url, data=body, headers=headers) as answer:
            if answer.status != 200:
                raise OSError((await answer.text())[:200])
            async for piece in answer.content.iter_any():
                text += piece
                if not first_ms and (model != TALKS or b'"content":"' in text):
                    first_ms = (time.perf_counter() - began) * 1000
            if not first_ms or (model == TALKS and not text.endswith(DONE)):
                raise OSError(f"the answer is not whole: {text[-200:]!r}")
            place = answer.headers.get("x-atoll-decision", "").partition(";")[0]
        return Heard(place, first_ms, (time.perf_counter() - began) * 1000)

    def _chat(self, name: str, is_known: bool) -> tuple[str, bytes, dict[str, str]]:
        words = " ".join(str(self.rng.randrange(1000)) for _ in range(8))
        words = f"question {self.rng.randrange(QUESTIONS)}" if is_known else words
        told: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": words}]}
        told |= {"max_tokens": WORDS, "temperature": 0, "stream": True}
        return "/v1/chat/completions", json.dumps(told).encode(), {"Content-Type": "application/json"}

    def _image(self, name: str) -> tuple[str, bytes, dict[str, str]]:
        raw = bytes(tensor_data.to_bytes(np.asarray([self.rng.random() for _ in range(64)], np.float32)))
        one = {
            "name": "image",
            "datatype": "FP32",
            "shape": SHAPE,
            "parameters": {"binary_data_size": len(raw)},
        }
        head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
        return f"/v2/models/{name}/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))}


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    hub_link, hub_http, cloud_http, here_http = free_ports(4)
    to_hub, to_cloud = Weather("127.0.0.1", hub_link), Weather("127.0.0.1", cloud_http)
    for weather in (to_hub, to_cloud):
        await weather.start()
    limit = aiohttp.ClientTimeout(total=ASK_SECONDS_MAX)
    hub = ("--name", "hub", "--tier", "hub", "--region", "eu", "--http", f"127.0.0.1:{hub_http}")
    far = ("--name", "cloud", "--http", f"127.0.0.1:{cloud_http}", "--link", "off")
    async with (
        nodes.node(folder / "hub", *hub, "--link", f"127.0.0.1:{hub_link}"),
        nodes.node(folder / "cloud", *far),
    ):
        token = (await nodes.command("invite", "--home", str(folder / "hub"))).strip().splitlines()[-1]
        home = ("--home", str(folder / "edge"))
        own = ("--name", "edge", "--region", "eu", "--http", f"127.0.0.1:{here_http}", "--link", "off")
        await nodes.command("join", token, *home, *own, "--dial", f"hub={to_hub.address}")
        async with (
            nodes.node(folder / "edge", *own, "--dial", f"hub={to_hub.address}"),
            aiohttp.ClientSession(timeout=limit) as session,
        ):
            await set_up(to_cloud, *home)
            found = Site(
                f"http://127.0.0.1:{here_http}",
                f"http://{to_cloud.address}",
                [to_hub, to_cloud],
                session,
            )
            await until_ready(found)
            yield found
    for weather in found.network:
        await weather.stop()


async def set_up(to_cloud: Weather, *home: str) -> None:
    """The cloud as an upstream of the site's node, and the routes."""
    upstream = ("model", "add", f"upstream:http://{to_cloud.address}/v1", "--model", TALKS, "--name", "far")
    await nodes.command(*upstream, "--region", "eu", "--price-in", "1", "--price-out", "1", *home)
    for way, prefer in ((ROUTED, "here,hub,cloud"), (AWAY, "hub,cloud,here"), (AGAIN, "here,hub,cloud")):
        for model, name in ROUTES[way].items():
            clouds = ("--model", "cloud=far") if model == TALKS else ()
            cache = ("--cache", "exact") if way == AGAIN else ()
            told = ("--model", model, *clouds, "--prefer", prefer, *cache)
            await nodes.command("route", "set", name, *told, *home)


async def until_ready(found: Site) -> None:
    """All ways answer, and the hub's models are known at the site."""
    async with asyncio.timeout(READY_SECONDS_MAX):
        while True:
            try:
                for model in (TALKS, SEES):
                    for way in (CENTRE, EDGE, ROUTED, AWAY):
                        await found.ask(way, model)
                url = found.here + "/api/routes/explain"
                async with found.session.post(
                    url, json={"route": ROUTES[ROUTED][SEES], "skill": "infer"}
                ) as told:
                    if {place["place"] for place in (await told.json())["places"]} == {"here", "hub"}:
                        return
            except (OSError, aiohttp.ClientError):
                pass
            await asyncio.sleep(0.3)


async def compare(found: Site, round_trip_ms: float, model: str, asks: int) -> None:
    for weather in found.network:
        await weather.delay(round_trip_ms / 2000)
    ways = [CENTRE, EDGE, ROUTED, *([AGAIN] if model in ROUTES[AGAIN] else [])]
    taken: dict[str, list[Heard]] = {way: [] for way in ways}
    for turn in range(asks + 1):
        for place in range(len(ways)):  # who comes first takes turns
            way = ways[(turn + place) % len(ways)]
            taken[way].append(await found.ask(way, model))
    print(f"\n{model}, {round_trip_ms:g} ms there and back")
    taken = {way: heard[1:] for way, heard in taken.items()}
    for way, heard in taken.items():
        first = f"; first word {report.spread([one.first_ms for one in heard], '.1f')} ms"
        whole = report.spread([one.whole_ms for one in heard], ".1f")
        print(f"  {way:12} {whole} ms{first if model == TALKS else ''}")
    for way in ways[2:]:
        print(f"  {way}: answered by {told(Counter(one.place for one in taken[way]))}")
        for line in less(taken[way], taken[CENTRE], model, round_trip_ms):
            print(f"    {line}")


def less(ours: list[Heard], theirs: list[Heard], model: str, round_trip_ms: float) -> Iterator[str]:
    """Where a model takes long by itself, the distance is all that its place can save."""
    figures = {"answer": "whole_ms", **({"first word": "first_ms"} if model == TALKS else {})}
    for name, what in figures.items():
        own, centre = (statistics.median(getattr(one, what) for one in heard) for heard in (ours, theirs))
        short = "" if own <= (1 - LESS_WANTED) * centre else ", SHORT"
        saved, way = 1 - own / centre, round_trip_ms / centre
        yield f"{name} {saved:.0%} less than the centre, whose way is {way:.0%} of it{short}"


async def cut(found: Site, model: str, seconds: float) -> None:
    """A load on three ways, with every link cut for the second third of it."""
    for weather in found.network:
        await weather.delay(CUT_DELAY_SECONDS)
    ends_at = time.perf_counter() + seconds
    taken: dict[str, list[float]] = {CENTRE: [], ROUTED: [], AWAY: []}
    failed: Counter[str] = Counter()
    places: dict[str, Counter[str]] = {way: Counter() for way in taken}

    async def load(way: str) -> None:
        while time.perf_counter() < ends_at:
            try:
                heard = await found.ask(way, model)
                places[way][heard.place] += 1
                taken[way].append(heard.whole_ms)
            except (OSError, aiohttp.ClientError, TimeoutError) as error:
                failed[way] += 1
                if way != CENTRE:
                    print(f"{way} failed: {error!r}")
            await asyncio.sleep(0.02)

    async def weather() -> None:
        await asyncio.sleep(seconds / 3)
        for one in found.network:
            await one.cut()
        await asyncio.sleep(seconds / 3)
        for one in found.network:
            await one.delay(CUT_DELAY_SECONDS)

    await asyncio.gather(*map(load, taken), weather())
    print(f"\n{model}, 40 ms there and back, every link cut for {seconds / 3:.0f} of {seconds:.0f} s")
    for way, all_of_it in taken.items():
        short = "  SHORT" if way == ROUTED and failed[way] else ""
        print(
            f"  {way:12} {len(all_of_it)} answered, {failed[way]} failed{short}; "
            f"{report.spread(all_of_it, '.1f')} ms; by {told(places[way]) or 'the centre'}"
        )


def told(places: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in places.most_common() if name)


async def measure(given: argparse.Namespace) -> None:
    with nodes.homes() as folder:
        async with site(folder) as found:
            for model in (TALKS, SEES):
                for round_trip_ms in map(float, given.round_trips.split(",")):
                    await compare(found, round_trip_ms, model, given.asks)
            for model in (TALKS, SEES):
                await cut(found, model, given.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--round-trips", default="5,40,200", help="milliseconds")
    parser.add_argument("--asks", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=6.0)
    given = parser.parse_args()
    print("How soon is an answer there: from the centre, from the site's own node, by a route?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}; seed {SEED}")
    print(f"baseline  the centre asked directly; chats of {WORDS} tokens, pictures of digits", flush=True)
    asyncio.run(measure(given))


if __name__ == "__main__":
    main()
