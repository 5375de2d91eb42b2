"""What is known of a request before it is placed, and the hints of whoever asks. Pure.

Hints may only narrow where a request goes. One that cannot be honoured is refused, not ignored: it may have
been meant to keep something in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.router.place import Need, Price
from atoll.router.prefix import Mark, read_marks

BYTES_PER_TOKEN = 3  # what a request costs is estimated high
BYTES_PER_TOKEN_MOST = 8  # whether it fits is estimated low: the model itself counts better
IMAGE_TOKENS = 1500
TOKENS_MAX = 10**9
WORDS_MAX = 32
SORTS = ("price", "latency", "throughput")
PROVIDER = ("order", "only", "ignore", "allow_fallbacks", "max_price", "sort")
LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
OPAQUE = ("image_url", "input_audio", "source", "image", "data")  # parts of a body that are no text
BESIDE = (*OPAQUE, "provider")
IMAGES = ("image_url", "input_image", "image")


@dataclass(frozen=True)
class Hints:
    order: tuple[str, ...] = ()  # among what the route likes equally
    only: tuple[str, ...] | None = None  # kinds or names of places
    ignore: tuple[str, ...] = ()
    places: tuple[str, ...] | None = None  # as `only`, from the header
    allow_fallbacks: bool = True
    max_price: Price | None = None
    sort: str | None = None


NO_HINTS = Hints()


class Asked(NamedTuple):
    model: str  # as the caller wrote it
    path: str
    skill: Skill
    needs: frozenset[Need] = frozenset()
    bytes_in: int = 0  # of text
    images: int = 0
    tokens_out: int | None = None  # at most, where the request says so
    scopes: frozenset[str] = frozenset()
    label: str | None = None
    caller: str | None = None  # the name of a key
    hints: Hints = NO_HINTS
    deadline_seconds: float | None = None
    max_cost: float | None = None  # what may still be spent on it
    marks: tuple[Mark, ...] = ()  # of how it begins
    may_be_old: bool = True  # may it be given an answer that was given before?
    may_be_held: bool = True  # may its answer be given again?
    budget: str | None = None  # of its key, that pays for clouds beside the route's

    @property
    def tokens_in(self) -> int:
        return math.ceil(self.bytes_in / BYTES_PER_TOKEN) + self.images * IMAGE_TOKENS

    @property
    def tokens_in_least(self) -> int:
        return self.bytes_in // BYTES_PER_TOKEN_MOST


def read_asked(
    path: str,
    skill: Skill,
    model: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    caller: str | None = None,
    scopes: frozenset[str] = frozenset(),
) -> Asked:
    """Of a request over HTTP; the names of headers are small."""
    wishes = {word.strip() for word in headers.get("cache-control", "").lower().split(",", WORDS_MAX)}
    size, images = weigh(body)
    return Asked(
        model,
        path,
        skill,
        needs_of(body, images),
        size,
        images,
        _limit(body),
        scopes,
        headers.get("x-atoll-label") or None,
        caller,
        _hints(body.get("provider"), headers.get("x-atoll-place")),
        _header(headers, "x-atoll-deadline"),
        _header(headers, "x-atoll-max-cost"),
        read_marks(body) if skill is Skill.GENERATE else (),
        wishes.isdisjoint({"no-cache", "no-store"}),
        "no-store" not in wishes,
    )


def needs_of(body: Mapping[str, Any], images: int) -> frozenset[Need]:
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, Mapping) else None
    text = body.get("text")
    has_form = isinstance(text, Mapping) and isinstance(text.get("format"), Mapping)
    found = []
    if body.get("tools"):
        found.append(Need.TOOLS)
    if kind not in (None, "text") or has_form:
        found.append(Need.SCHEMA)
    if body.get("logprobs") or body.get("top_logprobs"):
        found.append(Need.LOGPROBS)
    if images:
        found.append(Need.IMAGE)
    return frozenset(found)


def weigh(body: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of text and number of images in a body, as JSON has them; its hints are not counted."""
    size, images = 0, 0
    parts: list[Any] = [value for name, value in body.items() if name not in BESIDE]
    for part in parts:  # which grow by what is in them
        if isinstance(part, str):
            size += len(part) if part.isascii() else len(part.encode(errors="replace"))
        elif isinstance(part, dict):
            images += part.get("type") in IMAGES
            parts += [value for name, value in part.items() if name not in OPAQUE]
        elif isinstance(part, list):
            parts += part
    return size, images


@dataclass(frozen=True)
class Weight:
    """Tokens that a request may come to."""

    most_in: int
    least_in: int
    out: int | None  # at most, where it says so


def weigh_tokens(body: Mapping[str, Any]) -> Weight:
    size, images = weigh(body)
    asked = Asked("", "", Skill.GENERATE, bytes_in=size, images=images)
    return Weight(asked.tokens_in, asked.tokens_in_least, _limit(body))


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in LIMITS:
        value = body.get(name)
        if type(value) is int and value > 0:
            choices = body.get("n")
            return min(value * (choices if type(choices) is int and choices > 1 else 1), TOKENS_MAX)
    return None


def _hints(provider: Any, place: str | None) -> Hints:
    if provider is None and place is None:
        return NO_HINTS
    told = {} if provider is None else provider
    if not isinstance(told, Mapping):
        raise _malformed("provider is not an object")
    for name in told:
        if name not in PROVIDER:
            raise _malformed(f'provider has a field "{name}" that is not known here')
    sort, fallbacks = told.get("sort"), told.get("allow_fallbacks", True)
    if sort is not None and sort not in SORTS:
        raise _malformed(f"sort is one of {', '.join(SORTS)}")
    if not isinstance(fallbacks, bool):
        raise _malformed("allow_fallbacks is true or false")
    return Hints(
        _words(told, "order") or (),
        _words(told, "only"),
        _words(told, "ignore") or (),
        None if place is None else tuple(word.strip() for word in place.split(",", WORDS_MAX)),
        fallbacks,
        _price(told.get("max_price")),
        sort,
    )


def _words(told: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    found = told.get(name)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) > WORDS_MAX or not all(isinstance(w, str) for w in found):
        raise _malformed(f"{name} is not a list of up to {WORDS_MAX} names")
    return tuple(found)


def _price(told: Any) -> Price | None:
    if told is None:
        return None
    if not isinstance(told, Mapping) or not told.keys() <= {"prompt", "completion"}:
        raise _malformed("max_price has prompt and completion, per million tokens")
    named = (told.get(name) for name in ("prompt", "completion"))
    return Price(*(math.inf if one is None else _number(one, "max_price") for one in named))


def _header(headers: Mapping[str, str], name: str) -> float | None:
    told = headers.get(name)
    return None if told is None else _number(told, f"the header {name}", f"For example: {name}: 0.5")


def _number(told: Any, name: str, hint: str | None = None) -> float:
    try:
        found = math.nan if isinstance(told, bool) else float(told)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise _malformed(f"{name} is not a number from 0", hint)
    return found


def _malformed(what: str, hint: str | None = None) -> DataError:
    return DataError(
        "hint-malformed",
        "the request says something of its place that cannot be understood",
        detail=f"{what[0].upper()}{what[1:]}.",
        hint=hint or f"A provider may have {', '.join(PROVIDER)}.",
    )
