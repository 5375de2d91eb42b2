"""The bucket lets through what was agreed over any window, whatever the sizes are; on a clock of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll.link.rate import BURST_SECONDS, Bucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1_000, 10**9), st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 0.5)), min_size=1))
def test_whoever_waits_as_told_keeps_to_the_rate(rate: int, steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    sent = 0
    for size, idle in steps:
        sent += size
        clock.now += bucket.take(size) + idle
        elapsed = clock.now - 100.0
        assert sent <= rate * (elapsed + BURST_SECONDS) * 1.000001 + 1


def test_an_idle_link_may_burst_only_so_much() -> None:
    clock = Clock()
    bucket = Bucket(1_000_000, clock)
    clock.now += 3600
    assert bucket.take(100_000) == 0.0
    assert bucket.take(500_000) == 0.5


def test_without_a_limit_nobody_waits() -> None:
    assert Bucket(None, Clock()).take(10**12) == 0.0
