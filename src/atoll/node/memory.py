"""Gives memory that the node has freed back to the system.

Links allocate and free a lot when they come and go, and the C library keeps what lies between pieces that are
still in use. Left alone, a node whose links flap for weeks would hold it all.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

TRIM_SECONDS = 60.0


def find_trim() -> Callable[[int], int] | None:
    """The C library's way to do so, where it has one."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found


async def keep_trimmed(trim: Callable[[int], int], seconds: float = TRIM_SECONDS) -> None:
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(trim, 0)
