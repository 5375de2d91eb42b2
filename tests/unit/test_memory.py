"""Memory that was freed goes back to the system."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from pathlib import Path

import pytest

from atoll.node.memory import find_trim, keep_trimmed

PIECES = 60_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_what_is_freed_between_what_is_used_goes_back() -> None:
    trim = find_trim()
    if trim is None:
        pytest.skip("this C library cannot")
    pieces = [bytearray(os.urandom(8)) * 256 for _ in range(PIECES)]
    kept = pieces[::100]
    pieces.clear()
    before = resident()
    trimming = asyncio.create_task(keep_trimmed(trim, 0.01))
    try:
        async with asyncio.timeout(60):
            while before - resident() < PIECES * 2048 // 2:
                await asyncio.sleep(0.05)
    finally:
        trimming.cancel()
    assert len(kept) == PIECES // 100


class Knot:
    """Refers to itself, as a connection and its protocol do."""

    def __init__(self) -> None:
        self.buffer = bytearray(1024)
        self.knot = self


async def test_what_only_the_collector_finds_is_found_soon() -> None:
    seen = weakref.ref(Knot())
    was_on = gc.isenabled()
    gc.disable()
    trimming = asyncio.create_task(keep_trimmed(None, 0.01))
    try:
        async with asyncio.timeout(60):
            while seen() is not None:
                await asyncio.sleep(0.01)
    finally:
        trimming.cancel()
        if was_on:
            gc.enable()
