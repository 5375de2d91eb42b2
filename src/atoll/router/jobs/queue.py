"""The queue of jobs, as those see it who ask: taking one in, reading it, waiting for what comes of it.

Jobs are rows of a shared table, so a job that was taken in survives any crash, and its result arrives by
replication. Whoever waits is woken by the notification of the row, which the worker hears.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atoll.domain.errors import DataError, LinkError
from atoll.router.placing.eligible import narrowest
from atoll.sql import query
from atoll.sql.errors import explained
from atoll.sql.sessions import Connect

LOOK_SECONDS = 5.0
WAITING_MAX = 256
DEADLINE_SECONDS = 86_400.0
TRIES = 10
FINAL = ("done", "refused", "cancelled", "dead", "late")


@dataclass(frozen=True)
class Told:
    """A job, as a row says."""

    id: int
    model: str
    state: str
    scope: str
    asked_by: str
    done_by: str | None
    tries: int
    problem: str | None
    made_at: datetime
    deadline: datetime
    ended_at: datetime | None
    result: Any
    caller: str | None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


class JobQueue:
    """`connect` gives a session of the node's owner."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._waiting: dict[str, set[asyncio.Event]] = {}  # by what a notification says

    def hear(self, notification: str) -> None:
        """What came on the channel of jobs: the id of one that was written, or whatever somebody sent."""
        for event in self._waiting.get(notification, ()):
            event.set()

    def wake(self) -> None:
        """Notifications may have been missed."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def queue(
        self,
        model: str,
        path: str,
        body: Mapping[str, Any],
        *,
        scopes: Collection[str] = (),
        caller: str | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        tries: int = TRIES,
    ) -> int:
        """Take in a request, for whoever has the model and is in all of these scopes; its id."""
        asked = {
            "model": model,
            "path": path,
            "body": Jsonb(body),
            "scope": narrowest(tuple(scopes)),
            "caller": caller,
            "seconds": deadline_seconds,
            "tries": tries,
        }
        row = await self._row("queue", asked)
        assert row is not None
        return int(row["id"])

    async def read(self, job: int) -> Told:
        row = await self._row("one", (job,))
        if row is None:
            raise DataError("job-unknown", f"there is no job {job} on this node")
        return Told(**row)

    async def cancel(self, job: int) -> None:
        await self._row("cancel", (job,))

    async def wait(self, job: int, seconds: float) -> Told:
        """The job, when it has come to an end or so many seconds have passed."""
        told = await self.read(job)
        if told.is_final or seconds <= 0:
            return told
        async with self._listening(job) as event:
            deadline = asyncio.get_running_loop().time() + seconds
            while True:
                event.clear()
                told = await self.read(job)
                left = deadline - asyncio.get_running_loop().time()
                if told.is_final or left <= 0:
                    return told
                # Also what no row says is looked at: that a deadline has passed.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left, LOOK_SECONDS))

    @contextlib.asynccontextmanager
    async def _listening(self, job: int) -> AsyncIterator[asyncio.Event]:
        if sum(len(events) for events in self._waiting.values()) >= WAITING_MAX:
            raise LinkError(
                "jobs-crowded", f"{WAITING_MAX} callers wait for jobs already", hint="Ask again later."
            )
        event, name = asyncio.Event(), str(job)
        self._waiting.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _row(self, name: str, parameters: Any) -> dict[str, Any] | None:
        try:
            async with await self._connect() as connection:
                cursor = connection.cursor(row_factory=dict_row)
                return await (await cursor.execute(query("jobs", name), parameters)).fetchone()
        except psycopg.OperationalError as error:
            raise LinkError("database-away", "could not reach the node's database") from error
        except psycopg.Error as error:
            raise explained(error) from error
