"""What does the way through the runtime cost, against the engine in one's own process?

Both have the same model and the same settings and take turns: LlamaRuntime with its child, its socket and its
events, and xllamacpp called directly with a callback. Without a model file one with random weights is made,
of about 50 million parameters.

    python benchmarks/chat_overhead.py [--model FILE] [--tokens 128] [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
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

from atoll.runtimes import events
from atoll.runtimes.contract import Ask
from atoll.runtimes.llama import child
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Wants, settings_for_child
from support import report

RATE_WANTED, FIRST_MS_WANTED = 0.97, 1.0
CHAT = "/v1/chat/completions"
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


async def measure(file: Path, folder: Path, tokens: int, rounds: int) -> tuple[list[Taken], list[Taken]]:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import xllamacpp

    wants = Wants(context_tokens=1024, parallel=1)
    told = settings_for_child(file, wants, folder / "bare.sock", os.cpu_count() or 1)
    server = await asyncio.to_thread(xllamacpp.Server, child.parameters(xllamacpp, told))
    runtime = LlamaRuntime(file, wants, folder=folder, log=folder / "log")
    await runtime.start()
    ours: list[Taken] = []
    theirs: list[Taken] = []
    for turn in range(rounds + 1):
        theirs.append(await asyncio.to_thread(bare, server, question(turn, tokens)))
        ours.append(await through(runtime, question(turn, tokens)))
    await runtime.stop()
    return ours[1:], theirs[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print("How much of the engine's speed is left through the runtime?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}")
    print(f"versions  xllamacpp {metadata.version('xllamacpp')}; seed {SEED}")
    print("baseline  xllamacpp in this process, called with a callback; both by turns", flush=True)
    with tempfile.TemporaryDirectory(prefix="atoll-") as name:
        file = given.model or make_model(Path(name))
        ours, theirs = asyncio.run(measure(file, Path(name), given.tokens, given.rounds))
    for what, found in (("runtime", ours), ("bare", theirs)):
        first, rate = ([one[place] for one in found] for place in (0, 1))
        print(f"{what:9} {report.spread(rate, '.1f')} tokens/s; first word {report.spread(first, '.2f')} ms")
    ratio = statistics.median(o[1] / t[1] for o, t in zip(ours, theirs, strict=True))
    added = statistics.median(o[0] - t[0] for o, t in zip(ours, theirs, strict=True))
    print(f"ratio     {ratio:.3f} of the tokens per second (wanted: {RATE_WANTED} or more)")
    print(f"added     {added:.2f} ms to the first word (wanted: {FIRST_MS_WANTED:g} or less)")


if __name__ == "__main__":
    main()
