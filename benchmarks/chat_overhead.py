"""What do the ways through the runtime and through a node cost, against the engine alone?

All have the same model and the same settings and take turns: a node asked over HTTP at /v1, on a new
connection each time; LlamaRuntime with its child, its socket and its events; and xllamacpp in this process,
called with a callback, asked by its own server, and by that through a relay, which hands bytes on and is the
least that a process in between costs. For a first word each is asked some times in a row: at first, when the
others had the processor's caches, and then as somebody who is alone on the machine.
Engines of the same model differ by some hundredths, by where their memory came to lie, so what they say of
their own time is told apart. Without a model file one with random weights is made, of about 50 million
parameters.

    python benchmarks/chat_overhead.py [--model FILE] [--tokens 128] [--rounds 9] [--first-words 40]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from atoll.demo.ports import free_ports
from atoll.runtimes import events
from atoll.runtimes.contract import Ask
from atoll.runtimes.llama import child
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Wants, settings_for_child
from support import nodes, others, relay, report

RATE_WANTED, FIRST_MS_WANTED = 0.97, 1.0
CHAT = "/v1/chat/completions"
MODEL = "bench"
FEW_TOKENS, IN_A_ROW = 4, 4
SECONDS_MAX = 120.0
WIDTH, LAYERS, SEED = 768, 8, 11
MODELS = Path(__file__).parent.parent / "tests" / "support" / "fix_models.py"
HEAD = (
    f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


class Taken(NamedTuple):
    first_ms: float  # to the first word
    rate: float  # of tokens after it, per second
    reading_ms: float  # of the prompt, as the engine says
    own_rate: float  # as the engine says


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


def question(number: int, tokens: int) -> dict[str, Any]:
    """A prompt that nobody has read before."""
    words = f"{number} tells {number} of the sea"
    return {"messages": [{"role": "user", "content": words}], "max_tokens": tokens, "temperature": 0}


class Clock:
    """Notes when words come."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.words: list[float] = []
        self.timings = {"prompt_ms": 0.0, "predicted_per_second": 1.0}

    def look(self, content: dict[str, Any]) -> None:
        choices = content.get("choices")
        if choices and choices[0]["delta"].get("content"):
            self.words.append(time.perf_counter())
        self.timings = content.get("timings", self.timings)

    def taken(self) -> Taken:
        rate = (len(self.words) - 1) / (self.words[-1] - self.words[0])
        first_ms = (self.words[0] - self.began) * 1000
        return Taken(first_ms, rate, self.timings["prompt_ms"], self.timings["predicted_per_second"])


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


def over_http(connection: socket.socket, body: dict[str, Any]) -> Taken:
    clock = Clock()
    content = json.dumps({**body, "model": MODEL, "stream": True}).encode()
    connection.sendall((HEAD % len(content)).encode() + content)
    with connection.makefile("rb") as answer:
        if b" 200 " not in (begin := answer.readline()):
            raise SystemExit((begin + answer.read(2000)).decode())
        while (line := answer.readline()) != b"0\r\n":  # its last piece
            if line.startswith(b"data: {"):
                clock.look(json.loads(line[6:]))
        answer.readline()
    return clock.taken()


def at_server(path: Path, body: dict[str, Any]) -> Taken:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return over_http(connection, body)


def at_port(port: int, body: dict[str, Any]) -> Taken:
    with socket.create_connection(("127.0.0.1", port), SECONDS_MAX) as connection:
        return over_http(connection, body)


async def measure(
    file: Path, folder: Path, given: argparse.Namespace
) -> tuple[dict[str, list[Taken]], dict[str, list[Taken]]]:
    """Whole answers, and short ones for their first words."""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import xllamacpp

    wants = Wants(context_tokens=1024, parallel=1)
    sockets = [folder / name for name in ("bare.sock", "server.sock", "relayed.sock")]
    told = [settings_for_child(file, wants, path, os.cpu_count() or 1) for path in sockets]
    # One for each way: of a question that it has heard, an engine reads only the end again.
    engines = [await asyncio.to_thread(xllamacpp.Server, child.parameters(xllamacpp, one)) for one in told]
    runtime = LlamaRuntime(file, wants, folder=folder, log=folder / "log")
    await runtime.start()
    port, relayed = free_ports(2)
    behind = [sys.executable, relay.__file__, str(relayed), str(sockets[2])]
    with nodes.homes() as homes, others.process(behind, folder / "relay.log"):
        async with nodes.node(homes / "chat", "--http", f"127.0.0.1:{port}") as node:
            room = ("--context", "1024", "--parallel", "1")
            home = ("--home", str(node.home))
            await nodes.command("model", "add", str(file), "--name", MODEL, "--keep", *room, *home)
            ways = {
                "bare": lambda asked: asyncio.to_thread(bare, engines[0], asked),
                "server": lambda asked: asyncio.to_thread(at_server, sockets[1], asked),
                "relay": lambda asked: asyncio.to_thread(at_port, relayed, asked),
                "runtime": lambda asked: through(runtime, asked),
                "node": lambda asked: asyncio.to_thread(at_port, port, asked),
            }
            whole = await by_turns(ways, given.rounds, 1, given.tokens)
            short = await by_turns(ways, given.first_words, IN_A_ROW, FEW_TOKENS)
    await runtime.stop()
    return whole, short


async def by_turns(
    ways: Mapping[str, Callable[[dict[str, Any]], Awaitable[Taken]]], rounds: int, in_a_row: int, tokens: int
) -> dict[str, list[Taken]]:
    found: dict[str, list[Taken]] = {who: [] for who in ways}
    for turn in range(rounds + 1):
        for place in range(len(ways)):  # who comes first takes turns
            who = list(ways)[(turn + place) % len(ways)]
            for number in range(in_a_row):
                found[who].append(await ways[who](question(turn * in_a_row + number, tokens)))
    return {who: taken[in_a_row:] for who, taken in found.items()}


def tell(whole: dict[str, list[Taken]], short: dict[str, list[Taken]]) -> None:
    after_others = {who: taken[::IN_A_ROW] for who, taken in short.items()}
    alone = {who: [one for at, one in enumerate(taken) if at % IN_A_ROW] for who, taken in short.items()}
    for who in whole:
        rate = report.spread([one.rate for one in whole[who]], ".1f")
        first = report.spread([one.first_ms for one in alone[who]], ".2f")
        print(f"{who:9} {rate} tokens/s; first word {first} ms")
    print(f"wanted    {RATE_WANTED} or more of the tokens a second; {FIRST_MS_WANTED:g} ms or less added")
    for who in ("node", "runtime", "relay"):
        for engine in ("bare", "server"):
            rates = [middle(one, whole[who], whole[engine]) for one in (by_rate, by_rate_of_the_way)]
            print(
                f"{who:9} beside {engine:6} {rates[0]:.3f} of the tokens a second (way alone {rates[1]:.3f})"
            )
            words, cold = added(alone, who, engine), added(after_others, who, engine)
            print(f"{'':9} first word {words}; where others were before {cold}")


def added(short: dict[str, list[Taken]], who: str, engine: str) -> str:
    all_of_it, of_the_way = (
        middle(one, short[who], short[engine]) for one in (by_first, by_first_of_the_way)
    )
    return f"{all_of_it:+.2f} ms (way alone {of_the_way:+.2f})"


def middle(compare: Callable[[Taken, Taken], float], ours: list[Taken], theirs: list[Taken]) -> float:
    return statistics.median(map(compare, ours, theirs))


def by_rate(ours: Taken, theirs: Taken) -> float:
    return ours.rate / theirs.rate


def by_rate_of_the_way(ours: Taken, theirs: Taken) -> float:
    return (ours.rate / ours.own_rate) / (theirs.rate / theirs.own_rate)


def by_first(ours: Taken, theirs: Taken) -> float:
    return ours.first_ms - theirs.first_ms


def by_first_of_the_way(ours: Taken, theirs: Taken) -> float:
    return (ours.first_ms - ours.reading_ms) - (theirs.first_ms - theirs.reading_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--first-words", type=int, default=40)
    given = parser.parse_args()
    print("How much of the engine's speed is left through the runtime, and through a node?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}")
    print(f"versions  xllamacpp {metadata.version('xllamacpp')}; seed {SEED}")
    print(
        "baseline  xllamacpp in this process, by a callback and by its own server; all by turns", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="atoll-") as name:
        file = given.model or make_model(Path(name))
        tell(*asyncio.run(measure(file, Path(name), given)))


if __name__ == "__main__":
    main()
