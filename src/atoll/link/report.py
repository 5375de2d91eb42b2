"""Values that describe links to others: who the peers are, and how each link is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LinkState = Literal["up", "dialling", "waiting", "removed"]


@dataclass(frozen=True)
class Peer:
    """A peer as the node table names it. Without addresses it can only dial us."""

    number: int
    name: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class LinkReport:
    """One link as it is now. Times are seconds; `heard_seconds_ago` and `rtt_seconds` only while it is up.

    `waiting` means that only the peer can dial. Totals run since the node started.
    """

    number: int
    name: str
    state: LinkState
    dialled_by: int | None
    rtt_seconds: float | None
    heard_seconds_ago: float | None
    up_seconds: float | None
    streams: int
    streams_opened: int
    reconnects: int
    raw_in_bytes: int
    raw_out_bytes: int
    wire_in_bytes: int
    wire_out_bytes: int
    peer_boot: str
    last_error: str | None
