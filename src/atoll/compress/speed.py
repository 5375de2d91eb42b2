"""How fast a language model in a file is here, and what it takes, asked as a node asks it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from atoll.compress.steps import Say
from atoll.domain.models import Skill

FOLDER_BYTES_MAX = 60  # the path of an engine's socket in a folder below may have 107
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Speed:
    tokens_per_second: float
    first_token_seconds: float
    cpu_seconds_per_1000_tokens: float
    resident_bytes: int


def time_language(file: Path, requests: int, tokens: int, seed: int, say: Say) -> Speed:
    """One caller, random prompts, the same for every file."""
    with _folder() as folder:
        return asyncio.run(_time(file, folder, requests, tokens, seed, say))


async def _time(file: Path, folder: Path, requests: int, tokens: int, seed: int, say: Say) -> Speed:
    from atoll.runtimes.llama.runtime import LlamaRuntime
    from atoll.runtimes.llama.wants import Wants
    from atoll.runtimes.measure import Plan, measure

    wants = Wants(name="model", skill=Skill.GENERATE, context_tokens=CONTEXT_TOKENS, parallel=1)
    runtime = LlamaRuntime(file, wants, folder=folder, log=folder / "engine.log")
    try:
        facts = await runtime.start()
        before = _cpu_seconds(runtime.pid)
        row = (await measure(runtime, facts, Plan(requests, 1, tokens, seed), say))[0]
        spent = _cpu_seconds(runtime.pid) - before
        resident = max(facts.memory_bytes, _resident_bytes(runtime.pid))
    finally:
        await runtime.stop()
    made = max(1, row["tokens"] * (requests + 1) // requests)  # one more was asked first, to warm up
    return Speed(row["tokens_per_second"], row["first_token_p50_seconds"], spent / made * 1000, resident)


def _cpu_seconds(pid: int | None) -> float:
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _folder() -> Iterator[Path]:
    place = gettempdir() if len(os.fsencode(gettempdir())) <= FOLDER_BYTES_MAX else "/tmp"  # noqa: S108
    with TemporaryDirectory(prefix="atoll-run-", dir=place) as folder:
        yield Path(folder)
