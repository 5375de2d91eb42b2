"""Examples: what is asked and what is right, of rows; and which of them are kept for judging.

Whether a row is held out follows from what it says, so a row that is there twice is never on both sides, and
the same rows are split the same way wherever and however often they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from atoll.domain.errors import DataError

ROWS_MAX = 100_000
HELD_OUT_MAX = 500
EXAMPLES_MIN = 8
HINT = 'A row has "prompt" and "answer", or "text" alone.'


class Says(Protocol):
    def said(self) -> bytes: ...


Kind = TypeVar("Kind", bound=Says)


@dataclass(frozen=True)
class Example:
    """A prompt is read, an answer is learned. Without a prompt all of it is learned, as plain text."""

    prompt: str
    answer: str

    def said(self) -> bytes:
        return f"{self.prompt}\0{self.answer}".encode("utf-8", "surrogatepass")


def of_rows(rows: Iterable[Any]) -> list[Example]:
    """DataError where a row is none; rows whose answer is null or empty teach nothing and are left out."""
    found: list[Example] = []
    for number, row in enumerate(rows, 1):
        if number > ROWS_MAX:
            raise DataError(
                "examples-many", f"there are more than {ROWS_MAX:,} rows", hint="Let the query choose fewer."
            )
        if isinstance(row, Mapping) and "answer" in row and "prompt" in row:
            prompt, answer = row["prompt"], row["answer"]
        elif isinstance(row, Mapping) and "text" in row:
            prompt, answer = "", row["text"]
        else:
            raise DataError("examples-malformed", f"row {number} is no example", hint=HINT)
        if answer is None or not str(answer).strip():
            continue
        found.append(Example("" if prompt is None else str(prompt), str(answer)))
    if len(found) < EXAMPLES_MIN:
        raise DataError(
            "examples-few",
            f"{len(found)} examples are too few to learn from",
            hint=f"At least {EXAMPLES_MIN} are needed, and hundreds are better.",
        )
    return found


def read_file(file: Path) -> list[Example]:
    """Lines of JSON, or the paragraphs of a text."""
    try:
        return of_rows(_rows_of(file))
    except (OSError, ValueError) as error:
        raise DataError("examples-malformed", f"could not read {file}", detail=f"{error}.") from error


def _rows_of(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8") as lines:
        if file.suffix == ".jsonl":
            yield from (json.loads(line) for line in lines if line.strip())
            return
        for paragraph in lines.read().split("\n\n"):
            yield {"text": paragraph.strip()}


def split(examples: Sequence[Kind], share: float, seed: int) -> tuple[list[Kind], list[Kind]]:
    """Those to learn from and those to judge by, after what each says; each side has at least one."""

    def rank(one: Kind) -> bytes:
        return hashlib.sha256(f"{seed}\0".encode() + one.said()).digest()

    ranked = sorted({rank(one): one for one in examples}.items(), key=lambda pair: pair[0])
    count = min(max(1, round(len(ranked) * share)), HELD_OUT_MAX)
    if count >= len(ranked):
        raise DataError(
            "examples-few",
            "all rows say the same",
            hint="Rows that differ are needed to judge what was learned.",
        )
    held_out = {place for place, _ in ranked[:count]}
    return [one for one in examples if rank(one) not in held_out], [one for _, one in ranked[:count]]
