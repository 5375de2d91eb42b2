"""A node moves into another atoll with its data: both sides are merged, each column by its latest write."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.fix_nodes import ATOLL, REGIONS, Node, Nodes, open_node
from support.fix_postgres import DatabaseMaker

pytestmark = pytest.mark.slow

ITEM = "id integer primary key, word text, place text"


@pytest.fixture
def sides(make_database: DatabaseMaker, settled: list[str]) -> Iterator[tuple[Nodes, Node]]:
    """An atoll of two nodes, and a node with an atoll of its own. All of them have number 1 or 2 in theirs."""
    here = Nodes(open_node(make_database(template), number) for number, template in enumerate(settled[:2], 1))
    away = open_node(make_database(settled[0]), 1)
    away.owner("update atoll.self set atoll_id = %s, introduced = '[]'", uuid.UUID(int=8))
    here.sync()
    yield here, away
    for node in (*here, away):
        node.app.close()
        node.apply.close()


def move(here: Nodes, away: Node, number: int = 3) -> Nodes:
    """The node from away is a member here from now on, and takes in a copy from the first."""
    facts = {"region": REGIONS[number - 1], "tier": "edge", "addresses": []}
    here[0].owner(
        "insert into atoll.node (number, name, region, tier) values (%s, 'newcomer', %s, 'edge')",
        number,
        facts["region"],
    )
    here.sync()
    met = [{"number": node.number, "name": f"n{node.number}"} | facts for node in here]
    with away.apply.transaction():
        away.apply.execute("set local session_replication_role = origin")
        away.apply.execute("select atoll.move_in(%s, %s, 'newcomer', %s)", [ATOLL, number, Jsonb(met)])
        away.apply.execute("select atoll.settle_in()")
    return meet(here, away, number)


def meet(here: Nodes, away: Node, number: int) -> Nodes:
    _reopen(away, number)
    everybody = Nodes([*here, away])
    here[0].owner("insert into atoll.progress (peer) values (%s) on conflict do nothing", number)
    here[0].owner("select atoll.owe_seed(%s)", number)
    here[0].apply.execute("set session_replication_role = origin")
    here[0].apply.execute("call atoll.seed(%s)", [number])
    here[0].apply.execute("set session_replication_role = replica")
    everybody.sync()
    away.apply.execute("set session_replication_role = origin")
    away.apply.execute("call atoll.share_brought()")
    _reopen(away, number)
    everybody.sync()
    return everybody


def _reopen(node: Node, number: int) -> None:
    node.app.close()
    node.apply.close()
    opened = open_node(node.database, number)
    node.number, node.app, node.apply = number, opened.app, opened.apply


def at(node: Node, milliseconds: int, query: str, *values: Any) -> None:
    """A write at a certain time."""
    node.clock(milliseconds)
    node.run(query, *values)
    for session in (node.app, node.apply):
        session.execute("select set_config('atoll.clock_stands_at_ms', '', false)")


def now(node: Node) -> int:
    return int(node.value("select atoll.clock_ms()"))


def test_of_two_rows_with_one_key_the_later_write_of_each_column_wins(sides: tuple[Nodes, Node]) -> None:
    here, away = sides
    one = here[0]
    start = now(one) - 60_000
    for node in (one, away):
        node.run(f"create table item ({ITEM})")
        node.share("item")
    at(one, start, "insert into item values (1, 'here', 'here'), (2, 'here', 'here')")
    at(away, start + 1000, "insert into item values (1, 'away', 'away'), (3, 'away', 'away')")
    at(one, start + 2000, "update item set word = 'here, later' where id = 1")
    at(away, start + 3000, "update item set place = 'away, last' where id = 1")
    at(away, start + 3000, "delete from item where id = 3")
    at(away, start + 4000, "insert into item values (4, 'away', 'away')")
    here.sync()
    everybody = move(here, away)
    assert everybody.same("item") == [
        ("1", "here, later", "away, last"),
        ("2", "here", "here"),
        ("4", "away", "away"),
    ]
    assert everybody[2].owner("select * from atoll.brought") == []
    everybody[2].run("update item set word = 'after' where id = 2")
    one.run("delete from item where id = 4")
    everybody.sync()
    assert everybody.same("item", "1")[1:] == [("2", "after", "here")]


def conflicts(node: Node) -> list[tuple[Any, ...]]:
    return node.run(
        "select key->>'id', col, lost_value, won_value from atoll.conflict where tbl = 'public.item'"
        " order by key->>'id', col"
    )


def test_what_rows_that_were_written_again_overrule_is_listed_by_every_member(
    sides: tuple[Nodes, Node],
) -> None:
    here, away = sides
    one = here[0]
    start = now(one) - 60_000
    for node in (one, away):
        node.run(f"create table item ({ITEM})")
        node.share("item")
    at(one, start, "insert into item values (1, 'here', 'here'), (2, 'here', 'same'), (3, 'here', 'here')")
    at(away, start + 1000, "insert into item values (1, 'away', 'away'), (2, 'away', 'same'), (4, 'a', 'a')")
    at(away, start + 2000, "update item set word = 'away, again'")
    at(one, start + 3000, "update item set word = 'here, last' where id = 2")
    here.sync()
    everybody = move(here, away)
    assert everybody.same("item", "1") == [
        ("1", "away, again", "away"),
        ("2", "here, last", "same"),
        ("3", "here", "here"),
        ("4", "away, again", "a"),
    ]
    for member in here:
        assert conflicts(member) == [
            ("1", "place", "here", "away"),
            ("1", "word", "here", "away, again"),
            ("2", "word", "away, again", "here, last"),
        ]
    one.run("select atoll.revert(id) from atoll.conflict where key->>'id' = '1' and col = 'place'")
    everybody.sync()
    assert everybody.same("item", "1")[0] == ("1", "away, again", "here")


def test_tables_that_nobody_shares_here_are_shared_as_they_were(sides: tuple[Nodes, Node]) -> None:
    here, away = sides
    away.run("create table customer (id integer primary key, name text)")
    away.run(
        "create table bill (id integer primary key, customer integer references customer, cents integer)"
    )
    away.run("create table visit (id integer primary key, what text)")
    away.share("customer")
    away.share("bill", '{"cents": "max"}')
    away.share("visit", kind="append")
    away.run("select atoll.on_orphans('bill', 'remove')")
    away.run("insert into customer values (7, 'Ann')")
    away.run("insert into bill values (1, 7, 250)")
    away.run("insert into visit values (1, 'came'), (2, 'went')")
    everybody = move(here, away)
    assert everybody.same("customer") == [("7", "Ann")]
    assert everybody.same("bill") == [("1", "7", "250")]
    assert everybody.same("visit") == [("1", "came"), ("2", "went")]
    assert here[1].run("select policy from atoll.orphan_rule") == [("remove",)]
    assert here[1].run("select merge from atoll.shared_table where name = 'public.bill'") == [
        ({"cents": "max"},)
    ]


def test_counters_of_two_sides_add_up_and_facts_are_all_kept(sides: tuple[Nodes, Node]) -> None:
    here, away = sides
    for node in (here[0], away):
        node.run("create table stock (id integer primary key, n integer, tags jsonb)")
        node.share("stock", '{"n": "counter", "tags": "set"}')
        node.run("create table fact (id integer primary key, what text)")
        node.share("fact", kind="append")
        here.sync()
    here[0].run("""insert into stock values (1, 10, '["a"]'), (2, 1, '[]')""")
    away.run("""insert into stock values (1, 5, '["b"]'), (3, 1, '[]')""")
    here.sync()
    here[1].run("update stock set n = n + 1 where id = 1")
    away.run("update stock set n = n + 2 where id = 1")
    here[0].run("insert into fact values (1, 'here')")
    away.run("insert into fact values (2, 'away')")
    here.sync()
    everybody = move(here, away)
    rows = everybody.same("stock", "1")
    assert [(row[0], row[1]) for row in rows] == [("1", "18"), ("2", "1"), ("3", "1")]
    assert everybody.same("fact") == [("1", "here"), ("2", "away")]


@pytest.mark.parametrize(("kind", "was"), [("merge", "append"), ("append", "merge")])
def test_a_table_of_another_kind_is_taken_up_as_the_kind_that_it_is_here(
    sides: tuple[Nodes, Node], kind: str, was: str
) -> None:
    here, away = sides
    for node, as_kind in ((here[0], kind), (away, was)):
        node.run(f"create table item ({ITEM})")
        node.share("item", kind=as_kind)
    here.sync()
    here[0].run("insert into item values (1, 'here', '')")
    away.run("insert into item values (2, 'away', '')")
    here.sync()
    everybody = move(here, away)
    assert [row[0] for row in everybody.same("item", "1")] == ["1", "2"]
    assert away.owner("select * from atoll.brought") == []
    assert away.owner("select to_regclass('atoll_side.\"brought:public.item\"')") == [(None,)]


def test_a_column_that_was_not_brought_overrules_nothing(sides: tuple[Nodes, Node]) -> None:
    here, away = sides
    here[0].run(f"create table item ({ITEM}, home text, price integer)")
    here[0].run("select atoll.share('item', scope_column => 'home')")
    away.run(f"create table item ({ITEM})")
    away.share("item")
    here.sync()
    here[0].run("insert into item values (1, 'here', 'here', 'eu', 7), (2, 'here', 'here', null, 8)")
    here.sync()
    away.run("insert into item values (1, 'away', 'away'), (2, 'away', 'away'), (3, 'away', 'away')")
    everybody = move(here, away)
    away.run("alter table item add home text, add price integer")
    away.owner("select atoll.install_tables()")
    away.retry()
    everybody.sync()
    assert everybody[0].rows("item", "1") == [
        ("1", "away", "away", "eu", "7"),
        ("2", "away", "away", None, "8"),
        ("3", "away", "away", None, None),
    ]
    assert everybody[0].rows("item", "1") == everybody[1].rows("item", "1")
    assert [row[0] for row in everybody[2].rows("item", "1")] == ["2", "3"], "it is in another region"
    assert conflicts(here[1]) == [
        (key, column, "here", "away") for key in ("1", "2") for column in ("place", "word")
    ], "a column that was not brought loses to nothing and overrules nothing"


def test_what_may_not_leave_stays_and_its_node_is_the_new_number(sides: tuple[Nodes, Node]) -> None:
    here, away = sides
    for node in (here[0], away):
        node.run("create table person (name text primary key, home text)")
        node.run("select atoll.share('person', scope_column => 'home')")
    away.run("insert into person values ('ada', 'local'), ('bob', 'node:1'), ('ida', null)")
    everybody = move(here, away)
    mover = everybody[2]
    assert mover.rows("person", "1") == [
        ("ada", "local"),
        ("bob", "node:3"),
        ("ida", None),
    ]
    assert here[0].rows("person", "1") == [("ida", None)], "the others are in another region"


def test_a_table_that_cannot_be_shared_here_waits_with_its_reason_and_loses_nothing(
    sides: tuple[Nodes, Node],
) -> None:
    here, away = sides
    here[0].run(f"create table item ({ITEM}, n integer)")
    away.run(f"create table item ({ITEM})")
    here[0].share("item", '{"n": "counter"}')
    away.share("item")
    away.run("insert into item values (1, 'away', 'there')")
    everybody = move(here, away)
    mover = everybody[2]
    ((problem,),) = mover.owner("select problem from atoll.local_table where name = 'public.item'")
    assert 'column "n" does not exist' in problem
    assert mover.rows("item", "1") == [("1", "away", "there")]
    mover.run("alter table item add n integer")
    mover.owner("select atoll.install_tables()")
    everybody.sync()
    assert everybody.same("item", "1") == [("1", "away", "there", None)]


def test_applications_only_read_until_their_tables_are_shared_again(sides: tuple[Nodes, Node]) -> None:
    _, away = sides
    away.run(f"create table item ({ITEM})")
    away.share("item")
    away.apply.execute("call atoll.hold_writes(true)")
    with away.apply.transaction():
        away.apply.execute("set local session_replication_role = origin")
        away.apply.execute("select atoll.move_in(%s, 3, 'newcomer', '[]')", [ATOLL])
        away.apply.execute("select atoll.settle_in()")
    with pytest.raises(psycopg.OperationalError):
        away.run("select 1")
    held = open_node(away.database, 3)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        held.run("insert into item values (1, 'too early', '')")
    held.app.close()
    held.apply.execute("set session_replication_role = origin")
    held.apply.execute("update atoll.self set seeded_at = now()")
    held.apply.execute("call atoll.share_brought()")
    free = open_node(away.database, 3)
    free.run("insert into item values (1, 'now', '')")
    for node in (held, free):
        node.app.close()
        node.apply.close()
