"""What rows say of a model on this node, as the router wants to know it. Pure."""

from __future__ import annotations

import math
from typing import Any

from atoll.node.engines import room_of
from atoll.router.place import Price
from atoll.router.places import UPSTREAM, Terms
from atoll.serving.berth import Wanted


def terms_of(wanted: Wanted) -> Terms:
    """Options come from rows, and so from other nodes: what makes no sense is not known."""
    if wanted.variant == UPSTREAM:
        region = wanted.options.get("region")
        return Terms(
            region if isinstance(region, str) and region else None, _price(wanted.options.get("price"))
        )
    trained = wanted.said.context_tokens
    return Terms(context_tokens=None if trained is None else room_of(trained, wanted.options)[0])


def _price(told: Any) -> Price | None:
    if not isinstance(told, list) or len(told) != 2:
        return None
    if not all(isinstance(one, int | float) and 0 <= one < math.inf for one in told):
        return None
    return Price(float(told[0]), float(told[1]))
