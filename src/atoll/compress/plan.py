"""Makes files of one model in several forms, measures each, and has one recommended (planning.py).

Here of language models; onnx_plan.py has the forms and the measures of models in ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from atoll.compress import comparing
from atoll.compress.cook import ROWS, Dish, judging_rows, place_at, taste
from atoll.compress.folder import read_folder
from atoll.compress.planning import PERPLEXITY, Answer, Candidate, Question, recommend
from atoll.compress.reading import Reading
from atoll.compress.recipe import Task
from atoll.compress.shop import Shop
from atoll.compress.speed import Speed
from atoll.compress.steps import Say, require
from atoll.domain.errors import AtollError, DataError
from atoll.registry.adding import estimate_memory
from atoll.registry.formats.read import read_model
from atoll.runtimes.onnx.source import is_onnx
from atoll.training.folder import is_encoder

SEED = 7
FEWER = 0.85  # of q4_0's bytes, for one mix below it
BASE = "f16"


def plan(question: Question, say: Say) -> Answer:
    if _answers_in_tensors(question.model):
        from atoll.compress.onnx_plan import plan as plan_onnx

        return plan_onnx(question, say)
    require()
    read_folder(question.model)
    shop = Shop(question, say)
    files = {name: shop.make(name, task) for name, task in _whole(question)}
    for name, told in _mixes(files, question):
        try:
            files[name] = shop.make(name, _quantize({**told, "sensitivity": _sensitivity(shop, question)}))
        except DataError as error:
            if error.code != "budget-missed":
                raise
    candidates = tuple(sorted(_measured(shop, files, question), key=lambda one: -one.bytes))
    shop.sweep()
    return Answer(PERPLEXITY, candidates, files, recommend(candidates, question.wishes), {})


def _answers_in_tensors(model: Path) -> bool:
    try:
        return is_onnx(model) or is_encoder(model)
    except AtollError:
        return False  # what it is instead is said where it is read


def take(answer: Answer, output: Path) -> None:
    place_at(answer.files[answer.advice.name], output)


def _quantize(options: dict[str, Any]) -> Task:
    return Task("quantize", options)


def _whole(question: Question) -> Iterator[tuple[str, Task]]:
    """Files in one form, largest first."""
    seen = {"calibration": question.calibration, "rows": question.calibration_rows}
    yield BASE, Task("export", {})
    yield "q8_0", _quantize({"to": "q8_0", "embedding": "q8_0"})
    for form in ("q6_k", "q5_k", "q4_k_m", "q4_0"):
        yield form, _quantize({"to": form, **seen})


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


def _sensitivity(shop: Shop, question: Question) -> Path:
    from atoll.compress.quantize import measure_parts

    seen = {"calibration": question.calibration, "rows": question.calibration_rows}
    return shop.make("parts", _quantize({"to": "mixed", "max_bytes": 1, **seen}), measure_parts)


def _measured(shop: Shop, files: dict[str, Path], question: Question) -> Iterator[Candidate]:
    rows = judging_rows(question.judge, question.model, question.judge_rows or ROWS)
    dishes = {name: _taste(shop, name, file, rows) for name, file in files.items()}
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


def _taste(shop: Shop, name: str, file: Path, rows: list[list[int]]) -> Dish:
    found = shop.measure(name, file, len(rows), lambda say: asdict(taste(file, rows, say)))
    lost, tokens = found["reading"].pop("lost"), found["reading"].pop("tokens")
    reading = Reading(tuple(lost), tuple(tokens), **found["reading"])
    return Dish(found["bytes"], reading, Speed(**found["speed"]))
