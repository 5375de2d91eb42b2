"""How sure a model was of its answer, as a number from 0 to 1. Pure.

Four measures for text and one for tensors share the scale, so that one threshold means much the same for all:
what the engine says of each token, how many samples say the same, how high a classifier's best class is. What
cannot be measured is not known, which is less than 0. Whether a number is good enough is decided elsewhere.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

TOP = 5  # alternatives that the engine is asked for: enough for a margin and a rough entropy


class Measure(StrEnum):
    MEAN_LOGPROB = "mean_logprob"  # the geometric mean of the tokens' probabilities
    MIN_MARGIN = "min_margin"  # the least lead that any token had over the next best
    ENTROPY = "entropy"  # how little the first token was spread over others
    AGREEMENT = "agreement"  # the share of samples that say the same
    SCORE = "score"  # a classifier's probability of its best class


OF_TOKENS = (Measure.MEAN_LOGPROB, Measure.MIN_MARGIN, Measure.ENTROPY)


@dataclass(frozen=True)
class Token:
    """One that was chosen, with the best that could have been, as logarithms of probabilities."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    def margin(self) -> float | None:
        others = [logprob for text, logprob in self.top if text != self.text]
        return math.exp(self.logprob) - math.exp(max(others)) if others else None

    def certainty(self) -> float | None:
        """One less the entropy, as a share of what it could be; all that is not in the top counts as one."""
        if len(self.top) < 2:
            return None
        known = [math.exp(logprob) for _, logprob in self.top]
        spread = [p for p in (*known, 1.0 - sum(known)) if p > 0]
        return 1.0 + sum(p * math.log(p) for p in spread) / math.log(len(known) + 1)


@dataclass
class _Choice:
    tokens: int = 0
    logprobs: float = 0.0
    margin: float | None = 1.0
    certainty: float | None = None

    def add(self, token: Token) -> None:
        if not self.tokens:
            self.certainty = token.certainty()
        self.tokens += 1
        self.logprobs += token.logprob
        margin = token.margin()
        self.margin = None if margin is None or self.margin is None else min(self.margin, margin)

    def value(self, measure: Measure) -> float | None:
        if not self.tokens:
            return None
        if measure is Measure.MEAN_LOGPROB:
            return math.exp(self.logprobs / self.tokens)
        found = self.margin if measure is Measure.MIN_MARGIN else self.certainty
        return None if found is None else min(1.0, max(0.0, found))


@dataclass
class Meter:
    """Listens to the events of an answer. Of several choices the least sure counts."""

    measure: Measure
    expected: int = 1  # choices
    choices: dict[int, _Choice] = field(default_factory=dict)

    def feed(self, content: Mapping[str, Any]) -> None:
        for part in content.get("choices") or ():
            choice = self.choices.setdefault(part.get("index", 0), _Choice())
            for token in tokens(part.get("logprobs")):
                choice.add(token)

    def value(self) -> float | None:
        found = [choice.value(self.measure) for choice in self.choices.values()]
        known = [value for value in found if value is not None]
        return min(known) if known and len(known) == len(found) else None

    def early(self, is_enough: Callable[[float], bool]) -> bool | None:
        """Whether it is sure, where nothing that may still come changes that."""
        value = self.value()
        if value is None or self.measure not in (Measure.ENTROPY, Measure.MIN_MARGIN):
            return None
        if not is_enough(value):
            return False
        # The first token of another choice may still come; so may a token with a smaller lead.
        return True if self.measure is Measure.ENTROPY and len(self.choices) == self.expected else None


def tokens(told: Any) -> Iterator[Token]:
    """What an event says of its tokens: as in chats, or as completions have had it since long ago."""
    if not isinstance(told, Mapping):
        return
    for one in told.get("content") or ():
        if _is_number(one.get("logprob")):
            top = [(t.get("token"), t.get("logprob")) for t in one.get("top_logprobs") or ()]
            yield Token(one.get("token", ""), one["logprob"], _top(top))
    known, tops = told.get("token_logprobs") or (), told.get("top_logprobs") or ()
    for number, logprob in enumerate(known):
        if _is_number(logprob):
            top = tops[number] if number < len(tops) and isinstance(tops[number], Mapping) else {}
            yield Token(str((told.get("tokens") or {number: ""})[number]), logprob, _top(top.items()))


def _top(pairs: Any) -> tuple[tuple[str, float], ...]:
    return tuple((str(text), logprob) for text, logprob in pairs if _is_number(logprob))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value <= 1e-6


def agreement(answers: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of answers that say what the first says, by the words alone: for short answers."""
    said = [what_is_said(answer) for answer in answers]
    return said.count(said[0]) / len(said) if len(said) > 1 and said[0] else None


def what_is_said(answer: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts and calls of tools of a whole answer, without what does not matter in them."""
    parts = [*(answer.get("choices") or ()), *(answer.get("content") or ())]
    for item in answer.get("output") or ():
        parts += [*(item.get("content") or ()), item]
    return tuple(said for part in parts for said in _said(part))


def _said(part: Mapping[str, Any]) -> Iterator[str]:
    message = part.get("message") or part
    text = message.get("content") or message.get("text")
    if isinstance(text, str) and text.strip():
        yield _plain(text)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield f"{function['name']} {_plain(function['arguments'])}"
    if "name" in part and ("input" in part or "arguments" in part):
        given = part.get("arguments", part.get("input"))
        yield f"{part['name']} {_plain(given if isinstance(given, str) else json.dumps(given))}"


def _plain(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return " ".join(text.casefold().split()).strip(" .,;:!?\"'`*")


@dataclass(frozen=True)
class Calibration:
    """Turns what a model says of itself into how often it is right."""

    temperature: float = 1.0  # of a classifier's scores
    points: tuple[tuple[float, float], ...] = ()  # of any measure: from → to, rising, straight in between

    def of(self, value: float | None) -> float | None:
        if value is None or not self.points:
            return value
        at = bisect_right(self.points, value, key=lambda point: point[0])
        if at in (0, len(self.points)):
            return self.points[min(at, len(self.points) - 1)][1]
        (low, under), (high, over) = self.points[at - 1 : at + 1]
        return under + (over - under) * (value - low) / (high - low)
