"""Which tables are looked through for orphans, and how much of the time."""

from __future__ import annotations

import pytest

from atoll.node.mesh.orphans import PAUSE_SECONDS_MAX, SHARE, WALK_ALL_SECONDS, Walked, due, pause_seconds

NOW = 10_000.0


@pytest.mark.parametrize(
    ("walked", "names"),
    [
        pytest.param({}, ["line", "visit"], id="never walked"),
        pytest.param({"line": Walked(NOW - 5, 3)}, ["visit"], id="one is done"),
        pytest.param(
            {"line": Walked(NOW - 5, 2), "visit": Walked(NOW - 9, 6)},
            ["visit", "line"],
            id="written since, the longest ago first",
        ),
        pytest.param(
            {"line": Walked(NOW - WALK_ALL_SECONDS, 3), "visit": Walked(NOW - 1, 7)},
            ["line"],
            id="all of them now and then",
        ),
    ],
)
def test_tables_are_walked_when_they_or_their_parents_were_written(
    walked: dict[str, Walked], names: list[str]
) -> None:
    assert due({"line": 3, "visit": 7}, walked, NOW) == names


def test_pauses_keep_the_work_to_its_share() -> None:
    spent = 0.02
    assert spent / (spent + pause_seconds(spent)) <= SHARE
    assert pause_seconds(1000.0) == PAUSE_SECONDS_MAX
