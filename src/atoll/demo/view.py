"""What there is to see at one moment, as plain values: the picture and the plain lines are made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atoll.demo.asking import Answer
from atoll.demo.gap import Gap, Way
from atoll.demo.ledger import Account, Spread
from atoll.demo.scenario import BUILD, SITES, STEPS, Site
from atoll.demo.watch import Conflict, Decision, Item, Seen

LATELY_DECIDED = 200


@dataclass(frozen=True)
class SiteView:
    site: Site
    is_up: bool = False
    rows: int = 0
    decided: int = 0
    deciding: Spread | None = None
    """Of the decisions that were made lately."""
    raw_bytes: int = 0
    crossed_bytes: int = 0
    latest: tuple[Decision, ...] = ()
    star: Item | None = None

    @property
    def name(self) -> str:
        return self.site.name


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

    @property
    def headline(self) -> str:
        """The first sentence."""
        return self.text.partition(". ")[0].removesuffix(".")


@dataclass(frozen=True)
class View:
    seconds: float
    step: int
    text: str
    sites: tuple[SiteView, ...]
    roads: tuple[RoadView, ...]
    answer: Answer | None = None
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0
    story: tuple[Told, ...] = ()
    waiting_before: tuple[int, ...] = ()

    @property
    def is_playing(self) -> bool:
        """The nodes are built, and the applications write."""
        return STEPS[self.step] is not BUILD

    @property
    def crossed_bytes(self) -> int:
        return sum(site.crossed_bytes for site in self.sites)

    @property
    def not_sent_bytes(self) -> int:
        """What copies of the raw rows on every other node would come to."""
        return sum(site.raw_bytes for site in self.sites) * (len(self.sites) - 1)

    def road(self, one: str, other: str) -> RoadView:
        return next(road for road in self.roads if {road.one, road.other} == {one, other})


def view_sites(
    accounts: Mapping[str, Account], seen: Mapping[str, Seen], crossed: Mapping[str, int], up: Sequence[str]
) -> tuple[SiteView, ...]:
    found = []
    for site in SITES:
        account, here = accounts.get(site.name, Account()), seen.get(site.name, Seen())
        found.append(
            SiteView(
                site,
                is_up=site.name in up,
                rows=here.raw_rows,
                decided=here.decisions.get(site.name, 0),
                deciding=account.deciding(LATELY_DECIDED),
                raw_bytes=here.raw_bytes,
                crossed_bytes=crossed.get(site.name, 0),
                latest=here.latest,
                star=here.star,
            )
        )
    return tuple(found)


def view_roads(gaps: Mapping[Way, Gap], cut_off: str | None) -> tuple[RoadView, ...]:
    names = [site.name for site in SITES]
    found = []
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            there, back = gaps.get(Way(one, other), Gap()), gaps.get(Way(other, one), Gap())
            lag = max(there.lag_seconds, back.lag_seconds)
            found.append(RoadView(one, other, cut_off in (one, other), lag, there.waiting + back.waiting))
    return tuple(found)
