"""What one model is worth, or two of them side by side: by a text, by texts to embed, or by examples with
labels.

One is measured by itself where that means something (perplexity, accuracy); vectors only say something
beside those of another model. Every difference comes with how sure it is (comparing.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atoll.compress import comparing
from atoll.compress.onnx_rows import Model, Request, read_rows, scores_of
from atoll.compress.reading import cut, read
from atoll.compress.speed import opened, time_model
from atoll.compress.steps import Say
from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.registry.formats.read import read_model

if TYPE_CHECKING:
    from atoll.compress.comparing import Difference

ROW_TOKENS = 256
THINGS_MAX = 20_000  # texts or examples
BYTES_MAX = 256 * 1024**2


@dataclass(frozen=True)
class Plan:
    rows: int = 128  # of a text
    requests: int = 10
    tokens: int = 64
    seed: int = 7


@dataclass(frozen=True)
class Line:
    """One measure of each model; `difference` is of the second from the first."""

    what: str
    values: tuple[float | None, ...]
    difference: Difference | None = None

    def told(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    files: Sequence[Path], text: Path | None, examples: Path | None, plan: Plan, say: Say
) -> list[Line]:
    skills = [read_model(file).skills for file in files]
    if len(set(skills)) > 1:
        raise DataError("measure-refused", "cannot compare models that are made for different things")
    lines = []
    if text is not None:
        say("asking")
        ways = {Skill.GENERATE: _by_text, Skill.EMBED: _by_vectors}
        way = next((found for skill, found in ways.items() if skill in skills[0]), None)
        if way is None:
            raise DataError(
                "measure-refused", "cannot measure a classifier by a text", hint="Give --examples FILE."
            )
        lines += way(files, text, plan)
    if examples is not None:
        say("asking")
        lines += _by_examples(files, examples, plan)
    return [*lines, *_costs(files, plan, say)]


def _costs(files: Sequence[Path], plan: Plan, say: Say) -> list[Line]:
    speeds = [time_model(file, plan.requests, plan.tokens, plan.seed, say) for file in files]
    is_language = Skill.GENERATE in read_model(files[0]).skills
    things = "tokens" if is_language else "requests"
    joules = tuple(one.joules_per_1000 for one in speeds)
    wait = "seconds to the first token" if is_language else "seconds"
    return [
        Line("bytes", tuple(float(_size(file)) for file in files)),
        Line("resident bytes", tuple(float(one.resident_bytes) for one in speeds)),
        Line(f"{things} per second", tuple(one.per_second for one in speeds)),
        Line(wait, tuple(one.first_seconds for one in speeds)),
        Line(f"CPU seconds per 1,000 {things}", tuple(one.cpu_seconds_per_1000 for one in speeds)),
        *([] if None in joules else [Line(f"joules per 1,000 {things}", joules)]),
    ]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _by_text(files: Sequence[Path], text: Path, plan: Plan) -> list[Line]:
    words = _read(text)
    tokens = cut(files[0], [words])[0]
    if any(cut(file, [words])[0] != tokens for file in files[1:]):
        raise DataError(
            "measure-refused",
            "cannot compare by perplexity: the models cut the text into different tokens",
            hint="Perplexity is by token; compare variants of one model.",
        )
    length = min(ROW_TOKENS, *(read_model(file).context_tokens or ROW_TOKENS for file in files))
    rows = [tokens[at : at + length] for at in range(0, len(tokens) - length + 1, length)]
    if len(rows) < 2:
        raise DataError(
            "measure-refused", f"cannot measure by {len(tokens)} tokens", hint="Give a longer text."
        )
    places = np.linspace(0, len(rows) - 1, min(plan.rows, len(rows))).round().astype(int)
    chosen = [rows[at] for at in places]
    found = [read(file, chosen, max(1, (os.cpu_count() or 2) - 1)) for file in files]
    difference = None
    if len(found) == 2:
        first, second = (np.array(one.lost) for one in found)
        differ = comparing.perplexities(first, second, np.array(found[0].tokens, float))
        difference = comparing.compare(len(chosen), plan.seed, differ)
    return [Line("perplexity", tuple(one.perplexity for one in found), difference)]


def _by_vectors(files: Sequence[Path], text: Path, plan: Plan) -> list[Line]:
    """Each line is a text: how alike its vectors are, and whether its nearest other text is the same."""
    texts = [line for line in _read(text).splitlines() if line.strip()][:THINGS_MAX]
    if len(files) < 2 or len(texts) < 3:
        raise DataError(
            "measure-refused",
            "cannot say how good vectors are by themselves",
            hint="Name two models, and a text of at least three lines.",
        )

    async def vectors(file: Path) -> np.ndarray[Any, Any]:
        async with opened(file) as (runtime, _):
            pieces = [await runtime.embed(texts[at : at + 32]) for at in range(0, len(texts), 32)]
        return np.concatenate([one.vectors for one in pieces]).astype(np.float64)

    first, second = (asyncio.run(vectors(file)) for file in files)
    kept = (_nearest(first) == _nearest(second)).astype(float)
    lines = []
    if first.shape == second.shape:
        alike = (first * second).sum(axis=1)
        nothing = np.zeros(len(texts))
        sure = comparing.compare(len(texts), plan.seed, comparing.means(nothing, alike))
        lines.append(Line("cosine between the two", (None, float(alike.mean())), sure))
    sure = comparing.compare(len(texts), plan.seed, comparing.means(np.zeros(len(texts)), kept))
    return [*lines, Line("nearest text is the same", (None, float(kept.mean())), sure)]


def _nearest(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest: np.ndarray[Any, Any] = likeness.argmax(axis=1)
    return nearest


def _by_examples(files: Sequence[Path], examples: Path, plan: Plan) -> list[Line]:
    rows = read_rows(examples, Model(files[0]), THINGS_MAX)
    if not rows.labels:
        raise DataError("measure-refused", "cannot measure: the examples have no labels")
    labels = np.array(rows.labels)
    found = [asyncio.run(_chances(file, rows.requests)) for file in files]
    if labels.min() < 0 or labels.max() >= min(chances.shape[1] for chances in found):
        raise DataError("measure-refused", "cannot measure: a label is none of the model's classes")
    right = [chances.argmax(axis=1) == labels for chances in found]
    sure = [comparing.calibration_error(c.max(axis=1), r) for c, r in zip(found, right, strict=True)]
    difference = None
    if len(files) == 2:
        first, second = (one.astype(float) for one in right)
        difference = comparing.compare(len(labels), plan.seed, comparing.means(first, second))
    return [
        Line("accuracy", tuple(float(one.mean()) for one in right), difference),
        Line("calibration error", tuple(sure)),
    ]


async def _chances(file: Path, requests: Sequence[Request]) -> np.ndarray[Any, Any]:
    """How likely the model holds each label to be, row by row."""
    async with opened(file) as (runtime, _):
        return np.concatenate([scores_of(await runtime.infer(one)).chances for one in requests])


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > BYTES_MAX:
            raise DataError("measure-refused", f'cannot measure by "{path.name}": it has more than 256 MB')
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("measure-refused", f'cannot measure by "{path.name}"', detail=f"{error}.") from error
