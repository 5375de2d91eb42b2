"""What a row says of a model on this node, for those who decide where requests go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.node.engines import room_of
from atoll.router.place import Price
from atoll.router.placing.places import UPSTREAM, Terms

PRICE_MAX = 1e6  # per million tokens


def read_terms(variant: str, trained: int | None, options: Mapping[str, Any]) -> Terms:
    """Options come from rows, and so from other nodes: what makes no sense is not known."""
    if variant == UPSTREAM:
        region = options.get("region")
        return Terms(region if isinstance(region, str) and region else None, _price(options.get("price")))
    return Terms(context_tokens=None if trained is None else room_of(trained, options)[0])


def _price(told: Any) -> Price | None:
    if not isinstance(told, list) or len(told) != 2:
        return None
    if not all(isinstance(one, int | float) and 0 <= one < PRICE_MAX for one in told):
        return None
    return Price(float(told[0]), float(told[1]))
