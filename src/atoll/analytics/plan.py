"""A plan: what each node is asked, and how the answers become one. Values only.

planner.py makes it, merge.py follows it. Four ways: `whole` (one node has it all), `union` (rows of a select,
with its top N), `groups` (aggregates that add up) and `moved` (the tables' rows, filtered and projected, for
what does not come apart).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atoll.analytics.reach import Duty

Way = Literal["whole", "union", "groups", "moved"]


@dataclass(frozen=True)
class Ask:
    """What the nodes of one duty are asked. `sql` may differ by node where rows say where they belong."""

    part: str
    duty: Duty
    sql: tuple[str, ...]  # one for each candidate


@dataclass(frozen=True)
class Order:
    """Sort by a column of the answers."""

    column: int
    descends: bool
    nulls_first: bool


@dataclass(frozen=True)
class Plan:
    way: Way
    asks: tuple[Ask, ...]
    merge: str = ""  # in PostgreSQL's dialect, over the parts p0, p1, …; for `groups` and `moved`
    names: tuple[str, ...] = ()  # of the result's columns; those of the first answer if there are none
    hidden: int = 0  # columns at the end that only serve to sort; for `union`
    orders: tuple[Order, ...] = ()
    is_distinct: bool = False
    limit: int | None = None
    offset: int = 0
    notes: tuple[str, ...] = ()
