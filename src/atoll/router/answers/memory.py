"""The answers that a node holds in memory, of all that its database knows. Nothing here waits for anybody.

Bounded by bytes and by number; the one that was used longest ago goes first.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES_MAX = 32 * 1024**2
ANSWERS_MAX = 20_000
NEAR_MAX = 2000  # questions that are compared with one, the newest
OVERHEAD_BYTES = 1200
NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
Fits = Callable[["Answer"], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    key: str
    whole: str
    around: str | None
    question: str | None
    vector: bytes | None  # float32, of length one
    encoder: str | None  # with its version
    route: str
    model: str
    version: str
    variant: str
    scope: str
    made_at: float
    until: float
    events: bytes
    tables: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return OVERHEAD_BYTES + len(self.events) + len(self.vector or b"") + len(self.question or "")


class Memory:
    def __init__(self, bytes_max: int = BYTES_MAX, clock: Callable[[], float] = time.time) -> None:
        self.size = 0
        self._bytes_max = bytes_max
        self._clock = clock
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._by_whole: dict[str, dict[str, None]] = {}
        self._by_around: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: object) -> bool:
        return key in self._answers

    def put(self, answer: Answer) -> None:
        self.drop(answer.key)
        if answer.until <= self._clock() or answer.size > self._bytes_max:
            return
        self._answers[answer.key] = answer
        self.size += answer.size
        for group, name in self._groups(answer):
            group.setdefault(name, {})[answer.key] = None
        while self.size > self._bytes_max or len(self._answers) > ANSWERS_MAX:
            self.drop(next(iter(self._answers)))

    def drop(self, key: str) -> None:
        answer = self._answers.pop(key, None)
        if answer is None:
            return
        self.size -= answer.size
        for group, name in self._groups(answer):
            del group[name][key]
            if not group[name]:
                del group[name]

    def clear(self) -> None:
        self._answers.clear()
        self._by_whole.clear()
        self._by_around.clear()
        self.size = 0

    def exact(self, whole: str, fits: Fits) -> Answer | None:
        """An answer to the very same request."""
        return self._newest(answer for answer in self._of(self._by_whole, whole) if fits(answer))

    def near(
        self, around: str, encoder: str, vector: NDArray[Any], question: str, threshold: float, fits: Fits
    ) -> tuple[Answer, float] | None:
        """The answer to the question that is most like this one, if that is enough, and how like it is."""
        import numpy as np

        able = [
            answer
            for answer in self._of(self._by_around, around)
            if answer.encoder == encoder and answer.vector is not None and fits(answer)
        ][-NEAR_MAX:]
        able = [answer for answer in able if len(answer.vector or b"") == 4 * len(vector)]
        if not able:
            return None
        rows = np.frombuffer(b"".join(answer.vector or b"" for answer in able), np.float32)
        likeness = rows.reshape(len(able), -1) @ vector.astype(np.float32)
        for number in np.argsort(-likeness):
            if likeness[number] < threshold:
                return None
            if are_alike(able[number].question or "", question):
                self._answers.move_to_end(able[number].key)
                return able[number], float(likeness[number])
        return None

    def _newest(self, found: Iterator[Answer]) -> Answer | None:
        newest = max(found, key=lambda answer: answer.made_at, default=None)
        if newest is not None:
            self._answers.move_to_end(newest.key)
        return newest

    def _of(self, group: dict[str, dict[str, None]], name: str) -> Iterator[Answer]:
        now = self._clock()
        for key in list(group.get(name, ())):
            answer = self._answers[key]
            if answer.until <= now:
                self.drop(key)
            else:
                yield answer

    def _groups(self, answer: Answer) -> Iterator[tuple[dict[str, dict[str, None]], str]]:
        yield self._by_whole, answer.whole
        if answer.around is not None:
            yield self._by_around, answer.around


def are_alike(one: str, other: str) -> bool:
    """May two questions be the same at all? Models find 3 and 8 alike; who asks does not."""
    return sorted(NUMBER.findall(one)) == sorted(NUMBER.findall(other))
