"""Rows of a table as changes for a file: of every type, only what is news, only where it may go."""

from __future__ import annotations

import json

import pytest

from database.test_types import KINDS, TYPES
from support.fix_nodes import Node, Nodes

ROWS = "select op::text, at, ats, prev, n, cols, vals, scope from atoll.rows_as_changes(%s, null, %s)"
FIELDS = ("op", "at", "ats", "prev", "n", "cols", "vals", "scope")
EVERYTHING = 2147483647


def carry(
    sender: Node, receiver: Node, table: str, age: int = EVERYTHING, pass_on: bool = False
) -> list[int]:
    """What a file would hold, taken by the other: how many rows of each change were new."""
    fresh = []
    for row in sender.owner(ROWS, f"public.{table}", age):
        facts = dict(zip(FIELDS, row, strict=True)) | {"tbl": f"public.{table}", "origin": sender.number}
        facts["seq"] = sender.owner("select nextval('atoll.change_seq')")[0][0]
        found = receiver.owner("select * from atoll.take_change(%s, %s)", json.dumps(facts), pass_on)
        fresh.append(int(found[0][0]))
        assert found[0][1], receiver.parked()
    return fresh


def same(a: Node, b: Node, table: str) -> None:
    assert a.rows(table, "1") == b.rows(table, "1")
    assert a.states(f"public.{table}") == b.states(f"public.{table}")


@pytest.mark.slow
def test_every_type_travels_and_nothing_is_news_twice(nodes: Nodes) -> None:
    a, b = nodes
    for node in nodes:
        node.run(KINDS)
    types = [(kind, values) for kind, values in TYPES if a.value("select to_regtype(%s) is not null", kind)]
    types = [one for one in types if one[0] != "xml"]
    columns = [f"c{number} {kind}" for number, (kind, _) in enumerate(types)]
    a.run(f"create table kind (id int primary key, {', '.join(columns)})")
    a.share("kind")
    nodes.sync()
    most = max(len(values) for _, values in types)
    for row in range(most):
        values = [f"({values[row % len(values)]})::{kind}" for kind, values in types]
        a.run(f"insert into kind values ({row}, {', '.join(values)})")
    a.run("insert into kind (id) values (1000)")
    a.run("update kind set c0 = 1 where id = 0")
    a.run("delete from kind where id = 1")
    a.changes()
    for node in nodes:
        node.app.execute("set datestyle = 'SQL, DMY'")
    assert sum(carry(a, b, "kind")) == most + 1
    same(a, b, "kind")
    assert sum(carry(a, b, "kind")) == 0
    assert sum(carry(b, a, "kind")) == 0


POLICIES = '{"qty": "counter", "tags": "set", "doc": "document", "top": "max", "born": "first"}'
DEFINITION = (
    "a int, b text, qty int not null default 0, tags jsonb not null default '[]', doc jsonb not null"
    " default '{}', top int, born text, plain text, u text unique, primary key (a, b)"
)


@pytest.fixture
def goods(nodes: Nodes) -> Nodes:
    nodes[0].run(f"create table goods ({DEFINITION})")
    nodes[0].share("goods", POLICIES)
    nodes.sync()
    return nodes


def test_writes_on_both_sides_end_the_same(goods: Nodes) -> None:
    a, b = goods
    a.run(
        "insert into goods (a, b, qty, u) values (1, 'x', 5, 'one'), (2, '', 0, null), (3, 'gone', 1, 'two')"
    )
    goods.sync()
    a.run(
        """update goods set qty = qty + 7, tags = '["r"]', doc = '{"k": 1}', top = 3, born = 'a', plain = 'p'"""
    )
    b.run("""update goods set qty = qty - 2, tags = '["s"]', doc = '{"l": 2}', top = 9, born = 'b'""")
    a.run("delete from goods where a = 3")
    b.run("insert into goods (a, b, u) values (4, 'new', 'three')")
    a.run("insert into goods (a, b, u) values (5, 'rival', 'three')")
    for _ in range(2):
        carry(a, b, "goods")
        carry(b, a, "goods")
    same(a, b, "goods")
    assert a.value("select qty from goods where a = 1") == 10
    assert carry(a, b, "goods") == [0] * len(carry(a, b, "goods"))


def test_only_what_changed_since_is_taken(goods: Nodes) -> None:
    a, b = goods
    a.run("insert into goods (a, b) select g, 'x' from generate_series(1, 700) g")
    assert sum(carry(a, b, "goods")) == 700
    horizon = a.owner("select pg_snapshot_xmin(pg_current_snapshot())::text")[0][0]
    a.run("update goods set plain = 'later' where a = 17")
    a.run("delete from goods where a = 18")
    age = a.owner("select age(%s::xid8::xid)", horizon)[0][0]
    assert carry(a, b, "goods", age) == [2]
    same(a, b, "goods")


def test_what_is_passed_on_is_a_change_of_the_one_who_passes_it(goods: Nodes) -> None:
    a, b = goods
    a.run("insert into goods (a, b) values (1, 'x'), (2, 'y')")
    b.changes()
    carry(a, b, "goods", pass_on=True)
    (passed,) = b.changes()
    assert (passed.origin, passed.op, passed.n, passed.target) == (2, "I", 2, None)
    carry(a, b, "goods", pass_on=True)
    assert b.changes() == []


def test_facts_travel_once(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table fact (id int primary key, what text)")
    a.share("fact", kind="append")
    nodes.sync()
    a.run("insert into fact select g, 'seen ' || g from generate_series(1, 30) g")
    for _ in range(2):
        carry(a, b, "fact")
        assert a.rows("fact", "1") == b.rows("fact", "1")


def test_a_change_that_cannot_be_merged_is_parked_and_told(goods: Nodes) -> None:
    a, b = goods
    a.run("insert into goods (a, b) values (1, 'x')")
    b.owner("delete from atoll.shared_table where name = 'public.goods'")
    b.owner("select atoll.install_tables()")
    (row,) = a.owner(ROWS, "public.goods", EVERYTHING)
    facts = dict(zip(FIELDS, row, strict=True)) | {"tbl": "public.goods", "origin": 1, "seq": 10**9}
    found = b.owner("select merged from atoll.take_change(%s, false)", json.dumps(facts))
    assert found == [(False,)]
    assert b.parked()[0][0] == "table-unknown"


def test_what_the_receiver_may_not_have_does_not_travel(nodes: Nodes) -> None:
    a, _ = nodes
    a.run("create table visit (id int primary key, place text, what text)")
    a.run("select atoll.share('visit', scope_column => 'place')")
    nodes.sync()
    a.run(
        "insert into visit values (1, 'global', 'marker-global'), (2, 'eu', 'marker-eu'),"
        " (3, 'local', 'marker-local'), (4, 'node:1', 'marker-mine'), (5, 'node:2', 'marker-yours')"
    )
    a.run("update visit set what = what || '-2' where id in (1, 3)")
    for receiver, wanted in ((2, {"global-2", "eu"}), (3, {"global-2"})):
        rows = a.owner(
            "select vals::text from atoll.rows_as_changes('public.visit', atoll.scopes_for(%s), %s)",
            receiver,
            EVERYTHING,
        )
        seen = {
            name
            for name in ("global-2", "eu", "local", "mine")
            if any(f"marker-{name}" in row[0] for row in rows)
        }
        assert seen == wanted
    # Told to everybody, each carries its scope, and what is local stays.
    rows = a.owner("select scope from atoll.rows_as_changes('public.visit', null, %s) order by 1", EVERYTHING)
    assert {scope for (scope,) in rows} == {"global", "region:eu", "node:1", "node:2"}
