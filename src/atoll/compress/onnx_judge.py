"""What a smaller model in ONNX cost: both as the runtime serves them here, side by side, and whether that is
within the budget.

`max_loss` is of accuracy where the judging requests have labels, else of likeness: 1 less the mean cosine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from atoll.compress.onnx_quantize import bring_along
from atoll.compress.onnx_rows import Array, Model, Rows, read_rows
from atoll.compress.recipe import Budget, missed
from atoll.compress.speed import Speed, opened, time_model
from atoll.compress.steps import Say
from atoll.domain.errors import DataError

ROWS = 512
REQUESTS, SEED = 20, 7
SECONDS_MAX = 600
TITLES = ("", "MB", "memory", "ms", "cosine", "lowest", "accuracy")


@dataclass(frozen=True)
class Likeness:
    mean: float
    lowest: float
    accuracy: tuple[float, float] | None = None

    @property
    def loss(self) -> float:
        return 1 - self.mean if self.accuracy is None else self.accuracy[0] - self.accuracy[1]


def judge(source: Path, made: Path, by: Path | None, budget: Budget, say: Say) -> list[list[str]]:
    """The table at the end. DataError `budget-missed` where the result is not to be kept."""
    budget.check_bytes(size_of(made))
    with standing(source, made) as after:
        likeness = None if by is None else compare(source, after, by)
        speeds = [time_alone(file, say) for file in (source, after)]
    budget.check_memory(speeds[1].resident_bytes)
    budget.check_time(speeds[1].first_seconds * 1000)
    if budget.max_loss is not None:
        if likeness is None:
            raise missed("nobody knows what it lost", "Name requests or a text to judge by: --judge FILE")
        if likeness.loss > budget.max_loss:
            what = "likeness" if likeness.accuracy is None else "accuracy"
            raise missed(f"it lost {likeness.loss:.4f} of {what}, and may lose {budget.max_loss:.4f}")
    return _table(source, made, speeds, likeness)


def time_alone(file: Path, say: Say) -> Speed:
    """In a process of its own, whose memory holds nothing of what was done before."""
    say(f"timing {file.name}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        return one.submit(_time, file).result(SECONDS_MAX)


def _time(file: Path) -> Speed:
    return time_model(file, REQUESTS, 0, SEED, lambda word: None)


def compare(before: Path, after: Path, by: Path) -> Likeness:
    rows = read_rows(by, Model(before), ROWS)
    first, second = (answers(file, rows) for file in (before, after))
    cosines = alike(first, second)
    accuracy = None
    if rows.labels:
        accuracy = float(rights(first, rows).mean()), float(rights(second, rows).mean())
    return Likeness(float(cosines.mean()), float(cosines.min()), accuracy)


def alike(first: Array, second: Array) -> Array:
    """The cosine of what two models answer, row by row."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found: Array = (first * second).sum(axis=1) / np.maximum(lengths, 1e-12)
    return found


def rights(scores: Array, rows: Rows) -> Array:
    """Whether the class that a model holds likeliest is the label, row by row."""
    labels = np.array(rows.labels)
    if len(labels) != len(scores) or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise DataError("measure-refused", "cannot judge: labels do not fit what the model answers")
    found: Array = scores.argmax(axis=1) == labels
    return found


def answers(file: Path, rows: Rows) -> Array:
    """A row for each text or row of a request."""
    return asyncio.run(_answers(file, rows))


async def _answers(file: Path, rows: Rows) -> Array:
    async with opened(file) as (runtime, _):
        if rows.texts:
            texts = rows.texts
            found = [(await runtime.embed(texts[at : at + 32])).vectors for at in range(0, len(texts), 32)]
        else:
            found = [_scores(await runtime.infer(request)) for request in rows.requests]
    return np.concatenate(found).astype(np.float64)


def _scores(answer: dict[str, Array]) -> Array:
    """The first output of floating numbers, row by row."""
    for value in answer.values():
        if value.dtype.kind == "f" and value.ndim:
            return value.reshape(len(value), -1)
    raise DataError("measure-refused", "cannot judge: the model answers with no floating numbers")


@contextmanager
def standing(source: Path, made: Path) -> Iterator[Path]:
    """The result beside what the source has beside it: a tokenizer, most of all."""
    if made.is_dir():
        yield made
        return
    with TemporaryDirectory(prefix="atoll-onnx-") as place:
        bring_along(source.parent, Path(place))
        (Path(place) / "model.onnx").symlink_to(made.resolve())
        yield Path(place)


def _table(source: Path, made: Path, speeds: list[Speed], likeness: Likeness | None) -> list[list[str]]:
    accuracy = likeness.accuracy if likeness is not None else None
    rows = []
    for number, (name, file) in enumerate((("before", source), ("after", made))):
        alike = ["", ""]
        if number and likeness is not None:
            alike = [f"{likeness.mean:.4f}", f"{likeness.lowest:.4f}"]
        speed = speeds[number]
        costs = [f"{size_of(file) / 1e6:.2f}", f"{speed.resident_bytes / 1e6:.1f} MB"]
        costs.append(f"{speed.first_seconds * 1000:.2f}")
        rows.append([name, *costs, *alike, f"{accuracy[number]:.2%}" if accuracy else ""])
    return rows


def size_of(path: Path) -> int:
    if path.is_file():
        beside = path.parent.glob(f"{path.name}*")  # weights may lie there, and what a plan found out
        return sum(one.stat().st_size for one in beside if one.is_file() and one.suffix != ".json")
    return sum(
        one.stat().st_size for one in path.iterdir() if one.suffix in (".onnx", ".safetensors", ".data")
    )
