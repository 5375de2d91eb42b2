"""When a server that ended is started again, and when the disk stops writes: the pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.node.postgres.course import (
    PAUSE_SECONDS_MAX,
    STEADY_SECONDS,
    TRIES_BEFORE_READY,
    Course,
    after_exit,
    after_ready,
)
from atoll.node.postgres.disk import is_full_now
from atoll.node.report import Readiness


def test_pauses_grow_to_a_bound_and_start_anew_after_a_steady_run() -> None:
    course, pauses = after_ready(Course()), []
    for _ in range(12):
        step = after_exit(course, 1.0, False)
        course = step.course
        pauses.append(step.pause_seconds)
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1] == PAUSE_SECONDS_MAX
    assert after_exit(course, STEADY_SECONDS, False).pause_seconds == pauses[0]
    assert course.restarts == 12


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), max_size=80))
def test_a_server_that_was_ready_once_is_never_given_up(ends: list[tuple[float, bool]]) -> None:
    course = after_ready(Course())
    for ran_seconds, is_disk_full in ends:
        step = after_exit(course, ran_seconds, is_disk_full)
        assert not step.gives_up
        assert 0 < step.pause_seconds <= PAUSE_SECONDS_MAX
        course = step.course


@pytest.mark.parametrize("is_disk_full", [False, True])
def test_a_server_that_was_never_ready_is_given_up_unless_the_disk_is_full(is_disk_full: bool) -> None:
    course = Course()
    for number in range(1, TRIES_BEFORE_READY + 3):
        step = after_exit(course, 0.1, is_disk_full)
        assert step.gives_up == (number >= TRIES_BEFORE_READY and not is_disk_full)
        course = step.course


@pytest.mark.parametrize(
    ("free", "was_full", "is_full"),
    [(99, False, True), (100, False, False), (109, True, True), (110, True, False), (105, False, False)],
)
def test_writes_come_back_with_some_distance_to_the_floor(free: int, was_full: bool, is_full: bool) -> None:
    assert is_full_now(free, 100, was_full) == is_full


def test_a_node_is_ready_when_nobody_has_a_reason_against_it() -> None:
    readiness = Readiness(postgres="starting")
    readiness.hold("disk", "full")
    readiness.clear("postgres")
    assert readiness.reasons == {"disk": "full"}
    assert not readiness.is_ready
    readiness.clear("disk")
    readiness.clear("disk")
    assert readiness.is_ready
