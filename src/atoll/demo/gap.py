"""How far one node is behind another: what was acknowledged there and is not here yet. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from atoll.demo.ledger import Account
from atoll.demo.watch import Seen


class Way(NamedTuple):
    """From the site that wrote to the site that should have it."""

    writer: str
    reader: str


@dataclass(frozen=True)
class Gap:
    lag_seconds: float = 0.0
    waiting: int = 0


@dataclass(frozen=True)
class Mark:
    """What a site had acknowledged at one moment."""

    at: float
    orders: int
    decisions: int

    def is_seen(self, seen: Seen, site: str) -> bool:
        return seen.orders.get(site, 0) >= self.orders and seen.decisions.get(site, 0) >= self.decisions


def mark(account: Account, at: float) -> Mark:
    return Mark(at, account.orders, account.decided)


def measure(
    accounts: Mapping[str, Account], marks: Mapping[str, Mark], reader: str, seen: Seen
) -> dict[Way, Gap]:
    """What a node that was looked at lacks of what was acknowledged before the look."""
    found = {}
    for writer, before in marks.items():
        if writer != reader:
            waiting = max(0, before.orders + before.decisions - seen.rows_of(writer))
            lag = accounts[writer].behind(seen.rows_of(writer), before.at)
            found[Way(writer, reader)] = Gap(lag, waiting)
    return found
