"""The answering side: one question, read only, with the rights of the application's role, in bounded pages.

It needs none of the packages that asking needs. Values travel as PostgreSQL's texts, column by column; the
asker fetches page after page, and a reading that nobody fetches from is ended. PostgreSQL gets the question
in its extended protocol, which takes one statement only, inside of a transaction that reads only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.types.string import TextLoader

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied

Connect = Callable[[], Awaitable[AsyncConnection[tuple[Any, ...]]]]
Rows = AsyncGenerator[tuple[Any, ...], None]
Allow = Callable[[int, Sequence[int]], Awaitable[None]]
SESSION = (
    "-c default_transaction_read_only=on -c datestyle=iso -c intervalstyle=iso_8601 -c timezone=UTC"
    " -c bytea_output=hex -c extra_float_digits=1 -c client_encoding=utf8"
)
ROWS_PER_FETCH = 500
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What an answer may cost, here and by node."""

    rows_max: int = 1_000_000
    bytes_max: int = 64 * 1024 * 1024
    page_bytes_max: int = 512 * 1024
    value_bytes_max: int = 1024 * 1024  # escaped, it still fits into a message of the link
    seconds_max: float = 300.0
    idle_seconds_max: float = 30.0
    at_once_max: int = 8


class Answering:
    """Questions that are being answered here, each a reading with a page ahead of who fetches."""

    def __init__(self, connect: Connect, allow: Allow, bounds: Bounds | None = None) -> None:
        self._connect = connect
        self._allow = allow
        self.bounds = bounds or Bounds()
        self._readings: dict[str, _Reading] = {}

    async def open(self, path: Sequence[int], payload: dict[str, Any]) -> dict[str, Any]:
        """Begin to read for the nodes of `path`; the first page."""
        if len(self._readings) >= self.bounds.at_once_max:
            raise LinkError(
                "question-crowded",
                f"the node answers {self.bounds.at_once_max} questions already",
                hint="Ask again in a moment.",
            )
        name, text = str(payload["id"]), str(payload["sql"])
        if name in self._readings:
            raise DataError("question-malformed", "a question of this id is being answered")
        seconds = min(float(payload["seconds"]), self.bounds.seconds_max)
        reading = self._readings[name] = _Reading(self, text, list(path), seconds)
        reading.start(lambda: self._readings.pop(name, None))
        return await self.more(payload)

    async def more(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The next page."""
        name = str(payload["id"])
        reading = self._readings.get(name)
        if reading is None:
            raise _gone()
        try:
            page = await reading.next()
        except BaseException:
            await self.close(payload)
            raise
        if page["is_last"]:
            await self.close(payload)
        return page

    async def close(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Nobody wants the rest."""
        reading = self._readings.pop(str(payload["id"]), None)
        if reading is not None:
            await reading.stop()
        return {}

    async def stop(self) -> None:
        for name in list(self._readings):
            await self.close({"id": name})


class _Reading:
    """A question being answered. It ends when its last page is fetched, or nobody fetches for a while."""

    def __init__(self, answering: Answering, text: str, path: list[int], seconds: float) -> None:
        self._answering = answering
        self._bounds = answering.bounds
        self._text = text
        self._path = path
        self._seconds = seconds
        self._pages: asyncio.Queue[dict[str, Any] | AtollError] = asyncio.Queue(1)
        self._task: asyncio.Task[None] | None = None

    def start(self, gone: Callable[[], object]) -> None:
        self._task = asyncio.create_task(self._run(), name="answer a question")
        self._task.add_done_callback(lambda task: self._end(gone))

    def _end(self, gone: Callable[[], object]) -> None:
        gone()
        if self._pages.empty():  # somebody may be waiting
            self._pages.put_nowait(_gone())

    async def next(self) -> dict[str, Any]:
        page = await self._pages.get()
        self._pages.task_done()
        if isinstance(page, AtollError):
            raise page
        return page

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with contextlib.aclosing(self._read()) as pages:
                async for page in pages:
                    await self._put(page)
        except AtollError as error:
            await self._put(error)
        except psycopg.errors.QueryCanceled:
            await self._put(LinkError("question-slow", f"no answer within {self._seconds:g} seconds"))
        except (psycopg.OperationalError, OSError) as error:
            await self._put(LinkError("database-away", "the database is away", detail=f"{error}."))
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            refusal = DataError("question-refused", f"PostgreSQL says: {said}", hint=error.diag.message_hint)
            await self._put(refusal)
        except Exception:
            log.exception("could not answer a question")
            await self._put(LinkError("request-failed", "the node failed while it answered a question"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.idle_seconds_max):
                await self._pages.join()

    async def _put(self, page: dict[str, Any] | AtollError) -> None:
        """Wait for the page before this one to be fetched; nobody who wants it waits that long."""
        try:
            async with asyncio.timeout(self._bounds.idle_seconds_max):
                await self._pages.put(page)
        except TimeoutError:
            raise asyncio.CancelledError from None

    async def _read(self) -> AsyncGenerator[dict[str, Any], None]:
        began = time.monotonic()
        connection = await self._answering._connect()
        try:  # `async with` would want to commit, and not close where it is cancelled meanwhile
            _as_texts(connection)
            pid = connection.info.backend_pid
            await connection.set_autocommit(False)
            await connection.execute("set transaction isolation level repeatable read read only")
            await connection.execute(
                "select set_config('statement_timeout', %s, true)", (f"{self._seconds * 1000:.0f}",)
            )
            columns = await _describe(connection, self._text)
            rows: list[tuple[str | None, ...]] = []
            size = rows_in_all = bytes_in_all = 0
            cursor = connection.cursor()
            found = cast("Rows", cursor.stream(self._text, size=_rows_per_fetch()))
            async with contextlib.aclosing(found):
                async for row in found:
                    length = sum(len(value) for value in row if value is not None) + 3 * len(row)
                    self._check(rows_in_all := rows_in_all + 1, bytes_in_all := bytes_in_all + length, length)
                    if size + length > self._bounds.page_bytes_max and rows:
                        await self._answering._allow(pid, self._path)
                        yield _page(columns, rows, size, began, is_last=False)
                        rows, size = [], 0
                    rows.append(row)
                    size += length
            await self._answering._allow(pid, self._path)
            yield _page(columns, rows, size, began, is_last=True)
        finally:
            await connection.close()

    def _check(self, rows: int, size: int, length: int) -> None:
        too_many = rows > self._bounds.rows_max or size > self._bounds.bytes_max
        if too_many or length > self._bounds.value_bytes_max:
            mega, most = 1024 * 1024, self._bounds
            raise DataError(
                "answer-too-large",
                "the answer of a node is too large",
                detail=f"A node sends at most {most.rows_max:,} rows, {most.bytes_max // mega} MB in all"
                f" and {most.value_bytes_max // mega} MB in a row.",
                hint="Ask for sums, for fewer columns, or with a condition or a LIMIT.",
            )


def _rows_per_fetch() -> int:
    """Older clients of PostgreSQL give rows one by one."""
    return ROWS_PER_FETCH if psycopg.capabilities.has_stream_chunked() else 1


def _gone() -> DataError:
    return DataError("question-gone", "the answer is not being read any more", hint="Ask again.")


async def _describe(connection: AsyncConnection[tuple[Any, ...]], text: str) -> list[list[Any]]:
    """Name and type of each column, known also where there are no rows."""
    wrapped = f"select * from ({text}\n) as question limit 0"  # noqa: S608 (what it is wrapped in is no defence)
    try:
        cursor = await connection.execute(wrapped, binary=True)
    except psycopg.errors.SyntaxError as error:
        raise DataError("question-refused", f"PostgreSQL says: {error.diag.message_primary}") from error
    if cursor.description is None:
        raise PolicyDenied("question-not-a-select", "a question is one SELECT")
    return [[column.name, column.type_code] for column in cursor.description]


def _as_texts(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    for kind in psycopg.adapters.types:
        connection.adapters.register_loader(kind.oid, TextLoader)
        if kind.array_oid:
            connection.adapters.register_loader(kind.array_oid, TextLoader)


def _page(
    columns: list[list[Any]], rows: list[tuple[str | None, ...]], size: int, began: float, *, is_last: bool
) -> dict[str, Any]:
    values = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in columns]
    return {
        "columns": columns,
        "values": values,
        "rows": len(rows),
        "bytes": size,
        "is_last": is_last,
        "seconds": time.monotonic() - began,
    }
