"""What betrays a node that was restored or copied, case by case."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from atoll.node.mesh.recall import (
    TAKEN_MAX,
    TAKEN_MIN,
    DatabaseMemory,
    HomeMemory,
    Seen,
    Verdict,
    choose_number,
    judge_links,
    judge_memories,
    judge_seen,
)

HOME = HomeMemory("b", None, "77")
DATABASE = DatabaseMemory("b", "77", 1, "77", 1)
CASES = {
    "a new home": (None, DatabaseMemory(None, "77", 1), Verdict.FIRST),
    "an ordinary start": (HOME, DATABASE, Verdict.SAME),
    "a machine or a folder with another name": (HOME, DATABASE, Verdict.SAME),
    "a crash before the database learned of the start": (
        replace(HOME, following="c"),
        DATABASE,
        Verdict.SAME,
    ),
    "a crash before the home learned that it did": (
        replace(HOME, following="c"),
        replace(DATABASE, incarnation="c"),
        Verdict.SAME,
    ),
    "restored by the command": (replace(HOME, is_restored=True), DATABASE, Verdict.RESTORED),
    "the database's folder replaced by an older copy": (
        HOME,
        replace(DATABASE, incarnation="a"),
        Verdict.RESTORED,
    ),
    "everything but the database's folder put back": (
        replace(HOME, incarnation="a"),
        DATABASE,
        Verdict.RESTORED,
    ),
    "a database made anew": (HOME, DatabaseMemory(None, "78", 1), Verdict.RESTORED),
    "another server's database": (
        HOME,
        replace(DATABASE, system_id="78", last_system_id="78"),
        Verdict.RESTORED,
    ),
    "a dump loaded into another server": (HOME, replace(DATABASE, system_id="78"), Verdict.RESTORED),
    "a physical backup recovered from an archive": (HOME, replace(DATABASE, timeline=2), Verdict.RESTORED),
    "the database's folder in a new home": (None, DATABASE, Verdict.RESTORED),
}


@pytest.mark.parametrize("case", CASES)
def test_what_home_and_database_remember(case: str) -> None:
    home, database, verdict = CASES[case]
    judgement = judge_memories(home, database)
    assert judgement.verdict is verdict
    assert bool(judgement.why) == (verdict is Verdict.RESTORED)


HISTORY = [("a", 0), ("b", 100), ("c", 200)]
SEEN = {
    "a peer that never met it": (Seen(None, None), Verdict.SAME),
    "a peer that saw part of this start": (Seen("c", 250), Verdict.SAME),
    "a peer that saw all of this start": (Seen("c", 300), Verdict.SAME),
    "a peer that was away since an earlier start": (Seen("b", 180), Verdict.SAME),
    "a peer that saw an earlier start to its end": (Seen("b", 200), Verdict.SAME),
    "a peer that has met it and applied nothing": (Seen("b", None), Verdict.SAME),
    "a machine's snapshot put back, to within a start": (Seen("b", 201), Verdict.RESTORED),
    "the same, and meanwhile more was written than was lost": (Seen("a", 150), Verdict.RESTORED),
    "a snapshot put back, to before a start": (Seen("x", 220), Verdict.RESTORED),
    "a snapshot of a running machine put back": (Seen("c", 301), Verdict.RESTORED),
    "a peer of an older version": (Seen(None, 250), Verdict.SAME),
    "a peer of an older version that saw more": (Seen(None, 301), Verdict.RESTORED),
}


@pytest.mark.parametrize("case", SEEN)
def test_what_a_peer_has_seen(case: str) -> None:
    seen, verdict = SEEN[case]
    assert judge_seen(HISTORY, seen, 300).verdict is verdict


@pytest.mark.parametrize(
    ("refused", "linked", "verdict"),
    [
        (True, False, Verdict.CLONED),
        (True, True, Verdict.SAME),
        (False, False, Verdict.SAME),
        (False, True, Verdict.SAME),
    ],
)
def test_a_copy_is_the_one_that_nobody_has_a_link_to(refused: bool, linked: bool, verdict: Verdict) -> None:
    assert judge_links(refused_as_twin=refused, has_link=linked).verdict is verdict


def test_a_number_is_one_that_nobody_is_known_to_have() -> None:
    known = set(range(TAKEN_MIN, TAKEN_MAX))
    assert choose_number(known, random.Random(1)) == TAKEN_MAX
    drawn = {choose_number((), random.Random(seed)) for seed in range(50)}
    assert len(drawn) > 45
    assert all(TAKEN_MIN <= number <= TAKEN_MAX for number in drawn)
