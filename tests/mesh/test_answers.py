"""An answer that was given on one node is given again on the others, as far as its request might go."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest

from support.fix_mesh import MeshMaker, MeshNode
from support.fix_models import TinyModel

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def ask(node: MeshNode, words: str, label: str | None = None) -> tuple[str, Any]:
    """Where the answer came from, and what it was."""
    assert node.running is not None
    body = {
        "model": "ask",
        "messages": [{"role": "user", "content": words}],
        "temperature": 0,
        "max_tokens": 4,
    }
    headers = {} if label is None else {"x-atoll-label": label}
    address = f"{node.running.http}/v1/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)

    def call() -> tuple[str, Any]:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers["x-atoll-decision"].partition(";")[0], json.load(answer)["choices"]

    return await asyncio.to_thread(call)


async def metrics(node: MeshNode) -> str:
    assert node.running is not None
    return (await asyncio.to_thread(node.running.get, "/metrics"))[1]


async def test_what_was_said_at_one_node_serves_the_others_but_for_what_stays_local(
    make_mesh: MeshMaker, tiny_gguf: TinyModel
) -> None:
    mesh = await make_mesh("18", "16")
    one, two = mesh.nodes
    home = ("--home", str(one.home))
    await mesh.run("model", "add", str(tiny_gguf.file), "--name", "tiny", "--on", "all", *home)
    for node in mesh.nodes:
        await mesh.until(node, "select state <> 'fetching' from atoll.model_state where model = 'tiny'")
    route = ("route", "set", "ask", "--model", "tiny", "--prefer", "here", "--label", "patient=local")
    await mesh.run(*route, "--cache", "exact", "--cache-for", "1h", *home)
    await mesh.until(two, "select count(*) = 1 from atoll.route")

    where, said = await ask(one, "What is an atoll?")
    assert where == "here"
    assert await ask(one, "What is an atoll?") == ("cache", said)
    assert (await ask(one, "Who is ill?", "patient"))[0] == "here"
    assert (await ask(one, "Who is ill?", "patient"))[0] == "cache"
    await mesh.until(one, "select count(*) = 2 from atoll.answer")
    link = mesh.between(one, two)
    await mesh.catch_up()
    assert await mesh.sql(two, "select scope from atoll.answer") == [("global",)]
    await link.cut()
    async with asyncio.timeout(60):
        while "atoll_answers_held 1.0" not in await metrics(two):
            await asyncio.sleep(0.1)
    assert await ask(two, "What is an atoll?") == ("cache", said)
    assert (await ask(two, "Who is ill?", "patient"))[0] == "here"
    await link.calm()

    told = json.loads(await mesh.run("cache", "list", "--json", *home))
    assert [(row["route"], row["scopes"]) for row in told] == [("ask", ["global", "local"])]
    await mesh.run("cache", "clear", "ask", *home)
    await mesh.until(two, "select count(*) = 0 from atoll.answer where scope = 'global'")
    async with asyncio.timeout(60):
        while (await ask(one, "What is an atoll?"))[0] != "here":
            await asyncio.sleep(0.1)
