"""Runtimes that run: llama.cpp with a tiny model, an upstream in front of it, the echo, and a peer's echo."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from atoll.domain.models import Skill
from atoll.runtimes import answers
from atoll.runtimes.contract import Ask, Facts, Runtime
from atoll.runtimes.echo import EchoRuntime
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Patience, Wants
from atoll.runtimes.upstream import Address, UpstreamRuntime
from support.fix_models import TinyModel
from support.fix_peers import MakeStrand
from support.folders import short_folder

DEADLINE_SECONDS = 60.0
RUNTIMES = ("llama", "upstream", "echo", "peer")
CHAT = "/v1/chat/completions"
CONTEXT = 512


@dataclass
class Running:
    """A runtime with what a test may look at."""

    runtime: Runtime
    facts: Facts
    engine: LlamaRuntime | None = None
    folder: Path = field(default_factory=Path)

    async def ask(self, body: dict[str, Any], path: str = CHAT, adapter: str | None = None) -> dict[str, Any]:
        """The whole answer to one request."""
        async with self.runtime.generate(Ask(path, body, adapter)) as events:
            return answers.gather(path, [event async for event in events])

    async def engine_answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the engine itself says, past the runtime."""
        connector = aiohttp.UnixConnector(str(self.socket), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://engine{path}", json=body) as response,
        ):
            return json.loads(await response.read())

    @property
    def socket(self) -> Path:
        (found,) = self.folder.glob("llama-*.sock")
        return found

    async def busy_slots(self) -> int:
        return sum(slot["is_processing"] for slot in await self.engine_answer("GET", "/slots"))


def saying(text: str, **more: Any) -> dict[str, Any]:
    """A chat that gives the same answer each time."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 5, **more}


async def eventually_true(is_true: Callable[[], Awaitable[object]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await is_true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_SECONDS} s: {what}")
        await asyncio.sleep(0.02)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    folder = short_folder("atoll-rt-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


StartLlama = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start_llama(tiny_gguf: TinyModel, socket_folder: Path) -> AsyncIterator[StartLlama]:
    """Starts engines, and ends them all."""
    made: list[LlamaRuntime] = []

    async def start(file: Path = tiny_gguf.file, patience: Patience | None = None, **wants: Any) -> Running:
        chosen = Wants(**{"context_tokens": CONTEXT, "parallel": 2, "threads": 1, **wants})
        log = socket_folder / "engine.log"
        runtime = LlamaRuntime(file, chosen, folder=socket_folder, log=log, patience=patience)
        made.append(runtime)
        return Running(runtime, await runtime.start(), runtime, socket_folder)

    yield start
    for runtime in made:
        await runtime.stop()


StartRuntime = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start_runtime(start_llama: StartLlama, make_strand: MakeStrand) -> AsyncIterator[StartRuntime]:
    """Starts a runtime of any kind with `parallel` places and `waiting` more that wait."""
    made: list[Runtime] = []

    async def start(
        kind: str, parallel: int = 2, waiting: int = 32, skill: Skill = Skill.GENERATE
    ) -> Running:
        if kind in ("echo", "peer"):
            echo = EchoRuntime(context_tokens=CONTEXT, at_once=parallel, waiting=waiting, event_seconds=0.001)
            if kind == "peer":
                return Running((await make_strand(echo)).runtime(), await echo.start())
            made.append(echo)
            return Running(echo, await echo.start())
        pooling = "mean" if skill is Skill.EMBED else "model"
        engine = await start_llama(parallel=parallel, waiting=waiting, skill=skill, pooling=pooling)
        if kind == "llama":
            return engine
        address = Address(
            "http://engine",
            "tiny",
            socket=str(engine.socket),
            skills=frozenset({skill}),
            at_once=parallel,
            waiting=waiting,
        )
        upstream = UpstreamRuntime(address)
        made.append(upstream)
        return Running(upstream, await upstream.start(), engine.engine, engine.folder)

    yield start
    for runtime in made:
        await runtime.stop()
