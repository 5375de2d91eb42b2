"""Who holds what of a model. It imports no engine, so that a node which splits nothing loads none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from atoll.runtimes.llama.wants import Worker


@dataclass(frozen=True)
class Share:
    """What one node holds. The output counts as a layer, the last."""

    node: str
    layers: range


class Borrowed(Protocol):
    """Layers that other nodes have made room for."""

    @property
    def mine(self) -> Share: ...
    @property
    def shares(self) -> Sequence[Share]: ...
    @property
    def workers(self) -> Sequence[Worker]: ...
    @property
    def plugin(self) -> Path: ...

    async def lost(self) -> str:
        """Wait until one of the nodes does not hold its layers any more, and say which."""


def described(borrowed: Borrowed) -> str:
    shares = [borrowed.mine, *borrowed.shares]
    return ", ".join(f"{one.node} {one.layers.start}-{one.layers.stop - 1}" for one in shares if one.layers)
