"""Where a plan keeps what it made and what it measured, each under the hash of what that came from.

Whoever stops goes on, and asking again with other bounds makes only what is new. What the last question had
no use for goes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from atoll.compress.cook import keep
from atoll.compress.folder import remove
from atoll.compress.planning import Question
from atoll.compress.recipe import Recipe, Task, fingerprints, hash_of
from atoll.compress.steps import Say, Step, find_step


class Shop:
    def __init__(self, question: Question, say: Say) -> None:
        self._model, self._say = question.model, say
        self._folder = question.place / f".{question.model.resolve().name}.plan"
        self._judged = hash_of(question.judge)[:8]
        self._used: set[Path] = set()

    def make(self, name: str, task: Task, step: Step | None = None) -> Path:
        """The file that this task makes of the model, or what another step finds out about it."""
        mark = next(fingerprints(Recipe(self._model, self._folder, (task,))))
        place = self._folder / f"{name}-{mark[:16]}"
        made = partial(step or find_step(task.do), self._model, place, task.options)
        keep(place, lambda say: {"do": task.do, **made(say)}, self._saying(name))
        self._used |= {place, place.with_suffix(".json")}
        return place

    def measure(self, name: str, file: Path, rows: int, measure: Callable[[Say], dict[str, Any]]) -> Any:
        """What is measured of a file by so many rows of what the question judges by."""
        marked = f"{name}-{hash_of(file)[:16]}" if file == self._model else file.name
        place = self._folder / f"{marked}-judged-{self._judged}-{rows}"
        self._used.add(place.with_suffix(".json"))
        return keep(file, measure, self._saying(f"{name}, measuring"), place)

    def sweep(self) -> None:
        for path in self._folder.iterdir():
            if path not in self._used:
                remove(path)

    def _saying(self, what: str) -> Say:
        return lambda word: self._say(f"{what}: {word}")
