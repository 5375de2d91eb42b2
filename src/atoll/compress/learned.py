"""The steps of a recipe that learn from rows: `prune`, `distill` and `tune`.

Each leaves a whole model, as the step after it takes one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.compress import onnx_distill
from atoll.compress.steps import Facts, Say, malformed, read_options
from atoll.runtimes.onnx.source import is_onnx
from atoll.training import distill as distilling
from atoll.training import prune as pruning
from atoll.training import tune as tuning
from atoll.training.examples import read_file
from atoll.training.loop import Schedule


@dataclass(frozen=True)
class Learning:
    rows: Path
    tokens: int = 512
    held_out: float = 0.1
    batch: int = 8
    rate: float = 5e-4
    every: int = 25
    patience: int = 5
    seed: int = 0

    def schedule(self, steps: int) -> Schedule:
        return Schedule(steps, self.batch, self.rate, min(self.every, steps), self.patience, self.seed)


@dataclass(frozen=True)
class Pruned(Learning):
    method: str = "width"
    share: float = 0.5
    pattern: str | None = None
    heal: int = 100


@dataclass(frozen=True)
class Distilled(Learning):
    student: str | None = None
    share: float = 0.5
    teacher: float | None = None
    temperature: float = 1.0
    steps: int = 200


@dataclass(frozen=True)
class Tuned(Learning):
    method: str = "lora"
    rank: int = 16
    embeddings: bool = False
    steps: int = 200


def prune(source: Path, target: Path, told: Mapping[str, Any], say: Say) -> Facts:
    wish = read_options(Pruned, told)
    heal = wish.schedule(wish.heal) if wish.heal else None
    if wish.pattern not in (None, "2:4"):
        raise malformed('the only pattern is "2:4"')
    options = pruning.Options(
        wish.method, wish.share, wish.pattern is not None, wish.tokens, wish.held_out, wish.seed, heal
    )
    return _shown(pruning.prune(source, target, read_file(wish.rows), options, say))


def distill(source: Path, target: Path, told: Mapping[str, Any], say: Say) -> Facts:
    wish = read_options(Distilled, told)
    options = distilling.Options(
        wish.student,
        wish.share,
        wish.teacher,
        wish.temperature,
        wish.tokens,
        wish.held_out,
        wish.schedule(wish.steps),
    )
    if is_onnx(source):
        return _shown(onnx_distill.distill(source, target, wish.rows, options, say))
    return _shown(distilling.distill(source, target, read_file(wish.rows), options, say))


def tune(source: Path, target: Path, told: Mapping[str, Any], say: Say) -> Facts:
    wish = read_options(Tuned, told)
    is_beside = wish.method != "full"
    options = tuning.Options(
        wish.method,
        wish.rank,
        tokens=wish.tokens,
        held_out=wish.held_out,
        merge=is_beside,
        embeddings=wish.embeddings,
        schedule=wish.schedule(wish.steps),
    )
    beside = target.with_name(f"{target.name}.tuned")
    shutil.rmtree(beside, ignore_errors=True)
    facts = tuning.tune(source, beside, read_file(wish.rows), options, say)
    (beside / tuning.MERGED if is_beside else beside).rename(target)
    shutil.rmtree(beside, ignore_errors=True)
    return _shown(facts)


def _shown(facts: Mapping[str, Any]) -> Facts:
    """What a person is told of it in a line; the rest is in the folder."""
    keys = ("loss_before", "loss_after", "agreement", "accuracy", "weights", "seconds")
    return {key: facts[key] for key in keys if key in facts}
