"""The forms of a model in ONNX or an encoder that a plan makes, each measured against the model as it is.

By accuracy where the requests to judge by have labels, else by likeness: the cosine of both answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from atoll.compress import comparing
from atoll.compress.onnx_judge import ROWS, alike, answers, rights, size_of, standing, time_alone
from atoll.compress.onnx_rows import Array, Model, read_rows
from atoll.compress.planning import ACCURACY, LIKENESS, Answer, Candidate, Measure, Question, recommend
from atoll.compress.recipe import Task
from atoll.compress.shop import Shop
from atoll.compress.speed import Speed
from atoll.compress.steps import ONNX_STEP, Say, require
from atoll.domain.errors import DataError
from atoll.registry.adding import estimate_memory
from atoll.registry.formats.read import read_model

SEED = 7
AS_IT_IS = "as-it-is"


def plan(question: Question, say: Say) -> Answer:
    require("onnx")
    judge = _Judge(question)
    shop = Shop(question, say)
    files, left_out = {AS_IT_IS: question.model}, {}
    for name, task in _forms(question):
        try:
            files[name] = shop.make(name, task)
        except DataError as error:
            if error.code != "model-unusable":
                raise
            left_out[name] = error.detail or error.message
    found = {
        name: shop.measure(name, file, judge.count, partial(judge.measure, file))
        for name, file in files.items()
    }
    measure = ACCURACY if judge.rows.labels else LIKENESS
    candidates = tuple(sorted(_judged(found, files, measure), key=lambda one: -one.bytes))
    shop.sweep()
    return Answer(measure, candidates, files, recommend(candidates, question.wishes, measure), left_out)


def _forms(question: Question) -> Iterator[tuple[str, Task]]:
    seen = {"calibration": question.calibration, "rows": question.calibration_rows}
    yield "int8", Task(ONNX_STEP, {"to": "int8"})
    yield "int8-static", Task(ONNX_STEP, {"to": "int8-static", **seen})
    for group in (32, 128):
        yield f"q4-{group}", Task(ONNX_STEP, {"to": "q4", "group": group, **seen})


class _Judge:
    """Asks every form the same, and notes row by row how it answered beside the model as it is."""

    def __init__(self, question: Question) -> None:
        self._model = question.model
        self.rows = read_rows(question.judge, Model(question.model), question.judge_rows or ROWS)
        self.count = question.judge_rows or ROWS

    @cached_property
    def _first(self) -> Array:
        return answers(self._model, self.rows)

    def measure(self, file: Path, say: Say) -> dict[str, Any]:
        with standing(self._model, file) as place:
            say("asking")
            found = self._first if file == self._model else answers(place, self.rows)
            speed, model = time_alone(place, say), read_model(place)
        return {
            "bytes": size_of(file),
            "needs": estimate_memory(model)[0],
            "speed": asdict(speed),
            "cosines": alike(self._first, found).tolist(),
            "rights": rights(found, self.rows).astype(int).tolist() if self.rows.labels else None,
        }


def _judged(found: Mapping[str, Any], files: Mapping[str, Path], measure: Measure) -> Iterator[Candidate]:
    key = "rights" if measure is ACCURACY else "cosines"
    base = np.array(found[AS_IT_IS][key], float)
    for name in files:
        one, speed = found[name], Speed(**found[name]["speed"])
        rows = np.array(one[key], float)
        yield Candidate(
            name,
            one["bytes"],
            speed.resident_bytes,
            one["needs"],
            1 / speed.first_seconds,
            float(rows.mean()),
            comparing.compare(len(rows), SEED, comparing.means(rows, base)),
        )
