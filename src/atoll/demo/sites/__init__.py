"""What the sites of the demo write: one module for each, made from a seed."""

from __future__ import annotations

from collections.abc import Callable

from atoll.demo.sites.desk import Desk
from atoll.demo.sites.factory import Factory
from atoll.demo.sites.raw import Source
from atoll.demo.sites.shop import Shop

SOURCES: dict[str, Callable[[int], Source]] = {"factory": Factory, "shop": Shop, "help desk": Desk}


def source_of(trade: str, seed: int) -> Source:
    return SOURCES[trade](seed)
