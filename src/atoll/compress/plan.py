"""Makes files of one model in several forms, measures each, and has one recommended (planning.py).

What was made and measured is kept under the hash of what it came from, in a hidden folder:
whoever stops goes on, and asking again with other bounds makes only what is new. What the last question had
no use for goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from atoll.compress import comparing
from atoll.compress.cook import Dish, judging_rows, keep, place_at, taste
from atoll.compress.folder import read_folder, remove
from atoll.compress.planning import Advice, Candidate, Wishes, recommend
from atoll.compress.reading import Reading
from atoll.compress.recipe import Recipe, Task, fingerprints, hash_of
from atoll.compress.speed import Speed
from atoll.compress.steps import Say, Step, find_step, require
from atoll.domain.errors import DataError
from atoll.registry.adding import estimate_memory
from atoll.registry.formats.read import read_model

SEED = 7
FEWER = 0.85  # of q4_0's bytes, for one mix below it
BASE = "f16"


@dataclass(frozen=True)
class Question:
    model: Path
    calibration: Path
    judge: Path
    wishes: Wishes
    place: Path  # of the folder where what is made is kept
    calibration_rows: int = 128
    judge_rows: int = 64


@dataclass(frozen=True)
class Answer:
    candidates: tuple[Candidate, ...]
    files: dict[str, Path]
    advice: Advice


def plan(question: Question, say: Say) -> Answer:
    require()
    read_folder(question.model)
    shop = _Shop(question, say)
    files = {name: shop.make(name, task) for name, task in _whole(question)}
    for name, task in _mixes(files, question):
        try:
            files[name] = shop.make(name, {**task, "sensitivity": shop.sensitivity()})
        except DataError as error:
            if error.code != "budget-missed":
                raise
    candidates = tuple(sorted(shop.measured(files), key=lambda one: -one.bytes))
    shop.sweep()
    return Answer(candidates, files, recommend(candidates, question.wishes))


def take(answer: Answer, output: Path) -> None:
    place_at(answer.files[answer.advice.name], output)


def _whole(question: Question) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files in one form, largest first."""
    seen = {"calibration": question.calibration, "rows": question.calibration_rows}
    yield BASE, {"do": "export"}
    yield "q8_0", {"to": "q8_0", "embedding": "q8_0"}
    for form in ("q6_k", "q5_k", "q4_k_m", "q4_0"):
        yield form, {"to": form, **seen}


def _mixes(files: dict[str, Path], question: Question) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mixes as large as files in one form, one below them, and one of the bytes that were asked for."""
    sizes = {name: file.stat().st_size for name, file in files.items()}
    budgets = {sizes["q4_k_m"], sizes["q4_0"], int(sizes["q4_0"] * FEWER)}
    asked = question.wishes.max_bytes
    if asked is not None and asked < sizes["q8_0"]:
        budgets.add(asked)
    for size in sorted(budgets, reverse=True):
        told = {"to": "mixed", "max_bytes": size, "calibration": question.calibration}
        yield f"mixed-{size}", {**told, "rows": question.calibration_rows}


class _Shop:
    """The folder where things are kept."""

    def __init__(self, question: Question, say: Say) -> None:
        self._question, self._say = question, say
        self._folder = question.place / f".{question.model.resolve().name}.plan"
        self._used: set[Path] = set()

    def make(self, name: str, told: dict[str, Any]) -> Path:
        options = {key: value for key, value in told.items() if key != "do"}
        task = Task(told.get("do", "quantize"), options)
        return self._kept(name, task, find_step(task.do))

    def sensitivity(self) -> Path:
        from atoll.compress.quantize import measure_parts

        seen = {"calibration": self._question.calibration, "rows": self._question.calibration_rows}
        return self._kept("parts", Task("quantize", {"to": "mixed", "max_bytes": 1, **seen}), measure_parts)

    def _kept(self, name: str, task: Task, step: Step) -> Path:
        mark = next(fingerprints(Recipe(self._question.model, self._folder, (task,))))
        place = self._folder / f"{name}-{mark[:16]}"
        made = partial(step, self._question.model, place, task.options)
        keep(place, lambda say: {"do": task.do, **made(say)}, self._saying(name))
        self._used |= {place, place.with_suffix(".json")}
        return place

    def measured(self, files: dict[str, Path]) -> Iterator[Candidate]:
        question = self._question
        rows = judging_rows(question.judge, question.model, question.judge_rows)
        judged = hash_of(question.judge)[:8]
        dishes = {name: self._taste(name, file, rows, judged) for name, file in files.items()}
        base = dishes[BASE].reading
        assert base is not None
        for name, dish in dishes.items():
            assert dish.reading is not None
            lost = (np.array(base.lost), np.array(dish.reading.lost), np.array(base.tokens, float))
            found = read_model(files[name])
            memory, token = estimate_memory(found)
            yield Candidate(
                name,
                dish.bytes,
                dish.speed.resident_bytes,
                memory + token * (found.context_tokens or 0),
                dish.speed.per_second,
                dish.reading.perplexity,
                comparing.compare(len(rows), SEED, comparing.perplexities(*lost)),
            )

    def _taste(self, name: str, file: Path, rows: list[list[int]], judged: str) -> Dish:
        place = file.with_name(f"{file.name}-judged-{judged}-{len(rows)}")
        self._used.add(place.with_suffix(".json"))
        found = keep(
            file, lambda say: asdict(taste(file, rows, say)), self._saying(f"{name}, measuring"), place
        )
        lost, tokens = found["reading"].pop("lost"), found["reading"].pop("tokens")
        reading = Reading(tuple(lost), tuple(tokens), **found["reading"])
        return Dish(found["bytes"], reading, Speed(**found["speed"]))

    def _saying(self, what: str) -> Say:
        return lambda word: self._say(f"{what}: {word}")

    def sweep(self) -> None:
        for path in self._folder.iterdir():
            if path not in self._used:
                remove(path)
