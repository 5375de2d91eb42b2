"""A route: what the owner of the atoll has said about one name that is asked for. Pure.

Rows come from other nodes too, so nothing in them is believed to be well-formed. One that makes no sense
sends requests nowhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from atoll.domain.errors import DataError
from atoll.router.place import Kind, Place
from atoll.router.policy import again
from atoll.router.policy.cascade import Policy
from atoll.router.policy.cascade import parse as read_cascade

SECONDS_USUAL = 300.0
SECONDS_MAX = 3600.0
WORDS_MAX = 32
OWN = (Kind.HERE, Kind.PEER, Kind.HUB)
SCOPE = re.compile(r"local|global|node:[0-9]{1,9}|region:[A-Za-z0-9_.-]{1,64}")


class Unreachable(StrEnum):
    """What becomes of a request whose places are all out of reach."""

    REFUSE = "refuse"
    HERE = "here"  # this node's own model answers, and it is said that this is provisional
    QUEUE = "queue"  # it is answered later


@dataclass(frozen=True)
class Route:
    name: str
    models: Mapping[Kind, Sequence[str]]  # which model answers in places of a kind
    prefer: Sequence[str] = OWN  # kinds, names of nodes, cloud:NAME; nowhere else
    deadline_seconds: float = SECONDS_USUAL
    first_token_seconds: float | None = None
    max_cost: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)  # each with its scope
    hedge_after_seconds: float | None = None
    keys: Sequence[str] = ()  # that may use it; all, where none is named
    budget: str | None = None  # that pays for clouds
    options: Mapping[str, Any] = field(default_factory=dict)
    cascade: Policy | None = None
    again: again.Policy | None = None  # where answers are given again
    policy_expires_seconds: float | None = None  # for so long it holds where nobody else is heard
    unreachable: Unreachable = Unreachable.REFUSE

    def turns(self) -> tuple[Route, Route]:
        """Of a cascade: to its first model, and to those that are asked where that one is not sure."""
        policy = self.cascade
        if policy is None:
            raise ValueError(f"{self.name} is no cascade")

        def having(turn: str) -> Route:
            models = {
                kind: tuple(model for model in named if policy.turn(model) == turn)
                for kind, named in self.models.items()
            }
            return replace(self, models=models, cascade=None)

        return having("first"), having("then")

    def provisional(self) -> Route | None:
        """To this node's own model alone, where that may stand in for the others."""
        own = self.models.get(Kind.HERE, ())
        if self.unreachable is not Unreachable.HERE or not own:
            return None
        return replace(
            self,
            models={Kind.HERE: own},
            prefer=(Kind.HERE,),
            cascade=None,
            unreachable=Unreachable.REFUSE,
        )

    def rank(self, place: Place) -> int | None:
        """How early the place comes in what is preferred; None where the route does not lead there."""
        words = (place.kind, place.label)
        for number, word in enumerate(self.prefer):
            if word in words:
                return number
        return None


def from_row(row: Mapping[str, Any]) -> Route:
    try:
        return _read(row)
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        raise DataError(
            "route-malformed",
            f'cannot use route "{row.get("name")}"',
            detail=f"{error}.",
            hint="Set it anew: atoll route set",
        ) from error


def _read(row: Mapping[str, Any]) -> Route:
    models = {Kind(kind): tuple(map(_text, named)) for kind, named in row["models"].items()}
    prefer, labels, options = tuple(map(_text, row["prefer"])), dict(row["labels"]), dict(row["options"])
    if not prefer or max(map(len, (prefer, labels, *models.values()))) > WORDS_MAX:
        raise ValueError("it prefers no place, or says too much")
    for scope in labels.values():
        if not SCOPE.fullmatch(scope):
            raise ValueError(f'"{scope}" is no scope')
    keys = options.get("keys", [])
    if not isinstance(keys, list):
        raise ValueError("its keys are no list")
    deadline = _number(row["deadline_seconds"], SECONDS_MAX)
    found = Route(
        _text(row["name"]),
        models,
        prefer,
        SECONDS_USUAL if deadline is None else deadline,
        _number(row["first_token_seconds"], SECONDS_MAX),
        _number(row["max_cost"], math.inf),
        labels,
        _number(row["hedge_after_seconds"], SECONDS_MAX),
        tuple(map(_text, keys)),
        None if options.get("budget") is None else _text(options["budget"]),
        options,
        None if options.get("cascade") is None else read_cascade(options["cascade"]),
        None if options.get("cache") is None else again.parse(options["cache"]),
        _number(options.get("policy_expires_seconds"), math.inf),
        Unreachable(options.get("unreachable", Unreachable.REFUSE)),
    )
    if found.cascade is not None and not all(any(turn.models.values()) for turn in found.turns()):
        raise ValueError("its cascade needs two of its models: one that is asked first, and another one")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def _number(value: Any, most: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is out of bounds")
    return float(value)
