"""Places: one model at one spot where a request can be answered, and what is known of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from atoll.domain.models import Skill


class Kind(StrEnum):
    HERE = "here"
    PEER = "peer"  # another node of the atoll
    HUB = "hub"  # one whose tier is hub or cloud
    CLOUD = "cloud"  # somebody else's server: an upstream, asked by this node or through another


class Need(StrEnum):
    """What a request asks for besides words."""

    TOOLS = "tools"
    SCHEMA = "schema"
    LOGPROBS = "logprobs"
    IMAGE = "image"


OWN_ENGINES = frozenset({Need.TOOLS, Need.SCHEMA, Need.LOGPROBS})


@dataclass(frozen=True)
class Price:
    """Per million tokens."""

    tokens_in: float
    tokens_out: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        return (self.tokens_in * tokens_in + self.tokens_out * tokens_out) / 1e6


FREE = Price(0.0, 0.0)


class Feel(NamedTuple):
    """How a place answers, as measured; None is not known."""

    round_trip_seconds: float | None = None
    queue: int | None = None
    tokens_per_second: float | None = None
    prefill_tokens_per_second: float | None = None
    first_seconds: float | None = None  # to the first of an answer, besides the way; of tensors to the last
    warm: frozenset[int] = frozenset()  # marks of what it has read lately


class Place(NamedTuple):
    kind: Kind
    node: int | None  # whose it is, or who asks it for us
    name: str  # here, the node's, or the upstream model's
    region: str | None  # where what is sent there ends up
    model: str
    version: str
    variant: str
    skills: frozenset[Skill]
    context_tokens: int | None = None
    price: Price | None = FREE
    feel: Feel = Feel()
    is_up: bool = True
    needs: frozenset[Need] = OWN_ENGINES  # that it can meet
    is_funded: bool = True  # is anything left here of the route's budget?
    is_stale: bool = False  # nobody else was heard for longer than the route's policy holds
    passing: str | None = None  # the region of another node that passes it on to a cloud

    @property
    def key(self) -> tuple[Kind, int | None, str]:
        return self.kind, self.node, self.model

    @property
    def label(self) -> str:
        return f"cloud:{self.name}" if self.kind is Kind.CLOUD else self.name
