"""What came of it: the facts of a finished demo, whether they prove what was promised, and how to say it.

Pure. The nodes are held against each other (receipts, `check`) and against the applications' own account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atoll.demo.asking import Answer
from atoll.demo.ledger import Account, Spread
from atoll.demo.scenario import PRICES, STAR, START_QTY, Site
from atoll.demo.watch import Conflict, Item, Seen


@dataclass(frozen=True)
class TableFact:
    """One table: its receipt on each node, and whether `check` found it to be the same."""

    name: str
    receipts: Mapping[str, str]
    is_checked: bool

    @property
    def is_same(self) -> bool:
        return self.is_checked and len(set(self.receipts.values())) == 1


@dataclass(frozen=True)
class CutFacts:
    """What was measured while a site was cut off, and after."""

    seconds: float
    writes: Mapping[str, int]
    took_before_seconds: float | None
    took_seconds: float | None
    decided: int
    deciding_before: Spread | None
    deciding: Spread | None
    answer: Answer
    waiting_most: int
    lag_most_seconds: float
    converged_seconds: float | None


@dataclass(frozen=True)
class SiteFact:
    """What a site wrote and its model decided, and how much of it left."""

    site: Site
    rows: int
    right: int
    deciding: Spread | None
    raw_bytes: int
    decision_bytes: int
    """Of a decision, on average."""
    crossed_bytes: int
    decided: Mapping[str, int]
    """Its decisions, on each node."""
    raw_rows: Mapping[str, int]
    """Its raw rows, on each node."""
    rolled_up: int
    """Windows of all nodes, as its rollup counts them."""

    @property
    def raw_rows_elsewhere(self) -> int:
        return sum(rows for node, rows in self.raw_rows.items() if node != self.site.name)


@dataclass(frozen=True)
class Outcome:
    cut: CutFacts
    sites: tuple[SiteFact, ...]
    writes: int
    given_way: int
    tables: tuple[TableFact, ...]
    silent: Mapping[str, str]
    complaints: tuple[str, ...]
    conflicts: Mapping[str, int]
    sample: Conflict | None
    star: Item | None
    star_sold: int

    @property
    def has_converged(self) -> bool:
        is_same = all(table.is_same for table in self.tables)
        return is_same and not self.silent and not self.complaints and self.cut.converged_seconds is not None


def tell_answer(found: Answer) -> str:
    if not found.titles:
        return "No document of Osaka answers that."
    return f"Osaka answers from its own document {found.titles[0]}, without any link."


def choose_sample(conflicts: Sequence[Conflict]) -> Conflict | None:
    """The conflict that the scenario made, rather than one that came about by chance."""
    return next((found for found in conflicts if found.item == STAR), next(iter(conflicts), None))


def tell_conflict(found: Conflict) -> str:
    """Why one write stays and the other does not."""
    won, lost = found.won_by.capitalize(), found.lost_by.capitalize()
    return (
        f"{won} and {lost} both set the {found.column} of {found.item} and could not know."
        f" {found.won} is later and stays, everywhere; {lost}'s {found.lost} is kept and can be put back."
    )


def find_complaints(
    accounts: Mapping[str, Account], seen: Mapping[str, Seen], stocks: Mapping[str, Mapping[str, int]]
) -> tuple[str, ...]:
    """Where a node has something else than what the applications were promised; it should be nowhere."""
    found = []
    for node, here in seen.items():
        for site, account in accounts.items():
            pairs = (
                ("orders", here.orders.get(site, 0), account.orders, "were acknowledged"),
                ("decisions", here.decisions.get(site, 0), account.observed, "rows wanted one"),
            )
            found += [
                f"{node} has {have} {what} of {site}, and {promised} {why}"
                for what, have, promised, why in pairs
                if have != promised
            ]
    for node, stock in stocks.items():
        for item in PRICES:
            left = START_QTY - sum(account.sold[item] for account in accounts.values())
            if stock.get(item) != left:
                found.append(f"{node} has {stock.get(item)} {item}, and {left} should be left")
    return tuple(found)
