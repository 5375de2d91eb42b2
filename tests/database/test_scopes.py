"""Scopes: each row is on the nodes that may have it and on no other, also while it moves.

Nodes 1 and 2 are in region eu, node 3 is in region us. What may pass is decided as a publication decides it.
"""

from __future__ import annotations

import os
import random
from typing import Any, LiteralString

import psycopg
import pytest

from support.fix_nodes import Change, Node, Nodes

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("ATOLL_EXAMPLES", "60")) // 4
MAKE = """
create table person (
    id integer primary key, home text, name text not null, visits integer not null default 0, tags jsonb
)
"""
POLICIES = '{"visits": "counter", "tags": "set"}'


@pytest.fixture
def three(three_nodes: Nodes) -> Nodes:
    return share(three_nodes, POLICIES)


def share(nodes: Nodes, policies: str) -> Nodes:
    nodes[0].run(MAKE)
    nodes[0].run("select atoll.share('person', %s::jsonb, scope_column => 'home')", policies)
    nodes.sync()
    return nodes


def names(nodes: Nodes) -> list[list[str]]:
    return [[row[2] for row in node.rows("person")] for node in nodes]


def test_a_table_of_a_region_stays_in_it(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    one.run("create table patient (id integer primary key, name text)")
    one.run("select atoll.share('patient', scope => 'region')")
    three_nodes.sync()
    one.run("insert into patient values (1, 'Secret-1'), (2, 'Secret-2')")
    three.run("insert into patient values (3, 'Secret-3')")
    one.run("update patient set name = 'Secret-4' where id = 1")
    two.receive([change for change in one.changes() if two.may_have(change)])
    one.told = 0
    two.run("delete from patient where id = 2")
    told = [change for node in (one, two) for change in node.changes() if change.tbl == "public.patient"]
    assert {change.scope for change in told} == {"region:eu"}
    one.told = two.told = 0
    three_nodes.sync()
    assert one.rows("patient") == two.rows("patient") == [("1", "Secret-4")]
    assert three.rows("patient") == [("3", "Secret-3")]


def test_rows_of_a_node_and_local_rows_stay_where_they_were_written(three_nodes: Nodes) -> None:
    one, two, _ = three_nodes
    for table, scope in (("mine", "node"), ("here", "local")):
        one.run(f"create table {table} (id integer primary key)")
        one.run("select atoll.share(%s, scope => %s)", table, scope)
    three_nodes.sync()
    one.run("insert into mine values (1)")
    one.run("insert into here values (1)")
    three_nodes.sync()
    assert (one.rows("mine", "1"), one.rows("here", "1")) == ([("1",)], [("1",)])
    assert (two.rows("mine", "1"), two.rows("here", "1")) == ([], [])


def test_each_row_goes_where_its_column_says(three: Nodes) -> None:
    three[0].run(
        "insert into person values (1, 'eu', 'in eu'), (2, 'us', 'in us'), (3, null, 'all'), (4, 'local', 'here'),"
        " (5, 'node:3', 'third'), (6, 'region:eu', 'in eu too'), (7, 'global', 'all too')"
    )
    three[0].run("insert into person values (8, 'us', 'alone in us')")
    three.sync()
    assert names(three) == [
        ["in eu", "all", "here", "in eu too", "all too"],
        ["in eu", "all", "in eu too", "all too"],
        ["in us", "all", "third", "all too", "alone in us"],
    ]


def test_a_row_that_moves_leaves_its_region_and_comes_whole_to_the_other(three: Nodes) -> None:
    one, two, us = three
    one.run("""insert into person values (1, 'eu', 'Ann', 3, '["a"]')""")
    three.sync()
    two.run("""update person set visits = visits + 2, tags = tags || '["b"]'""")
    three.sync()
    two.run("update person set home = 'us', name = 'Anne'")
    three.sync()
    assert names(three) == [[], [], ["Anne"]]
    assert us.rows("person") == [("1", "us", "Anne", "5", '["a", "b"]')]
    for node in (one, two):
        assert "Ann" not in str(node.states("public.person")), "only stamps stay"
    us.run("update person set home = 'eu', visits = visits + 1")
    three.sync()
    assert one.rows("person") == two.rows("person") == [("1", "eu", "Anne", "6", '["a", "b"]')]
    assert us.rows("person") == []


def test_a_row_that_came_back_is_there_also_where_a_column_is_null(three_nodes: Nodes) -> None:
    three = share(three_nodes, "{}")
    one = three[0]
    one.run("insert into person values (1, 'global', 'Ann')")
    three.sync()
    one.run("update person set home = 'eu'")
    one.run("update person set home = 'global'")
    three.sync()
    assert names(three) == [["Ann"]] * 3


def test_many_rows_move_in_one_statement(three: Nodes) -> None:
    three[0].run("insert into person select n, 'eu', 'p' || n from generate_series(1, 20) n")
    three.sync()
    three[1].run(
        "update person set home = case when id <= 10 then 'us' when id <= 15 then 'global' else home end"
    )
    three.sync()
    assert [len(rows) for rows in names(three)] == [10, 10, 15]


def test_what_was_written_while_the_row_moved_follows_it(three: Nodes) -> None:
    one, two, us = three
    one.run("insert into person values (1, 'eu', 'Ann')")
    three.sync()
    one.run("update person set home = 'us'")
    two.run("update person set name = 'Bea', visits = visits + 4")
    three.sync()
    assert us.rows("person") == [("1", "us", "Bea", "4", None)]
    assert one.rows("person") == two.rows("person") == []


def test_the_later_of_two_moves_holds_everywhere(three: Nodes) -> None:
    one, two, _ = three
    one.run("insert into person values (1, 'eu', 'Ann')")
    three.sync()
    one.run("update person set home = 'us'")
    two.run("update person set name = 'Bea', home = 'node:2'")
    three.sync()
    assert names(three) == [[], ["Bea"], []]


def test_what_was_written_before_a_row_left_and_came_back_is_there_too(three: Nodes) -> None:
    one, two, us = three
    one.run("insert into person values (1, 'global', 'Ann')")
    three.sync()
    two.run("update person set name = 'Bea'")
    written = two.changes()
    us.receive(written)
    one.run("update person set home = 'eu'")
    left = one.changes()
    one.run("update person set home = 'global'")
    back = one.changes()
    for node, order in ((us, (left, back)), (two, (back, left))):
        for changes in order:
            node.receive([change for change in changes if node.may_have(change)])
    one.receive(written)
    three.sync()
    assert names(three) == [["Bea"]] * 3


@pytest.mark.parametrize("has_gone", [False, True], ids=["the writer is there", "the writer has gone"])
@pytest.mark.parametrize("comes_first", [True, False], ids=["its write first", "its answer first"])
@pytest.mark.parametrize(
    ("what", "visits"), [("name = 'written'", "0"), ("name = 'written', visits = visits + 1", "1")]
)
def test_a_write_that_the_mover_hears_late_is_there_too_also_where_its_writer_has_gone(
    three: Nodes, what: LiteralString, visits: str, comes_first: bool, has_gone: bool
) -> None:
    one, writer, mover = three

    def hear(node: Node, changes: list[Change]) -> None:
        node.receive([change for change in changes if node.may_have(change)])

    mover.run("insert into person values (1, 'global', 'made')")
    three.sync()
    writer.run(f"update person set {what} where id = 1")
    written = writer.changes()
    hear(one, written)
    for home in ("us", "global"):
        mover.run("update person set home = %s where id = 1", home)
        moved = mover.changes()
        hear(one, moved)
        if not has_gone:
            hear(writer, moved)
    answer = writer.changes()
    hear(mover, written + answer if comes_first else answer + written)
    hear(one, answer)
    if has_gone:
        for _ in range(3):
            hear(mover, one.changes())
            hear(one, mover.changes())
    else:
        three.sync()
        assert writer.rows("person") == one.rows("person")
    assert one.rows("person") == mover.rows("person") == [("1", "global", "written", visits, None)]


def test_a_row_that_was_deleted_while_it_moved_is_deleted(three: Nodes) -> None:
    one, two, _ = three
    one.run("insert into person values (1, 'eu', 'Ann')")
    three.sync()
    one.run("update person set home = 'us'")
    two.run("delete from person")
    three.sync()
    assert names(three) == [[], [], []]


@pytest.mark.parametrize("scope", ["mars", "node:77"])
def test_a_row_cannot_go_where_nobody_is(three: Nodes, scope: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        three[0].run("insert into person values (1, %s, 'Ann')", scope)
    assert refused.value.diag.constraint_name == "scope-unknown"
    assert names(three) == [[], [], []]


def test_facts_go_where_their_column_says(three_nodes: Nodes) -> None:
    one = three_nodes[0]
    one.run("create table fact (id integer primary key, home text)")
    one.run("select atoll.share('fact', kind => 'append', scope_column => 'home')")
    three_nodes.sync()
    one.run("insert into fact values (1, 'eu'), (2, 'us'), (3, 'global')")
    one.run("insert into fact values (4, 'us')")
    three_nodes.sync()
    assert [[row[0] for row in node.rows("fact", "1")] for node in three_nodes] == [
        ["1", "3"],
        ["1", "3"],
        ["2", "3", "4"],
    ]


@pytest.mark.parametrize("by_column", ["id", "visits", "nothing"])
def test_a_column_that_cannot_say_it_is_refused(three_nodes: Nodes, by_column: str) -> None:
    three_nodes[0].run(MAKE)
    with pytest.raises(psycopg.Error) as refused:
        three_nodes[0].run("select atoll.share('person', scope_column => %s)", by_column)
    assert refused.value.diag.constraint_name in ("scope-column", "column-missing")


def test_a_copy_holds_what_its_reader_may_have(three: Nodes) -> None:
    one, us = three[0], three[2]
    one.run("insert into person values (1, 'eu', 'Marker'), (2, 'global', 'all'), (3, 'local', 'Marker')")
    one.run("update person set name = name || '!' where id > 1")
    one.changes()  # these never arrive
    one.apply.execute("set session_replication_role = origin")
    one.apply.execute("select atoll.publish_to(%s)", [us.number])
    one.apply.execute("select atoll.owe_seed(%s)", [us.number])
    one.apply.execute("call atoll.seed(%s)", [us.number])
    one.apply.execute("set session_replication_role = replica")
    copy = [change for change in one.changes() if change.target == us.number]
    assert "Marker" not in str(copy)
    us.receive([change for change in copy if us.may_have(change)])
    assert names(three)[2] == ["all!"]


def admitted(node: Node, home: str | None) -> bool:
    mine = {None, "global", "eu" if node.number < 3 else "us", f"node:{node.number}"}
    return home in mine


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_random_moves_and_writes_end_with_each_row_in_its_place(three_nodes: Nodes, seed: int) -> None:
    three = share(three_nodes, POLICIES if seed % 2 else "{}")
    chance = random.Random(seed)
    inbox: dict[int, list[Any]] = {node.number: [] for node in three}

    def tell() -> None:
        for node in three:
            for change in node.changes():
                for other in three:
                    if other is not node and other.may_have(change):
                        inbox[other.number].append(change)

    for step in range(24):
        node = chance.choice(three)
        key, home = chance.randint(1, 3), chance.choice(["eu", "us", "global", "node:2", None])
        maker = three[
            key - 1
        ]  # rows of one key that were made in two places apart would not know of each other
        for each in three:
            each.clock(1000 * (step + 1) + chance.randint(0, 3))
        query, values = chance.choice(
            [
                ("insert into person values (%s, %s, %s) on conflict do nothing", (key, home, f"p{step}")),
                ("update person set home = %s where id = %s", (home, key)),
                ("update person set name = %s where id = %s", (f"p{step}", key)),
                ("update person set name = %s, home = %s where id = %s", (f"p{step}", home, key)),
                ("update person set visits = visits + 1, home = %s where id = %s", (home, key)),
                ("delete from person where id = %s", (key,)),
            ]
        )
        (maker if query.startswith("insert") else node).run(query, *values)
        tell()
        reader = chance.choice(three)
        waiting = inbox[reader.number]
        picked = [
            waiting.pop(chance.randrange(len(waiting)))
            for _ in range(min(len(waiting), chance.randint(0, 3)))
        ]
        reader.receive(picked)
        tell()
    while any(inbox.values()):
        for node in three:
            waiting, inbox[node.number] = inbox[node.number], []
            chance.shuffle(waiting)
            node.receive(waiting)
            tell()
    for node in three:
        node.retry()
        assert node.parked() == []
    held = {node.number: {row[0]: row for row in node.rows("person")} for node in three}
    for key in {key for rows in held.values() for key in rows}:
        copies = {number: rows[key] for number, rows in held.items() if key in rows}
        assert len(set(copies.values())) == 1, f"row {key}: {copies}"
        home = next(iter(copies.values()))[1]
        assert set(copies) == {node.number for node in three if admitted(node, home)}, f"row {key}: {copies}"
