"""Comparing receipts: buckets first, then the rows of those that differ, in steps of bounded size."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atoll.data.consistency import receipts
from atoll.data.consistency.receipts import Buckets, TableVerdict, compare
from atoll.domain.errors import DataError


@dataclass
class Shelf:
    """A node's rows by number, which remembers what it was asked for."""

    content: Mapping[int, str]
    asked: list[Sequence[int]] = field(default_factory=list)

    async def buckets(self, table: str, count: int) -> Buckets:
        held: dict[int, list[tuple[int, str]]] = {}
        for key, value in sorted(self.content.items()):
            held.setdefault(key % count, []).append((key, value))
        return {bucket: (len(rows), str(hash(tuple(rows)))) for bucket, rows in held.items()}

    async def rows(self, table: str, count: int, wanted: Sequence[int], most: int) -> Mapping[str, str]:
        self.asked.append(wanted)
        found = {str(key): value for key, value in self.content.items() if key % count in wanted}
        return dict(list(found.items())[:most])


class Stranger(Shelf):
    async def buckets(self, table: str, count: int) -> Buckets:
        raise DataError("table-not-shared", "table t is not shared here")


async def test_equal_tables_are_not_read_row_by_row() -> None:
    a, b = Shelf({1: "x", 2: "y"}), Shelf({1: "x", 2: "y"})
    verdict = await compare("t", {"a": a, "b": b})
    assert verdict.is_same
    assert verdict.rows == {"a": 2, "b": 2}
    assert a.asked == b.asked == []


async def test_each_row_that_differs_is_named_with_who_has_what() -> None:
    a = Shelf({1: "x", 2: "y", 3: "z"})
    b = Shelf({1: "other", 2: "y", 3: "z"})
    c = Shelf({1: "x", 2: "y", 3: "z", 4: "w"})
    verdict = await compare("t", {"a": a, "b": b, "c": c})
    assert {d.key: dict(d.hashes) for d in verdict.differences} == {
        "1": {"a": "x", "b": "other", "c": "x"},
        "4": {"a": None, "b": None, "c": "w"},
    }
    assert a.asked == [[1, 4]]
    assert not verdict.is_same


async def test_one_row_among_many_is_found_wherever_it_is() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    odd = random.Random(seed).randrange(200_000)
    a, b = (
        Shelf(dict.fromkeys(range(200000), "same")),
        Shelf(dict.fromkeys(range(200000), "same") | {odd: "odd"}),
    )
    verdict = await compare("t", {"a": a, "b": b})
    assert [d.key for d in verdict.differences] == [str(odd)]
    assert verdict.is_complete


async def test_many_differences_are_read_in_bounded_steps_and_never_called_the_same() -> None:
    a, b = Shelf(dict.fromkeys(range(100000), "a")), Shelf(dict.fromkeys(range(100000), "b"))
    verdict = await compare("t", {"a": a, "b": b})
    assert not verdict.is_same
    assert not verdict.is_complete
    assert len(verdict.differences) == receipts.DIFFERENCES_MAX
    assert len(a.asked) == 1, "it stops when enough are named"


async def test_a_node_that_does_not_share_the_table_yet_is_no_agreement() -> None:
    verdict = await compare("t", {"a": Shelf({1: "x"}), "b": Stranger({})})
    assert verdict.absent == ("b",)
    assert not verdict.is_same


async def test_one_node_alone_agrees_with_itself() -> None:
    assert (await compare("t", {"a": Shelf({1: "x"})})).is_same


async def test_the_parts_of_a_table_are_judged_together() -> None:
    same = await compare("t", {"a": Shelf({1: "x"}), "b": Shelf({1: "x"})})
    alone = await compare("t", {"a": Shelf({2: "x", 3: "y"})})
    apart = await compare("t", {"a": Shelf({4: "x"}), "c": Shelf({4: "y"})})
    assert TableVerdict.of_parts("t", [same, alone]).is_same
    whole = TableVerdict.of_parts("t", [same, alone, apart])
    assert not whole.is_same
    assert whole.rows == {"a": 4, "b": 1, "c": 1}
    assert [d.key for d in whole.differences] == ["4"]
