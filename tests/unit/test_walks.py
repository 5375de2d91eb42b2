"""When a table is walked again: until each of its stretches met each neighbour, and then now and then."""

from __future__ import annotations

import pytest

from atoll.node.mesh.scrub import NEVER, WALK_ALL_SECONDS, Walked
from atoll.node.mesh.witness import VOTERS_MAX


def walk(found: list[bool], writes: int = 3) -> Walked:
    walked = NEVER
    for at, is_same in enumerate(found):
        walked = walked.after(writes, is_same, float(at))
    return walked


@pytest.mark.parametrize(
    ("found", "neighbours", "is_due"),
    [
        pytest.param([], 1, True, id="never walked"),
        pytest.param([True], 1, False, id="met its only neighbour"),
        pytest.param([True], 3, True, id="met one of three"),
        pytest.param([True, True, True], 3, False, id="met all three"),
        pytest.param([True, True, False], 3, True, id="differs from the third"),
        pytest.param([True, True, False, True, True], 3, True, id="the third was mended, one is missing"),
        pytest.param([True] * VOTERS_MAX, 200, False, id="a hub is content with some"),
    ],
)
def test_a_table_rests_when_it_was_found_the_same_as_at_every_neighbour(
    found: list[bool], neighbours: int, is_due: bool
) -> None:
    assert walk(found).is_due(3, neighbours, 10.0) is is_due


def test_a_write_and_time_both_make_a_table_due() -> None:
    rested = walk([True, True])
    assert rested.is_due(4, 2, 10.0)
    assert rested.is_due(3, 2, WALK_ALL_SECONDS + 1)
    assert rested.after(4, True, 20.0).is_due(4, 2, 21.0), "what was compared before the write says nothing"
    later = rested.after(3, True, WALK_ALL_SECONDS + 1)
    assert not later.is_due(3, 2, WALK_ALL_SECONDS + 2), "one walk now and then is enough"


def test_each_walk_begins_with_the_next_neighbour() -> None:
    turns = [walk([True] * n).turn for n in range(1, 6)]
    assert [turn % 3 for turn in turns] == [0, 1, 2, 0, 1]
