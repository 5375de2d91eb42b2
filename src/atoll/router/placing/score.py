"""How good a place is for a request: what the route prefers, then seconds to the answer. Pure."""

from __future__ import annotations

from atoll.domain.models import Skill
from atoll.router.asked import Asked
from atoll.router.place import Feel, Place
from atoll.router.placing.eligible import is_named
from atoll.router.policy.route import Route
from atoll.router.prefix import share_read

# What is not known is taken for slow: tried, but not before what is known to be quicker.
ROUND_TRIP_SECONDS = 2.0
TOKENS_PER_SECOND = 10.0
PREFILL_TOKENS_PER_SECOND = 200.0
TOKENS_OUT = 256
WHOLE_SECONDS = 1.0  # of an answer that is no text
TOGETHER = 4  # requests that an engine answers at the same time

Score = tuple[float, ...]


def score(asked: Asked, route: Route, place: Place) -> Score:
    """The least comes first. Hints order only what the route likes equally."""
    rank = route.rank(place)
    first = len(route.prefer) if rank is None else rank
    return (first, _named(asked, place), _sorted(asked, place), expected_seconds(asked, place))


def cost(asked: Asked, place: Place) -> float:
    """What it may cost at most; without a price nothing is known."""
    return 0.0 if place.price is None else place.price.of(asked.tokens_in, asked.tokens_out or TOKENS_OUT)


def expected_seconds(asked: Asked, place: Place) -> float:
    feel = place.feel
    round_trip = ROUND_TRIP_SECONDS if feel.round_trip_seconds is None else feel.round_trip_seconds
    return round_trip + _work_seconds(asked, feel) * (1 + (feel.queue or 0) / TOGETHER)


def _work_seconds(asked: Asked, feel: Feel) -> float:
    if asked.skill is not Skill.GENERATE:
        return WHOLE_SECONDS if feel.first_seconds is None else feel.first_seconds
    tokens_out = min(asked.tokens_out or TOKENS_OUT, 4 * TOKENS_OUT)
    unread = asked.tokens_in * (1 - share_read(asked.marks, feel.warm))
    prefill = unread / (feel.prefill_tokens_per_second or PREFILL_TOKENS_PER_SECOND)
    return prefill + tokens_out / (feel.tokens_per_second or TOKENS_PER_SECOND)


def _named(asked: Asked, place: Place) -> int:
    order = asked.hints.order
    return next((number for number, word in enumerate(order) if is_named(place, (word,))), len(order))


def _sorted(asked: Asked, place: Place) -> float:
    if asked.hints.sort == "price":
        return cost(asked, place)
    if asked.hints.sort == "throughput":
        return -(place.feel.tokens_per_second or TOKENS_PER_SECOND)
    return 0.0
