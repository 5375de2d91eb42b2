"""Rows that are written beside the work that made them: nobody waits for them, and one too many is let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import psycopg

from atoll.sql.sessions import Connect, Connection

WAITING_MAX = 256
AT_ONCE = 64
TOGETHER_SECONDS = 0.05
T = TypeVar("T")
log = logging.getLogger(__name__)


class Outbox(Generic[T]):
    """`write` is called for each, in a session for many. One that cannot be written keeps back no other."""

    def __init__(
        self, connect: Connect, what: str, write: Callable[[Connection, T], Awaitable[None]]
    ) -> None:
        self._connect = connect
        self._what = what
        self._write = write
        self._waiting: asyncio.Queue[T] = asyncio.Queue(WAITING_MAX)

    def offer(self, one: T) -> bool:
        """Whether there is room for it."""
        if self._waiting.full():
            return False
        self._waiting.put_nowait(one)
        return True

    async def run(self) -> None:
        """Until cancelled. Where nothing is offered, no session is opened."""
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(TOGETHER_SECONDS)
            while len(batch) < AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._send(batch)
            except (psycopg.Error, OSError) as error:
                log.debug("could not write %d %s: %s", len(batch), self._what, error)

    async def _send(self, batch: Sequence[T]) -> None:
        async with await self._connect() as connection:
            for one in batch:
                try:
                    await self._write(connection, one)
                except (psycopg.Error, ValueError) as error:
                    if connection.broken:
                        raise
                    log.debug("could not write one of %d %s: %s", len(batch), self._what, error)
