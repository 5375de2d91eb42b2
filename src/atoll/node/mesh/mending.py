"""Rows that were found different: looked at on all neighbours until it is known what they are, then mended.

What a difference means is decided by data/consistency/repair.py. Each node mends its own rows only, so
nothing has to be agreed; what it replaced is listed in atoll.repair.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.data.consistency.repair import (
    SETTLE_SECONDS,
    Finding,
    Judgement,
    Look,
    Suspect,
    Vote,
    Will,
    judge,
)
from atoll.domain.errors import AtollError
from atoll.node.mesh.witness import KEYS_PER_REQUEST_MAX, VOTERS_MAX, Testimony, Witness
from atoll.sql import query

SUSPECTS_MAX = 2000
LOOKS_AT_ONCE_MAX = 4
LOOK_EVERY_SECONDS = 2.0
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]
Place = tuple[str, str]
"""A table and a key."""


@dataclass(frozen=True)
class Neighbour:
    number: int
    is_upstream: bool
    scopes: frozenset[str]
    """Those that both have."""


@dataclass
class Case:
    """A row that differs, and what came of it so far."""

    table: str
    key: str
    suspect: Suspect
    mine: Vote
    judgement: Judgement = field(default_factory=lambda: Judgement(Will.NONE))
    nodes: tuple[int, ...] = ()
    looked_at: float = float("-inf")

    def as_dict(self) -> dict[str, Any]:
        return {
            "tbl": self.table,
            "key": self.key,
            "nodes": list(self.nodes),
            "will": str(self.judgement.will),
            "why": self.judgement.why or "the other node has to mend it",
        }


class Mending:
    """`is_auto` says whether what lasts is mended unasked."""

    def __init__(self, witness: Witness, me: int, *, is_auto: bool) -> None:
        self._witness = witness
        self._me = me
        self._is_auto = is_auto
        self._told: list[dict[str, Any]] = []
        self.cases: dict[Place, Case] = {}
        self.mended = 0
        self.settle_seconds = SETTLE_SECONDS

    def suspect(self, table: str, key: str, now: float) -> None:
        if len(self.cases) < SUSPECTS_MAX:
            blank = Vote(self._me, None)
            self.cases.setdefault((table, key), Case(table, key, Suspect(now), blank))

    def lasting(self) -> list[Case]:
        return [case for case in self.cases.values() if case.suspect.lasts]

    async def tend(
        self, on: Connection, neighbours: Sequence[Neighbour], *, may_mend: bool | None = None
    ) -> list[dict[str, Any]]:
        """Look again at what is due; mend what lasts, if that is wished. Says what was mended.

        `may_mend` is what somebody who asks now wants instead, and for them everything is due.
        """
        now = asyncio.get_running_loop().time()
        every = LOOK_EVERY_SECONDS if may_mend is None else 0.0
        due = [case for case in self.cases.values() if now - case.looked_at >= every]
        by_table: dict[str, list[Case]] = {}
        for case in sorted(due, key=lambda case: case.looked_at)[: LOOKS_AT_ONCE_MAX * KEYS_PER_REQUEST_MAX]:
            by_table.setdefault(case.table, []).append(case)
        done = []
        for table, cases in by_table.items():
            for start in range(0, len(cases), KEYS_PER_REQUEST_MAX):
                part = cases[start : start + KEYS_PER_REQUEST_MAX]
                await self._look(on, table, part, neighbours)
                if self._is_auto if may_mend is None else may_mend:
                    done += await self._mend(on, part)
        await self._tell(on)
        return done

    # Looking

    async def _look(
        self, on: Connection, table: str, cases: Sequence[Case], neighbours: Sequence[Neighbour]
    ) -> None:
        keys = [case.key for case in cases]
        row = await (await on.execute(query("scrub", "own_scopes"))).fetchone()
        mine, scopes = await self._witness.testify(on, table, keys, list(row[0]) if row else [])
        near = list(neighbours)[:VOTERS_MAX]
        asked = [self._witness.ask_votes(n.number, table, keys, around=n.is_upstream) for n in near]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told: list[tuple[Neighbour, Testimony]] = []
        for neighbour, answer in zip(near, answers, strict=True):
            if isinstance(answer, Testimony):
                told.append((neighbour, answer))
            elif not isinstance(answer, AtollError):
                raise answer
        heard = await self._witness.heard(on)
        is_parked = await self._witness.is_parked(on, table) or any(t.is_parked for _, t in told)
        now = asyncio.get_running_loop().time()
        for case in cases:
            case.looked_at = now
            # What waits for its column or its constraint differs for a reason that `atoll parked` names.
            if not told or is_parked:
                continue
            case.mine = mine.get(case.key, Vote(self._me, None))
            self._judge(case, scopes.get(case.key), told, heard, now)

    def _judge(
        self,
        case: Case,
        scope: str | None,
        told: Sequence[tuple[Neighbour, Testimony]],
        heard: Mapping[tuple[int, str], int],
        now: float,
    ) -> None:
        others: list[Vote] = []
        listening = [heard]
        for neighbour, testimony in told:
            vote = testimony.votes.get(case.key)
            if vote is None and scope in neighbour.scopes:
                vote = Vote(neighbour.number, None)
            if vote is not None:
                others.append(vote)
                listening.append(testimony.heard)
        seen = {self._me, *(vote.node for vote in others)}
        for _, testimony in told:
            for vote in testimony.around.get(case.key, ()):
                if vote.node not in seen:
                    seen.add(vote.node)
                    others.append(vote)
        if not others and case.mine.odd is None:
            del self.cases[case.table, case.key]
            return
        wanted = {scope} if scope is not None else frozenset.intersection(*(n.scopes for n, _ in told))
        marks = tuple({at: n for at, n in one.items() if at[1] in wanted} for one in listening)
        finding = case.suspect.look(Look(now, (case.mine, *others), marks), self.settle_seconds)
        if finding is Finding.SAME:
            del self.cases[case.table, case.key]
            return
        case.judgement = judge(case.mine, others)
        case.nodes = tuple(
            vote.node for vote in others if (vote.stamps, vote.values) != (case.mine.stamps, case.mine.values)
        )

    # Mending

    async def _mend(self, on: Connection, cases: Sequence[Case]) -> list[dict[str, Any]]:
        done = []
        for case in cases:
            place = (case.table, case.key)
            if place in self.cases and case.suspect.lasts and await self._mend_row(on, case):
                self.mended += 1
                del self.cases[place]
                done.append(case.as_dict())
                log.warning("mended %s %s: %s", case.table, case.key, case.judgement.why)
        return done

    async def _mend_row(self, on: Connection, case: Case) -> bool:
        verdict, mine = case.judgement, case.mine
        if verdict.will is Will.ADOPT:
            asked = (case.table, case.key, mine.stamps, mine.values, verdict.why)
            return await _is_true(on, "adopt_row", asked)
        if verdict.will is Will.NONE:
            return False
        is_done = False
        for number in verdict.like:
            try:
                states = await self._witness.ask_states(number, case.table, [case.key])
            except AtollError as error:
                log.debug("could not ask node %s for a row: %s", number, error)
                continue
            if case.key not in states:
                continue
            state = Jsonb(states[case.key])
            how = (case.table, case.key, str(verdict.will), number, state)
            is_done = (
                await _is_true(on, "repair_row", (*how, mine.stamps, mine.values, verdict.why)) or is_done
            )
            if is_done:
                break  # the row is another now: what more there is, the next look finds
        return is_done

    async def _tell(self, on: Connection) -> None:
        found = [case.as_dict() for case in self.lasting()]
        if found != self._told:
            await on.execute(query("scrub", "set_differences"), {"found": Jsonb(found)})
            if len(found) > len(self._told):
                log.warning("%s rows differ from a neighbour's, lastingly", len(found))
            self._told = found


async def _is_true(on: Connection, name: str, values: Sequence[Any]) -> bool:
    row = await (await on.execute(query("scrub", name), values)).fetchone()
    return bool(row and row[0])
