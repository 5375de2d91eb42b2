"""What do the ways through the runtime and through a node cost, against the engine in one's own process?

All have the same model and the same settings and take turns: a node asked over HTTP at /v1 on a connection
that is kept, LlamaRuntime with its child, its socket and its events, and xllamacpp called directly with a
callback. Without a model file one with random weights is made, of about 50 million parameters.

    python benchmarks/chat_overhead.py [--model FILE] [--tokens 128] [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from atoll.demo.ports import free_ports
from atoll.runtimes import events
from atoll.runtimes.contract import Ask
from atoll.runtimes.llama import child
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Wants, settings_for_child
from support import nodes, report

RATE_WANTED, FIRST_MS_WANTED = 0.97, 1.0
CHAT = "/v1/chat/completions"
MODEL = "bench"
SECONDS_MAX = 120.0
WIDTH, LAYERS, SEED = 768, 8, 11
MODELS = Path(__file__).parent.parent / "tests" / "support" / "fix_models.py"
Taken = tuple[float, float]  # milliseconds to the first word, tokens per second after it


def make_model(folder: Path) -> Path:
    """The tests' model, only larger."""
    spec = importlib.util.spec_from_file_location("fix_models", MODELS)
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = models
    spec.loader.exec_module(models)
    file = folder / "random.gguf"
    models.write_model(file, SEED, WIDTH, LAYERS)
    return file


def question(turn: int, tokens: int) -> dict[str, Any]:
    """A prompt that nobody has read before."""
    words = f"{turn} tells {turn} of the sea"
    return {"messages": [{"role": "user", "content": words}], "max_tokens": tokens, "temperature": 0}


class Clock:
    """Notes when words come."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.words: list[float] = []

    def look(self, content: dict[str, Any]) -> None:
        choices = content.get("choices")
        if choices and choices[0]["delta"].get("content"):
            self.words.append(time.perf_counter())

    def taken(self) -> Taken:
        rate = (len(self.words) - 1) / (self.words[-1] - self.words[0])
        return (self.words[0] - self.began) * 1000, rate


async def through(runtime: LlamaRuntime, body: dict[str, Any]) -> Taken:
    clock = Clock()
    async with runtime.generate(Ask(CHAT, body)) as stream:
        async for event in stream:
            clock.look(events.content(event) or {})
    return clock.taken()


def bare(server: Any, body: dict[str, Any]) -> Taken:
    clock = Clock()

    def hear(content: Any) -> bool:
        found = json.loads(content) if isinstance(content, str | bytes) else content
        for one in found if isinstance(found, list) else [found]:
            clock.look(one)
        return False

    server.handle_chat_completions({**body, "stream": True}, hear)
    return clock.taken()


def over_http(connection: http.client.HTTPConnection, body: dict[str, Any]) -> Taken:
    clock = Clock()
    content = json.dumps({**body, "model": MODEL, "stream": True}).encode()
    connection.request("POST", CHAT, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(answer.read().decode())
    for line in answer:
        if line.startswith(b"data: {"):
            clock.look(json.loads(line[6:]))
    return clock.taken()


async def measure(file: Path, folder: Path, tokens: int, rounds: int) -> dict[str, list[Taken]]:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import xllamacpp

    wants = Wants(context_tokens=1024, parallel=1)
    told = settings_for_child(file, wants, folder / "bare.sock", os.cpu_count() or 1)
    server = await asyncio.to_thread(xllamacpp.Server, child.parameters(xllamacpp, told))
    runtime = LlamaRuntime(file, wants, folder=folder, log=folder / "log")
    await runtime.start()
    found: dict[str, list[Taken]] = {"node": [], "runtime": [], "bare": []}
    with nodes.homes() as homes:
        (port,) = free_ports(1)
        async with nodes.node(homes / "chat", "--http", f"127.0.0.1:{port}") as node:
            room = ("--context", "1024", "--parallel", "1")
            home = ("--home", str(node.home))
            await nodes.command("model", "add", str(file), "--name", MODEL, "--keep", *room, *home)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_MAX)
            ways = {
                "bare": lambda asked: asyncio.to_thread(bare, server, asked),
                "runtime": lambda asked: through(runtime, asked),
                "node": lambda asked: asyncio.to_thread(over_http, connection, asked),
            }
            for turn in range(rounds + 1):
                asked = question(turn, tokens)
                for place in range(len(ways)):  # who comes first takes turns
                    who = list(ways)[(turn + place) % len(ways)]
                    found[who].append(await ways[who](asked))
            connection.close()
    await runtime.stop()
    return {who: taken[1:] for who, taken in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print("How much of the engine's speed is left through the runtime, and through a node?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}")
    print(f"versions  xllamacpp {metadata.version('xllamacpp')}; seed {SEED}")
    print("baseline  xllamacpp in this process, called with a callback; all by turns", flush=True)
    with tempfile.TemporaryDirectory(prefix="atoll-") as name:
        file = given.model or make_model(Path(name))
        found = asyncio.run(measure(file, Path(name), given.tokens, given.rounds))
    for who, taken in found.items():
        first, rate = ([one[place] for one in taken] for place in (0, 1))
        print(f"{who:9} {report.spread(rate, '.1f')} tokens/s; first word {report.spread(first, '.2f')} ms")
    print(f"wanted    {RATE_WANTED} or more of the tokens per second; {FIRST_MS_WANTED:g} ms or less added")
    for who in ("node", "runtime"):
        pairs = list(zip(found[who], found["bare"], strict=True))
        ratio = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
        added = statistics.median(ours[0] - theirs[0] for ours, theirs in pairs)
        print(f"{who:9} {ratio:.3f} of the tokens per second; {added:+.2f} ms to the first word")


if __name__ == "__main__":
    main()
