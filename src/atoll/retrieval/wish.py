"""What a caller wants to have looked up before a model answers: the field `retrieve` of a request. Pure.

Without a query of its own, the last thing that the user said is one. It is a question, not a search: its
signs mean nothing, and it counts up to the length that a search takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.domain.errors import DataError

ROWS, ROWS_MAX = 5, 50
TABLES_MAX = 16
QUERY_LENGTH_MAX = 1000
FIELDS = ("table", "tables", "k", "filter", "query")
SIGNS = re.compile(r'["“”„「」『』]|(?<!\S)-+')


@dataclass(frozen=True)
class Wish:
    tables: tuple[str, ...]
    query: str
    k: int = ROWS
    filter: Mapping[str, Any] = field(default_factory=dict)


def read(told: Any, messages: Any) -> Wish:
    named = tables(told)
    if unknown := sorted(told.keys() - set(FIELDS)):
        raise malformed(f'it has no field "{unknown[0]}"')
    k = told.get("k", ROWS)
    if type(k) is not int or not 1 <= k <= ROWS_MAX:
        raise malformed(f"k is a number from 1 to {ROWS_MAX}")
    chosen = told.get("filter") or {}
    if not isinstance(chosen, Mapping):
        raise malformed("the filter is not an object")
    said, query = said_last(messages), told.get("query")
    if query is None:
        query = SIGNS.sub(" ", said)[:QUERY_LENGTH_MAX]
    if not isinstance(query, str) or not query.strip():
        raise malformed("there is nothing to search for")
    return Wish(named, query.strip(), k, chosen)


def tables(told: Any) -> tuple[str, ...]:
    if not isinstance(told, Mapping):
        raise malformed("it is not an object")
    named = [told["table"]] if told.get("table") is not None else told.get("tables")
    if not isinstance(named, Sequence) or isinstance(named, str) or not named:
        raise malformed("it names no table")
    if len(named) > TABLES_MAX or not all(isinstance(name, str) for name in named):
        raise malformed(f"tables is a list of {TABLES_MAX} names at most")
    return tuple(dict.fromkeys(named))


def last_of_user(messages: Any) -> int:
    """Which message is the last one of the user."""
    for at in reversed(range(len(messages) if isinstance(messages, list) else 0)):
        if isinstance(messages[at], Mapping) and messages[at].get("role") == "user":
            if not isinstance(messages[at].get("content"), str | list | None):
                raise malformed("what the user said last is neither a text nor a list")
            return at
    raise malformed("there is no message of a user to answer")


def said_last(messages: Any) -> str:
    content = messages[last_of_user(messages)].get("content")
    return content if isinstance(content, str) else " ".join(texts_of(content))


def texts_of(content: Any) -> list[str]:
    """The texts of a message, whichever of its forms it has."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return [text for text in texts if isinstance(text, str)]


def malformed(problem: str) -> DataError:
    return DataError(
        "retrieve-malformed",
        f"cannot understand what to retrieve: {problem}",
        hint='For example: "retrieve": {"table": "document", "k": 5, "filter": {"lang": "en"}}',
    )
