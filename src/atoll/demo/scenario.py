"""What happens in the demo: who takes part, what they have, which write comes next, what is told when.

Pure: no process, no terminal and no database is touched here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal


@dataclass(frozen=True)
class Site:
    """Who takes part, what is written there, and which model decides about it."""

    name: str
    region: str
    trade: str
    model: str
    table: str
    noun: str
    share: float
    """Of its writes, those that a model decides about."""
    most_per_second: float

    @property
    def title(self) -> str:
        return self.name.capitalize()


SITES = (
    Site("lisbon", "europe", "factory", "bearing", "vibration", "window", share=0.8, most_per_second=50),
    Site("nairobi", "africa", "shop", "digits", "shelf", "photo", share=0.7, most_per_second=25),
    Site("osaka", "asia", "help desk", "pebble", "ticket", "question", share=0.25, most_per_second=5),
)
FOUNDER, _, AWAY = (site.name for site in SITES)
# Whose readings are rolled up.
FACTORY = next(site.name for site in SITES if site.trade == "factory")
# What every node has, and what none has of another.
TABLES = ("stock", "orders", "decision")
RAW_TABLES = tuple(site.table for site in SITES)
QUESTION = "The restore says backup-version. What do I do next?"

# The row that the picture follows. Nobody changes its price by chance, only the scenario does.
STAR = "figs"
START_QTY = 1_000_000
PRICES = {
    STAR: Decimal("2.50"),
    "almonds": Decimal("7.90"),
    "coffee": Decimal("11.20"),
    "dates": Decimal("4.30"),
    "honey": Decimal("8.60"),
    "lemons": Decimal("1.80"),
    "olives": Decimal("3.40"),
    "pepper": Decimal("5.10"),
    "rice": Decimal("2.10"),
    "saffron": Decimal("24.00"),
    "tea": Decimal("6.70"),
    "walnuts": Decimal("9.30"),
}

Kind = Literal["sell", "reprice"]


@dataclass(frozen=True)
class Write:
    """One transaction of an application."""

    kind: Kind
    item: str = ""
    qty: int = 0
    value: Decimal = Decimal(0)


def is_observation(number: int, site: Site, writes_per_second: int) -> bool:
    """Whether a site's write of this number is one that a model decides about: evenly, not by chance."""
    share = min(site.share, site.most_per_second / writes_per_second)
    return int((number + 1) * share) > int(number * share)


def choose_trade(rng: random.Random) -> Write:
    """What a site writes otherwise: mostly sales, now and then a new price."""
    if rng.random() < 0.96:
        # One sale in three is of the row that is watched.
        item = STAR if rng.random() < 0.33 else rng.choice(list(PRICES))
        return Write("sell", item, qty=rng.randint(1, 5))
    item = rng.choice([name for name in PRICES if name != STAR])
    price = PRICES[item] * Decimal(rng.randrange(80, 121)) / 100
    return Write("reprice", item, value=price.quantize(Decimal("0.01")))


@dataclass(frozen=True)
class Act:
    """A deliberate write, so many parts of the cut after its beginning, and what is told about it."""

    at: float
    site: str
    price: Decimal | None = None
    tag: str | None = None


# However little is written: the site that is cut off has something to decide.
SURELY = Act(0.0, AWAY)
ACTS = (
    Act(0.25, AWAY, price=Decimal("3.10")),
    Act(0.40, AWAY, tag="local"),
    Act(0.55, FOUNDER, price=Decimal("2.75")),
    Act(0.70, FOUNDER, tag="organic"),
)


def tell_act(act: Act) -> str:
    title = act.site.capitalize()
    if act.price is not None:
        other = "Lisbon cannot know." if act.site == AWAY else "Osaka has another, and neither can know."
        return f"{title} sets the price of {STAR} to {act.price}. {other}"
    return f'{title} tags {STAR} as "{act.tag}".'


@dataclass(frozen=True)
class Step:
    """A chapter of the demo."""

    title: str
    short: str
    text: str


BUILD = Step(
    "build",
    "three nodes start",
    "Three real nodes start on this machine, each with a PostgreSQL of its own. Nothing is shared"
    " but what they send each other over mutual TLS.",
)
CALM = Step(
    "decide",
    "models score rows where they are; decisions reach the others",
    "Everybody writes, and a model beside each database decides. Raw rows stay where they are;"
    " decisions are everywhere within moments.",
)
CUT = Step(
    "cut off",
    "Osaka loses every link, and all three go on writing and deciding",
    "Osaka's cables are cut. Everybody goes on writing and deciding, Osaka too: no site asks another"
    " for permission.",
)
ASK = Step(
    "ask",
    "Osaka, still cut off, answers a question from its own documents",
    f'Still cut off, somebody in Osaka asks something. "{QUESTION}"',
)
HEALED = Step(
    "healed",
    "the links come back, and what was missed comes in",
    "The cables are mended. The nodes find each other again, and what each missed comes in, while"
    " everybody goes on writing.",
)
PROOF = Step(
    "proof",
    "every row on every node is compared, by hash",
    "Writing stops. Now every row on every node is compared, by hash.",
)
STEPS = (BUILD, CALM, CUT, ASK, HEALED, PROOF)


@dataclass(frozen=True)
class Pace:
    """How much is written and how long things last."""

    writes_per_second: int = 16
    cut_seconds: float = 8.0
    calm_seconds: float = 5.0
    answer_seconds: float = 4.0
    after_seconds: float = 1.0
    conflict_seconds: float = 3.0
    proof_seconds: float = 2.0
    converge_seconds_max: float = 90.0
    build_seconds_max: float = 240.0
    seed: int = 7
