"""Questions of one node: it asks others, answers them, and hands on what is meant for nodes behind it.

Asking needs DuckDB, Arrow and sqlglot (the extra `query`), which are imported at the first question;
answering and handing on need nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from atoll.analytics import catalog, members, route
from atoll.analytics.answer import Answering, Bounds, Connect
from atoll.analytics.question import Member, NodeReport, Question
from atoll.domain.errors import ConfigError, LinkError, PolicyDenied
from atoll.identity.certificate import PeerIdentity
from atoll.link.control import Handler
from atoll.link.peers import Links
from atoll.sql import query

if TYPE_CHECKING:
    import pyarrow as pa

EXTRA = ("duckdb", "pyarrow", "sqlglot")
ASKED_AT_ONCE_MAX = 4
MEMBERS_SECONDS_MAX = 5.0
MODES = ("on", "scoped", "off")
METHODS = ("question.open", "question.more", "question.close")
Say = Callable[[NodeReport], None]
OwnerConnect = Callable[[], Awaitable[AsyncConnection[tuple[Any, ...]]]]


@dataclass(frozen=True)
class Outcome:
    """The result, and the account of who gave what."""

    table: pa.Table
    report: dict[str, Any]


class Questions:
    def __init__(
        self, *, as_app: Connect, as_owner: OwnerConnect, mode: str, bounds: Bounds | None = None
    ) -> None:
        """`mode`: other nodes are told all that the application may read, what scopes allow, or nothing."""
        self._as_app = as_app
        self._as_owner = as_owner
        self._mode = mode
        self._answering = Answering(as_app, self._allow, bounds)
        self._links: Links | None = None
        self._asking = 0
        self._members: tuple[float, dict[int, Member]] = (-MEMBERS_SECONDS_MAX, {})

    def attach(self, links: Links) -> None:
        """From now on there are peers."""
        self._links = links
        for method in METHODS:
            links.handle(method, self._taker(method))

    def _taker(self, method: str) -> Handler:
        return lambda peer, payload: self._take(peer, method, payload)

    # Asking

    async def ask(self, question: Question, say: Say) -> Outcome:
        """The answer of all nodes that the question is for."""
        need_extra()
        if self._links is None:
            raise LinkError("node-starting", "the node is starting", hint="Try again in a moment.")
        if self._asking >= ASKED_AT_ONCE_MAX:
            raise LinkError(
                "question-crowded",
                f"the node asks {ASKED_AT_ONCE_MAX} questions already",
                hint="Ask again in a moment.",
            )
        self._asking += 1
        try:
            return await self._ask(question, say)
        finally:
            self._asking -= 1

    async def _ask(self, question: Question, say: Say) -> Outcome:
        from atoll.analytics import planner
        from atoll.analytics.asking import Asking
        from atoll.analytics.merge import Merge

        began = time.monotonic()
        # Parsing is Python, and a question may be long: other tasks go on meanwhile.
        names = await asyncio.to_thread(lambda: list(planner.relations_of(planner.parse(question.sql))))
        try:
            async with await self._as_app() as connection:
                known = await catalog.read_catalog(connection, names, question.sql)
                chosen = members.choose(question.on, await catalog.read_members(connection))
        except psycopg.OperationalError as error:
            raise LinkError("database-away", "the database is away", detail=f"{error}.") from error
        plan = await asyncio.to_thread(planner.make_plan, question, known, chosen)
        asking = Asking(self, secrets.token_hex(8), question.seconds_max, say)
        answers, is_complete = await asking.ask(plan, chosen)
        merge = Merge(plan, answers)
        try:
            table = await asyncio.to_thread(merge.run)
        finally:
            merge.stop()
        reports = [asking.accounts[member.number].report() for member in chosen]
        report = {
            "complete": is_complete,
            "way": plan.way,
            "rows": table.num_rows,
            "moved_rows": sum(found.rows for found in reports),
            "moved_bytes": sum(found.bytes for found in reports),
            "seconds": round(time.monotonic() - began, 4),
            "notes": list(plan.notes),
            "nodes": [found.as_json() for found in reports],
        }
        return Outcome(table, report)

    # The way to a node

    async def request(self, to: int, method: str, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask a node for something, from here."""
        return await self._hand_on(to, [], method, payload, seconds)

    async def _take(self, peer: PeerIdentity, method: str, payload: dict[str, Any]) -> dict[str, Any]:
        """What a peer asks, for this node or for one behind it."""
        path = [int(number) for number in payload["path"]]
        if not path or path[-1] != peer.number or len(path) > route.STEPS_MAX:
            raise PolicyDenied("question-path", "the question does not say where it comes from")
        seconds = min(float(payload.get("seconds", 30.0)), self._answering.bounds.seconds_max)
        return await self._hand_on(int(payload["to"]), path, method, payload, seconds)

    async def _hand_on(
        self, to: int, path: Sequence[int], method: str, payload: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        links = self._links
        assert links is not None
        if to == links.me.number:
            return await self.answer(path, method, payload)
        up = {report.number for report in links.report() if report.state == "up"}
        onward = [*path, links.me.number]
        steps = route.next_steps(to, onward, up, await self._nodes())
        failure = LinkError("no-way", f"there is no way to node {to} now")
        for step in steps:
            try:
                return await links.request(step, method, {**payload, "to": to, "path": onward}, seconds)
            except LinkError as error:
                if error.code not in ("no-way", "link-down", "link-lost", "method-unknown"):
                    raise
                failure = error
        raise failure

    async def answer(self, path: Sequence[int], method: str, payload: dict[str, Any]) -> dict[str, Any]:
        if path and self._mode == "off":
            raise PolicyDenied(
                "questions-off",
                "the node answers no questions",
                hint="On that node: questions = scoped, or on.",
            )
        if method == "question.open":
            return await self._answering.open(path, payload)
        if method == "question.more":
            return await self._answering.more(payload)
        return await self._answering.close(payload)

    async def _allow(self, pid: int, path: Sequence[int]) -> None:
        """Refuse to send what scopes keep from a node on the path: its locks say what a session has read."""
        if not path or self._mode == "on":
            return
        async with await self._as_owner() as connection:
            values = {"pid": pid, "path": list(path)}
            row = await (await connection.execute(query("questions", "touched"), values)).fetchone()
        if row is not None:
            table, why, node = row
            raise PolicyDenied(
                "question-scope",
                f'table {table} may not be asked by node "{node}"',
                detail=f"{why}.",
                hint="Where results of questions may leave all the same, set there: questions = on.",
            )

    async def _nodes(self) -> dict[int, Member]:
        """Every node, as of some seconds ago."""
        read_at, found = self._members
        if time.monotonic() - read_at > MEMBERS_SECONDS_MAX:
            async with await self._as_owner() as connection:
                found = {member.number: member for member in await catalog.read_members(connection)}
            self._members = (time.monotonic(), found)
        return found


def need_extra() -> None:
    """Asking needs more packages than a node that only answers."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "query-extra-missing",
            f"asking needs the package {missing[0]}",
            detail="A node that only answers needs none of it.",
            hint="Run: pip install 'atoll[query]', then start the node again.",
        )
