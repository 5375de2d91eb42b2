"""Real nodes answer for each other over the link: the same words, no slot kept, a clean end when one dies.

The asking side is links in this process, with the keys of a member whose own process is stopped.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from atoll.domain.errors import LinkError, PolicyDenied
from atoll.domain.models import Skill
from atoll.identity import certificate
from atoll.link.greeting import Purpose
from atoll.link.peers import Links
from atoll.link.report import Peer
from atoll.node.home import open_home
from atoll.runtimes import answers
from atoll.runtimes.contract import Ask, Facts
from atoll.runtimes.peer.pool import Pool
from atoll.runtimes.peer.runtime import Bounds, PeerRuntime
from atoll.start import start_models
from support.fix_link import eventually
from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.fix_runtimes import eventually_true

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MODELS = len(start_models())  # that come along
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "What is an atoll?"}], "temperature": 0, "max_tokens": 12}
# Longer than what is encrypted in one piece, so that its beginning arrives before its end.
LONG = {**BODY, "max_tokens": 2000, "ignore_eos": True, "logprobs": True, "top_logprobs": 10}
SLOW = 5000  # bytes a second: the long answer takes a while


class Asker:
    """A member that asks."""

    def __init__(self, links: Links, node: MeshNode) -> None:
        self.links = links
        self.pool = Pool(node.name, partial(links.open_stream, node.number, Purpose.MODEL))

    def runtime(self, model: str, **bounds: Any) -> PeerRuntime:
        return PeerRuntime(self.pool, model, Facts(frozenset(Skill), 0), Bounds(**bounds))


@asynccontextmanager
async def asking_as(mesh: Mesh, member: MeshNode, of: MeshNode) -> AsyncIterator[Asker]:
    await mesh.stop(member)
    identity = certificate.load_identity(open_home(member.home).keys)
    weather = mesh._weather[member.number, of.number]
    links = Links(identity, release="test", boot="test", is_revoked=lambda number, serial: False)
    await links.start()
    try:
        links.set_peers([Peer(of.number, of.name, (weather.address,))])
        async with asyncio.timeout(30):
            await links.until_up(of.number)
        yield Asker(links, of)
    finally:
        await links.stop()


async def post(node: MeshNode, path: str, body: dict[str, Any]) -> Any:
    assert node.running is not None
    async with aiohttp.ClientSession() as session, session.post(node.running.http + path, json=body) as found:
        return json.loads(await found.read())


async def waiting_for(node: MeshNode, model: str) -> float:
    """Requests that a node has for a model, as its metrics say."""
    assert node.running is not None
    _, text = await asyncio.to_thread(node.running.get, "/metrics")
    found = [
        line for line in text.splitlines() if line.startswith(f'atoll_model_requests{{model="{model}"}}')
    ]
    return float(found[0].split()[-1])


async def test_three_nodes_offer_answer_and_die(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    for node in mesh.nodes:
        offers = f"select count(*) = {3 * MODELS} and count(distinct node) = 3 from atoll.offer"
        await mesh.until(node, offers)
    listed = await mesh.run("model", "list", "--everywhere", "--home", str(two.home))
    assert [listed.count(word) for word in ("pebble", " here", " ms")] == [3, MODELS, 2 * MODELS]
    await plan_by_memory(mesh, two)
    await share_an_upstream(mesh, one, two)
    await go_where_a_route_leads(mesh, two)
    async with asking_as(mesh, three, one) as asker:
        await say_the_same(one, asker)
        await hang_up(one, asker)
        await be_cut(mesh, one, three, asker)
        await be_killed(mesh, one, three, asker)
    told = json.loads(await mesh.run("model", "list", "--everywhere", "--json", "--home", str(two.home)))
    ways = {row["node"]: (row["is_here"], row["is_linked"]) for row in told}
    assert ways == {"n1": (False, True), "n2": (True, False), "n3": (False, False)}


async def plan_by_memory(mesh: Mesh, node: MeshNode) -> None:
    """A file that claims more layers than a node has memory for: it is planned over two."""
    await mesh.until(node, "select count(*) = 3 from atoll.room")
    ((most,),) = await mesh.sql(node, "select min(bytes_max) from atoll.room")

    async def planned(file: Path, *options: str) -> dict[str, Any]:
        return json.loads(
            await mesh.run("model", "plan", str(file), *options, "--json", "--home", str(node.home))
        )

    deep = mesh.folder / "deep.gguf"
    save_deep(deep, layers=30, layer_bytes=most * 14 // 10 // 30)
    made = await planned(deep)
    first, second = made["parts"]
    assert (made["fits"], made["layers"]) == ("split", 31)  # the output is the last
    assert (first["layers"][0], first["layers"][1], second["layers"][1]) == (0, second["layers"][0], 31)
    assert max(first["bytes"], second["bytes"]) <= most
    alone = await planned(deep, "--on", "n3")
    assert alone["fits"] == "nowhere"
    assert alone["missing_bytes"] == alone["bytes"] - most
    told = await mesh.run("model", "plan", str(deep), "--home", str(node.home))
    assert "fits on no node alone; split over n" in told
    small = await mesh.run("model", "plan", "pebble", "--on", "n1, n3", "--home", str(node.home))
    assert re.search(r"^pebble \w+ needs \d+ MB, .*\d+ layers$", small, re.MULTILINE)
    assert re.search(r"^fits on n[13]$", small, re.MULTILINE)
    why = await mesh.run("model", "plan", "pebble", "--on", "n9", "--home", str(node.home), fails=True)
    assert "code: node-unknown" in why
    deep.unlink()


def save_deep(path: Path, layers: int, layer_bytes: int) -> None:
    """A file of this many layers; their weights are a hole in it."""
    import gguf

    rows = layer_bytes // 4096
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(layers)
    for layer in range(layers):
        name, size = f"blk.{layer}.ffn_up.weight", rows * 4096
        writer.add_tensor_info(name, (rows, 1024), np.dtype(np.float32), size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + layers * rows * 4096 + 4096)


async def share_an_upstream(mesh: Mesh, one: MeshNode, two: MeshNode) -> None:
    """Its node's own, until its place, its price and that others may use it are said."""
    assert two.running is not None
    home = ("--home", str(one.home))
    source = f"upstream:{two.running.http}/v1"
    terms = ("--region", "local", "--price-in", "0.15", "--price-out", "0.6")
    await mesh.run("model", "add", source, "--model", "pebble", "--name", "far", *terms, *home)
    await mesh.until(one, "select state = 'empty' from atoll.model_state where model = 'far'")
    assert not await mesh.sql(one, "select from atoll.offer where model = 'far'")
    await mesh.run("model", "place", "far", "--shared", *home)
    shared = "select (is_upstream, region, price_out) = (true, 'local', 0.6::real) from atoll.offer"
    await mesh.until(two, f"{shared} where model = 'far'")


async def go_where_a_route_leads(mesh: Mesh, two: MeshNode) -> None:
    """A program asks its own node, which asks another."""
    assert two.running is not None
    await mesh.run("route", "set", "far", "--model", "pebble", "--prefer", "peer", "--home", str(two.home))
    direct = await post(two, CHAT, {**BODY, "model": "pebble"})
    decided: list[str] = []

    async def is_answered_elsewhere() -> bool:
        assert two.running is not None
        asked = {**BODY, "model": "far"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(two.running.http + CHAT, json=asked) as found,
        ):
            decided.append(found.headers.get("x-atoll-decision", ""))
            return found.status == 200 and (await found.json())["choices"] == direct["choices"]

    await eventually_true(is_answered_elsewhere, "a peer answers for a route")
    assert decided[-1].split(";")[0] in ("n1", "n3")


async def say_the_same(one: MeshNode, asker: Asker) -> None:
    direct = await post(one, CHAT, {**BODY, "model": "pebble"})
    async with asker.runtime("pebble").generate(Ask(CHAT, BODY)) as events:
        found = answers.gather(CHAT, [event async for event in events])
    assert found["choices"] == direct["choices"]

    name, array = await an_image(one)
    (output,) = (await asker.runtime("digits").infer({name: array})).values()
    told = {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
    here = await post(one, "/v2/models/digits/infer", {"inputs": [told]})
    assert np.allclose(output.ravel(), here["outputs"][0]["data"], atol=1e-6)
    for scope in ("local", "node:2", "region:elsewhere"):
        with pytest.raises(PolicyDenied):
            await asker.runtime("digits", scopes=frozenset({scope})).infer({name: array})
    assert (asker.links.report()[0].streams_opened, asker.pool.idle) == (1, 1)


async def an_image(node: MeshNode) -> tuple[str, Any]:
    """What the model of digits takes, filled by chance."""
    assert node.running is not None
    _, text = await asyncio.to_thread(node.running.get, "/v2/models/digits")
    facts = json.loads(text)["inputs"][0]
    shape = [1 if size < 0 else size for size in facts["shape"]]
    return facts["name"], np.random.default_rng(3).random(shape, np.float32)


async def hang_up(one: MeshNode, asker: Asker) -> None:
    """Fifty that leave: before the first word, after some, and by being cancelled."""
    runtime = asker.runtime("pebble")

    async def ask_and_leave(number: int) -> None:
        async with runtime.generate(Ask(CHAT, LONG)) as events:
            for _ in range(number % 4):
                await anext(events)

    leaving = [asyncio.create_task(ask_and_leave(number)) for number in range(50)]
    await leaving[0]
    for task in leaving[::2]:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    await until_free(one)
    await eventually(lambda: asker.links.report()[0].streams == asker.pool.idle)


async def be_cut(mesh: Mesh, one: MeshNode, three: MeshNode, asker: Asker) -> None:
    pair = mesh.between(one, three)
    await pair.throttle(SLOW)
    async with asker.runtime("pebble").generate(Ask(CHAT, LONG)) as events:
        await anext(events)
        await pair.cut()
        with pytest.raises(LinkError) as caught:
            await last_of(events)
    assert caught.value.code == "runtime-broken"
    await until_free(one)
    await pair.calm()
    async with asyncio.timeout(60):
        await asker.links.until_up(one.number)


async def be_killed(mesh: Mesh, one: MeshNode, three: MeshNode, asker: Asker) -> None:
    """In the middle of an answer, which ends there; when it is back it is asked as before."""
    runtime = asker.runtime("pebble")
    await mesh.between(one, three).throttle(SLOW)
    async with runtime.generate(Ask(CHAT, LONG)) as events:
        await anext(events)
        # What is on its way by now does not arrive, and nobody is told of the end.
        await mesh.between(one, three).fall_silent()
        await mesh.kill(one)
        await mesh.between(one, three).calm()
        with pytest.raises(LinkError) as caught:
            await last_of(events)
    assert caught.value.code == "runtime-broken"
    assert one.name in caught.value.message
    with pytest.raises(LinkError) as away:
        await say(runtime)
    assert away.value.code == "runtime-broken"
    await mesh.up(one)
    async with asyncio.timeout(60):
        await asker.links.until_up(one.number)
    assert await say(runtime)


async def until_free(node: MeshNode) -> None:
    async def is_free() -> bool:
        return await waiting_for(node, "pebble") == 0

    await eventually_true(is_free, "nobody is answered any more")


async def say(runtime: PeerRuntime) -> bytes:
    async with runtime.generate(Ask(CHAT, BODY)) as events:
        return await last_of(events)


async def last_of(events: AsyncIterator[bytes]) -> bytes:
    last = b""
    async for event in events:
        last = event
    return last
