"""Comparing tables by hash: first bucket by bucket, then row by row where buckets differ.

A bucket holds few rows, and only so many buckets are read at a time, so that a table of any size is compared
in bounded steps and no difference is overlooked. How a receipt is fetched from another node is the caller's:
it hands in `Source` objects.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from atoll.domain.errors import AtollError

BUCKETS_MIN = 256
BUCKETS_MAX = 65_536
ROWS_PER_BUCKET = 256
ROWS_PER_STEP_MAX = 20_000
DIFFERENCES_MAX = 1000
NOT_SHARED = "table-not-shared"

Buckets = Mapping[int, tuple[int, str]]


class Source(Protocol):
    """A node that can be asked for its receipts."""

    async def buckets(self, table: str, count: int) -> Buckets:
        """Rows and hash of each bucket that has rows, of `count` buckets."""
        ...

    async def rows(self, table: str, count: int, wanted: Sequence[int], most: int) -> Mapping[str, str]:
        """The hash of each row in the wanted buckets, by key."""
        ...


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
    is_complete: bool
    """False when there are more differences than are named."""
    absent: tuple[str, ...] = ()
    """Nodes that do not share the table, or not yet."""

    @classmethod
    def of_parts(cls, table: str, parts: Sequence[TableVerdict]) -> TableVerdict:
        """What was found of a table, part by part, as one."""
        rows: Counter[str] = Counter()
        for part in parts:
            rows.update(part.rows)
        found = tuple(difference for part in parts for difference in part.differences)
        return cls(
            table,
            rows,
            found[:DIFFERENCES_MAX],
            len(found) <= DIFFERENCES_MAX and all(part.is_complete for part in parts),
            tuple(sorted({node for part in parts for node in part.absent})),
        )

    @property
    def is_same(self) -> bool:
        return not self.differences and self.is_complete and not self.absent


async def compare(table: str, sources: Mapping[str, Source]) -> TableVerdict:
    """Compare a table on all sources. Rows that are being written now may differ for a moment."""
    receipts, absent = await _receipts(table, sources, BUCKETS_MIN)
    counts = {node: sum(rows for rows, _ in receipt.values()) for node, receipt in receipts.items()}
    wanted = differing_buckets(receipts)
    count = bucket_count(max(counts.values(), default=0))
    if wanted and count > BUCKETS_MIN:
        receipts, absent = await _receipts(table, sources, count)
        wanted = differing_buckets(receipts)
    found: list[RowDifference] = []
    for step in steps(wanted, receipts):
        if len(found) >= DIFFERENCES_MAX:
            return TableVerdict(table, counts, tuple(found[:DIFFERENCES_MAX]), False, absent)
        most = max(ROWS_PER_STEP_MAX, 2 * _rows_in(step, receipts))
        rows = {node: await sources[node].rows(table, count, step, most) for node in receipts}
        found += differing_rows(rows)
    is_complete = len(found) <= DIFFERENCES_MAX
    return TableVerdict(table, counts, tuple(found[:DIFFERENCES_MAX]), is_complete, absent)


def bucket_count(rows: int) -> int:
    """So many buckets that each has few rows."""
    count = BUCKETS_MIN
    while count < BUCKETS_MAX and rows > count * ROWS_PER_BUCKET:
        count *= 2
    return count


def differing_buckets(receipts: Mapping[str, Buckets]) -> list[int]:
    """The buckets on which not all nodes agree."""
    every = {bucket for receipt in receipts.values() for bucket in receipt}
    return sorted(b for b in every if len({receipt.get(b) for receipt in receipts.values()}) > 1)


def steps(wanted: Sequence[int], receipts: Mapping[str, Buckets]) -> Iterator[list[int]]:
    """The buckets in portions whose rows fit into one answer; a portion has at least one bucket."""
    portion: list[int] = []
    for bucket in wanted:
        if portion and _rows_in([*portion, bucket], receipts) > ROWS_PER_STEP_MAX:
            yield portion
            portion = []
        portion.append(bucket)
    if portion:
        yield portion


def differing_rows(rows: Mapping[str, Mapping[str, str]]) -> list[RowDifference]:
    every = sorted({key for found in rows.values() for key in found})
    hashes = ((key, {node: found.get(key) for node, found in rows.items()}) for key in every)
    return [RowDifference(key, seen) for key, seen in hashes if len(set(seen.values())) > 1]


def _rows_in(buckets: Sequence[int], receipts: Mapping[str, Buckets]) -> int:
    """The rows of these buckets on the node that has most of them."""
    return max((sum(r.get(b, (0, ""))[0] for b in buckets) for r in receipts.values()), default=0)


async def _receipts(
    table: str, sources: Mapping[str, Source], count: int
) -> tuple[dict[str, Buckets], tuple[str, ...]]:
    told = await asyncio.gather(
        *(source.buckets(table, count) for source in sources.values()), return_exceptions=True
    )
    receipts: dict[str, Buckets] = {}
    absent = []
    for node, answer in zip(sources, told, strict=True):
        if not isinstance(answer, BaseException):
            receipts[node] = answer
        elif isinstance(answer, AtollError) and answer.code == NOT_SHARED:
            absent.append(node)
        else:
            raise answer
    return receipts, tuple(absent)
