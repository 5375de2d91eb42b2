"""Looks at the files of models again, slowly, because disks forget: each is hashed once a day.

When one was looked at last is its time of change, which outlives a restart. A file that is not what its name
says any more is taken away, so that it is missing, and fetched. What an engine has open goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from atoll.registry.store import BLOCK_BYTES, Store

BYTES_A_SECOND_MAX = 8 * 1024**2
EVERY_SECONDS = 24 * 3600.0
LOOK_SECONDS = 600.0  # between two looks for files that are due
log = logging.getLogger(__name__)


class Scrub:
    def __init__(self, store: Store, lost: Callable[[str], None]) -> None:
        """`lost` is told the hash of each file that was taken away."""
        self._store = store
        self._lost = lost

    async def run(self, named: Callable[[], Iterable[str]]) -> None:
        """For as long as the node runs."""
        while True:
            for path in due([self._store.path(sha256) for sha256 in set(named())], time.time()):
                try:
                    await self.look_at(path)
                except OSError as error:  # it was removed meanwhile, or is somebody else's
                    log.debug("a file of a model is not looked at: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def look_at(self, path: Path) -> None:
        if await _hash(path) == path.name:
            os.utime(path)
            return
        log.warning("a file of a model is damaged on the disk, and taken away: %s", path)
        os.unlink(path)
        self._lost(path.name)


def due(paths: Iterable[Path], now: float) -> list[Path]:
    """Those that were not looked at for a day, or at a time that has not come yet; the longest first."""
    times = {}
    for path in paths:
        with suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime
    found = [path for path, looked_at in times.items() if not 0 <= now - looked_at < EVERY_SECONDS]
    return sorted(found, key=lambda path: times[path])


async def _hash(path: Path) -> str | None:
    """None where the disk does not give it back."""
    found = hashlib.sha256()
    try:
        with await asyncio.to_thread(open, path, "rb", 0) as stream:
            while block := await asyncio.to_thread(stream.read, BLOCK_BYTES):
                await asyncio.to_thread(found.update, block)
                await asyncio.sleep(BLOCK_BYTES / BYTES_A_SECOND_MAX)
    except OSError as error:
        log.warning("a file of a model cannot be read: %s", error)
        return None
    return found.hexdigest()
