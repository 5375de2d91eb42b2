"""When to start PostgreSQL again after it ended, and when to say that it never will. Pure.

Invariant: a server that was ready once is never given up; the pause between two starts never exceeds
PAUSE_SECONDS_MAX. A server that ends again and again before it was ever ready has a setting that it cannot
run with, unless the disk is full, which passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 15.0
STEADY_SECONDS = 60.0
TRIES_BEFORE_READY = 3


@dataclass(frozen=True)
class Course:
    """What has happened to the server so far."""

    failures: int = 0
    restarts: int = 0
    was_ready: bool = False


@dataclass(frozen=True)
class Step:
    """What to do now: wait and start again, or give up."""

    course: Course
    pause_seconds: float
    gives_up: bool


def after_ready(course: Course) -> Course:
    return replace(course, was_ready=True)


def after_exit(course: Course, ran_seconds: float, is_disk_full: bool) -> Step:
    """The server ended without being asked to."""
    failures = 1 if ran_seconds >= STEADY_SECONDS else course.failures + 1
    after = Course(failures, course.restarts + 1, course.was_ready)
    pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2.0 ** min(failures - 1, 16))
    hopeless = not course.was_ready and not is_disk_full and failures >= TRIES_BEFORE_READY
    return Step(after, pause, hopeless)
