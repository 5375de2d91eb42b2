"""What a node says of its rows to a neighbour that compares, and how it asks the same of others.

A neighbour is told of rows in scopes that it shares with this node, and no more. Answering has a share of a
core like comparing has: beyond it the neighbour is asked to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.data.consistency.repair import Marks, Vote
from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.node.mesh.desk import Connection, Desk
from atoll.node.postgres.server import Postgres
from atoll.sql import query

ROWS_PER_SLICE = 500
ROWS_PER_ANSWER_MAX = 4 * ROWS_PER_SLICE
KEYS_PER_REQUEST_MAX = 50
VOTERS_MAX = 8
REQUEST_SECONDS_MAX = 30.0
BURST_SECONDS = 2.0
ALTERED_KEPT_MAX = 4000


@dataclass(frozen=True)
class Slice:
    """A stretch, hashed: of what is in the scopes that were asked for, and of all."""

    n: int
    stamps: str
    values: str
    n_all: int
    stamps_all: str
    values_all: str
    odd: int
    shape: str

    @property
    def told(self) -> tuple[int, str, str]:
        return self.n, self.stamps, self.values


@dataclass(frozen=True)
class Testimony:
    """Some rows as one node has them."""

    votes: Mapping[str, Vote]
    scopes: Mapping[str, str]
    heard: Marks
    is_parked: bool
    around: Mapping[str, Sequence[Vote]]
    """What its neighbours said."""


class Witness:
    def __init__(self, postgres: Postgres, links: Links, share: float | None) -> None:
        self._desk = Desk(postgres)
        self._links = links
        self._share = share or 0.0
        self._room = BURST_SECONDS
        self._filled_at = time.monotonic()
        self._altered: dict[tuple[str, str], tuple[tuple[str, str], bool]] = {}
        for method, answer in (
            ("receipt.slice", self._slice),
            ("receipt.slice_rows", self._slice_rows),
            ("receipt.votes", self._votes),
            ("receipt.states", self._states),
        ):
            links.handle(method, answer)

    async def close(self) -> None:
        await self._desk.close()

    # This node's own

    async def slice(
        self, on: Connection, table: str, after: str, upto: str | None, scopes: list[str]
    ) -> Slice:
        row = await (await on.execute(query("scrub", "slice"), (table, after, upto, scopes))).fetchone()
        assert row is not None
        return Slice(*row)

    async def rows(
        self, on: Connection, table: str, after: str, upto: str | None, scopes: list[str]
    ) -> dict[str, tuple[str, str, str | None]]:
        asked = (table, after, upto, scopes, ROWS_PER_ANSWER_MAX)
        found = await (await on.execute(query("scrub", "slice_rows"), asked)).fetchall()
        return {key: (stamps, values, odd) for key, stamps, values, odd in found}

    async def testify(
        self, on: Connection, table: str, keys: list[str], scopes: list[str]
    ) -> tuple[dict[str, Vote], dict[str, str]]:
        """Rows as they are here, and their scopes; rows that are not known here are left out."""
        me = self._links.me.number
        found = await (await on.execute(query("scrub", "slice_keys"), (table, keys, scopes))).fetchall()
        fresh = [key for key, stamps, values, *_ in found if self._judged(table, key) != (stamps, values)]
        await self._judge_anew(on, table, fresh, {row[0]: (row[1], row[2]) for row in found})
        votes = {
            key: Vote(me, stamps, values, is_alive, odd, self._altered[table, key][1])
            for key, stamps, values, is_alive, odd, _ in found
        }
        return votes, {row[0]: row[5] for row in found}

    def _judged(self, table: str, key: str) -> tuple[str, str] | None:
        known = self._altered.get((table, key))
        return known[0] if known else None

    async def _judge_anew(
        self, on: Connection, table: str, keys: list[str], seen: Mapping[str, tuple[str, str]]
    ) -> None:
        """Which of them were written past the triggers?

        Once known, that holds while the row is what it was. It could not be found out again after an ordinary
        write of another row of the stretch.
        """
        if not keys:
            return
        found = await (await on.execute(query("scrub", "altered"), (table, keys))).fetchall()
        altered = {key for (key,) in found}
        for key in keys:
            self._altered.pop((table, key), None)
            self._altered[table, key] = (seen[key], key in altered)
        while len(self._altered) > ALTERED_KEPT_MAX:
            del self._altered[next(iter(self._altered))]

    async def heard(self, on: Connection) -> Marks:
        rows = await (await on.execute(query("scrub", "heard"))).fetchall()
        return {(origin, scope): n for origin, scope, n in rows}

    async def is_parked(self, on: Connection, table: str) -> bool:
        row = await (await on.execute(query("scrub", "is_parked"), (table,))).fetchone()
        return bool(row and row[0])

    # Asking others

    async def ask_slice(
        self, peer: int, table: str, after: str, upto: str | None, *, urgent: bool
    ) -> tuple[str, tuple[int, str, str]]:
        payload = {"table": table, "after": after, "upto": upto, "urgent": urgent}
        told = await self._links.request(peer, "receipt.slice", payload, REQUEST_SECONDS_MAX)
        return str(told["shape"]), (int(told["n"]), str(told["stamps"]), str(told["values"]))

    async def ask_rows(
        self, peer: int, table: str, after: str, upto: str | None
    ) -> dict[str, tuple[str, str, str | None]]:
        payload = {"table": table, "after": after, "upto": upto}
        told = await self._links.request(peer, "receipt.slice_rows", payload, REQUEST_SECONDS_MAX)
        return {row[0]: (row[1], row[2], row[3]) for row in told["rows"]}

    async def ask_votes(self, peer: int, table: str, keys: list[str], *, around: bool) -> Testimony:
        payload = {"table": table, "keys": keys, "around": around}
        told = await self._links.request(peer, "receipt.votes", payload, REQUEST_SECONDS_MAX)
        return Testimony(
            {key: _vote(vote) for key, vote in told["votes"].items()},
            {},
            {(int(origin), str(scope)): int(n) for origin, scope, n in told["heard"]},
            bool(told["parked"]),
            {key: [_vote(vote) for vote in votes] for key, votes in told["around"].items()},
        )

    async def ask_states(self, peer: int, table: str, keys: list[str]) -> dict[str, Any]:
        payload = {"table": table, "keys": keys}
        told = await self._links.request(peer, "receipt.states", payload, REQUEST_SECONDS_MAX)
        return dict(told["states"])

    # Answering

    async def _slice(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        if not payload.get("urgent"):
            self._take_room(0.0)
        async with self._desk(peer) as (connection, scopes):
            began = time.monotonic()
            found = await self.slice(connection, *_place(payload), scopes)
        if not payload.get("urgent"):
            self._take_room(time.monotonic() - began)
        return {"n": found.n, "stamps": found.stamps, "values": found.values, "shape": found.shape}

    def _take_room(self, seconds: float) -> None:
        now = time.monotonic()
        # Neighbours take turns, so that being asked costs about as much as asking.
        self._room = min(BURST_SECONDS, self._room + (now - self._filled_at) * max(self._share, 0.01) * 2)
        self._filled_at = now
        if not seconds and self._room < 0:
            raise LinkError("receipts-busy", f'node "{self._links.me.name}" has compared enough for now')
        self._room -= seconds

    async def _slice_rows(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        async with self._desk(peer) as (connection, scopes):
            found = await self.rows(connection, *_place(payload), scopes)
        return {"rows": [[key, *row] for key, row in found.items()]}

    async def _votes(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        table, keys = _keys(payload)
        async with self._desk(peer) as (connection, scopes):
            votes, _ = await self.testify(connection, table, keys, scopes)
            heard = await self.heard(connection)
            parked = await self.is_parked(connection, table)
            near = await (await connection.execute(query("scrub", "neighbours"))).fetchall()
        around: dict[str, list[Any]] = {}
        if payload.get("around") and votes:
            # Only of rows that the one who asks may have.
            others = [number for number, *_ in near if number != peer.number][: VOTERS_MAX - 1]
            for told in await self.gather(others, table, list(votes)):
                for key, vote in told.votes.items():
                    around.setdefault(key, []).append(_told(vote))
        return {
            "votes": {key: _told(vote) for key, vote in votes.items()},
            "heard": [[origin, scope, n] for (origin, scope), n in heard.items() if scope in scopes],
            "parked": parked,
            "around": around,
        }

    async def gather(self, peers: Iterable[int], table: str, keys: list[str]) -> list[Testimony]:
        """What those say who can be asked."""
        asked = [self.ask_votes(peer, table, keys, around=False) for peer in peers]
        told = await asyncio.gather(*asked, return_exceptions=True)
        for found in told:
            if isinstance(found, BaseException) and not isinstance(found, AtollError):
                raise found
        return [found for found in told if isinstance(found, Testimony)]

    async def _states(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        table, keys = _keys(payload)
        async with self._desk(peer) as (connection, scopes):
            rows = await (
                await connection.execute(query("scrub", "states"), (table, keys, scopes))
            ).fetchall()
        return {"states": dict(rows)}


def _place(payload: Mapping[str, Any]) -> tuple[str, str, str | None]:
    upto = payload["upto"]
    return str(payload["table"]), str(payload["after"]), None if upto is None else str(upto)


def _keys(payload: Mapping[str, Any]) -> tuple[str, list[str]]:
    return str(payload["table"]), [str(key) for key in payload["keys"][:KEYS_PER_REQUEST_MAX]]


def _told(vote: Vote) -> list[Any]:
    return [vote.node, vote.stamps, vote.values, vote.is_alive, vote.odd, vote.is_altered]


def _vote(told: Sequence[Any]) -> Vote:
    node, stamps, values, is_alive, odd, is_altered = told
    return Vote(int(node), stamps, str(values), bool(is_alive), odd, bool(is_altered))
