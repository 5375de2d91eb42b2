"""Work that needs a session with the database for as long as the node runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection

AGAIN_SECONDS = 1.0
Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
log = logging.getLogger(__name__)


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
