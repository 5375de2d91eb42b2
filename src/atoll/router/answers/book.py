"""The answers that a node gives again: held in memory, written to a shared table, and read as others write.

A request waits for neither the writing nor the database. Where no route gives answers again, there is no
session.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from atoll.domain.errors import AtollError
from atoll.router.answers.memory import ANSWERS_MAX, Answer, Memory
from atoll.sql import query
from atoll.sql.outbox import Outbox
from atoll.sql.sessions import Connect, Connection, heard, keep

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANSWER_BYTES_MAX = 256 * 1024
AT_ONCE = 64
LOOK_SECONDS = 60.0
FORGOTTEN_AT_ONCE = 5000
Vector = Callable[[str, str], Awaitable[tuple["NDArray[Any]", str]]]


class Answers:
    """Runs for as long as the node does. `vector` makes that of a question, and says by which version."""

    def __init__(self, connect: Connect, vector: Vector, clock: Callable[[], float] = time.time) -> None:
        self.memory = Memory(clock=clock)
        self.vector = vector
        self.clock = clock
        self.counts: Counter[tuple[str, str]] = Counter()  # by route and way
        self._connect = connect
        self._outbox = Outbox(connect, "answers", self._write)
        self._rows: set[str] = set()  # keys of what is held because the table had it
        self._routes: frozenset[str] = frozenset()
        self._is_needed = asyncio.Event()

    def need(self, routes: Iterable[str]) -> None:
        """These routes give answers again."""
        self._routes = frozenset(routes)
        for words in [words for words in self.counts if words[0] not in self._routes]:
            del self.counts[words]
        if self._routes:
            self._is_needed.set()
        else:
            self._is_needed.clear()
            self.memory.clear()

    def offer(self, answer: Answer) -> None:
        """To be held and written; one too many, or one too long, is let go."""
        if len(answer.events) <= ANSWER_BYTES_MAX and self._outbox.offer(answer):
            self.memory.put(answer)

    def numbers(self) -> Iterable[Metric]:
        given = CounterMetricFamily(
            "atoll_answers", "Requests of routes that give answers again.", labels=["route", "way"]
        )
        for words, count in self.counts.items():
            given.add_metric(list(words), count)
        yield given
        yield GaugeMetricFamily("atoll_answers_held", "Answers in memory.", len(self.memory))
        yield GaugeMetricFamily("atoll_answers_bytes", "Memory that they take.", self.memory.size)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outbox.run())
            group.create_task(keep(self._connect_when_needed, "answers", self._follow))

    async def _connect_when_needed(self) -> Connection:
        await self._is_needed.wait()
        return await self._connect()

    async def _follow(self, connection: Connection) -> None:
        """Hold what the table holds, and nothing that was forgotten while nobody listened."""
        await connection.execute("listen atoll_answers")
        await self._load(connection, "newest", ANSWERS_MAX, set(self._rows))
        due = 0.0
        while self._routes:
            now = asyncio.get_running_loop().time()
            if now >= due:
                await connection.execute(query("answers", "tidy"), (FORGOTTEN_AT_ONCE, ANSWERS_MAX))
                due = now + LOOK_SECONDS
            keys = {note.payload for note in await heard(connection, 1.0, AT_ONCE)}
            if keys:
                await self._load(connection, "some", list(keys), keys)

    async def _load(self, connection: Connection, name: str, of: Any, instead: set[str]) -> None:
        """Rows, in the place of what is held of these keys. What waits to be written stays."""
        rows = await (await connection.execute(query("answers", name), (of,))).fetchall()
        for key in instead:
            self.memory.drop(key)
        self._rows = {key for key in self._rows - instead if key in self.memory} | {row[0] for row in rows}
        for row in reversed(rows):
            self.memory.put(_answer(row))

    async def _write(self, connection: Connection, answer: Answer) -> None:
        await connection.execute(query("answers", "keep"), _parameters(answer))
        self._rows.add(answer.key)


def is_whole(path: str, events: Sequence[bytes]) -> bool:
    """Did it come to its end, without an error?"""
    from atoll.runtimes.answers import gather
    from atoll.runtimes.events import is_error

    try:
        gather(path, events)
    except (AtollError, KeyError, TypeError, AttributeError):
        return False
    return not any(map(is_error, events))


def key_of(whole: str, model: str, version: str, variant: str, scope: str, node: int) -> str:
    """The same on every node, but for what stays on one."""
    parts = (whole, model, version, variant, scope, str(node) if scope == "local" else "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _answer(row: Sequence[Any]) -> Answer:
    *told, events, tables = row
    facts: Any = (*told, events.encode(), tuple(tables))
    return Answer(*facts)


def _parameters(answer: Answer) -> dict[str, Any]:
    return {**asdict(answer), "events": answer.events.decode(), "tables": list(answer.tables)}
