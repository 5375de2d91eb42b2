"""A recipe: from which model, by which steps, within which bounds. Reads a TOML file; does nothing else.

Paths are meant from the recipe's folder. What a step's options mean is the step's to say; here only those
that name files are known, so that a recipe is done again where a file has changed.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.compress.steps import STEPS, malformed, read_options
from atoll.domain.errors import ConfigError, DataError
from atoll.registry.sources.address import parse
from atoll.training.steps import fingerprint

STEPS_MAX = 32
FILES = (
    "calibration",
    "rows",
    "teacher",
    "adapter",
    "text",
    "sensitivity",
)  # options that name a file or folder
GENERATION = 1  # of what steps write; another one makes all artefacts anew


@dataclass(frozen=True)
class Budget:
    max_bytes: int | None = None
    max_resident_bytes: int | None = None
    max_loss: float | None = None  # of perplexity, as a share of what it was
    max_ms: float | None = None  # of this machine: for a token, or for a call of a model in ONNX

    def __post_init__(self) -> None:
        if self.max_ms is not None and not self.max_ms > 0:
            raise malformed(f"it may take {self.max_ms:g} ms", "Say more than 0, such as max_ms = 2.5.")

    def check_bytes(self, count: int) -> None:
        if self.max_bytes is not None and count > self.max_bytes:
            raise missed(f"it has {count:,} bytes, and may have {self.max_bytes:,}")

    def check_memory(self, count: int) -> None:
        if self.max_resident_bytes is not None and count > self.max_resident_bytes:
            raise missed(f"it takes {count:,} bytes of memory, and may take {self.max_resident_bytes:,}")

    def check_time(self, ms: float) -> None:
        if self.max_ms is not None and ms > self.max_ms:
            raise missed(f"it takes {ms:.2f} ms on this machine, and may take {self.max_ms:g}")


def missed(what: str, hint: str = "Choose another form, or another budget.") -> DataError:
    return DataError("budget-missed", f"cannot keep the model: {what}", hint=hint)


@dataclass(frozen=True)
class Task:
    """One step of a recipe."""

    do: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    source: Path | str  # a text names a hub's or registry's model, which is fetched first
    output: Path
    tasks: tuple[Task, ...]
    judge: Path | None = None  # a text that says how good a model is; nothing is trained on it
    budget: Budget = Budget()
    name: str | None = None  # in the node's catalog

    @property
    def model(self) -> Path:
        """The source, which has been fetched if it had to be."""
        if isinstance(self.source, str):
            raise malformed(f"nobody has fetched {self.source}")
        return self.source


def read_recipe(path: Path) -> Recipe:
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise malformed(f'"{path.name}" is no TOML', f"{error}.") from error
    if unknown := told.keys() - {"source", "output", "judge", "name", "budget", "step"}:
        raise malformed(
            f'it says "{min(unknown)}"', "It may say source, output, judge, name, budget and step."
        )
    base = path.resolve().parent
    for key in ("source", "output"):
        if not isinstance(told.get(key), str) or not told[key]:
            raise malformed(f"it has no {key}")
    for key in ("judge", "name"):
        if not isinstance(told.get(key, ""), str):
            raise malformed(f"its {key} is no text")
    steps = told.get("step")
    if not isinstance(steps, list) or not 1 <= len(steps) <= STEPS_MAX:
        raise malformed(
            f"it has no steps, or more than {STEPS_MAX}", "A step begins with [[step]] and do = …"
        )
    budget = told.get("budget", {})
    return Recipe(
        source=told["source"] if parse(told["source"]) else base / told["source"],
        output=base / told["output"],
        tasks=tuple(_task(step, base) for step in steps),
        judge=base / told["judge"] if told.get("judge") else None,
        budget=read_options(Budget, budget if isinstance(budget, dict) else {"": budget}),
        name=told.get("name") or None,
    )


def _task(told: Any, base: Path) -> Task:
    if not isinstance(told, dict) or told.get("do") not in STEPS:
        raise malformed(f"there is no step {told!r:.100}", f"Say do = one of {', '.join(sorted(STEPS))}.")
    options = {
        key: base / value if key in FILES and isinstance(value, str) else value
        for key, value in told.items()
        if key != "do"
    }
    return Task(told["do"], options)


def fingerprints(recipe: Recipe) -> Iterator[str]:
    """What each step's artefact is called: it follows from everything that it is made from."""
    before = hashlib.sha256(f"{GENERATION} {hash_of(recipe.model)}".encode()).hexdigest()
    for task in recipe.tasks:
        options = {
            key: hash_of(value) if isinstance(value, Path) else value
            for key, value in sorted(task.options.items())
        }
        before = hashlib.sha256(f"{before} {task.do} {json.dumps(options, default=str)}".encode()).hexdigest()
        yield before


def hash_of(path: Path) -> str:
    if not path.exists():
        raise ConfigError("model-missing", f"there is no {path}", hint="Correct the path.")
    return fingerprint(path)
