"""Following a table's changes from a program: a named cursor that survives restarts.

`follow` yields batches in commit-safe order and moves the cursor after each one that the caller is done
with, so a batch may be seen again after a crash, never skipped. `Reading` is for whoever hears later how far
the other side has come: it reads on, and the cursor stays until it is moved.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import psycopg
from psycopg import AsyncConnection

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.sql import query
from atoll.sql.sessions import heard

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


@dataclass(frozen=True)
class Place:
    """Where in a feed a change is: behind it comes what was not read yet."""

    xid: str
    pos: int

    def __str__(self) -> str:
        return f"{self.xid}.{self.pos}"


def parse_place(text: str) -> Place:
    found = re.fullmatch(r"([0-9]{1,19})\.([0-9]{1,18})", text)
    if not found:
        raise DataError(
            "feed-place",
            "cannot read this place in a feed",
            hint="Give the id of an event, as it came.",
        )
    return Place(found[1], int(found[2]))


@dataclass(frozen=True)
class Change:
    """One change with its rows, which come together or not at all."""

    place: Place
    rows: tuple[FeedRow, ...]


class Reading:
    """A feed that is read ahead of its cursor. The connection is in autocommit and serves nothing else."""

    def __init__(self, connection: AsyncConnection[Any], feed: str) -> None:
        self._connection = connection
        self._feed = feed
        self._place: Place | None = None

    async def open(self, tables: Sequence[str] | None) -> None:
        """Begin; with tables, the feed is made over them where it is not there yet."""
        await self._connection.execute("listen atoll_change")
        if tables is not None:
            await self._connection.execute(query("feed", "open"), (self._feed, list(tables)))
        row = await (await self._connection.execute(query("feed", "exists"), (self._feed,))).fetchone()
        if row is None or not row[0]:
            raise DataError(
                "feed-unknown",
                f'feed "{self._feed}" does not exist',
                hint="Open it, or ask with create=true.",
            )

    async def move(self, place: Place) -> None:
        """The other side has everything up to here."""
        await self._connection.execute(query("feed", "move"), (self._feed, place.xid, place.pos))

    async def next(self, most: int) -> list[Change]:
        """The next changes; after a second there may be none."""
        at = (self._place.xid, self._place.pos) if self._place else (None, None)
        cursor = await self._connection.execute(query("feed", "read_after"), (self._feed, *at, most))
        rows = [FeedRow(*row) for row in await cursor.fetchall()]
        changes = [
            Change(Place(*key), tuple(of_change))
            for key, of_change in groupby(rows, lambda r: (r.xid, r.pos))
        ]
        if changes:
            self._place = changes[-1].place
        else:
            await heard(self._connection, WAKE_SECONDS)
        return changes


def explain(error: psycopg.Error) -> AtollError:
    """What PostgreSQL said, in our words where they are ours."""
    diag = error.diag
    if (diag.sqlstate or "").startswith("AT0"):
        family = PolicyDenied if diag.sqlstate == "AT003" else DataError
        return family(
            diag.constraint_name or "database",
            diag.message_primary or str(error),
            detail=diag.message_detail or None,
            hint=diag.message_hint or None,
        )
    if isinstance(error, psycopg.OperationalError):
        return LinkError("database-away", "the node's database is away")
    return DataError("database", diag.message_primary or str(error).strip())


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
            await heard(connection, WAKE_SECONDS)
