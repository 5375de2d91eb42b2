"""Writers that keep books: one per node, each transaction leaves a line in the journal.

The journal is a shared append table, written in the same transaction as what it tells. So a transaction whose
outcome its writer never learned (the connection broke at COMMIT) is decided by its line, and the oracle is
exact: every acknowledged line is there, every line that is there was at least attempted, and the tables are
what the journal says they are.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString, cast

import psycopg

from atoll.domain.errors import ConfigError
from support import parcels

if TYPE_CHECKING:
    from support.fix_mesh import Mesh, MeshNode

ITEMS = [f"item{n:02}" for n in range(12)]
KEYS = ("colour", "shelf", "size")
TAGS = [f"tag{n:02}" for n in range(40)]
VERBS = {
    "move": 4,
    "note": 4,
    "tag": 2,
    "untag": 1,
    "card": 2,
    "tear": 1,
    "sell": 4,
    "drop": 1,
    "many": 1,
}
PAUSE_SECONDS = 0.04
CONNECT_SECONDS_MAX = 5
STATEMENT_SECONDS_MAX = 30.0
# Of the last thing that this transaction wrote. A row that moved is told of as a state, which has its stamps.
STAMP = """
    select case when c.op not in ('S', 'X') then c.at else (
               select greatest((s->>'b')::bigint, max(t.value::bigint))
                 from (select (c.vals[cardinality(c.vals)]::text[])[1]::jsonb as s) state,
                      jsonb_each_text(s->'t') t group by s) end
      from atoll.change c where c.origin = atoll.me() and c.xid = pg_current_xact_id()
     order by c.seq desc limit 1
"""

# The server or its whole home is away, the connection broke, or the disk is full.
UNABLE = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction, OSError, ConfigError)

TABLES = (
    ("journal", "id uuid primary key, node int, what text, item text, amount bigint, stamp bigint",
     "{}", "append"),
    ("stock", "item text primary key, qty bigint default 0, note text, tags jsonb default '[]',"
     " card jsonb default '{}'",
     '{"qty": "counter", "tags": "set", "card": "document"}', "merge"),
    ("sale", "id bigint primary key default atoll.id(), item text, amount int, payload text", "{}", "merge"),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """What one transaction did: see `Writer` for the verbs."""

    id: uuid.UUID
    node: int
    what: str
    item: str
    amount: int
    stamp: int


@dataclass
class Books:
    """What one writer knows."""

    acknowledged: dict[uuid.UUID, Line] = field(default_factory=dict)
    unknown: dict[uuid.UUID, Line] = field(default_factory=dict)
    aborted: int = 0
    refused: int = 0


@dataclass
class Writer:
    """Writes on one node until it is told to stop; goes on through refusals and lost connections.

    Whoever holds its `turn` lets it rest between two transactions.
    """

    node: MeshNode
    rng: random.Random
    books: Books = field(default_factory=Books)
    pause_seconds: float = PAUSE_SECONDS
    post: parcels.Post | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _own_sales: list[int] = field(default_factory=list)

    async def run(self, stop: asyncio.Event, most: int) -> None:
        left = most
        while left > 0 and not stop.is_set():
            try:
                async with await psycopg.AsyncConnection.connect(
                    self.node.dsn(as_owner=False), connect_timeout=CONNECT_SECONDS_MAX
                ) as connection:
                    while left > 0 and not stop.is_set():
                        left -= 1
                        async with self.turn, asyncio.timeout(STATEMENT_SECONDS_MAX):
                            await self._transact(connection)
                        await asyncio.sleep(self.pause_seconds * self.rng.uniform(0.5, 1.5))
            except UNABLE:
                left -= 1
                self.books.refused += 1
                await asyncio.sleep(self.pause_seconds * 5)

    async def _transact(self, connection: psycopg.AsyncConnection[Any]) -> None:
        line_id = uuid.UUID(int=self.rng.getrandbits(128))
        try:
            did = await self._write(connection, line_id)
            line = None if did is None else await self._tell(connection, line_id, *did)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            line = None
        if line is None:
            self.books.aborted += 1
            await connection.rollback()
            return
        self.books.unknown[line_id] = line
        if line.what == "drop":
            self._own_sales.pop()
        await connection.commit()
        self.books.acknowledged[line_id] = self.books.unknown.pop(line_id)
        if line.what == "sell":
            self._own_sales.append(line.amount)

    async def _write(
        self, connection: psycopg.AsyncConnection[Any], line_id: uuid.UUID
    ) -> tuple[str, str, int] | None:
        """One statement or some: what they did, to what, and how much."""
        if self.post is not None and self.rng.random() < parcels.SHARE:
            return await self.post.act(connection, self.rng, line_id)
        what = self.rng.choices([*VERBS], [*VERBS.values()])[0]
        if what == "drop" and not self._own_sales:
            what = "sell"
        item, amount = self.rng.choice(ITEMS), self.rng.choice([-3, -1, 1, 2, 5, 100])
        if what == "many":
            order = self.rng.sample(ITEMS, 5)
            for one in order:
                await _do(connection, "update stock set qty = qty + 1 where item = %s", one)
            return what, ",".join(order), 1
        if what == "move":
            await _do(connection, "update stock set qty = qty + %s where item = %s", amount, item)
        elif what == "note":
            await _do(connection, "update stock set note = %s where item = %s", str(line_id), item)
        elif what == "tag":
            tag = self.rng.choice(TAGS)
            query = "update stock set tags = tags || to_jsonb(%s::text) where item = %s and not tags ? %s"
            await _do(connection, query, tag, item, tag)
            item = f"{item}/{tag}"
        elif what == "untag":
            tag = self.rng.choice(TAGS)
            query = "update stock set tags = tags - %s::text where item = %s and tags ? %s"
            await _do(connection, query, tag, item, tag)
            item = f"{item}/{tag}"
        elif what == "card":
            key = self.rng.choice(KEYS)
            query = "update stock set card = card || jsonb_build_object(%s::text, %s::text) where item = %s"
            await _do(connection, query, key, str(line_id), item)
            item = f"{item}/{key}"
        elif what == "tear":
            key = self.rng.choice(KEYS)
            query = "update stock set card = card - %s::text where item = %s and card ? %s::text"
            await _do(connection, query, key, item, key)
            item = f"{item}/{key}"
        elif what == "sell":
            payload = "x" * self.rng.choice([10, 10, 10, 3000])
            query = "insert into sale (item, amount, payload) values (%s, %s, %s) returning id"
            amount = (await _do(connection, query, item, amount, payload))[0][0]
        else:
            amount = self._own_sales[-1]
            await _do(connection, "delete from sale where id = %s", amount)
        return what, item, amount

    async def _tell(
        self, connection: psycopg.AsyncConnection[Any], line_id: uuid.UUID, what: str, item: str, amount: int
    ) -> Line | None:
        """The line of what this transaction did; none if it found no row to do it to."""
        stamp = await _do(connection, STAMP)
        if not stamp:
            return None
        line = Line(line_id, self.node.number, what, item, amount, stamp[0][0])
        await _do(
            connection,
            "insert into journal values (%s, %s, %s, %s, %s, %s)",
            line.id, line.node, line.what, line.item, line.amount, line.stamp,
        )  # fmt: skip
        return line


async def _do(connection: psycopg.AsyncConnection[Any], query: str, *values: Any) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(cast("LiteralString", query), values or None)
    return await cursor.fetchall() if cursor.description is not None else []


@dataclass
class Load:
    """Writers on some nodes of a mesh, as a block: `async with Load(mesh, rng) as load`, then verify."""

    mesh: Mesh
    rng: random.Random
    nodes: list[MeshNode] | None = None
    most: int = 3000
    pause_seconds: float = PAUSE_SECONDS
    places: parcels.Places | None = None
    writers: list[Writer] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _group: asyncio.TaskGroup | None = None
    _earlier: set[uuid.UUID] = field(default_factory=set)

    async def __aenter__(self) -> Load:
        await prepare(self.mesh)
        if self.places is not None:
            await parcels.prepare(self.mesh)
        for node in self.mesh.live():
            self._earlier |= {row[0] for row in await self.mesh.sql(node, "select id from journal")}
        self._group = await asyncio.TaskGroup().__aenter__()
        for node in self.nodes or self.mesh.live():
            self.join(node)
        return self

    def join(self, node: MeshNode) -> None:
        """One more node writes from now on."""
        assert self._group is not None
        post = self.places and self.places.post(node)
        writer = Writer(node, random.Random(self.rng.random()), pause_seconds=self.pause_seconds, post=post)
        self.writers.append(writer)
        self._group.create_task(writer.run(self._stop, self.most))

    async def __aexit__(self, *failure: Any) -> None:
        self._stop.set()
        assert self._group is not None
        await self._group.__aexit__(*failure)

    @asynccontextmanager
    async def resting(self, node: MeshNode) -> AsyncIterator[None]:
        """Nothing is written on a node, and nothing is in the middle of being written."""
        async with AsyncExitStack() as turns:
            for writer in self.writers:
                if writer.node is node:
                    await turns.enter_async_context(writer.turn)
            yield

    async def written(self, lines: int) -> None:
        """Wait until so many more lines are acknowledged, all writers together."""
        wanted = self.acknowledged + lines
        async with asyncio.timeout(120):
            while self.acknowledged < wanted:
                await asyncio.sleep(0.05)

    @property
    def acknowledged(self) -> int:
        return sum(len(writer.books.acknowledged) for writer in self.writers)

    async def verify(self) -> None:
        """On nodes that are the same: nothing acknowledged is lost, nothing is there that nobody wrote."""
        node = self.mesh.live()[0]
        rows = await self.mesh.sql(node, "select id, node, what, item, amount, stamp from journal")
        journal = {row[0]: Line(row[0], row[1], row[2], row[3], row[4], row[5]) for row in rows}
        acknowledged: dict[uuid.UUID, Line] = {}
        attempted: dict[uuid.UUID, Line] = {}
        for writer in self.writers:
            acknowledged |= writer.books.acknowledged
            attempted |= writer.books.acknowledged | writer.books.unknown
        lost = acknowledged.keys() - journal.keys()
        assert not lost, f"{len(lost)} acknowledged writes are lost, such as {acknowledged[min(lost)]}"
        strange = journal.keys() - attempted.keys() - self._earlier
        assert not strange, f"{len(strange)} lines that nobody wrote, such as {journal[min(strange)]}"
        await self._verify_tables(node, list(journal.values()))
        if self.places is not None:
            await parcels.verify(self.mesh, list(journal.values()))
        counts = {
            w.node.name: (len(w.books.acknowledged), len(w.books.unknown), w.books.aborted)
            for w in self.writers
        }
        print(f"verified {len(journal)} lines; acknowledged, unknown, aborted: {counts}")

    async def _verify_tables(self, node: MeshNode, journal: list[Line]) -> None:
        sums: dict[str, int] = defaultdict(int)
        tags: dict[str, dict[str, Line]] = defaultdict(dict)
        notes: dict[str, list[Line]] = defaultdict(list)
        cards: dict[str, dict[str, Line]] = defaultdict(dict)
        sold, dropped = set(), set()
        for line in journal:
            match line.what:
                case "move" | "many":
                    for item in line.item.split(","):
                        sums[item] += line.amount
                case "note":
                    notes[line.item].append(line)
                case "tag" | "untag":
                    item, tag = line.item.split("/")
                    tags[item][tag] = max(tags[item].get(tag, line), line, key=lambda one: one.stamp)
                case "card" | "tear":
                    item, key = line.item.split("/")
                    cards[item][key] = max(cards[item].get(key, line), line, key=lambda one: one.stamp)
                case "sell":
                    sold.add(line.amount)
                case "drop":
                    dropped.add(line.amount)
        rows = await self.mesh.sql(node, "select item, qty, note, tags, card from stock")
        items = {row[0] for row in rows}
        assert items == set(ITEMS), f"other items than were made: {items ^ set(ITEMS)}"
        for item, qty, note, found, card in rows:
            assert qty == sums[item], f"{item} counts {qty}, the journal says {sums[item]}"
            latest = max(notes[item], key=lambda line: line.stamp, default=None)
            assert note == (str(latest.id) if latest else None), f"{item} is not what was noted last"
            wanted_tags = {tag for tag, line in tags[item].items() if line.what == "tag"}
            assert set(found) == wanted_tags, f"{item} has other tags than were set"
            wanted = {key: str(line.id) for key, line in cards[item].items() if line.what == "card"}
            assert card == wanted, f"the card of {item} is not what was last written to each key"
        rows = await self.mesh.sql(node, "select id from sale")
        found = {row[0] for row in rows}
        odd = found ^ (sold - dropped)
        told = [line for line in journal if line.what in ("sell", "drop") and line.amount in odd][:6]
        assert not odd, (
            f"sales {sorted(found & odd)} should be gone, {sorted(odd - found)} are missing: {told}"
        )


async def prepare(mesh: Mesh) -> None:
    """The tables, shared and known everywhere, with the items in them."""
    if await mesh.sql(mesh.nodes[0], "select true from atoll.local_table where name = 'public.stock'"):
        return
    for name, definition, merge, kind in TABLES:
        await mesh.share(name, definition, merge, kind)
    await mesh.app(mesh.nodes[0], "insert into stock (item) select unnest(%s::text[])", ITEMS)
    for node in mesh.live():
        await mesh.until(node, "select count(*) = %s from stock", len(ITEMS))
