"""What a node does about a row that differs, and when it takes a difference for one."""

from __future__ import annotations

import random

import pytest

from atoll.data.consistency.repair import (
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
    Finding,
    Look,
    Suspect,
    Vote,
    Will,
    judge,
)


def vote(node: int, values: str = "a", stamps: str | None = "s", **more: object) -> Vote:
    return Vote(node, stamps, values, is_alive=True, **more)  # type: ignore[arg-type]


UNKNOWN = Vote(1, None)
UNRECORDED = Vote(1, "none", "a", odd="unrecorded")
FADING = Vote(2, "s2", "", odd="fading")
DEAD = Vote(2, "s2", "", is_alive=False)


@pytest.mark.parametrize(
    ("mine", "others", "will", "like"),
    [
        (vote(1), [vote(2), vote(3)], Will.NONE, ()),
        (vote(1, stamps="old"), [vote(2)], Will.JOIN, (2,)),
        (vote(1, stamps="old"), [vote(2), vote(3)], Will.JOIN, (3,)),
        (vote(1, stamps="old"), [vote(2), vote(3, stamps="other")], Will.JOIN, (2, 3)),
        (vote(1, stamps="old"), [DEAD], Will.JOIN, (2,)),
        (UNKNOWN, [vote(2)], Will.JOIN, (2,)),
        (UNKNOWN, [Vote(2, "none", "a", odd="unrecorded")], Will.NONE, ()),
        (vote(1), [Vote(2, None)], Will.NONE, ()),
        (FADING, [Vote(2, None)], Will.NONE, ()),
        (UNKNOWN, [FADING], Will.NONE, ()),
        (FADING, [vote(2)], Will.JOIN, (2,)),
        (vote(1), [FADING], Will.JOIN, (2,)),
        (UNRECORDED, [], Will.ADOPT, ()),
        (UNRECORDED, [Vote(2, None), DEAD], Will.ADOPT, ()),
        (UNRECORDED, [vote(2)], Will.JOIN, (2,)),
        (vote(1, "tampered"), [vote(2), vote(3)], Will.VALUE, (2,)),
        (vote(1), [vote(2, "tampered"), vote(3)], Will.NONE, ()),
        (vote(1, "x"), [vote(2, "y")], Will.JOIN, (2,)),
        (vote(1, "x", is_altered=True), [vote(2, "y")], Will.VALUE, (2,)),
        (vote(1, "x"), [vote(2, "y", is_altered=True)], Will.NONE, ()),
        (vote(1, "x", is_altered=True), [vote(2, "y", is_altered=True)], Will.JOIN, (2,)),
        (vote(1, "x"), [vote(2, "x", is_altered=True), vote(3, "y"), vote(4, "y")], Will.VALUE, (3,)),
        (vote(1, "", odd="vanished"), [vote(2)], Will.JOIN, (2,)),
        (vote(1, "", odd="vanished"), [vote(2, "", odd="vanished")], Will.NONE, ()),
        (vote(1), [vote(2, "", odd="vanished")], Will.NONE, ()),
    ],
)
def test_what_a_node_does_about_its_own_copy(
    mine: Vote, others: list[Vote], will: Will, like: tuple[int, ...]
) -> None:
    judgement = judge(mine, others)
    assert (judgement.will, judgement.like) == (will, like)


def test_nodes_that_judge_alone_come_to_one_value() -> None:
    """Whatever was tampered with, after each has done what it decided, all have the same."""
    draw = random.Random(3)
    for _ in range(500):
        rows = {
            n: (draw.choice("abc"), draw.random() < 0.3, draw.choice(["", "", "vanished"]))
            for n in range(1, draw.randrange(3, 7))
        }
        for _ in range(12):
            votes = {
                n: vote(n, "" if gone else value, is_altered=altered, odd=gone or None)
                for n, (value, altered, gone) in rows.items()
            }
            chosen = dict(rows)
            for n in rows:
                judgement = judge(votes[n], [votes[m] for m in votes if m != n])
                if judgement.will is Will.VALUE:
                    chosen[n] = (votes[judgement.like[0]].values, False, "")
                elif judgement.will is Will.JOIN:
                    chosen[n] = (
                        max([votes[n].values, *(votes[m].values for m in judgement.like)]),
                        False,
                        "",
                    )
            if chosen == rows:
                break
            rows = chosen
        there = {value for value, _, gone in rows.values() if not gone}
        assert len(there) == 1 or all(gone for *_, gone in rows.values())


def look(at: float, *votes: Vote, heard: tuple[dict[tuple[int, str], int], ...] = ({}, {})) -> Look:
    return Look(at, votes, heard)


def marks(n: int) -> dict[tuple[int, str], int]:
    return {(1, "global"): n, (2, "global"): 5}


def test_a_difference_lasts_when_both_have_heard_what_either_had_heard() -> None:
    suspect = Suspect(0.0)
    pair = (vote(1, "x"), vote(2, "y"))
    late = SETTLE_SECONDS + 1
    assert suspect.look(look(0, *pair, heard=(marks(7), marks(6)))) is Finding.WAIT
    assert suspect.look(look(late, *pair, heard=(marks(8), marks(6)))) is Finding.WAIT
    assert suspect.look(look(late + 1, *pair, heard=(marks(9), marks(7)))) is Finding.WAIT
    assert suspect.look(look(late + 2, *pair, heard=(marks(9), marks(8)))) is Finding.LASTS


def test_a_row_that_moves_is_on_its_way() -> None:
    suspect = Suspect(0.0)
    for second in range(20):
        pair = (vote(1, f"v{second}", stamps=f"s{second}"), vote(2))
        assert suspect.look(look(second, *pair)) is Finding.WAIT
    assert suspect.look(look(21, vote(1), vote(2))) is Finding.SAME


def test_what_nobody_will_hear_of_any_more_is_not_waited_for_without_end() -> None:
    suspect = Suspect(0.0)
    pair = (vote(1, "x"), vote(2, "y"))
    for second in (0, 10, 20, PATIENCE_SECONDS - 1):
        assert suspect.look(look(second, *pair, heard=(marks(7), marks(6)))) is Finding.WAIT
    assert suspect.look(look(PATIENCE_SECONDS, *pair, heard=(marks(7), marks(6)))) is Finding.LASTS


def test_who_forgot_a_deletion_and_who_remembers_it_are_the_same() -> None:
    assert Suspect(0.0).look(look(0, FADING, Vote(2, None))) is Finding.SAME
    assert Suspect(0.0).look(look(0, Vote(2, None), FADING)) is Finding.SAME
    assert Suspect(0.0).look(look(0, vote(1), FADING)) is Finding.WAIT


def test_a_row_without_history_is_never_the_same() -> None:
    assert Suspect(0.0).look(look(0, UNRECORDED)) is Finding.WAIT
