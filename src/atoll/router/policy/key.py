"""A key: what the owner of the atoll has said of whoever shows it. Pure.

All of it narrows: it may forbid a place, a table or a moment, and allows nothing. Rows come from other nodes
too, so nothing in them is believed to be well-formed; a key that makes no sense is good for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import DataError
from atoll.router.policy.route import SCOPE

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h|d)")
SCHEMA = "public."


@dataclass(frozen=True)
class Rate:
    """So many in so many seconds."""

    count: int
    seconds: int


@dataclass(frozen=True)
class Key:
    name: str
    may_read: bool = False
    rate: Rate | None = None  # of requests
    token_rate: Rate | None = None
    budget: str | None = None
    scope: str | None = None
    tables: frozenset[str] | None = None  # that it may read; all, where none is named

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset() if self.scope is None else frozenset({self.scope})

    def reads(self, table: str) -> bool:
        """A name that is written in another way than in the key is not one of its tables."""
        return self.may_read and (self.tables is None or table.removeprefix(SCHEMA) in self.tables)


Keys = Mapping[str, Key | DataError]
NO_KEYS: Keys = {}


def find_key(keys: Keys, caller: object) -> Key | None:
    """What is said of a caller, if it has shown a key."""
    found = keys.get(caller) if isinstance(caller, str) else None
    if isinstance(found, DataError):
        raise found
    return found


def from_row(row: Mapping[str, Any]) -> Key | DataError:
    try:
        scope, tables = _text(row["scope"]), row["tables"]
        if scope is not None and not SCOPE.fullmatch(scope):
            raise ValueError(f'"{scope}" is no scope')
        return Key(
            str(row["name"]),
            row["may_read"] is True,
            read_rate(row["rate"]),
            read_rate(row["token_rate"]),
            _text(row["budget"]),
            scope,
            None if tables is None else frozenset(str(one).removeprefix(SCHEMA) for one in tables),
        )
    except (KeyError, TypeError, ValueError) as error:
        return DataError(
            "key-malformed",
            f'cannot use key "{row.get("name")}"',
            detail=f"{error}.",
            hint="Set it anew: atoll key set",
        )


def read_rate(told: Any) -> Rate | None:
    if told is None:
        return None
    found = RATE.fullmatch(told)
    if found is None:
        raise ValueError(f'"{told}" is no rate')
    return Rate(int(found[1]), SECONDS[found[2]])


def _text(told: Any) -> str | None:
    if told is not None and not isinstance(told, str):
        raise ValueError(f"{told!r} is no name")
    return told
