"""An offer: one model that a node answers other nodes with. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from atoll.domain.errors import PolicyDenied
from atoll.domain.models import Skill

GLOBAL = "global"


@dataclass(frozen=True)
class Offer:
    """What a node says of one of its models, and where what is sent there ends up."""

    node: int
    name: str  # the node's
    tier: str  # edge, hub or cloud
    model: str
    version: str
    variant: str
    skills: frozenset[Skill]
    adapters: tuple[str, ...]
    context_tokens: int | None
    state: str  # empty, loading, ready or leaving
    queue: int  # requests that wait or are answered, rounded down to a power of two
    tokens_per_second: float | None  # of one answer, as measured there
    is_upstream: bool  # the node passes it on to somebody else's server
    region: str  # of the node, or of that server
    node_region: str
    price: tuple[float, float] | None  # per million tokens in and out; none costs nothing


def check_scopes(scopes: Collection[str], number: int, region: str, offer: Offer) -> None:
    """May this node, and whoever it passes a request on to, see what has these scopes?"""
    admitted = {GLOBAL, f"region:{region}", f"node:{number}"}
    if offer.is_upstream:
        admitted = {GLOBAL, f"region:{offer.region}"} & admitted
    for scope in sorted(scopes):
        if scope not in admitted:
            raise PolicyDenied(
                "scope-forbids",
                f'cannot answer with model "{offer.model}" of node "{offer.name}": scope {scope}',
                detail="What has that scope may not go there.",
                hint="Ask where the rows are, or a model of their region.",
            )
