"""A shared table stays on each node, until its sharing ends everywhere; its partitions are captured."""

from __future__ import annotations

import psycopg
import pytest

from support.fix_nodes import Node, Nodes

TABLE = "create table item (id bigint primary key, name text unique, price numeric)"


def test_a_shared_table_cannot_be_dropped(node: Node) -> None:
    node.run(TABLE)
    node.share("item")
    with pytest.raises(psycopg.Error) as refused:
        node.run("drop table item cascade")
    assert refused.value.diag.sqlstate == "AT001"
    assert refused.value.diag.constraint_name == "table-in-use"
    assert "unshare" in (refused.value.diag.message_hint or "")
    node.run("insert into item values (1, 'still there', 1)")


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
