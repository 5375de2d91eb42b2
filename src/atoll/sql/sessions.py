"""Work that needs a session with the database for as long as the node runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, Notify

AGAIN_SECONDS = 1.0
Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
log = logging.getLogger(__name__)


async def heard(connection: Connection, seconds: float, most: int = 1) -> list[Notify]:
    """What a session that listens is told, as soon as it is told anything; nothing after so many seconds.

    The driver's own waiting wakes up ten times a second, in each of a dozen sessions of an idle node.
    """
    found = [note async for note in connection.notifies(timeout=0, stop_after=most)]
    if found or seconds <= 0:
        return found
    async with connection.lock:
        await _until_readable(connection.fileno(), seconds)
    return [note async for note in connection.notifies(timeout=0, stop_after=most)]


async def _until_readable(descriptor: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    timer = loop.call_later(seconds, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
        loop.remove_reader(descriptor)


async def keep(connect: Connect, what: str, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Until cancelled: where the session breaks, in another one a second later."""
    while True:
        try:
            async with await connect() as connection:
                await work(connection)
        except (psycopg.Error, OSError) as error:
            log.debug("%s wait for the database: %s", what, error)
        except Exception:
            # What goes wrong in a way that nobody thought of must not end the node.
            log.exception("%s go wrong", what)
        await asyncio.sleep(AGAIN_SECONDS)
