"""The next move of a member that was away for too long, as a table of cases."""

from __future__ import annotations

import pytest

from atoll.data.replication.returning import PATIENCE_SECONDS, Begun, Candidate, Move, choose_move

NEAR = Candidate(1, is_ready=True, is_absent=False, is_of_region=True, rtt_ms=3.0)
NEARER = Candidate(2, is_ready=True, is_absent=False, is_of_region=True, rtt_ms=1.0)
UP = Candidate(3, is_ready=True, is_absent=False, is_of_region=True, is_upstream=True, rtt_ms=9.0)
FAR = Candidate(4, is_ready=True, is_absent=False, is_of_region=False, is_upstream=True, rtt_ms=0.1)
DOWN = Candidate(5, is_ready=False, is_absent=False, is_of_region=True)
ABSENT = Candidate(6, is_ready=True, is_absent=True, is_of_region=True, is_upstream=True, rtt_ms=0.1)
LONG = PATIENCE_SECONDS + 1


@pytest.mark.parametrize(
    ("must_return", "begun", "candidates", "move"),
    [
        pytest.param(False, None, [NEAR], (Move.NONE, None), id="who was not away has nothing to do"),
        pytest.param(True, None, [], (Move.WAIT, None), id="nobody is there"),
        pytest.param(True, None, [DOWN], (Move.WAIT, None), id="who has no link cannot be asked"),
        pytest.param(True, None, [ABSENT], (Move.WAIT, None), id="who has to return itself is no source"),
        pytest.param(True, None, [NEAR, NEARER], (Move.BEGIN, 2), id="the nearest is asked"),
        pytest.param(True, None, [NEAR, UP, NEARER], (Move.BEGIN, 3), id="an upstream has most"),
        pytest.param(True, None, [FAR, NEAR], (Move.BEGIN, 1), id="a node of the region may have all"),
        pytest.param(True, None, [FAR, DOWN], (Move.WAIT, None), id="the region's node is waited for"),
        pytest.param(True, None, [FAR, ABSENT], (Move.BEGIN, 4), id="unless the region has none left"),
        pytest.param(True, Begun(1, False), [NEAR, UP], (Move.ASK, 1), id="who was asked stays the source"),
        pytest.param(True, Begun(5, False), [DOWN, UP], (Move.WAIT, 5), id="it may come back"),
        pytest.param(True, Begun(5, False, LONG), [DOWN, UP], (Move.BEGIN, 3), id="but not for ever"),
        pytest.param(True, Begun(6, False), [ABSENT, UP], (Move.BEGIN, 3), id="nor where it is absent now"),
        pytest.param(True, Begun(9, False), [UP], (Move.BEGIN, 3), id="nor where it is no member any more"),
        pytest.param(True, Begun(1, True), [], (Move.FINISH, 1), id="what has arrived is finished alone"),
        pytest.param(False, Begun(1, False), [NEAR], (Move.ASK, 1), id="what was begun is brought to an end"),
    ],
)
def test_the_next_move_is_chosen(
    must_return: bool, begun: Begun | None, candidates: list[Candidate], move: tuple[Move, int | None]
) -> None:
    assert choose_move(must_return=must_return, begun=begun, candidates=candidates) == move
