"""How places answer, measured on the way: averages that forget, of as many places as there is room for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from atoll.router.place import Feel

PLACES_MAX = 512
WEIGHT = 0.3  # of the newest
FORGOTTEN_SECONDS = 600.0  # without news; a place that was slow once is tried again
VALUE_MIN, VALUE_MAX = 1e-4, 1e6
PREFILL_TOKENS_MIN = 64  # below which the first word says nothing about reading
EVENTS_MIN = 8


@dataclass
class _Kept:
    at: float
    round_trip: float | None = None
    rate: float | None = None
    prefill: float | None = None
    first: float | None = None


class Feels:
    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, key: Hashable, now: float, said: Feel) -> Feel:
        """With what is said of it: of the way and the queue that counts, of the rate only at first."""
        kept = self._kept.get(key)
        if kept is None or now - kept.at > FORGOTTEN_SECONDS:
            return said
        trip, rate = said.round_trip_seconds, said.tokens_per_second
        return Feel(
            kept.round_trip if trip is None else trip,
            said.queue,
            rate if kept.rate is None else kept.rate,
            kept.prefill,
            kept.first,
            said.warm,
        )

    def began(self, key: Hashable, now: float, seconds: float, tokens_in: int, trip: float | None) -> None:
        """The first word came; what the way takes is part of it where it is not known."""
        kept = self._renew(key, now)
        kept.first = _mixed(kept.first, 0.0 if trip is None else seconds - trip)
        if trip is None:
            kept.round_trip = _mixed(kept.round_trip, seconds)
        elif tokens_in >= PREFILL_TOKENS_MIN and seconds > trip:
            kept.prefill = _mixed(kept.prefill, tokens_in / (seconds - trip))

    def ended(self, key: Hashable, now: float, events: int, seconds: float) -> None:
        if events >= EVENTS_MIN and seconds > 0:
            kept = self._renew(key, now)
            kept.rate = _mixed(kept.rate, events / seconds)

    def _renew(self, key: Hashable, now: float) -> _Kept:
        kept = self._kept.get(key)
        if kept is None or now - kept.at > FORGOTTEN_SECONDS:
            kept = self._kept[key] = _Kept(now)
        kept.at = now
        self._kept.move_to_end(key)
        while len(self._kept) > PLACES_MAX:
            self._kept.popitem(last=False)
        return kept


def _mixed(before: float | None, new: float) -> float:
    new = min(max(new, VALUE_MIN), VALUE_MAX)
    return new if before is None else (1 - WEIGHT) * before + WEIGHT * new
