"""What became of the requests that were routed: the last of them whole, and how many there were."""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from atoll.router.place import Place
from atoll.router.placing.decide import Decision

KEPT_MAX = 256
ERROR_LETTERS_MAX = 200
ID_BYTES, DRAWN = 8, 256


def _draw() -> Iterator[str]:
    """Names that nobody guesses, many at a time: to ask the kernel for each costs more than the name."""
    while True:
        drawn = os.urandom(DRAWN * ID_BYTES).hex()
        yield from (drawn[at : at + 2 * ID_BYTES] for at in range(0, len(drawn), 2 * ID_BYTES))


_ids = _draw()


@dataclass
class Trip:
    """One request: what was decided first, where it was tried, and who answered."""

    decision: Decision
    id: str = field(default_factory=lambda: next(_ids))
    at: float = field(default_factory=time.time)
    tries: list[dict[str, Any]] = field(default_factory=list)
    place: Place | None = None
    end: str = "asked"  # then answered, broken, refused or left
    again: dict[str, Any] | None = None  # the answer that was given once more
    is_provisional: bool = False  # this node's own model stands in for those out of reach
    cascade: dict[str, Any] | None = None  # how sure the first model was, and what came of it

    @property
    def header(self) -> str:
        where = "none" if self.place is None else self.place.label
        if self.again is not None:
            return f"cache; route={self.decision.route.name}; age={self.again['age_seconds']:g}; id={self.id}"
        said = self._sureness() + ("; provisional" if self.is_provisional else "")
        return f"{where}; route={self.decision.route.name}{said}; id={self.id}"

    def _sureness(self) -> str:
        if self.cascade is None:
            return ""
        known = self.cascade["confidence"]
        turn = "then" if self.cascade["went_on"] else "first"
        return f"; cascade={turn}; confidence={'unknown' if known is None else format(known, '.3f')}"

    def tried(self, place: Place, seconds: float, problem: BaseException | None) -> None:
        told = None if problem is None else getattr(problem, "code", "left")
        words = str(problem)[:ERROR_LETTERS_MAX] if told else None
        one = {"place": place.label, "model": place.model, "seconds": round(seconds, 4)}
        self.tries.append(one if told is None else {**one, "code": told, "problem": words})

    def told(self) -> dict[str, Any]:
        place = self.place
        answered = (
            None if place is None else {"place": place.label, "model": place.model, "version": place.version}
        )
        return {
            "id": self.id,
            "at": round(self.at, 3),
            "end": self.end,
            "answered_by": answered,
            **({"provisional": True} if self.is_provisional else {}),
            "tries": self.tries,
            **self.decision.told(),
            **({} if self.again is None else {"again": self.again}),
            **({} if self.cascade is None else {"cascade": self.cascade}),
        }


class Records:
    def __init__(self) -> None:
        self._trips: OrderedDict[str, Trip] = OrderedDict()
        self.answers: Counter[tuple[str, str, str]] = Counter()  # by route, kind of place and end

    def keep(self, trip: Trip) -> None:
        self._trips[trip.id] = trip
        while len(self._trips) > KEPT_MAX:
            self._trips.popitem(last=False)

    def count(self, trip: Trip) -> None:
        kind = "none" if trip.place is None else str(trip.place.kind)
        kind = kind if trip.again is None else "cache"
        self.answers[trip.decision.route.name, kind, trip.end] += 1

    def forget_routes_but(self, names: Container[str]) -> None:
        for words in [words for words in self.answers if words[0] not in names]:
            del self.answers[words]

    def find(self, name: str) -> Trip | None:
        return self._trips.get(name)
