"""Nodes of an atoll as databases of one server: what the network would carry is carried by the test.

A change is read from one node's log and inserted into another's as the apply worker does it. So a test
decides what arrives when, how often and in how many pieces.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg import sql as text
from psycopg.types.json import Jsonb

from atoll.node.postgres.server import Postgres
from support.fix_postgres import APP_ROLE, Database, DatabaseMaker, databases

COLUMNS = "origin, seq, version, tbl, op, at, ats, prev, prevs, epochs, n, cols, vals, target, scope"
ATOLL = uuid.UUID(int=7)
REGIONS = ("eu", "eu", "us", "us")  # the fourth is for a number that one of three nodes takes
STATES = """
    select format('select %%s, %%s(atoll_s, atoll_t) from atoll_side.%%I atoll_s'
                  ' left join %%s atoll_t on %%s order by %%s',
                  atoll.list(name, 'key', 'atoll_s.{c}::text'), atoll.generated(side, 'read'), side, name,
                  atoll.list(name, 'key', 'atoll_s.{c} operator({=}) atoll_t.{c}', ' and '),
                  atoll.list(name, 'key', 'atoll_s.{c}::text collate "C"'))
      from atoll.local_table where name = %s
"""
Rows = dict[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """A row of atoll.change, every field as it came."""

    fields: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[COLUMNS.split(", ").index(name)]
        except ValueError:
            raise AttributeError(name) from None


class Node:
    """One node: a session of an application, and one that applies what arrives."""

    def __init__(
        self, number: int, database: Database, app: psycopg.Connection[Any], apply: psycopg.Connection[Any]
    ) -> None:
        self.number, self.database, self.app, self.apply = number, database, app, apply
        self.told = 0

    def __repr__(self) -> str:
        return f"<node {self.number}>"

    def run(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What an application does; each call is a transaction."""
        cursor = self.app.execute(cast("LiteralString", query), values or None)
        return cursor.fetchall() if cursor.description is not None else []

    def owner(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the node itself does."""
        with self.apply.transaction():
            self.apply.execute("set local session_replication_role = origin")
            cursor = self.apply.execute(cast("LiteralString", query), values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def value(self, query: str, *values: Any) -> Any:
        return self.run(query, *values)[0][0]

    def clock(self, milliseconds: int) -> None:
        """Stop this node's clock at so many milliseconds."""
        for session in (self.app, self.apply):
            session.execute("select set_config('atoll.clock_stands_at_ms', %s, false)", [str(milliseconds)])

    def share(self, table: str, merge: str = "{}", kind: str = "merge") -> None:
        self.run("select atoll.share(%s, %s::jsonb, %s)", table, merge, kind)

    def changes(self) -> list[Change]:
        """What this node has written to its log since the last call."""
        query = f"select {COLUMNS} from atoll.change where origin = %s and seq > %s order by seq"
        rows = self.apply.execute(cast("LiteralString", query), [self.number, self.told]).fetchall()
        self.told = max([self.told, *(row[1] for row in rows)])
        return [Change(row) for row in rows]

    def may_have(self, change: Change) -> bool:
        """What a publication lets through to this node."""
        mine = ("global", f"region:{REGIONS[self.number - 1]}", f"node:{self.number}")
        return change.scope in mine and change.target in (None, self.number)

    def receive(self, changes: Sequence[Change]) -> None:
        """Changes arrive, in this order, in one transaction."""
        holes = ", ".join(["%s"] * len(COLUMNS.split(", ")))
        with self.apply.transaction():
            for change in changes:
                self.apply.execute(
                    cast("LiteralString", f"insert into atoll.change ({COLUMNS}) values ({holes})"),
                    change.fields,
                )

    def split(self, change: Change, where: int) -> list[Change]:
        """The same change in two pieces: the first `where` rows, and the others."""
        if not 0 < where < change.n:
            return [change]
        pieces = []
        for number, (low, high) in enumerate([(1, where), (where + 1, change.n)]):
            fields = dict(zip(COLUMNS.split(", "), change.fields, strict=True))
            for name in ("ats", "epochs"):
                fields[name] = fields[name] and self._part(fields[name], low, high)
            for name in ("vals", "prevs"):
                fields[name] = fields[name] and [self._part(literal, low, high) for literal in fields[name]]
            fields |= {"n": high - low + 1, "seq": change.seq + 10**9 * (number + 1)}
            pieces.append(replace(change, fields=tuple(fields.values())))
        return pieces

    def _part(self, literal: str, low: int, high: int) -> str:
        query = "select ((%s::text[])[%s:%s])::text"
        return cast("str", self.apply.execute(query, [literal, low, high]).fetchall()[0][0])

    def rows(self, table: str, order: str = "1, 2") -> list[tuple[Any, ...]]:
        """The rows of a table, every value as text."""
        query = f"select t.* from {table} t order by {order}"
        with self.app.transaction():
            cursor = self.app.execute(cast("LiteralString", query))
            names = [column.name for column in cursor.description or []]
            texts = text.SQL(", ").join(
                text.SQL("t.{}::text").format(text.Identifier(name)) for name in names
            )
            query_texts = text.SQL("select {} from {} t order by {}").format(
                texts, text.SQL(cast("LiteralString", table)), text.SQL(cast("LiteralString", order))
            )
            return self.app.execute(query_texts).fetchall()

    def states(self, table: str) -> list[tuple[Any, ...]]:
        """Key and state of every row that this node knows of, living, dead or set aside."""
        (query,) = self.apply.execute(STATES, [table]).fetchall()[0]
        found = self.apply.execute(cast("LiteralString", query)).fetchall()
        for row in found:
            row[-1]["v"] = {name: value for name, value in row[-1]["v"].items() if value is not None}
        return found

    def conflicts(self, table: str | None = None) -> list[tuple[Any, ...]]:
        """Kind, column, key, lost value, won value of what is listed."""
        return self.apply.execute(
            'select kind, "column", key, lost_value, won_value from atoll.conflicts'
            ' where coalesce("table" = %s, true) order by id',
            [table],
        ).fetchall()

    def parked(self) -> list[tuple[str, str]]:
        return self.apply.execute("select code, reason from atoll.parked order by parked_at").fetchall()

    def retry(self) -> tuple[int, int]:
        """Try parked changes again: how many were merged, how many remain."""
        merged, remain = self.apply.execute("select * from atoll.retry_parked(true)").fetchall()[0]
        return merged, remain


class Nodes(list[Node]):
    """The nodes of one atoll, and whatever is on its way between them."""

    def sync(self) -> None:
        """Everything written since the last call reaches those who may have it, and so do replies to it."""
        while any(news := [node.changes() for node in self]):
            for node in self:
                for sender, changes in zip(self, news, strict=True):
                    if sender is not node:
                        node.receive([change for change in changes if node.may_have(change)])

    def ends_same(self, table: str, order: str = "1") -> list[tuple[Any, ...]]:
        """After everything has come everywhere, and nothing was parked."""
        self.sync()
        for node in self:
            assert node.parked() == []
        return self.same(f"public.{table}", order)

    def same(self, table: str, order: str = "1, 2") -> list[tuple[Any, ...]]:
        """The rows, which have to be the same on all nodes."""
        first, *others = [node.rows(table, order) for node in self]
        for node, other in zip(self[1:], others, strict=True):
            assert other == first, f"node {node.number} differs from node {self[0].number}"
        states = [node.states(table) if self._has_side(node, table) else [] for node in self]
        assert all(state == states[0] for state in states)
        return first

    @staticmethod
    def _has_side(node: Node, table: str) -> bool:
        return bool(node.owner("select from atoll.local_table where name = %s and kind = 'merge'", table))


@pytest.fixture(scope="session")
def settled(server: Postgres) -> Iterator[list[str]]:
    """A template for each of three nodes: a database that knows who it is."""
    with databases(server) as make:
        made = [make() for _ in range(3)]
        for number, database in enumerate(made, start=1):
            with psycopg.connect(database.conninfo(), autocommit=True) as session:
                others = [
                    {"number": n, "name": f"n{n}", "region": REGIONS[n - 1], "tier": "edge", "addresses": []}
                    for n in (1, 2, 3)
                ]
                session.execute(
                    "insert into atoll.self (atoll_id, number, name, region, introduced)"
                    " values (%s, %s, %s, %s, %s)",
                    [ATOLL, number, f"n{number}", REGIONS[number - 1], Jsonb(others)],
                )
                session.execute("select atoll.settle_in()")
        yield [database.name for database in made]


def open_node(database: Database, number: int) -> Node:
    app = psycopg.connect(database.conninfo(APP_ROLE), autocommit=True)
    apply = psycopg.connect(database.conninfo(), autocommit=True)
    apply.execute("set session_replication_role = replica")
    return Node(number, database, app, apply)


def _opened(make: DatabaseMaker, settled: list[str]) -> Iterator[Nodes]:
    nodes = Nodes(open_node(make(template), number) for number, template in enumerate(settled, start=1))
    nodes.sync()
    try:
        yield nodes
    finally:
        for node in nodes:
            node.app.close()
            node.apply.close()


@pytest.fixture
def node(make_database: DatabaseMaker, settled: list[str]) -> Iterator[Node]:
    """One node."""
    for nodes in _opened(make_database, settled[:1]):
        yield nodes[0]


@pytest.fixture
def nodes(make_database: DatabaseMaker, settled: list[str]) -> Iterator[Nodes]:
    """Two nodes."""
    yield from _opened(make_database, settled[:2])


@pytest.fixture
def three_nodes(make_database: DatabaseMaker, settled: list[str]) -> Iterator[Nodes]:
    yield from _opened(make_database, settled)


@pytest.fixture(scope="module")
def lasting_nodes(make_lasting_database: DatabaseMaker, settled: list[str]) -> Iterator[Nodes]:
    """Three nodes for all examples of a module."""
    yield from _opened(make_lasting_database, settled)
