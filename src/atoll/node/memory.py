"""Gives memory that the node does not need any more back to the system.

Links allocate and free a lot when they come and go, and the C library keeps what lies between pieces that are
still in use. And a TLS connection that ended is a knot of a hundred objects with 256 kB of buffers: only
Python's collector unties it, which counts objects, not bytes, and so looks at all of them too seldom. Left
alone, a node whose links flap for weeks would hold it all.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

TRIM_SECONDS = 60.0
YOUNG_MAX = 5_000  # objects, before the collector looks at the new ones


def find_trim() -> Callable[[int], int] | None:
    """The C library's way to do so, where it has one."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found


def set_aside() -> None:
    """What is there before the first connection stays: to look at it again and again holds everybody up.

    So does looking as often as Python does: of the objects of a request nearly all are gone by themselves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX)


async def keep_trimmed(trim: Callable[[int], int] | None, seconds: float = TRIM_SECONDS) -> None:
    while True:
        await asyncio.sleep(seconds)
        gc.collect()
        if trim is not None:
            await asyncio.to_thread(trim, 0)
