"""What a node should do next about receiving from one peer: values in, a step out.

The database holds what is (subscriptions), the peer says what it keeps for us (its slot). Deciding is pure
and repeated every few seconds, so a step that fails or is undone by somebody is simply decided again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Step(Enum):
    NONE = auto()
    SUBSCRIBE = auto()
    RESUBSCRIBE = auto()
    """The peer keeps nothing for us any more: begin anew from its change log."""
    REDIRECT = auto()
    """The subscription dials another place than the peer's socket."""
    ENABLE = auto()
    DROP = auto()
    SEED = auto()
    """Changes were deleted that we had not seen: ask for everything the peer has."""


@dataclass(frozen=True)
class Subscription:
    peer: int
    is_enabled: bool
    conninfo: str
    is_copied: bool
    """The first copy of the peer's change log is done."""
    is_running: bool


@dataclass(frozen=True)
class PeerSide:
    """What the peer answers: the state of its slot for us, and whether it deleted changes that we miss."""

    slot: str
    missed: bool


def choose_step(*, is_member: bool, conninfo: str, have: Subscription | None, told: PeerSide | None) -> Step:
    """The next step towards receiving from a peer. `told` is None while there is no link."""
    if not is_member:
        return Step.DROP if have else Step.NONE
    if have is not None and have.conninfo != conninfo:
        return Step.REDIRECT
    if have is not None and not have.is_enabled:
        return Step.ENABLE
    if told is None:
        return Step.NONE
    if have is None:
        return Step.SUBSCRIBE
    if told.slot != "kept":
        return Step.RESUBSCRIBE
    if told.missed and have.is_copied:
        return Step.SEED
    return Step.NONE
