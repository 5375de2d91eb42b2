"""A disk that runs full, noticed before PostgreSQL stops on it.

A spare file is kept while there is room, and given up when PostgreSQL has to start on a disk without any:
it cannot even start to be read from without writing a little. Below the floor the application's
transactions become read only, the node says so, and replication and tidying up go on in the room that is
left. Above the floor, with some distance so that it does not flap, writes are back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from atoll.node.postgres import conf as postgres_conf
from atoll.node.postgres import leftover
from atoll.node.postgres.server import Postgres, write_in_place
from atoll.node.report import Readiness

LOOK_EVERY_SECONDS = 2.0
SPARE_BYTES = 24 * 1024**2
DISTANCE_BYTES_MAX = 256 * 1024**2
log = logging.getLogger(__name__)


def is_full_now(free_bytes: int, floor_bytes: int, was_full: bool) -> bool:
    """Whether writes have to stop; they come back only with some more than the floor."""
    distance = min(floor_bytes // 10, DISTANCE_BYTES_MAX) if was_full else 0
    return free_bytes < floor_bytes + distance


class DiskWatch:
    """Looks at the free bytes every few seconds and switches the application's writes."""

    def __init__(
        self, postgres: Postgres, floor_bytes: int, readiness: Readiness, free_bytes: Callable[[Path], int]
    ) -> None:
        self._postgres = postgres
        self._floor = floor_bytes
        self._readiness = readiness
        self._free_bytes = free_bytes
        self.free = free_bytes(postgres.data.parent)
        self.is_full = is_full_now(self.free, floor_bytes, False)
        self._say()
        self._keep_spare()

    @property
    def _spare(self) -> Path:
        return self._postgres.data.with_name("spare")

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            self.look()

    def look(self) -> None:
        self.free = self._free_bytes(self._postgres.data.parent)
        is_full = is_full_now(self.free, self._floor, self.is_full)
        if is_full != self.is_full:
            self.is_full = is_full
            self._switch()
        self._say()
        self._keep_spare()

    def make_room(self) -> None:
        """PostgreSQL is about to start: give up the spare file where there is no other room."""
        if self._free_bytes(self._postgres.data.parent) < SPARE_BYTES and self._spare.exists():
            log.warning("the disk has no room for PostgreSQL to start; giving up the spare file")
            self._spare.unlink()

    def _keep_spare(self) -> None:
        if self.is_full or self._spare.exists():
            return
        try:
            with self._spare.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SPARE_BYTES)
        except OSError as error:
            log.warning("could not keep a spare file: %s", error)
            self._spare.unlink(missing_ok=True)

    def _switch(self) -> None:
        text = postgres_conf.disk_text(self.is_full)
        try:
            write_in_place(self._postgres, postgres_conf.DISK_FILE, text)
        except OSError as error:
            log.error("could not tell PostgreSQL about the disk: %s", error)
        leftover.send_to_postmaster(self._postgres.data, signal.SIGHUP)

    def _say(self) -> None:
        if self.is_full:
            floor = self._floor // 1024**2
            self._readiness.hold("disk", f"the disk is full: less than {floor} MB free, writes are refused")
        else:
            self._readiness.clear("disk")
