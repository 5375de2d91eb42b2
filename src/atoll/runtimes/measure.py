"""Measuring one loaded model: requests with random content, by one caller and by several.

Prompts differ from their first word on, so that none is answered from what another left behind. What the
timings amount to is counted elsewhere.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.runtimes import figures
from atoll.runtimes.contract import Ask, Facts, Runtime
from atoll.runtimes.events import content
from atoll.runtimes.figures import Timing

PROMPT_WORDS_MAX = 64
TEXT_WORDS = 16
BATCHES = (1, 32)
SYLLABLES = ("ka", "lo", "mi", "nu", "pe", "ra", "si", "to", "vu", "wa")
Tick = Callable[[str], None]
Once = Callable[[random.Random], Awaitable[Timing]]


@dataclass(frozen=True)
class Plan:
    requests: int
    concurrency: int
    tokens: int
    seed: int


async def measure(runtime: Runtime, facts: Facts, plan: Plan, tick: Tick) -> list[dict[str, Any]]:
    """A row of figures for each way of asking. `tick` is told what is being done."""
    rows = []
    for batch, once in _ways(runtime, facts, plan):
        for callers in sorted({1, plan.concurrency}):
            what = f"{callers} at once" + (f", {batch} together" if batch > 1 else "")
            await once(_rng(plan.seed))  # the first of a kind is slower
            timings = await _ask(once, callers, plan, lambda done, what=what: tick(f"{what}: {done}"))  # type: ignore[misc]
            found = figures.of_language if Skill.GENERATE in facts.skills else figures.of_requests
            rows.append({"callers": callers, "batch": batch, **found(timings)})
    return rows


async def _ask(once: Once, callers: int, plan: Plan, tick: Callable[[int], None]) -> list[Timing]:
    numbers = iter(range(plan.requests))
    timings: list[Timing] = []

    async def caller() -> None:
        for number in numbers:
            # A seed for each request: whoever comes first, the requests are the same.
            timings.append(await once(_rng(f"{plan.seed} {callers} {number}")))
            tick(len(timings))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(callers, plan.requests)):
            group.create_task(caller())
    return timings


def _ways(runtime: Runtime, facts: Facts, plan: Plan) -> Iterator[tuple[int, Once]]:
    if Skill.GENERATE in facts.skills:
        context = facts.context_tokens or 4096
        words = max(4, min(PROMPT_WORDS_MAX, context // 16))
        yield 1, lambda rng: _generate(runtime, _words(rng, words), min(plan.tokens, context // 4))
    elif Skill.EMBED in facts.skills:
        words = max(1, min(TEXT_WORDS, (facts.context_tokens or 4096) // 16))
        for batch in BATCHES:
            yield batch, lambda rng, batch=batch: _embed(runtime, rng, batch, words)  # type: ignore[misc]
    else:
        has_rows = all(one.shape[:1] == (-1,) for one in facts.inputs)
        for batch in BATCHES if has_rows else BATCHES[:1]:
            yield batch, lambda rng, batch=batch: _infer(runtime, facts, rng, batch)  # type: ignore[misc]


async def _generate(runtime: Runtime, prompt: str, tokens: int) -> Timing:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
    usage: dict[str, int] = {}
    began, first = time.perf_counter(), None
    async with runtime.generate(Ask("/v1/completions", body)) as found:
        async for event in found:
            told = content(event) or {}
            if first is None and told.get("choices"):
                first = time.perf_counter()
            usage = told.get("usage") or usage
    ended = time.perf_counter()
    return Timing(
        began, first or ended, ended, usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
    )


async def _embed(runtime: Runtime, rng: random.Random, batch: int, words: int) -> Timing:
    texts = [_words(rng, words) for _ in range(batch)]
    began = time.perf_counter()
    await runtime.embed(texts)
    ended = time.perf_counter()
    return Timing(began, ended, ended, batch)


async def _infer(runtime: Runtime, facts: Facts, rng: random.Random, batch: int) -> Timing:
    import numpy as np

    from atoll.runtimes.onnx.merging import make_request

    if unknown := [one.name for one in facts.inputs if one.datatype == "BYTES"]:
        raise DataError("request-refused", f'cannot make up values for input "{unknown[0]}": it is text')
    inputs = make_request(facts.inputs, batch, np.random.default_rng(rng.getrandbits(64)))
    began = time.perf_counter()
    await runtime.infer(inputs)
    ended = time.perf_counter()
    return Timing(began, ended, ended, batch)


def _rng(seed: int | str) -> random.Random:
    return random.Random(seed)  # noqa: S311


def _words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(count))
