"""The worker of one pipeline: reads rows that wait, asks the model with nothing held, writes what came of it.

Entries are taken and outputs written in one transaction, so a crash repeats work and doubles nothing. What is
a row's own fault counts against that row alone. What is nobody's (the model is loading, crowded or away, a
table is gone) makes the worker wait and say so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncRawCursor, sql

from atoll.domain.errors import AtollError, DataError
from atoll.pipelines import results
from atoll.pipelines.job import Connect, Connection, Job
from atoll.pipelines.score import Answer, score
from atoll.serving.asking import split
from atoll.serving.service import Serving
from atoll.sql import query
from atoll.sql.sessions import heard

LOOK_SECONDS = 1.0
SAY_SECONDS = 5.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.2, 5.0
WRITERS_SECONDS_MAX = 0.05
GENERATED_AT_ONCE = 4
STRETCH_ROWS = 1000
ONE_BY_ONE_AFTER = 2
OF_A_ROW = ("21", "22", "23", "44", "P0", "AT")  # classes of SQLSTATE that a row's values can be to blame for
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """An entry of the queue, with its row as it is now."""

    entry: int
    tries: int
    key: str
    is_there: bool
    value: Any


class Worker:
    def __init__(
        self, job: Job, serving: Serving, connect: Connect, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.job = job
        self.scored = 0
        self.failed = 0
        self._serving = serving
        self._connect = connect
        self._clock = clock
        self._failures = 0  # in a row, and nobody's fault
        self._trouble: str | None = None
        self._said: tuple[int, str | None, str | None] = (0, None, None)
        self._said_at = clock()
        self._said_rate = 0.0
        self._is_backfilling = False
        self._looks_back_at = clock()
        self._version: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with await self._connect() as connection:
                    connection.cursor_factory = AsyncRawCursor
                    channel = sql.Identifier(f"atoll_queued_{self.job.name}")
                    await connection.execute(sql.SQL("listen {}").format(channel))
                    await self._work(connection)
            except (psycopg.OperationalError, OSError, AtollError) as error:
                log.warning('pipeline "%s" waits for the database: %s', self.job.name, error)
            except Exception:
                # A pipeline that goes wrong in a way that nobody thought of must not end the node.
                log.exception('pipeline "%s" goes wrong', self.job.name)
            self._failures += 1
            await asyncio.sleep(self._pause())

    async def _work(self, connection: Connection) -> None:
        while True:
            await self._say(connection)
            try:
                waiting = await self._read(connection, self._most())
                self._look_at_model()
                if waiting:
                    await self._score(connection, waiting)
                else:
                    self._failures, self._trouble = 0, None
                if len(waiting) < self._most() and not await self._backfill(connection) and not waiting:
                    await self._sleep(connection)
            except (AtollError, psycopg.Error) as error:
                if isinstance(error, psycopg.OperationalError) and connection.broken:
                    raise
                await self._be_in_trouble(connection, str(error).partition("\n")[0])

    def _most(self) -> int:
        if self._failures >= ONE_BY_ONE_AFTER:
            return 1
        return (
            min(self.job.batch_max, GENERATED_AT_ONCE) if self.job.task == "generate" else self.job.batch_max
        )

    def _look_at_model(self) -> None:
        """Another version may have been loaded without any row having come since."""
        loaded = self._serving.loaded(split(self.job.model)[0])
        if loaded is not None:
            self._version = loaded.wanted.version

    # Reading

    async def _read(self, connection: Connection, most: int) -> list[Waiting]:
        """What is due. A row whose expression fails counts that, and the others are read without it."""
        try:
            return await self._rows(connection, most, None)
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise
        due = await self._run(connection, query("pipelines", "due"), [self.job.name, most])
        ids = [entry for (entry,) in due]
        return await self._read_in_halves(connection, ids)

    async def _read_in_halves(self, connection: Connection, ids: Sequence[int]) -> list[Waiting]:
        try:
            return await self._rows(connection, len(ids), ids) if ids else []
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise
            if len(ids) == 1:
                await self._fail(connection, ids, _words(error))
                return []
        middle = len(ids) // 2
        first = await self._read_in_halves(connection, ids[:middle])
        return first + await self._read_in_halves(connection, ids[middle:])

    async def _rows(self, connection: Connection, most: int, ids: Sequence[int] | None) -> list[Waiting]:
        is_binary = self.job.kind in ("image", "audio")
        chosen = None if ids is None else list(ids)
        found = await self._run(connection, self.job.read_sql, [most, chosen], is_binary=is_binary)
        return [Waiting(*row) for row in found]

    # Scoring

    async def _score(self, connection: Connection, waiting: Sequence[Waiting]) -> None:
        """Of several entries for one row, the last is asked about."""
        last = {one.key: one for one in waiting if one.is_there and one.value is not None}
        asked = list(last.values())
        taken = {one.entry for one in waiting}
        if not asked:
            await self._write(connection, sorted(taken), [], None)
            return
        try:
            answer = await score(self._serving, self.job, [one.value for one in asked])
        except AtollError as error:
            if self._most() == 1 and error.code in ("runtime-slow", "runtime-broken"):
                await self._fail(
                    connection, [asked[0].entry], str(error), counts=error.code == "runtime-slow"
                )
            raise
        self._failures, self._trouble, self._version = 0, None, answer.version
        good: list[tuple[int, str]] = []
        for one, found in zip(asked, answer.found, strict=True):
            if isinstance(found, AtollError):
                taken.discard(one.entry)
                await self._fail(connection, [one.entry], _reason(found))
            else:
                good.append((one.entry, results.as_json(found)))
        await self._write(connection, sorted(taken), good, answer)

    async def _write(
        self,
        connection: Connection,
        taken: Sequence[int],
        good: Sequence[tuple[int, str]],
        answer: Answer | None,
    ) -> None:
        """Entries and their outputs in one transaction. What is refused together is tried in halves."""
        if not taken:
            return
        entries, told = [entry for entry, _ in good], [text for _, text in good]
        version = answer.version if answer is not None else None
        try:
            values = [list(taken), entries, told, self.job.model, version]
            ((done, *_),) = await self._run(connection, self.job.write_sql, values)
            self.scored += min(done, len(good))
            return
        except psycopg.Error as error:
            if not _is_of_a_row(error) or not good:
                raise
            if len(good) == 1:
                await self._fail(connection, entries, _words(error))
                await self._write(connection, [one for one in taken if one not in entries], [], None)
                return
        middle = len(good) // 2
        first = {entry for entry, _ in good[middle:]}
        await self._write(connection, [one for one in taken if one not in first], good[:middle], answer)
        await self._write(connection, sorted(first), good[middle:], answer)

    async def _fail(
        self, connection: Connection, ids: Sequence[int], why: str, *, counts: bool = True
    ) -> None:
        self.failed += counts
        await self._run(connection, query("pipelines", "fail"), [self.job.name, list(ids), why, counts])

    # Waiting

    async def _backfill(self, connection: Connection) -> bool:
        """The next stretch of rows that are there already, if that is asked for."""
        if not self._is_backfilling and self._clock() < self._looks_back_at:
            return False
        ((is_more,),) = await self._run(connection, query("pipelines", "step"), [self.job.name, STRETCH_ROWS])
        self._is_backfilling, self._looks_back_at = bool(is_more), self._clock() + LOOK_SECONDS
        return self._is_backfilling

    async def _sleep(self, connection: Connection) -> None:
        """Until a writer says that there is something, or for a second.

        Whoever queued something while it was awake shares its lock until it has committed; so once it has the
        lock for itself, all that was not announced can be read.
        """
        pause = 0.001
        while True:
            ((may_sleep,),) = await self._run(connection, query("pipelines", "sleep"), [self.job.number])
            if may_sleep:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, WRITERS_SECONDS_MAX)
            if await self._rows_due(connection):
                return
        try:
            if not await self._rows_due(connection):
                await heard(connection, LOOK_SECONDS)
        finally:
            if not connection.closed:
                await self._run(connection, query("pipelines", "wake"), [self.job.number])

    async def _rows_due(self, connection: Connection) -> bool:
        return bool(await self._run(connection, query("pipelines", "due"), [self.job.name, 1]))

    async def _be_in_trouble(self, connection: Connection, why: str) -> None:
        self._failures += 1
        self._trouble = why
        if self._failures == 1:
            log.warning('pipeline "%s" waits: %s', self.job.name, why)
        await self._say(connection)
        await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        return float(min(PAUSE_SECONDS_MIN * 2 ** min(self._failures - 1, 16), PAUSE_SECONDS_MAX))

    async def _say(self, connection: Connection) -> None:
        """Write down how it is: at once what has changed, and now and then how much."""
        seconds = self._clock() - self._said_at
        now = (self.scored, self._trouble, self._version)
        if now[1:] == self._said[1:] and seconds < SAY_SECONDS:
            return
        if now == self._said and not self._said_rate:
            self._said_at = self._clock()
            return
        more = self.scored - self._said[0]
        self._said_rate = more / max(seconds, 0.001)
        values = [self.job.name, more, self._said_rate, self._trouble, self._version]
        await self._run(connection, query("pipelines", "say"), values)
        self._said, self._said_at = now, self._clock()

    async def _run(
        self, connection: Connection, statement: str, values: Sequence[Any], *, is_binary: bool = False
    ) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(statement, values, prepare=True, binary=is_binary)
        return await cursor.fetchall()


def _is_of_a_row(error: psycopg.Error) -> bool:
    return (error.sqlstate or "")[:2] in OF_A_ROW


def _words(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)


def _reason(error: AtollError) -> str:
    return (
        f"{error.message}: {error.detail}" if isinstance(error, DataError) and error.detail else error.message
    )
