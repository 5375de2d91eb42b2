"""How surprised a GGUF file's model is by a text, as the runtime computes it: the base of every table of
quality.

The work is done by a process of its own (reader.py), since a bad file may end it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError, DataError
from atoll.runtimes.llama.process import ENVIRONMENT

READER = Path(__file__).with_name("reader.py")
SECONDS_MAX = 3600.0
UNUSABLE = 3


@dataclass(frozen=True)
class Reading:
    """What was read, row by row."""

    lost: tuple[float, ...]  # nats, summed over each row's tokens
    tokens: tuple[int, ...]  # that were foretold, of each row
    seconds: float
    cpu_seconds: float
    resident_bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(700.0, sum(self.lost) / sum(self.tokens)))


def read(file: Path, rows: Sequence[Sequence[int]], threads: int = 1) -> Reading:
    told = _ask(file, rows, (), threads)
    return Reading(
        tuple(told["lost"]),
        tuple(len(row) - 1 for row in rows),
        told["seconds"],
        told["cpu_seconds"],
        told["resident_bytes"],
    )


def cut(file: Path, texts: Sequence[str]) -> list[list[int]]:
    """The tokens that the runtime makes of texts."""
    found: list[list[int]] = _ask(file, (), texts, 1)["cut"]
    return found


def _ask(file: Path, rows: Sequence[Sequence[int]], texts: Sequence[str], threads: int) -> dict[str, Any]:
    told = {"model": str(file.absolute()), "rows": [list(row) for row in rows], "texts": list(texts)}
    environment = {key: value for key, value in os.environ.items() if key in ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-P", str(READER)],
        input=json.dumps({**told, "threads": threads}).encode(),
        capture_output=True,
        env=environment,
        timeout=SECONDS_MAX,
        check=False,
    )
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["It said nothing."])[-1]
    if done.returncode == UNUSABLE or done.returncode < 0:
        raise DataError("model-unusable", f'cannot read with the model "{file.name}"', detail=last[:500])
    raise ConfigError(
        "engine-unfit",
        "cannot measure perplexity with this version of the engine",
        detail=last[:500],
        hint="Install the version of xllamacpp that this version of Atoll names.",
    )
