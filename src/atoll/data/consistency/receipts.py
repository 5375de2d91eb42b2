"""Comparing tables by hash: first bucket by bucket, then row by row where buckets differ.

How a receipt is fetched from another node is the caller's: it hands in `Source` objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

BUCKETS = 256
ROWS_MAX = 20_000


class Source(Protocol):
    """A node that can be asked for its receipts."""

    async def buckets(self, table: str) -> Mapping[int, tuple[int, str]]: ...

    async def rows(self, table: str, buckets: Sequence[int]) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class RowDifference:
    """A row that is not the same everywhere: which nodes agree with which. None means that it is missing."""

    key: str
    hashes: Mapping[str, str | None]


@dataclass(frozen=True)
class TableVerdict:
    table: str
    rows: Mapping[str, int]
    """Rows on each node that answered."""
    differences: tuple[RowDifference, ...]

    @property
    def is_same(self) -> bool:
        return not self.differences


def differing_buckets(receipts: Mapping[str, Mapping[int, tuple[int, str]]]) -> list[int]:
    """The buckets on which not all nodes agree."""
    every = {bucket for receipt in receipts.values() for bucket in receipt}
    return sorted(b for b in every if len({receipt.get(b) for receipt in receipts.values()}) > 1)


def differing_rows(rows: Mapping[str, Mapping[str, str]]) -> tuple[RowDifference, ...]:
    every = sorted({key for found in rows.values() for key in found})
    hashes = ((key, {node: found.get(key) for node, found in rows.items()}) for key in every)
    return tuple(RowDifference(key, seen) for key, seen in hashes if len(set(seen.values())) > 1)


async def compare(table: str, sources: Mapping[str, Source]) -> TableVerdict:
    """Compare a table on all sources. Rows that are being written now may differ for a moment."""
    receipts = {node: await source.buckets(table) for node, source in sources.items()}
    counts = {node: sum(count for count, _ in receipt.values()) for node, receipt in receipts.items()}
    buckets = differing_buckets(receipts)
    if not buckets:
        return TableVerdict(table, counts, ())
    rows = {node: await source.rows(table, buckets) for node, source in sources.items()}
    return TableVerdict(table, counts, differing_rows(rows))
