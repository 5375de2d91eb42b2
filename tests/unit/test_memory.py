"""Memory that was freed goes back to the system."""

from __future__ import annotations

import asyncio
import os
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
