"""Which of several files of one model to take. Pure.

Within bytes, memory and time, the one that loses least; where a loss is bounded, the smallest within it.
A loss whose interval holds nothing counts as none, so that nobody pays bytes for luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.compress.comparing import Difference


@dataclass(frozen=True)
class Measure:
    """What a model's quality is counted in, what a loss of it is called, and what is timed."""

    quality: str
    loss: str
    timed: str


PERPLEXITY = Measure("perplexity", "rise of perplexity", "token")
ACCURACY = Measure("accuracy", "loss of accuracy", "call")
LIKENESS = Measure("cosine", "loss of likeness", "call")


@dataclass(frozen=True)
class Candidate:
    """A file, and what was measured of it."""

    name: str
    bytes: int
    resident_bytes: int
    needs_bytes: int  # of memory, as a node counts before it takes a model
    per_second: float  # tokens, or calls
    quality: float
    loss: Difference  # of perplexity a share of what it was; else how much less

    @property
    def ms(self) -> float:
        return 1000 / self.per_second

    @property
    def lost(self) -> float:
        return self.loss.middle if self.loss.is_certain else 0.0


@dataclass(frozen=True)
class Wishes:
    max_bytes: int | None = None
    max_memory: int | None = None
    max_loss: float | None = None
    max_ms: float | None = None  # for a token, or a call


@dataclass(frozen=True)
class Question:
    model: Path
    calibration: Path
    judge: Path
    wishes: Wishes
    place: Path  # of the folder where what is made is kept
    calibration_rows: int = 128
    judge_rows: int | None = None  # by default as many as its kind of model needs


@dataclass(frozen=True)
class Advice:
    name: str
    fits: bool  # else it is what comes nearest
    why: str


@dataclass(frozen=True)
class Answer:
    measure: Measure
    candidates: tuple[Candidate, ...]
    files: Mapping[str, Path]
    advice: Advice
    left_out: Mapping[str, str]  # forms that the model has no use for, and why


def recommend(candidates: Sequence[Candidate], wishes: Wishes, measure: Measure = PERPLEXITY) -> Advice:
    missed = {one.name: list(_missed(one, wishes, measure)) for one in candidates}
    fitting = [one for one in candidates if not missed[one.name]]
    if not fitting:
        nearest = min(candidates, key=lambda one: (max(over for over, _ in missed[one.name]), one.bytes))
        words = ", and ".join(word for _, word in missed[nearest.name])
        return Advice(nearest.name, False, f"nothing fits; {nearest.name} comes nearest: {words}")
    among = f"{len(fitting)} of {len(candidates)} fit"
    if wishes.max_loss is not None:
        chosen = min(fitting, key=lambda one: (one.bytes, one.lost))
        return Advice(chosen.name, True, f"{among}, and this one is the smallest: {_said(chosen, measure)}")
    chosen = min(fitting, key=lambda one: (one.lost, one.bytes))
    return Advice(chosen.name, True, f"{among}, and this one loses least: {_said(chosen, measure)}")


def _missed(one: Candidate, wishes: Wishes, measure: Measure) -> Iterator[tuple[float, str]]:
    """How many times too much it is, and in words."""
    if wishes.max_bytes is not None and one.bytes > wishes.max_bytes:
        yield one.bytes / wishes.max_bytes, f"it has {one.bytes:,} bytes of {wishes.max_bytes:,}"
    needed = max(one.needs_bytes, one.resident_bytes)
    if wishes.max_memory is not None and needed > wishes.max_memory:
        yield (
            needed / max(1, wishes.max_memory),
            f"it needs {needed:,} bytes of memory of {wishes.max_memory:,}",
        )
    if wishes.max_ms is not None and one.ms > wishes.max_ms:
        yield one.ms / wishes.max_ms, f"it takes {one.ms:.2f} ms a {measure.timed} of {wishes.max_ms:g}"
    if wishes.max_loss is not None and one.lost > wishes.max_loss:
        over = (1 + one.lost) / (1 + wishes.max_loss)
        yield over, f"its {measure.loss} is {one.lost:.2%} of {wishes.max_loss:.2%}"


def _said(one: Candidate, measure: Measure) -> str:
    luck = "" if one.loss.is_certain else ", no more than luck"
    return f"{one.loss.middle:+.2%} {measure.loss} ({one.loss.low:+.2%} to {one.loss.high:+.2%}{luck})"
