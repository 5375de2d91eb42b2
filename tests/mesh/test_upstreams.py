"""A node asks another one as its upstream, with a key that no row holds; adapters travel with their model."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.fix_mesh import MeshMaker, MeshNode
from support.fix_models import TinyModel

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
CHAT = {"messages": [{"role": "user", "content": "What is an atoll?"}], "temperature": 0, "max_tokens": 6}


async def ask(node: MeshNode, model: str, key: str) -> tuple[int, Any]:
    assert node.running is not None
    body = json.dumps({**CHAT, "model": model}).encode()
    request = urllib.request.Request(f"{node.running.http}/v1/chat/completions", body)
    request.add_header("Authorization", f"Bearer {key}")

    def post() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["code"]

    return await asyncio.to_thread(post)


async def test_another_nodes_model_and_a_models_adapter_are_asked_as_any_other(
    make_mesh: MeshMaker, tiny_gguf: TinyModel, tmp_path: Path
) -> None:
    mesh = await make_mesh("18", "18", flags=("--keys", "on"))
    one, two = mesh.nodes
    assert two.running is not None
    home, there = ("--home", str(one.home)), ("--home", str(two.home))
    key = (await mesh.run("key", "add", "asker", *there)).strip()
    key_file, wrong = tmp_path / "key", tmp_path / "wrong"
    key_file.write_text(f"{key}\n")
    wrong.write_text("guessed")
    await mesh.until(one, "select true from atoll.api_key where name = 'asker'")

    url, add = two.running.http, ("model", "add", "--name", "far", "--on", "all", *home)
    with_key = ("--key-file", str(key_file))
    for words, source, model, *more in (
        ("code: upstream-key", f"upstream:{url}/v1", "pebble", "--key-file", str(wrong)),
        ('Did you mean "pebble"?', f"upstream:{url}/v1", "pebbles", *with_key),
        ("speak TLS", f"upstream:{url.replace('http', 'https')}/v1", "pebble", *with_key),
        ("code: upstream-away", "upstream:http://127.0.0.1:9/v1", "pebble", *with_key),
    ):
        told = await mesh.run(*add, source, "--model", model, *more, fails=True)
        assert words in told
        assert key not in told

    await mesh.run(*add, f"upstream:{url}/v1", "--model", "pebble", *with_key)
    await mesh.until(one, "select state = 'empty' from atoll.model_state where model = 'far'")
    told = await mesh.run("model", "place", "far", "--on", "all", "--shared", *home, fails=True)
    assert "code: upstream-terms" in told
    bare = await ask(two, "pebble", key)
    assert bare[0] == 200
    assert await ask(one, "far", key) == bare
    assert await ask(one, "far:bearing", key) == (404, "model-unknown"), "its key is good for one model"
    lacking = "select problem like '%%has no key%%model key far%%' from atoll.model_state where model = 'far'"
    await mesh.until(two, lacking)
    assert "has no key" in await mesh.run("model", "list", *there)
    await mesh.run("model", "key", "far", *with_key, *there)
    await mesh.until(two, "select problem is null from atoll.model_state where model = 'far'")
    assert await ask(two, "far", key) == bare
    rows = await mesh.sql(two, "select count(*) from atoll.model m where m::text like %s", f"%{key}%")
    assert rows[0][0] == 0
    for node in mesh.nodes:
        assert (node.home / "upstream_keys.json").stat().st_mode & 0o777 == 0o600
        assert all(key not in log.read_text() for log in node.home.glob("logs/*.log"))

    await mesh.run("model", "add", str(tiny_gguf.file), "--name", "tiny", "--on", "all", *home)
    await mesh.run("model", "add", str(tiny_gguf.adapters["reef"]), "--adapter-of", "tiny", *home)
    await mesh.until(two, "select state = 'empty' from atoll.model_state where model = 'tiny:reef'")
    plain, with_reef = await ask(two, "tiny", key), await ask(two, "tiny:reef", key)
    assert plain[0] == with_reef[0] == 200
    assert plain != with_reef
    await mesh.run("model", "rm", "tiny", *home)
    await mesh.until(two, "select not exists (select from atoll.model where name like 'tiny%%')")
