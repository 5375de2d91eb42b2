"""The nouns of a federated question: what is asked, of whom, what its tables are, and what came back.

Values only. Who answers for which rows is reach.py's part, how the question is taken apart plan.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class Reach(IntEnum):
    """Where the rows of a table are whole, from the narrowest to the widest."""

    NODE = 0  # every node holds rows of its own
    ROW = 1  # a column says for each row where it is
    REGION = 2  # every node of a region holds all rows of the region
    GLOBAL = 3  # every node holds all rows


@dataclass(frozen=True)
class Question:
    sql: str
    on: tuple[str, ...] = ()
    seconds_max: float = 30.0
    is_exact: bool = False  # no sketches: rows are moved instead
    joins_locally: bool = False  # rows of different nodes are never joined with each other


@dataclass(frozen=True)
class Member:
    """A node that may be asked. `distance` is the round trip; infinite where there is no way."""

    number: int
    name: str
    region: str
    tier: str = "edge"
    distance: float = 0.0

    @property
    def nearness(self) -> tuple[float, int]:
        return (self.distance, self.number)


@dataclass(frozen=True)
class Relation:
    """A table or view that the question names, as the asking node knows it."""

    reach: Reach = Reach.NODE
    scope_column: str | None = None
    usual: str = "node"  # the scope of a row whose column says nothing
    columns: tuple[str, ...] = ()
    is_countable: bool = True  # false for a view over rows that say where they belong: it does not show that


@dataclass(frozen=True)
class Catalog:
    """What the asking node's database says about the names in a question."""

    relations: Mapping[str, Relation] = field(default_factory=dict)
    aggregates: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What one node said to one part: PostgreSQL's type of each column, and its values as text, in Arrow."""

    columns: tuple[tuple[str, int], ...]
    values: tuple[pa.ChunkedArray, ...]
    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class NodeReport:
    """How one node did."""

    node: str
    region: str
    state: str  # answered, failed, spared
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    why: str | None = None
    code: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "region": self.region,
            "state": self.state,
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 4),
            "why": self.why,
            "code": self.code,
        }
