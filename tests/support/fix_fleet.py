"""Nodes that hold rows of their own, and a database that holds all of them: what a question should answer.

The nodes are databases of one server, asked through the answering side itself; nothing is between them.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
import pyarrow as pa
import pytest

from atoll.analytics.answer import SESSION, Answering
from atoll.analytics.merge import Merge
from atoll.analytics.plan import Plan
from atoll.analytics.planner import make_plan
from atoll.analytics.question import Answer, Catalog, Member, Question, Reach, Relation
from support.fix_postgres import APP_ROLE, Database, DatabaseMaker

TABLES = (
    "create table sale (id int primary key, shop text, product int, qty int, big bigint, price numeric(12,2),"
    " weight float8, at timestamptz, day date, is_paid boolean, note text)",
    "create table product (product int primary key, name text, kind text)",
    "create table visit (id int primary key, place text, length int)",
    "create table tide (id int primary key, height float8)",
    "create aggregate biggest (int) (sfunc = int4larger, stype = int)",
)
MEMBERS = (
    Member(1, "lisbon", "eu", "hub", 0.0),
    Member(2, "porto", "eu", "edge", 0.1),
    Member(3, "osaka", "ap", "edge", 0.2),
)
SALE = ("id", "shop", "product", "qty", "big", "price", "weight", "at", "day", "is_paid", "note")
CATALOG = Catalog(
    {
        '"sale"': Relation(Reach.NODE, columns=SALE),
        '"product"': Relation(Reach.GLOBAL, columns=("product", "name", "kind")),
        '"visit"': Relation(Reach.ROW, "place", "region", ("id", "place", "length")),
        '"tide"': Relation(Reach.REGION, columns=("id", "height")),
    },
    frozenset({"biggest"}),
)


@dataclass
class Fleet:
    """Three nodes by number, and the database that has it all."""

    nodes: Mapping[int, Database]
    everything: Database

    def plan(self, question: str, catalog: Catalog = CATALOG, **options: Any) -> Plan:
        return make_plan(Question(question, **options), catalog, MEMBERS)

    async def ask(self, question: str, catalog: Catalog = CATALOG, **options: Any) -> list[tuple[Any, ...]]:
        """What comes of asking all nodes; each duty goes to its nearest node."""
        plan = self.plan(question, catalog, **options)
        answers: dict[str, list[Answer]] = {}
        for asked in plan.asks:
            database = self.nodes[asked.duty.first.number]
            answers.setdefault(asked.part, []).append(await answer_of(database, asked.sql[0]))
        table = await asyncio.to_thread(Merge(plan, answers).run)
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def truth(self, question: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.everything.conninfo(APP_ROLE), options="-c timezone=UTC") as connection:
            return connection.execute(cast("LiteralString", question)).fetchall()

    def fill(self, rng: random.Random, rows: int) -> None:
        """Rows of any kind, with nulls, in new tables; each node has its own, and all know all products."""
        products = [(n, f"product {n}", rng.choice(["fruit", "rope", None])) for n in range(8)]
        sales = {number: [_sale(rng, number, n) for n in range(rng.randrange(rows))] for number in self.nodes}
        visits = [(n, *_place(rng), rng.randrange(100)) for n in range(rows)]
        tides = [(n, rng.choice(["eu", "ap"]), rng.lognormvariate(0, 2)) for n in range(rows)]
        for member in MEMBERS:
            own_tides = [(n, height) for n, region, height in tides if region == member.region]
            own_visits = [
                (n, place, length) for n, holders, place, length in visits if member.number in holders
            ]
            _write(self.nodes[member.number], sales[member.number], products, own_visits, own_tides)
        all_sales = [row for rows in sales.values() for row in rows]
        all_visits = [(n, place, length) for n, _, place, length in visits]
        _write(self.everything, all_sales, products, all_visits, [(n, height) for n, _, height in tides])


async def answer_of(database: Database, text: str, path: Sequence[int] = (1,)) -> Answer:
    """All pages of one node's answer."""

    async def connect() -> psycopg.AsyncConnection[tuple[Any, ...]]:
        return await psycopg.AsyncConnection.connect(
            database.conninfo(APP_ROLE), autocommit=True, options=SESSION
        )

    async def allow(pid: int, path: Sequence[int]) -> None:
        return None

    answering = Answering(connect, allow)
    name = str(uuid.uuid4())
    page = json.loads(json.dumps(await answering.open(path, {"id": name, "sql": text, "seconds": 60})))
    values = [list(column) for column in page["values"]]
    while not page["is_last"]:
        page = json.loads(json.dumps(await answering.more({"id": name})))
        for column, more in zip(values, page["values"], strict=True):
            column += more
    kinds = tuple((name, oid) for name, oid in page["columns"])
    texts = tuple(pa.chunked_array([column], pa.string()) for column in values)
    return Answer(kinds, texts, len(values[0]) if values else 0, 0, page["seconds"])


def _sale(rng: random.Random, node: int, number: int) -> tuple[Any, ...]:
    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.1 else value

    return (
        node * 1_000_000 + number,
        rng.choice(["north", "south", "Ünder", ""]),
        maybe(rng.randrange(10)),
        maybe(rng.randrange(-50, 50)),
        maybe(rng.randrange(-(2**62), 2**62)),
        maybe(round(rng.uniform(-1000, 100000), 2)),
        maybe(rng.choice([0.0, rng.gauss(1e9, 1.0), -rng.expovariate(0.01), rng.lognormvariate(0, 4)])),
        maybe(f"2026-01-{rng.randrange(1, 28):02} {rng.randrange(24):02}:11:12.{rng.randrange(10**6):06}+02"),
        maybe(f"2026-{rng.randrange(1, 13):02}-01"),
        maybe(rng.random() < 0.5),
        maybe(rng.choice(["a", "b\nc", "\\N", '"', "7", "日本"])),
    )


def _place(rng: random.Random) -> tuple[tuple[int, ...], str | None]:
    """Which nodes hold a row, and what its scope column says. One that says nothing stays in its region."""
    places: list[tuple[tuple[int, ...], str | None]] = [
        ((1, 2, 3), "global"),
        ((1, 2), "eu"),
        ((3,), "region:ap"),
        ((2,), "node:2"),
        ((3,), "local"),
        ((1, 2), None),
        ((3,), ""),
    ]
    return rng.choice(places)


def _write(database: Database, *tables: Sequence[tuple[Any, ...]]) -> None:
    with psycopg.connect(database.conninfo(APP_ROLE), autocommit=True) as connection:
        connection.execute("truncate sale, product, visit, tide")
        for table, rows in zip(("sale", "product", "visit", "tide"), tables, strict=True):
            with connection.cursor().copy(cast("LiteralString", f"copy {table} from stdin")) as copy:
                for row in rows:
                    copy.write_row(row)


@pytest.fixture(scope="module")
def fleet(make_lasting_database: DatabaseMaker) -> Fleet:
    found = Fleet({member.number: make_lasting_database() for member in MEMBERS}, make_lasting_database())
    for database in (*found.nodes.values(), found.everything):
        with psycopg.connect(database.conninfo(APP_ROLE), autocommit=True) as connection:
            for statement in TABLES:
                connection.execute(cast("LiteralString", statement))
    return found
