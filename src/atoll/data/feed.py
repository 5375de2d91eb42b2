"""Following a table's changes from a program: a named cursor that survives restarts.

`follow` yields batches in commit-safe order and moves the cursor after each one that the caller is done
with, so a batch may be seen again after a crash, never skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from atoll.sql import query

STEP = 1000
WAKE_SECONDS = 1.0


@dataclass(frozen=True)
class FeedRow:
    """One row's part of a change. Values are PostgreSQL's texts; an update names only what it changed."""

    xid: str
    pos: int
    origin: int
    table: str
    op: str
    at: datetime
    row: dict[str, Any]


async def follow(
    connection: AsyncConnection[Any], feed: str, tables: Sequence[str] = (), *, step: int = STEP
) -> AsyncIterator[list[FeedRow]]:
    """Batches of changes, without end. The connection is in autocommit and serves nothing else."""
    await connection.execute("listen atoll_change")
    await connection.execute(query("feed", "open"), (feed, list(tables)))
    while True:
        rows = await (await connection.execute(query("feed", "read"), (feed, step))).fetchall()
        if rows:
            batch = [FeedRow(*row) for row in rows]
            yield batch
            await connection.execute(query("feed", "move"), (feed, batch[-1].xid, batch[-1].pos))
        else:
            # A notification comes at commit, but a running older transaction may still hold the feed back.
            async for _ in connection.notifies(timeout=WAKE_SECONDS, stop_after=1):
                pass
