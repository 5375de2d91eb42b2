"""Columns may have any name, also one that functions use for themselves: whatever is done with a table works."""

from __future__ import annotations

import string
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from support.fix_nodes import Node, Nodes

pytestmark = pytest.mark.slow

NAMES = [
    *string.ascii_lowercase,
    *[
        "key",
        "row",
        "state",
        "theirs",
        "mine",
        "known",
        "delta",
        "news",
        "at",
        "ats",
        "vals",
        "cols",
        "origin",
        "seq",
        "scope",
        "target",
        "tbl",
        "name",
        "upto",
        "stretch",
        "keys",
        "stamps",
        "wanted",
        "condition",
        "why",
        "parent",
        "lasts",
        "word",
        "source",
        "vars",
        "usual",
        "said",
    ],
]
QUOTED = [f'"{name}"' for name in NAMES]
COLUMNS = ", ".join(f"{name} text" for name in QUOTED)
EVERYTHING = 2147483647
SCOPES = ["global", "region:eu", "region:us"]


@pytest.fixture
def odd(three_nodes: Nodes) -> Nodes:
    """A parent and a child, both with every name, scopes by row, and unique keys on some of them."""
    one = three_nodes[0]
    one.run(f"create table odd (id integer primary key, tally integer, {COLUMNS})")
    one.run('create unique index on odd (lower("m")); create unique index on odd ("r", "b")')
    one.run(
        """select atoll.share('odd', '{"tally": "counter", "s": "max", "t": "first"}', scope_column => 'h')"""
    )
    one.run(
        f"create table kid (id integer primary key, odd integer references odd on delete set null, {COLUMNS})"
    )
    one.share("kid")
    one.run("create table fact (id integer primary key, " + COLUMNS + ")")
    one.share("fact", kind="append")
    three_nodes.sync()
    for number in range(1, 7):
        write(one, "odd", number)
        write(one, "fact", number)
    three_nodes.sync()
    return three_nodes


def write(node: Node, table: str, number: int, **values: Any) -> None:
    given = {name: f"{name} {number}" for name in QUOTED if not (table == "odd" and name == '"h"')} | values
    names, texts = ", ".join(["id", *given]), ", ".join(["%s"] * (len(given) + 1))
    node.run(f"insert into {table} ({names}) values ({texts})", number, *given.values())


def beat(nodes: Nodes) -> None:
    """Marks pass, until everybody has heard of everything written before."""
    for _ in range(3):
        for node in nodes:
            node.owner("select atoll.make_marks(true)")
        nodes.sync()


def call(node: Node, procedure: str, *values: object) -> None:
    node.apply.execute("set session_replication_role = origin")
    node.apply.execute("call " + procedure, values or None)  # type: ignore[arg-type]
    node.apply.execute("set session_replication_role = replica")


def test_writes_conflicts_and_moves(odd: Nodes) -> None:
    one, two, three = odd
    for name in QUOTED:
        if name != '"h"':
            one.run(f"update odd set {name} = 'one' || id where id = 1")
            two.run(f"update odd set {name} = 'two' || id where id <= 2")
    one.run("""update odd set h = 'region:eu' where id = 3""")
    three.run("""update odd set tally = coalesce(tally, 0) + 1, m = 'three' where id = 3""")
    write(one, "odd", 8, **{'"m"': "twice"})
    write(two, "odd", 9, **{'"m"': "TWICE"})
    three.run("delete from odd where id = 4")
    one.run("alter table odd add column added integer default 7")
    odd.sync()
    for node in odd:
        assert node.parked() == []
        for table in ("public.odd", "public.kid", "public.fact"):
            assert node.owner("select problem from atoll.local_table where name = %s", table) == [(None,)]
    assert one.rows("odd", "1") == two.rows("odd", "1")
    assert three.rows("odd", "1") == [row for row in one.rows("odd", "1") if row[0] != "3"]
    assert len(three.rows("odd", "1")) == 5, "of two with one unique key, one is set aside"


def test_copies_files_and_returns(odd: Nodes) -> None:
    one, two, _ = odd
    one.run("update odd set m = 'again' || id where id > 3")
    one.run("delete from odd where id = 1")
    odd.sync()
    for table in ("odd", "fact"):
        assert one.owner("select * from atoll.rows_as_changes(%s, null, %s)", f"public.{table}", EVERYTHING)
    one.owner("insert into atoll.progress (peer) values (2) on conflict do nothing")
    one.owner("select atoll.owe_seed(2)")
    call(one, "atoll.seed(2)")
    assert {change.tbl for change in one.changes()} >= {"public.odd", "public.fact"}
    beat(odd)
    one.run("delete from odd where id = 2")
    one.changes()
    one.owner('delete from atoll_side."public.odd" where id <= 2')
    two.run("update odd set n = 'mine' where id = 5")
    ((known,),) = one.owner("select atoll.known_stamps()")
    two.owner("select atoll.begin_return(1, 'token', %s)", Jsonb(known))
    call(one, "atoll.seed_returning(2, 'token')")
    two.receive([change for change in one.changes() if two.may_have(change)])
    call(two, "atoll.finish_return()")
    assert [row[0] for row in two.rows("odd", "1")] == ["3", "4", "5", "6"]


def test_comparing_and_mending(odd: Nodes) -> None:
    one, two, _ = odd
    with two.apply.transaction():
        two.apply.execute("update odd set m = 'altered', r = 'altered' where id = 2")
    for table in ("public.odd", "public.fact"):
        assert one.owner("select * from atoll.slice(%s, '', null, %s)", table, SCOPES)
        assert one.owner("select atoll.receipt(%s, %s)", table, SCOPES)
    asked = "select key, stamps, vals from atoll.slice_keys('public.odd', array['{2}'], %s)"
    ((_, stamps, vals),) = two.owner(asked, SCOPES)
    ((state,),) = one.owner("select state from atoll.slice_states('public.odd', array['{2}'], %s)", SCOPES)
    mended = two.owner(
        "select atoll.repair_row('public.odd', '{2}', 'value', 1, %s, %s, %s, 'a test')",
        Jsonb(state),
        stamps,
        vals,
    )
    assert mended == [(True,)]
    assert two.rows("odd", "1") == one.rows("odd", "1")


@pytest.mark.parametrize("policy", ["remove", "follow", "restore"])
def test_orphans(odd: Nodes, policy: str) -> None:
    one, two, _ = odd
    one.run("select atoll.on_orphans('kid', %s)", policy)
    odd.sync()
    one.run("delete from odd where id = 5")
    write(two, "kid", 1, odd=5)
    odd.sync()
    one.owner("select atoll.find_orphans('public.kid', '', 100, 100)")
    beat(odd)
    one.owner("select atoll.review_orphans()")
    assert one.owner("select atoll.handle_orphans()") == [(1,)], one.owner("select problem from atoll.orphan")
    odd.sync()
    assert len(odd.same("kid", "1")) == (0 if policy == "remove" else 1)
    assert (5 in [int(row[0]) for row in one.rows("odd", "1")]) == (policy == "restore")


def test_moving(odd: Nodes) -> None:
    one = odd[0]
    before = one.rows("odd", "1")
    one.owner("select atoll.move_in(gen_random_uuid(), 9, 'mover', '[]')")
    one.owner("select atoll.settle_in()")
    one.owner("update atoll.self set seeded_at = now()")
    call(one, "atoll.share_brought()")
    assert one.owner("select name, problem from atoll.brought") == []
    assert one.owner(
        "select count(*) from atoll.local_table where name like 'public.%%' and problem is null"
    ) == [(3,)]
    one.app.close()
    one.app = one.apply
    assert one.rows("odd", "1") == before
