"""Which of several files of one model to take. Pure.

Within bytes, memory and time, the one that loses least; where a loss is bounded, the smallest within it.
A loss whose interval holds nothing counts as none, so that nobody pays bytes for luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atoll.compress.comparing import Difference


@dataclass(frozen=True)
class Candidate:
    """A file, and what was measured of it."""

    name: str
    bytes: int
    resident_bytes: int
    needs_bytes: int  # of memory, as a node counts before it takes a model
    per_second: float  # tokens
    perplexity: float
    loss: Difference  # of perplexity, as a share of that in 16 bits

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
    max_ms: float | None = None  # for a token


@dataclass(frozen=True)
class Advice:
    name: str
    fits: bool  # else it is what comes nearest
    why: str


def recommend(candidates: Sequence[Candidate], wishes: Wishes) -> Advice:
    fitting = [one for one in candidates if not list(_missed(one, wishes))]
    if not fitting:
        nearest = min(candidates, key=lambda one: (max(over for over, _ in _missed(one, wishes)), one.bytes))
        missed = ", and ".join(word for _, word in _missed(nearest, wishes))
        return Advice(nearest.name, False, f"nothing fits; {nearest.name} comes nearest: {missed}")
    among = f"{len(fitting)} of {len(candidates)} fit"
    if wishes.max_loss is not None:
        chosen = min(fitting, key=lambda one: (one.bytes, one.lost))
        return Advice(chosen.name, True, f"{among}, and this one is the smallest: {_said(chosen)}")
    chosen = min(fitting, key=lambda one: (one.lost, one.bytes))
    return Advice(chosen.name, True, f"{among}, and this one loses least: {_said(chosen)}")


def _missed(one: Candidate, wishes: Wishes) -> Iterator[tuple[float, str]]:
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
        yield one.ms / wishes.max_ms, f"it takes {one.ms:.2f} ms a token of {wishes.max_ms:g}"
    if wishes.max_loss is not None and one.lost > wishes.max_loss:
        over = (1 + one.lost) / (1 + wishes.max_loss)
        yield over, f"its perplexity rises by {one.lost:.2%} of {wishes.max_loss:.2%}"


def _said(one: Candidate) -> str:
    luck = "" if one.loss.is_certain else ", no more than luck"
    return f"{one.loss.middle:+.2%} of perplexity ({one.loss.low:+.2%} to {one.loss.high:+.2%}{luck})"
