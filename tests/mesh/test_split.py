"""A model too large for its node, held by two: the same words as from one, and what happens to a lost part.

What it takes is built once, on the first node, and the second gets the result: both are this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from atoll.runtimes.llama.process import EngineProcess
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.split import WORKER
from atoll.runtimes.llama.split.plugin import plugin_in
from atoll.runtimes.llama.wants import Wants, Worker
from atoll.start import start_models
from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.fix_models import write_model
from support.fix_runtimes import Running

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

QUESTION = {"messages": [{"role": "user", "content": "What is a node?"}], "temperature": 0, "max_tokens": 40}
TOO_LITTLE = "73MB"  # one less than the model needs
IS_GONE = "select state = 'empty' and split is null from atoll.model_state where model = 'big'"
IS_SPLIT = "select split = 'n1 0-3, n2 4-5' from atoll.model_state where model = 'big'"


async def ask(node: MeshNode, model: str, **more: Any) -> tuple[int, Any]:
    assert node.running is not None
    body = {**QUESTION, "model": model, **more}
    url, patience = f"{node.running.http}/v1/chat/completions", aiohttp.ClientTimeout(120)
    async with aiohttp.ClientSession(timeout=patience) as session, session.post(url, json=body) as found:
        place = found.headers.get("x-atoll-decision", "").partition(";")[0]
        return found.status, json.loads(await found.read()) | {"place": place}


def words(told: Any) -> str:
    return str(told["choices"][0]["message"]["content"])


def workers(node: MeshNode) -> list[int]:
    """The processes that hold layers on a node, by the address that they listen on."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"split/worker.py" in command and node.running and parent == node.running.process.pid:
            found.append(int(place.name))
    return found


async def build(mesh: Mesh) -> None:
    one, two = mesh.nodes
    try:
        await mesh.run("runtime", "split", "--home", str(one.home))
    except AssertionError as error:
        if "code: tune-failed" in str(error) or "code: compiler-missing" in str(error):
            pytest.skip(f"what a split takes cannot be built here: {error}")
        raise
    shutil.copytree(one.home / "split", two.home / "split")
    await mesh.until(one, "select count(split_engine) = 2 from atoll.room")


async def test_a_model_too_large_for_its_node_is_held_by_two(make_mesh: MeshMaker, tmp_path: Path) -> None:
    mesh = await make_mesh(room=2)
    one = await mesh.add("18", "--models-memory", TOO_LITTLE)
    two = await mesh.add()
    home = ("--home", str(one.home))
    file = str(next(model.path for model in start_models() if model.name == "pebble"))
    tensors = str(next(model.path for model in start_models() if model.name == "digits"))
    said = await mesh.run("model", "add", tensors, "--name", "seen", "--split", *home, fails=True)
    assert "only a language model" in said
    assert await mesh.sql(one, "select name from atoll.model") == [], "what was refused was not added"
    await mesh.run("model", "add", file, "--name", "big", "--split", *home)

    status, told = await ask(one, "big")
    assert (status, told["error"]["code"]) == (503, "split-unbuilt"), "it says what to do"
    assert "atoll runtime split" in told["error"]["message"]

    await build(mesh)
    status, told = await ask(one, "big")
    assert status == 200, told
    _, whole = await ask(two, "pebble")
    assert words(told) == words(whole)
    await mesh.until(one, IS_SPLIT)
    assert "n1 0-3, n2 4-5" in await mesh.run("model", "list", *home)
    await mesh.until(two, "select bytes_taken > 60000000 from atoll.room where node = 2")

    await lose_a_worker(mesh, one, two)
    await go_elsewhere(mesh, one, two, words(whole))
    await read_what_was_kept(one.home / "split", tmp_path)


async def lose_a_worker(mesh: Mesh, one: MeshNode, two: MeshNode) -> None:
    """While it answers: that breaks off, and the model is loaded again. While nobody asks: it is noticed."""
    (worker,) = workers(two)
    asked = asyncio.create_task(ask(one, "big", max_tokens=400, ignore_eos=True))
    await asyncio.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    status, told = await asked
    assert status == 200 or told["error"]["code"] in ("runtime-broken", "runtime-ended"), told
    status, told = await ask(one, "big")
    assert status == 200, told
    (other,) = workers(two)
    assert other != worker
    os.kill(other, signal.SIGKILL)
    await mesh.until(one, IS_GONE)
    assert "the worker ended" in (two.home / "logs/node.log").read_text()
    status, told = await ask(one, "big")
    assert status == 200, told


async def go_elsewhere(mesh: Mesh, one: MeshNode, two: MeshNode, whole: str) -> None:
    """The other node lends no more: a route leads on to the model that it has whole."""
    home = ("--home", str(one.home))
    models = ("--model", "here=big", "--model", "peer=pebble")
    await mesh.run("route", "set", "any", *models, "--prefer", "here,peer", *home)
    status, told = await ask(one, "any")
    assert (status, told["place"]) == (200, "here")
    await mesh.run("runtime", "split", "--undo", "--home", str(two.home))
    os.kill(workers(two)[0], signal.SIGKILL)
    async with asyncio.timeout(60):
        while True:
            status, told = await ask(one, "any")
            assert status == 200, told
            assert words(told) == whole
            if told["place"] == "n2":
                break
    assert workers(two) == []


async def read_what_was_kept(built: Path, folder: Path) -> None:
    """Weights that a worker has kept serve again, and those of which half is left do not."""
    file, kept = folder / "wide.gguf", folder / "kept"
    write_model(file, width=1280)
    kept.mkdir()
    first = await said_with_a_worker(file, built, folder)
    files = {one: one.stat() for one in kept.iterdir()}
    assert files, "they are large enough to be kept"
    assert await said_with_a_worker(file, built, folder) == first
    assert {one: one.stat().st_mtime_ns for one in kept.iterdir()} == {
        one: stat.st_mtime_ns for one, stat in files.items()
    }, "they did not come again"
    for one in files:
        os.truncate(one, 4096)
    assert await said_with_a_worker(file, built, folder) == first
    assert all(one.stat().st_size == stat.st_size for one, stat in files.items()), "they came again"


async def said_with_a_worker(file: Path, built: Path, folder: Path) -> Any:
    """Words of an engine whose last layer, and output, are in a worker beside it."""
    plugin, socket = plugin_in(built), folder / "worker.sock"
    assert plugin is not None
    bounds = {"threads": 1, "bytes": 400 * 1024**2}
    told = {"plugin": str(plugin), "socket": str(socket), "kept": str(folder / "kept"), **bounds}
    worker = await EngineProcess.launch(told, folder / "worker.log", program=WORKER)
    wants = Wants(context_tokens=256, parallel=1, threads=1, workers=(Worker(socket, 2),), plugin=plugin)
    runtime = LlamaRuntime(file, wants, folder=folder, log=folder / "engine.log")
    try:
        async with asyncio.timeout(60):
            while not socket.exists():
                await asyncio.sleep(0.02)
        facts = await runtime.start()
        said = await Running(runtime, facts).ask({**QUESTION, "logprobs": True})
        return said["choices"][0]["message"]["content"], said["choices"][0]["logprobs"]
    finally:
        await runtime.stop()
        await worker.kill()
        socket.unlink()
