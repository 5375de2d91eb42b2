"""What a source says that it has: its files, where exactly they are from, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.registry.sources.choose import Offer


@dataclass(frozen=True)
class Listing:
    origin: str  # with the revision or digest that was found, for the signed manifest
    offers: tuple[Offer, ...]
    licence: str | None = None
    architecture: str | None = None
