"""What of a request makes its answer, as hashes: all of it, and all but the question. Pure.

The rows that were quoted in it are part of it, so an answer from rows that have changed since is not found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.router.asked import Asked
from atoll.router.policy.again import Policy
from atoll.router.policy.route import Route

# How an answer is sent, who wants it, and what is read elsewhere.
BESIDE = (
    "model", "provider", "stream", "stream_options", "user", "metadata", "store", "safety_identifier",
    "prompt_cache_key", "service_tier",
)  # fmt: skip
TALKS = ("/v1/chat/completions", "/v1/messages")
COUNTED = ("/v1/chat/completions", "/v1/completions")  # where what it took is told only to those who ask
QUESTION_CHARACTERS_MAX = 2000


@dataclass(frozen=True)
class Quoted:
    """What a request has besides its caller's words: rows of these tables stand before what was said."""

    tables: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Wording:
    whole: str
    around: str | None = None  # everything but the question
    question: str | None = None


def read_wording(
    asked: Asked, route: Route, policy: Policy, body: Mapping[str, Any], quoted: Quoted | None = None
) -> Wording:
    told = {name: value for name, value in body.items() if name not in BESIDE and value is not None}
    frame = [
        route.name,
        route.options.get("cascade"),
        asked.path,
        sorted(asked.scopes),
        asked.label,
        asked.caller if policy.is_per_key else None,
        _counts(asked.path, body),
    ]
    whole = _hash(frame, told)
    if policy.encoder is None or asked.path not in TALKS:
        return Wording(whole)
    parted = _parted(told.get("messages"), quoted)
    if parted is None:
        return Wording(whole)
    rest, question = parted
    return Wording(whole, _hash(frame, {**told, "messages": rest}), question)


def _counts(path: str, body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    is_wanted = isinstance(options, Mapping) and options.get("include_usage") is True
    return path in COUNTED and (body.get("stream") is not True or is_wanted)


def _parted(messages: Any, quoted: Quoted | None) -> tuple[list[Any], str] | None:
    """The conversation without what was said last, and that; nothing where it is no text, or long."""
    if not isinstance(messages, Sequence) or not messages or not isinstance(messages[-1], Mapping):
        return None
    last = messages[-1]
    text = last.get("content")
    if last.get("role") != "user" or not isinstance(text, str):
        return None
    question = text if quoted is None else quoted.said
    if not text.endswith(question) or not 0 < len(question.strip()) <= QUESTION_CHARACTERS_MAX:
        return None
    return [*messages[:-1], {**last, "content": text[: len(text) - len(question)]}], question


def _hash(*told: Any) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
