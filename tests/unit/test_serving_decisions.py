"""What is loaded and unloaded when: never what is busy, what is asked for before what is only kept warm."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from atoll.serving.decide import (
    Berth,
    Load,
    Refuse,
    Replace,
    State,
    Unload,
    next_step,
    pause_before,
)

MEMORY_MAX = 1000
IDLE_MAX = 60.0
EMPTY = Berth("a", State.EMPTY, 300, True, False, 0, 0.0, 0.0)
READY = replace(EMPTY, state=State.READY)


def step(*berths: Berth) -> object:
    return next_step(berths, MEMORY_MAX, IDLE_MAX)


def test_a_model_is_loaded_when_somebody_asks_or_it_is_kept_and_not_before() -> None:
    assert step(EMPTY) is None
    assert step(replace(EMPTY, asking=1)) == Load("a")
    assert step(replace(EMPTY, is_kept=True)) == Load("a")
    assert step(replace(EMPTY, asking=1, is_wanted=False)) is None
    assert step(replace(EMPTY, asking=1, pause_seconds=0.1)) is None


def test_what_could_never_fit_is_refused_with_the_numbers() -> None:
    found = step(replace(EMPTY, asking=1, memory_bytes=1001 * 1024**2))
    assert found == Refuse("a", "it needs 1001 MB, and models may take 1 MB on this node")


def test_an_idle_model_makes_room_the_one_that_was_used_least_lately_first() -> None:
    asked = replace(EMPTY, model="new", asking=1, memory_bytes=600)
    old, older = replace(READY, model="old", idle_seconds=5), replace(READY, model="older", idle_seconds=9)
    assert step(asked, old, older) == Unload("older", 'it made room for "new"')
    kept = replace(older, is_kept=True)
    assert step(asked, old, kept) == Unload("old", 'it made room for "new"')


def test_a_busy_model_is_never_unloaded_for_another() -> None:
    asked = replace(EMPTY, model="new", asking=1, memory_bytes=800)
    assert step(asked, replace(READY, asking=1)) is None
    busy, idle = replace(READY, model="busy", asking=1), replace(READY, model="idle")
    assert step(asked, busy, idle) is None, "unloading the idle one would not be enough"


def test_a_model_that_is_only_kept_unloads_nothing() -> None:
    assert step(replace(EMPTY, model="kept", is_kept=True, memory_bytes=800), READY) is None


def test_what_nobody_asks_for_goes_after_a_while_unless_it_is_kept() -> None:
    assert step(replace(READY, idle_seconds=59.9)) is None
    assert step(replace(READY, idle_seconds=60)) == Unload("a", "nobody asked for it for 60 s")
    assert step(replace(READY, idle_seconds=1e6, is_kept=True)) is None
    assert step(replace(READY, idle_seconds=1e6, asking=1)) is None


def test_what_is_not_wanted_any_more_goes_once_its_callers_are_answered() -> None:
    gone = replace(READY, is_wanted=False)
    assert step(gone) == Unload("a", "it is not wanted any more")
    assert step(replace(gone, asking=1)) is None


def test_a_next_version_is_loaded_beside_the_one_before_or_after_it_where_both_do_not_fit() -> None:
    assert step(replace(READY, asking=5, next_bytes=700)) == Replace("a")
    assert step(replace(READY, asking=5, next_bytes=701)) == Unload("a", "its next version needs its room")
    assert step(replace(READY, next_bytes=700, pause_seconds=1)) is None


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 0.2), (2, 0.4), (5, 3.2), (9, 30.0), (10**6, 30.0)])
def test_what_broke_is_tried_again_after_pauses_that_double(attempt: int, seconds: float) -> None:
    assert pause_before(attempt) == pytest.approx(seconds)


def test_whatever_is_asked_memory_is_never_promised_twice_and_everybody_is_answered_in_the_end() -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        berths = {
            name: Berth(
                name, State.EMPTY, rng.randint(1, 1200), True, rng.random() < 0.2, rng.randint(0, 1), 0, 0
            )
            for name in "abcdef"
        }
        for _ in range(60):
            found = next_step(list(berths.values()), MEMORY_MAX, IDLE_MAX)
            if found is None:
                busy = [one for one in berths.values() if one.state is State.READY and one.asking]
                if not busy:
                    break
                berths[busy[0].model] = replace(busy[0], asking=0)
                continue
            berth = berths[found.model]
            if isinstance(found, Load):
                berths[found.model] = replace(berth, state=State.READY)
            elif isinstance(found, Refuse):
                assert berth.memory_bytes > MEMORY_MAX
                berths[found.model] = replace(berth, pause_seconds=float("inf"), asking=0)
            else:
                assert not berth.asking
                berths[found.model] = replace(berth, state=State.EMPTY)
            assert sum(one.memory_bytes for one in berths.values() if one.state is State.READY) <= MEMORY_MAX
        assert not [one for one in berths.values() if one.asking], berths
