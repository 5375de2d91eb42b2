"""Comparing receipts: buckets first, then the rows of those that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atoll.data.consistency.receipts import compare


@dataclass
class Shelf:
    """A node's rows by bucket, which remembers what it was asked for."""

    content: Mapping[int, Mapping[str, str]]
    asked: list[Sequence[int]] = field(default_factory=list)

    async def buckets(self, table: str) -> Mapping[int, tuple[int, str]]:
        return {bucket: (len(rows), str(sorted(rows.items()))) for bucket, rows in self.content.items()}

    async def rows(self, table: str, buckets: Sequence[int]) -> Mapping[str, str]:
        self.asked.append(buckets)
        return {key: digest for bucket in buckets for key, digest in self.content.get(bucket, {}).items()}


async def test_equal_tables_are_not_read_row_by_row() -> None:
    a, b = Shelf({1: {"x": "1"}, 2: {"y": "2"}}), Shelf({1: {"x": "1"}, 2: {"y": "2"}})
    verdict = await compare("t", {"a": a, "b": b})
    assert verdict.is_same
    assert verdict.rows == {"a": 2, "b": 2}
    assert a.asked == b.asked == []


async def test_each_row_that_differs_is_named_with_who_has_what() -> None:
    a = Shelf({1: {"x": "1", "z": "3"}, 2: {"y": "2"}})
    b = Shelf({1: {"x": "other", "z": "3"}, 2: {"y": "2"}})
    c = Shelf({1: {"x": "1", "z": "3"}, 2: {"y": "2"}, 3: {"w": "4"}})
    verdict = await compare("t", {"a": a, "b": b, "c": c})
    assert {d.key: dict(d.hashes) for d in verdict.differences} == {
        "x": {"a": "1", "b": "other", "c": "1"},
        "w": {"a": None, "b": None, "c": "4"},
    }
    assert a.asked == [[1, 3]]


async def test_one_node_alone_agrees_with_itself() -> None:
    assert (await compare("t", {"a": Shelf({1: {"x": "1"}})})).is_same
