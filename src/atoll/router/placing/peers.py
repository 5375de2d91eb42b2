"""What the router needs of other nodes: what each offers, a runtime for it, and how far away it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from atoll.runtimes.contract import Runtime
from atoll.serving.offer import Offer


class Peers(Protocol):
    def offers(self) -> Sequence[Offer]:
        """Of the nodes that can be asked now."""

    def runtime(
        self,
        node: int,
        model: str,
        scopes: frozenset[str] = frozenset(),
        deadline_seconds: float | None = None,
    ) -> Runtime:
        """A model of another node. Scopes and deadline go along with what is asked without words for them."""

    def round_trip(self, node: int) -> float | None: ...
