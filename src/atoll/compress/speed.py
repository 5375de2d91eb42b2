"""How fast a model in a file is here, and what it takes: asked as a node asks it, in an engine of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from atoll.compress.energy import Meter
from atoll.compress.steps import Say
from atoll.domain.models import Skill
from atoll.registry.formats.read import read_model
from atoll.runtimes.contract import Facts, Runtime

FOLDER_BYTES_MAX = 60  # the path of an engine's socket in a folder below may have 107
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Speed:
    per_second: float  # tokens, texts or rows
    first_seconds: float  # until the first token, or the answer
    cpu_seconds_per_1000: float
    resident_bytes: int
    joules_per_1000: float | None = None  # of the whole machine, where it tells


@asynccontextmanager
async def opened(file: Path) -> AsyncIterator[tuple[Runtime, Facts]]:
    """The model, loaded for as long as the block lasts; one caller at a time."""
    place = gettempdir() if len(os.fsencode(gettempdir())) <= FOLDER_BYTES_MAX else "/tmp"  # noqa: S108
    with TemporaryDirectory(prefix="atoll-run-", dir=place) as folder:
        runtime = _runtime(file, Path(folder))
        try:
            yield runtime, await runtime.start()
        finally:
            await runtime.stop()


def _runtime(file: Path, folder: Path) -> Runtime:
    found = read_model(file)
    if found.format != "gguf":
        from atoll.runtimes.onnx.runtime import OnnxRuntime

        return OnnxRuntime(file)
    from atoll.runtimes.llama.runtime import LlamaRuntime
    from atoll.runtimes.llama.wants import Wants

    skill = Skill.EMBED if Skill.EMBED in found.skills else Skill.GENERATE
    context = min(CONTEXT_TOKENS, found.context_tokens or CONTEXT_TOKENS)
    wants = Wants(name="model", skill=skill, context_tokens=context, parallel=1)
    return LlamaRuntime(file, wants, folder=folder, log=folder / "engine.log")


def time_model(file: Path, requests: int, tokens: int, seed: int, say: Say) -> Speed:
    """One caller, random requests, the same for every file."""
    return asyncio.run(_time(file, requests, tokens, seed, say))


async def _time(file: Path, requests: int, tokens: int, seed: int, say: Say) -> Speed:
    from atoll.runtimes.measure import Plan, measure

    async with opened(file) as (runtime, facts):
        pid: int | None = getattr(runtime, "pid", None)
        before, meter = _cpu_seconds(pid), Meter()
        row = (await measure(runtime, facts, Plan(requests, 1, tokens, seed), say))[0]
        spent, joules = _cpu_seconds(pid) - before, meter.joules()
        resident = max(facts.memory_bytes, _resident_bytes(pid))
    is_language = Skill.GENERATE in facts.skills
    made = row["tokens"] if is_language else requests
    made = max(1, made * (requests + 1) // requests)  # one more was asked first, to warm up
    return Speed(
        row["tokens_per_second" if is_language else "items_per_second"],
        row["first_token_p50_seconds" if is_language else "p50_seconds"],
        spent / made * 1000,
        resident,
        None if joules is None else joules / made * 1000,
    )


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return time.process_time()
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int | None) -> int:
    """Of an engine's process; a tensor model shares ours, and says by itself what it takes."""
    if pid is None:
        return 0
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
