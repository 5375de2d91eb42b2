"""Orphans: children whose parent was deleted elsewhere are found on every node, and told apart."""

from __future__ import annotations

from typing import Any

import pytest

from support.fix_nodes import Nodes
from support.orphans import DONE, LINE, OPEN, PARENT, beat, orphan, share, tend, walk

pytestmark = pytest.mark.slow


def test_a_child_whose_parent_was_deleted_elsewhere_is_found_on_every_node(nodes: Nodes) -> None:
    share(nodes, LINE)
    orphan(nodes)
    for node in nodes:
        walk(node)
        assert node.owner(OPEN) == [("{1}", "{7}", "deleted")]
    nodes[0].run("insert into customer values (7, 'Ann again')")
    nodes.sync()
    for node in nodes:
        node.owner("select atoll.review_orphans()")
        assert node.owner(OPEN) == [], "what has a parent again is no orphan"


def test_nothing_is_done_before_everybody_was_heard_nor_without_a_rule(three_nodes: Nodes) -> None:
    nodes = three_nodes
    share(nodes, LINE)
    orphan(nodes)
    tend(nodes)
    assert nodes.same("line", "1") == [("1", "7")], "reporting is all that is done without a rule"
    nodes[0].run("select atoll.on_orphans('line', 'remove')")
    nodes.sync()
    one = nodes[0]
    one.owner("delete from atoll.orphan")
    walk(one)
    assert one.owner("select atoll.handle_orphans()") == [(0,)], "somebody may have written it meanwhile"
    beat(nodes)
    assert one.owner("select atoll.handle_orphans()") == [(1,)]
    nodes.sync()
    assert nodes.same("line", "1") == []
    assert one.owner(DONE) == [("{1}", "removed")]


# What counts as an orphan


@pytest.mark.parametrize(
    ("parent", "line", "rows", "found"),
    [
        pytest.param(
            "shop integer, id integer, name text, primary key (id, shop)",
            "id integer primary key, s integer, c integer, foreign key (s, c) references customer (shop, id)",
            ("(1, 7, 'Ann'), (2, 7, 'Bea')", "(1, 1, 7), (2, 2, 7), (3, null, 7), (4, 1, null)"),
            [("{1}", "{7,1}", "deleted")],
            id="composite, and a null names no parent",
        ),
        pytest.param(
            PARENT + ", code text unique",
            "id integer, part text, code text references customer (code), primary key (part, id)",
            ("(7, 'Ann', 'A'), (8, 'Bea', 'B')", "(1, 'x,\"y', 'A'), (2, 'z', 'B')"),
            [('{"x,\\"y",1}', "{A}", "missing")],
            id="a unique constraint that is not the key",
        ),
        pytest.param(
            "id bigint primary key, name text",
            "id integer primary key, a integer references customer deferrable initially deferred,"
            " b bigint constraint other references customer",
            ("(7, 'Ann'), (8, 'Bea')", "(1, 7, 7), (2, 7, 8), (3, 8, null)"),
            [("{1}", "{7}", "deleted")] * 2 + [("{2}", "{7}", "deleted")],
            id="several, deferrable, of another type",
        ),
        pytest.param(
            PARENT + ") partition by range (id",
            "id integer primary key, c integer references customer) partition by hash (id",
            ("(7, 'Ann'), (8, 'Bea')", "(1, 7), (2, 8), (3, 7)"),
            [("{1}", "{7}", "deleted"), ("{3}", "{7}", "deleted")],
            id="partitioned",
        ),
    ],
)
def test_references_of_any_shape(
    nodes: Nodes, parent: str, line: str, rows: tuple[str, str], found: list[Any]
) -> None:
    one, two = nodes
    one.run(f"create table customer ({parent})")
    if "partition" in parent:
        one.run("create table customer_1 partition of customer for values from (1) to (100)")
    one.share("customer")
    one.run(f"create table line ({line})")
    if "partition" in parent:
        for n in (0, 1):
            one.run(f"create table line_{n} partition of line for values with (modulus 2, remainder {n})")
    one.share("line")
    nodes.sync()
    one.run(f"insert into customer values {rows[0]}")
    nodes.sync()
    one.run("delete from customer where name = 'Ann'")
    two.run(f"insert into line values {rows[1]}")
    nodes.sync()
    for node in nodes:
        assert walk(node, most=1) >= 2
        assert sorted(node.owner(OPEN)) == sorted(found)


def test_a_row_may_name_itself_and_its_table(nodes: Nodes) -> None:
    nodes[0].run("create table part (id integer primary key, whole integer references part)")
    nodes[0].share("part")
    nodes.sync()
    nodes[0].run("insert into part values (1, 1), (2, 1), (3, null)")
    nodes.sync()
    nodes[0].run("delete from part where id = 2")
    nodes[1].run("insert into part values (4, 2), (5, 3)")
    nodes.sync()
    for node in nodes:
        walk(node, "public.part")
        assert node.owner(OPEN) == [("{4}", "{2}", "deleted")]


def test_a_parent_that_a_unique_key_keeps_out_is_not_gone(three_nodes: Nodes) -> None:
    one, two, _ = three_nodes
    share(three_nodes, LINE, parent="id integer primary key, name text unique")
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    one.run("insert into customer values (7, 'Ann')")
    one.run("insert into line values (1, 7)")
    two.run("insert into customer values (9, 'Ann')")
    three_nodes.sync()
    tend(three_nodes)
    for node in three_nodes:
        assert node.owner(OPEN) == [("{1}", "{7}", "set aside")]
    one.run("update customer set name = 'Anne' where id = 9")
    three_nodes.sync()
    tend(three_nodes)
    assert three_nodes.same("line", "1") == [("1", "7")]
    assert one.owner(OPEN) == []


@pytest.mark.parametrize("by_row", [False, True])
def test_a_parent_that_may_not_be_here_is_out_of_scope(three_nodes: Nodes, by_row: bool) -> None:
    one, us = three_nodes[0], three_nodes[2]
    one.run("create table customer (id integer primary key, home text)")
    if by_row:
        one.run("select atoll.share('customer', scope_column => 'home')")
    else:
        one.run("select atoll.share('customer', scope => 'region')")
    one.run("create table line (id integer primary key, customer integer references customer)")
    one.share("line")
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    one.run("insert into customer values (7, 'eu'), (8, 'eu'), (9, 'eu')")
    three_nodes.sync()
    one.run("insert into line values (1, 7)")
    one.run("delete from customer where id = 8")
    three_nodes[1].run("insert into line values (2, 8)")
    if by_row:
        one.run("insert into line values (3, 9)")
        us.run("insert into customer values (20, 'us')")
        us.run("insert into line values (4, 20)")
        three_nodes.sync()
        us.run("update customer set home = 'global' where id = 20")
        three_nodes.sync()
        us.run("update customer set home = 'us' where id = 20")
    three_nodes.sync()
    walk(us)
    seen = {key: why for key, _, why in us.owner(OPEN)}
    assert seen == {"{1}": "out of scope", "{2}": "out of scope"} | (
        {"{3}": "out of scope"} if by_row else {}
    )
    tend(three_nodes)
    assert {key: why for key, _, why in one.owner(OPEN)} == ({"{4}": "out of scope"} if by_row else {})
    left = ["1", "3", "4"] if by_row else ["1"]
    assert [row[0] for row in three_nodes.same("line", "1")] == left, "who has the parent judges"


def test_a_parked_parent_is_waited_for(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    share(three_nodes, LINE)
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    orphan(three_nodes)
    two.clock(1_000_000_000_000_000)
    two.run("insert into customer values (77, 'from the future')")
    two.app.execute("reset atoll.clock_stands_at_ms")
    two.apply.execute("reset atoll.clock_stands_at_ms")
    three_nodes.sync()
    assert one.parked()
    walk(one)
    beat(three_nodes)
    assert one.owner("select atoll.handle_orphans()") == [(0,)]
    assert three.rows("line", "1") == [("1", "7")]


# What becomes of them
