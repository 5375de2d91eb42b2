"""Follows a recipe. Every step's artefact is kept under the hash of what it was made from, so that whoever
is killed goes on with the step that was under way; the output appears only when all of it is done and within
the budget.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from atoll.compress.folder import fresh
from atoll.compress.reading import Reading, read
from atoll.compress.recipe import Recipe, Task, fingerprints, missed
from atoll.compress.speed import Speed, time_model
from atoll.compress.steps import ONNX_STEP, Say, find_step
from atoll.runtimes.onnx.source import is_onnx
from atoll.training.folder import is_encoder

ROWS, ROW_TOKENS = 64, 256
REQUESTS, TOKENS, SEED = 5, 64, 7


@dataclass(frozen=True)
class Dish:
    """A file with what was measured of it."""

    bytes: int
    reading: Reading | None
    speed: Speed


@dataclass(frozen=True)
class Outcome:
    before: Dish | None
    after: Dish | None  # None where the output is no language model's file: nothing of it is measured here
    facts: tuple[dict[str, Any], ...]
    table: list[list[str]] | None = None  # of a model in ONNX, which is judged by itself


def cook(recipe: Recipe, say: Say) -> Outcome:
    work = recipe.output.with_name(f".{recipe.output.name}.work")
    made, facts = recipe.model, []
    for number, (task, mark) in enumerate(zip(recipe.tasks, fingerprints(recipe), strict=True), 1):
        words = f"step {number} of {len(recipe.tasks)}, {task.do}"
        made, found = _step(task, made, work / f"{number}-{task.do}-{mark[:16]}", _saying(say, words))
        facts.append(found)
    outcome = Outcome(None, None, tuple(facts))
    if made.is_file() and recipe.output.suffix == ".gguf":
        outcome = _judge(recipe, made, work, tuple(facts), say)
    elif recipe.tasks[-1].do == ONNX_STEP or is_onnx(made) or (made.is_dir() and is_encoder(made)):
        from atoll.compress.onnx_judge import judge

        say("measuring")
        table = judge(recipe.model, made, recipe.judge, recipe.budget, _saying(say, "measuring"))
        outcome = Outcome(None, None, tuple(facts), table)
    place_at(made, recipe.output)
    shutil.rmtree(work)
    return outcome


def _saying(say: Say, before: str) -> Say:
    return lambda word: say(f"{before}: {word}")


def _step(task: Task, source: Path, place: Path, say: Say) -> tuple[Path, dict[str, Any]]:
    def make(say: Say) -> dict[str, Any]:
        return {"do": task.do, **find_step(task.do)(source, place, task.options, say)}

    return place, keep(place, make, say)


def keep(
    place: Path, make: Callable[[Say], dict[str, Any]], say: Say, named: Path | None = None
) -> dict[str, Any]:
    """What was made before is taken as it is: its facts are written last.

    Beside it; or under another name, where `make` only finds out something of what is there.
    """
    told = (named or place).with_suffix(".json")
    if told.is_file() and place.exists():
        say("done before")
        found: dict[str, Any] = json.loads(told.read_text())
        return found
    say("begins")
    if named is None and place.is_dir():  # whole, but its facts were not written any more
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    found = make(say)
    with fresh(told) as partial:
        partial.write_text(json.dumps(found, default=str))
    return found


def _judge(recipe: Recipe, made: Path, work: Path, facts: tuple[dict[str, Any], ...], say: Say) -> Outcome:
    recipe.budget.check_bytes(made.stat().st_size)
    plain, _ = _step(Task("export", {}), recipe.model, work / "before", _saying(say, "writing down what was"))
    rows = None if recipe.judge is None else judging_rows(recipe.judge, recipe.model)
    before = taste(plain, rows, _saying(say, "measuring what was"))
    after = taste(made, rows, _saying(say, "measuring what came of it"))
    recipe.budget.check_memory(after.speed.resident_bytes)
    recipe.budget.check_time(1000 / after.speed.per_second)
    if recipe.budget.max_loss is not None:
        _check_loss(recipe.budget.max_loss, before, after)
    return Outcome(before, after, facts)


def judging_rows(text: Path, folder: Path, count: int = ROWS) -> list[list[int]]:
    from atoll.compress.calibrate import read_rows
    from atoll.compress.folder import read_folder

    length = min(ROW_TOKENS, read_folder(folder).shape.context)
    found: list[list[int]] = read_rows(text, folder / "tokenizer.json", length, count).tolist()
    return found


def taste(file: Path, rows: Sequence[Sequence[int]] | None, say: Say) -> Dish:
    reading = None if rows is None else read(file, rows, max(1, (os.cpu_count() or 2) - 1))
    return Dish(file.stat().st_size, reading, time_model(file, REQUESTS, TOKENS, SEED, say))


def _check_loss(most: float, before: Dish, after: Dish) -> None:
    if before.reading is None or after.reading is None:
        raise missed("nobody knows what it lost", "Name a text to judge by: judge = …")
    loss = after.reading.perplexity / before.reading.perplexity - 1
    if loss > most:
        raise missed(f"its perplexity rose by {loss:.2%}, and may rise by {most:.2%}")


def place_at(made: Path, output: Path) -> None:
    with fresh(output) as partial:
        if made.is_dir():
            shutil.copytree(made, partial)
        else:
            try:
                os.link(made, partial)
            except OSError:
                shutil.copyfile(made, partial)


def rows_of(outcome: Outcome) -> list[list[str]]:
    """The table at the end."""
    both = [(name, dish) for name, dish in (("before", outcome.before), ("after", outcome.after)) if dish]
    first = both[0][1].reading if both else None
    return [list(chain([name], _cells(dish, first))) for name, dish in both]


TITLES = ("", "MB", "memory", "tokens/s", "first token", "CPU s/1000", "perplexity", "loss")


def _cells(dish: Dish, first: Reading | None) -> list[str]:
    speed, reading = dish.speed, dish.reading
    quality = ["", ""]
    if reading is not None and first is not None:
        quality = [f"{reading.perplexity:.3f}", f"{reading.perplexity / first.perplexity - 1:+.2%}"]
    return [
        f"{dish.bytes / 1e6:.2f}",
        f"{speed.resident_bytes / 1e6:.0f} MB",
        f"{speed.per_second:,.0f}",
        f"{speed.first_seconds * 1000:.1f} ms",
        f"{speed.cpu_seconds_per_1000:.2f}",
        *quality,
    ]
