"""What there is to see at one moment, as plain values: the picture and the plain lines are made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atoll.demo.ledger import Account
from atoll.demo.scenario import SITES
from atoll.demo.watch import Conflict, Item, Seen

LATELY_WRITES = 50


@dataclass(frozen=True)
class SiteView:
    name: str
    is_up: bool = False
    writes_per_second: float = 0.0
    took_seconds: float | None = None
    orders: int = 0
    readings: int = 0
    star: Item | None = None


@dataclass(frozen=True)
class RoadView:
    """Two sites and what lies between them: `waiting` rows were written on one and are not on the other."""

    one: str
    other: str
    is_cut: bool = False
    lag_seconds: float = 0.0
    waiting: int = 0


@dataclass(frozen=True)
class Told:
    """One thing that happened."""

    at: float
    text: str


@dataclass(frozen=True)
class View:
    seconds: float
    step: int
    text: str
    sites: tuple[SiteView, ...]
    roads: tuple[RoadView, ...]
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0
    story: tuple[Told, ...] = ()
    waiting_before: tuple[int, ...] = ()

    def road(self, one: str, other: str) -> RoadView:
        return next(road for road in self.roads if {road.one, road.other} == {one, other})


def view_sites(
    accounts: Mapping[str, Account], seen: Mapping[str, Seen], up: Sequence[str], now: float
) -> tuple[SiteView, ...]:
    found = []
    for site in SITES:
        account, here = accounts.get(site.name, Account()), seen.get(site.name, Seen())
        found.append(
            SiteView(
                site.name,
                is_up=site.name in up,
                writes_per_second=account.rate(now),
                took_seconds=account.took(LATELY_WRITES),
                orders=sum(here.orders.values()),
                readings=sum(here.readings.values()),
                star=here.star,
            )
        )
    return tuple(found)


def view_roads(
    accounts: Mapping[str, Account], seen: Mapping[str, Seen], cut_off: str | None, now: float
) -> tuple[RoadView, ...]:
    names = [site.name for site in SITES]
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    found = []
    for one, other in pairs:
        ways = ((one, other), (other, one))
        found.append(
            RoadView(
                one,
                other,
                is_cut=cut_off in (one, other),
                lag_seconds=max(_lag(accounts, seen, *way, now) for way in ways),
                waiting=sum(_waiting(accounts, seen, *way) for way in ways),
            )
        )
    return tuple(found)


def _lag(
    accounts: Mapping[str, Account], seen: Mapping[str, Seen], writer: str, reader: str, now: float
) -> float:
    """How old the oldest write is that the reader does not have yet."""
    if writer not in accounts or reader not in seen:
        return 0.0
    return accounts[writer].behind(seen[reader].readings.get(writer, 0), now)


def _waiting(accounts: Mapping[str, Account], seen: Mapping[str, Seen], writer: str, reader: str) -> int:
    if writer not in accounts or reader not in seen:
        return 0
    account = accounts[writer]
    return max(0, account.orders + account.readings - seen[reader].rows_of(writer))
