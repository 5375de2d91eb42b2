"""When this node has last heard of the others, and whether what it knows of a route is too old by that. Pure.

A route is what the owner has said on some node. Whoever is cut off goes on by the last that it has heard; for
how long that may lead beyond the node itself, the route says.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heard:
    """Somebody was heard `seconds_ago`, as of `at`, by a clock that nobody sets."""

    seconds_ago: float | None  # None where there is nobody else, so nobody who could say anything new
    at: float

    def age_seconds(self, now: float) -> float | None:
        return None if self.seconds_ago is None else max(0.0, self.seconds_ago) + max(0.0, now - self.at)

    def has_expired(self, after_seconds: float | None, now: float) -> bool:
        age = self.age_seconds(now)
        return age is not None and after_seconds is not None and age > after_seconds
