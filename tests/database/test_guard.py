"""A shared table keeps its shape on each node, until its sharing ends everywhere."""

from __future__ import annotations

import psycopg
import pytest

from support.fix_nodes import Node, Nodes

TABLE = "create table item (id bigint primary key, name text unique, price numeric)"


@pytest.mark.parametrize(
    ("statement", "slug"),
    [
        ("alter table item add column more text", "table-shape"),
        ("alter table item drop column price", "table-shape"),
        ("alter table item rename column price to cost", "table-shape"),
        ("alter table item alter column price type text", "table-shape"),
        ("alter table item drop constraint item_name_key", "table-shape"),
        ("alter table item add unique (price)", "table-shape"),
        ("create unique index on item (lower(name))", "table-shape"),
        ("drop table item cascade", "table-in-use"),
    ],
)
def test_what_would_change_a_shared_table_on_one_node_is_refused(
    node: Node, statement: str, slug: str
) -> None:
    node.run(TABLE)
    node.share("item")
    with pytest.raises(psycopg.Error) as refused:
        node.run(statement)
    assert refused.value.diag.sqlstate == "AT001"
    assert refused.value.diag.constraint_name == slug
    assert "unshare" in (refused.value.diag.message_hint or "")
    node.run("insert into item values (1, 'still there', 1)")


def test_what_does_not_change_the_shape_is_allowed(node: Node) -> None:
    node.run(TABLE)
    node.share("item")
    node.run("create index on item (price)")
    node.run("alter table item alter column price set default 3")
    node.run("alter table item alter column price set not null")
    node.run("insert into item (id, name) values (1, 'x')")
    assert node.rows("item") == [("1", "x", "3")]


def test_after_the_sharing_a_table_can_be_changed_and_shared_again(nodes: Nodes) -> None:
    here, there = nodes
    here.run(TABLE)
    here.share("item")
    here.run("insert into item values (1, 'one', 1)")
    nodes.sync()
    here.run("select atoll.unshare('item')")
    nodes.sync()
    for node in nodes:
        node.run("alter table item add column more text default 'm'")
    here.share("item")
    nodes.sync()
    there.run("update item set more = 'changed' where id = 1")
    nodes.sync()
    assert here.parked() == []
    assert nodes.same("item") == [("1", "one", "1", "changed")]


def test_a_partition_made_later_is_captured_from_its_first_row(nodes: Nodes) -> None:
    here, there = nodes
    here.run(
        "create table reading (day date, id bigint, value float8, primary key (day, id)) partition by range (day)"
    )
    here.share("reading")
    nodes.sync()
    for node in nodes:
        node.run(
            "create table reading_a partition of reading for values from ('2026-01-01') to ('2027-01-01')"
        )
    here.run("insert into reading_a values ('2026-05-01', 1, 0.5)")
    there.run("insert into reading values ('2026-06-01', 2, 1.5)")
    nodes.sync()
    assert nodes.same("reading") == [("2026-05-01", "1", "0.5"), ("2026-06-01", "2", "1.5")]
