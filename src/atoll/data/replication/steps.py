"""What a node should do next about receiving from one peer: values in, a step out.

The database holds what is (subscriptions), the peer says what it keeps for us (its slot). Deciding is pure
and repeated every few seconds, so a step that fails or is undone by somebody is simply decided again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal


class Step(Enum):
    NONE = auto()
    SUBSCRIBE = auto()
    BEGIN_ANEW = auto()
    """The peer keeps nothing for us any more: drop, and subscribe again from its change log."""
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
    has_slot: bool = True
    """Without one a drop was broken off in the middle: nothing can be made of it any more."""
    copy_slot: str | None = None
    """The slot at the peer that its copied log is brought up to date from."""


@dataclass(frozen=True)
class PeerSide:
    """What the peer answers when it is asked to prepare for us."""

    slot: Literal["kept", "making", "lost", "none"]
    """Its slot for us. The peer makes it: a subscription that made it would hold a transaction open while it
    waits for the peer's transactions to end, so two nodes that subscribe to each other would wait forever."""
    missed: bool
    """It deleted changes that we had not seen."""
    wants_us: bool = True
    """It does not while it uses another upstream."""
    lost_copy: bool = False
    """The slot that the copy needs is gone: PostgreSQL would ask for it for ever."""


def choose_step(*, is_member: bool, conninfo: str, have: Subscription | None, told: PeerSide | None) -> Step:
    """The next step towards receiving from a peer. `told` is None while there is no link."""
    if not is_member:
        return Step.DROP if have else Step.NONE
    if have is not None and not have.has_slot:
        return Step.DROP
    if have is not None and have.conninfo != conninfo:
        return Step.REDIRECT
    if have is not None and not have.is_enabled:
        return Step.ENABLE
    if told is None:
        return Step.NONE
    if not told.wants_us:
        return Step.DROP if have else Step.NONE
    if have is None:
        return Step.SUBSCRIBE if told.slot == "kept" else Step.NONE
    if told.slot in ("none", "lost") or told.lost_copy:
        return Step.BEGIN_ANEW
    if told.missed and have.is_copied:
        return Step.SEED
    return Step.NONE
