"""Whether a library is faster: the engine with and without it answers the same questions by turns.

Each pair is one ratio, so what the machine does meanwhile falls on both. Judging is pure.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.runtimes.contract import Ask
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Wants

PAIRS = 9
STUDENT = 2.306  # of the t distribution, for 95 % and one degree of freedom less than there are pairs
MARGIN = 1.05
CONTEXT_TOKENS, ANSWER_TOKENS, PROMPT_WORDS = 512, 64, 120
Pair = tuple[float, float]  # seconds without, and with


@dataclass(frozen=True)
class Verdict:
    """How many times as fast it is, and between what that lies."""

    ratio: float
    low: float
    high: float

    @property
    def wins(self) -> bool:
        return self.low >= MARGIN


def judge(pairs: Sequence[Pair]) -> Verdict:
    logs = [math.log(without / with_it) for without, with_it in pairs]
    middle = statistics.mean(logs)
    half = STUDENT * statistics.stdev(logs) / math.sqrt(len(logs))
    return Verdict(*(math.exp(value) for value in (middle, middle - half, middle + half)))


async def compare(model: Path, library: Path, say: Callable[[int, int], None]) -> list[Pair]:
    """Seconds of each pair; who comes first takes turns."""
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory(prefix="atoll-") as folder:
        for turn in range(PAIRS):
            say(turn, PAIRS)
            order = (None, library) if turn % 2 == 0 else (library, None)
            taken = {one: await _seconds(model, one, Path(folder), turn) for one in order}
            pairs.append((taken[None], taken[library]))
    return pairs


async def _seconds(model: Path, library: Path | None, folder: Path, turn: int) -> float:
    """To read a prompt that nobody has read before, and to answer it."""
    wants = Wants(context_tokens=CONTEXT_TOKENS, parallel=1, library=library)
    runtime = LlamaRuntime(model, wants, folder=folder, log=folder / "engine.log")
    words = " ".join(f"{number * turn % 7} reefs" for number in range(PROMPT_WORDS // 2))
    body = {"prompt": f"{turn} {words}", "max_tokens": ANSWER_TOKENS, "temperature": 0}
    try:
        await runtime.start()
        began = time.perf_counter()
        async with runtime.generate(Ask("/v1/completions", body)) as events:
            async for _ in events:
                pass
        return time.perf_counter() - began
    finally:
        await runtime.stop()
