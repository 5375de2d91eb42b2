"""One block within another, as one: who is entered and left when, and whose error is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from atoll.runtimes.within import Within


class Trace:
    def __init__(self) -> None:
        self.words: list[str] = []

    @asynccontextmanager
    async def block(self, name: str, enter: str = "", leave: str = "") -> AsyncIterator[str]:
        """Fails with these words where there are any."""
        self.words.append(f"+{name}")
        if enter:
            raise ValueError(enter)
        try:
            yield name
        except BaseException as error:
            self.words.append(f"{name} hears {error}")
            raise
        finally:
            self.words.append(f"-{name}")
            if leave:
                raise ValueError(leave)


async def test_the_inner_one_is_made_from_the_outer_and_left_before_it() -> None:
    trace = Trace()
    async with Within(trace.block("reef"), lambda name: trace.block(f"{name} jade")) as found:
        assert found == "reef jade"
        assert trace.words == ["+reef", "+reef jade"]
    assert trace.words == ["+reef", "+reef jade", "-reef jade", "-reef"]


async def test_where_the_inner_one_cannot_be_entered_the_outer_is_left() -> None:
    trace = Trace()
    with pytest.raises(ValueError, match="full"):
        async with Within(trace.block("reef"), lambda _: trace.block("jade", enter="full")):
            pytest.fail("it was entered")
    assert trace.words == ["+reef", "+jade", "reef hears full", "-reef"]

    def unmade(name: str) -> Within[str, str]:
        raise ValueError("no such thing")

    trace.words.clear()
    with pytest.raises(ValueError, match="no such thing"):
        async with Within(trace.block("reef"), unmade):
            pytest.fail("it was entered")
    assert trace.words == ["+reef", "reef hears no such thing", "-reef"]


async def test_both_hear_what_breaks_the_block() -> None:
    trace = Trace()
    with pytest.raises(ValueError, match="cut"):
        async with Within(trace.block("reef"), lambda _: trace.block("jade")):
            raise ValueError("cut")
    assert trace.words[2:] == ["jade hears cut", "-jade", "reef hears cut", "-reef"]


async def test_the_outer_one_hears_what_goes_wrong_as_the_inner_is_left() -> None:
    trace = Trace()
    with pytest.raises(ValueError, match="late"):
        async with Within(trace.block("reef"), lambda _: trace.block("jade", leave="late")):
            pass
    assert trace.words[2:] == ["-jade", "reef hears late", "-reef"]
