"""Asks nodes their parts of a plan, page by page, and keeps the account of who answered.

A duty that several nodes can do goes to the nearest first and to the next when that fails. What was opened is
closed again when somebody loses interest. How a request gets to a node is the caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from atoll.analytics.plan import Ask, Plan
from atoll.analytics.question import Answer, Member, NodeReport
from atoll.domain.errors import AtollError, DataError, LinkError

DUTIES_AT_ONCE_MAX = 32
CANDIDATES_MAX = 5  # tried for one duty
BYTES_IN_ALL_MAX = 256 * 1024 * 1024
CLOSE_SECONDS_MAX = 2.0
Say = Callable[[NodeReport], None]


class Way(Protocol):
    """Takes a request to a node, however many steps away it is."""

    async def request(
        self, to: int, method: str, payload: dict[str, Any], seconds: float
    ) -> dict[str, Any]: ...


@dataclass
class Account:
    """What one node has given so far."""

    member: Member
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failure: AtollError | None = None
    answered: bool = False

    def report(self) -> NodeReport:
        state = "failed" if self.failure else "answered" if self.answered else "spared"
        why = self.failure.message if self.failure else None
        if self.failure and self.failure.detail:
            why = f"{why}: {self.failure.detail.rstrip('.')}"
        return NodeReport(
            self.member.name,
            self.member.region,
            state,
            self.rows,
            self.bytes,
            self.seconds,
            why,
            self.failure.code if self.failure else None,
        )


@dataclass
class Asking:
    """One question on its way. `name` makes the ids of its parts unique."""

    way: Way
    name: str
    seconds_max: float
    say: Say
    accounts: dict[int, Account] = field(default_factory=dict)
    _bytes: int = 0
    _opened: int = 0

    async def ask(self, plan: Plan, members: Sequence[Member]) -> tuple[Mapping[str, Sequence[Answer]], bool]:
        """The answers to each part, and whether every duty was done."""
        self.accounts = {member.number: Account(member) for member in members}
        room = asyncio.Semaphore(DUTIES_AT_ONCE_MAX)
        deadline = time.monotonic() + self.seconds_max

        async def one(ask: Ask) -> Answer | None:
            async with room:
                return await self._do(ask, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(ask)) for ask in plan.asks]
        except* AtollError as errors:
            raise errors.exceptions[0] from None
        answers: dict[str, list[Answer]] = {}
        for ask, task in zip(plan.asks, tasks, strict=True):
            answer = task.result()
            found = answers.setdefault(ask.part, [])
            if answer is not None:
                found.append(answer)
        for found in answers.values():
            if not found:
                raise self._why_nobody()
        return answers, all(task.result() is not None for task in tasks)

    def _why_nobody(self) -> AtollError:
        failures = [account.failure for account in self.accounts.values() if account.failure]
        first = failures[0] if failures else LinkError("link-down", "no node could be asked")
        if len({failure.code for failure in failures}) == 1 and not isinstance(first, LinkError):
            return first
        names = ", ".join(
            f"{a.member.name}: {a.failure.message}" for a in self.accounts.values() if a.failure
        )
        return LinkError("question-unanswered", "no node answered", detail=f"{names}.")

    async def _do(self, ask: Ask, deadline: float) -> Answer | None:
        """The answer of the first candidate that gives one."""
        candidates = list(zip(ask.duty.candidates, ask.sql, strict=True))[:CANDIDATES_MAX]
        for number, (member, text) in enumerate(candidates):
            left = deadline - time.monotonic()
            is_last = number == len(candidates) - 1
            account = self.accounts[member.number]
            try:
                answer = await self._fetch(member, text, left if is_last else left / 2)
            except DataError as error:
                if error.code == "answer-too-large":
                    raise
                account.failure = error
            except AtollError as error:
                account.failure = error
            else:
                account.answered = True
                self.say(account.report())
                return answer
            self.say(account.report())
        return None

    async def _fetch(self, member: Member, text: str, seconds: float) -> Answer:
        self._opened += 1
        payload = {"id": f"{self.name}/{self._opened}", "sql": text, "seconds": max(seconds, 0.1)}
        is_done = False
        try:
            async with asyncio.timeout(max(seconds, 0.1)):
                answer = await self._pages(member, payload, seconds)
            is_done = True
        except TimeoutError:
            raise LinkError("question-slow", f"no answer within {seconds:.3g} seconds") from None
        finally:
            if not is_done:
                await self._close(member, str(payload["id"]))
        return answer

    async def _pages(self, member: Member, payload: dict[str, Any], seconds: float) -> Answer:
        began = time.monotonic()
        account = self.accounts[member.number]
        page = await self.way.request(member.number, "question.open", payload, seconds)
        columns = tuple((str(name), int(oid)) for name, oid in page["columns"])
        values: list[list[pa.Array]] = [[] for _ in columns]
        rest = {"id": payload["id"], "seconds": seconds}
        rows = size = 0
        while True:
            if len(page["values"]) != len(columns):
                raise DataError("answer-malformed", "the node's answer is not what was agreed")
            for column, more in zip(values, page["values"], strict=True):
                column.append(pa.array(more, pa.string()))
            rows, size = rows + int(page["rows"]), size + int(page["bytes"])
            self._bytes += int(page["bytes"])
            if self._bytes > BYTES_IN_ALL_MAX:
                raise DataError(
                    "answer-too-large",
                    "the answers are too large together",
                    detail=f"This node takes {BYTES_IN_ALL_MAX // 1024**2} MB for a question.",
                    hint="Ask for sums, for fewer columns, or with a condition or a LIMIT.",
                )
            if page["is_last"]:
                break
            page = await self.way.request(member.number, "question.more", rest, seconds)
        took = time.monotonic() - began
        account.rows, account.bytes = account.rows + rows, account.bytes + size
        account.seconds = max(account.seconds, took)
        texts = tuple(pa.chunked_array(column, pa.string()) for column in values)
        return Answer(columns, texts, rows, size, took)

    async def _close(self, member: Member, name: str) -> None:
        """Tell a node that nobody wants the rest; it would find out by itself, later."""
        closing: Awaitable[dict[str, Any]] = self.way.request(
            member.number, "question.close", {"id": name}, CLOSE_SECONDS_MAX
        )
        await asyncio.shield(asyncio.gather(closing, return_exceptions=True))
