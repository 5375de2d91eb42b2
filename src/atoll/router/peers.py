"""What the router needs of other nodes: what each offers, a runtime for it, and how far away it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from atoll.domain.models import Skill
from atoll.runtimes.contract import Runtime


class Offered(Protocol):
    """A model that another node answers with."""

    @property
    def node(self) -> int: ...
    @property
    def name(self) -> str:
        """The node's."""

    @property
    def tier(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def skills(self) -> frozenset[Skill]: ...
    @property
    def adapters(self) -> tuple[str, ...]: ...
    @property
    def context_tokens(self) -> int | None: ...
    @property
    def queue(self) -> int: ...
    @property
    def tokens_per_second(self) -> float | None: ...
    @property
    def is_upstream(self) -> bool: ...
    @property
    def region(self) -> str: ...
    @property
    def price(self) -> tuple[float, float] | None:
        """Per million tokens in and out."""


class Peers(Protocol):
    def offers(self) -> Sequence[Offered]:
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
