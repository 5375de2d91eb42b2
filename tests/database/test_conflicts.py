"""Writes that did not know of each other: what stays, what is listed, what can be put back."""

from __future__ import annotations

import psycopg
import pytest

from support.fix_nodes import Change, Nodes

pytestmark = pytest.mark.slow


@pytest.fixture
def crops(nodes: Nodes) -> Nodes:
    """Two nodes that share a table with one row."""
    a = nodes[0]
    a.run("create table crop (id int primary key, name text, colour text, n int not null default 0)")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop values (1, 'pear', 'green', 0)")
    nodes.sync()
    for place, node in enumerate(nodes):
        node.clock(10**12 + place)
    return nodes


def exchange(nodes: Nodes) -> None:
    nodes.sync()
    assert [node.parked() for node in nodes] == [[]] * len(nodes)
    nodes.same("public.crop")


def test_two_updates_of_one_column_list_the_earlier_on_every_node(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'apple'")
    b.run("update crop set name = 'plum'")
    exchange(crops)
    assert a.value("select name from crop") == "plum"
    for node in crops:
        assert node.conflicts() == [("update", "name", {"id": "1"}, "apple", "plum")]


def test_a_conflict_says_who_lost_to_whom_and_why(crops: Nodes) -> None:
    a, b = crops
    for node in crops:
        node.owner(
            "insert into atoll.node (number, name, region, tier) values (1, 'shop', 'x', 'edge'), (2, 'farm', 'x', 'edge') on conflict do nothing"
        )
    a.run("update crop set name = 'apple'")
    b.run("update crop set name = 'plum'")
    crops.sync()
    found = a.run(
        'select "table", "column", lost_by, won_by, lost_at < won_at, why from atoll.conflicts where "column" = %s',
        "name",
    )
    assert found == [
        ("public.crop", "name", "shop", "farm", True, "a later write, by a node that had not seen this one")
    ]


def test_updates_of_different_columns_do_not_conflict(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'apple'")
    b.run("update crop set colour = 'red'")
    exchange(crops)
    assert a.run("select name, colour from crop") == [("apple", "red")]
    assert [node.conflicts() for node in crops] == [[], []]


def test_columns_with_a_policy_do_not_conflict(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set n = n + 5")
    b.run("update crop set n = n - 2")
    exchange(crops)
    assert a.value("select n from crop") == 3
    assert [node.conflicts() for node in crops] == [[], []]


def test_the_same_value_written_twice_is_no_conflict(crops: Nodes) -> None:
    for node in crops:
        node.run("update crop set name = 'apple'")
    exchange(crops)
    assert [node.conflicts() for node in crops] == [[], []]


def test_writes_that_knew_of_each_other_do_not_conflict_in_whatever_order_they_arrive(
    three_nodes: Nodes,
) -> None:
    a, b, c = three_nodes
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    three_nodes.sync()
    a.run("insert into crop values (1, 'pear')")
    first = a.changes()
    b.receive(first)
    b.run("update crop set name = 'apple'")
    second = b.changes()
    a.receive(second)
    a.run("update crop set name = 'plum'")
    third = a.changes()
    b.receive(third)
    b.run("delete from crop")
    fourth = b.changes()
    a.receive(fourth)
    c.receive([*fourth, *third, *second, *first])
    assert [node.conflicts() for node in three_nodes] == [[], [], []]
    three_nodes.same("public.crop", "1")


def test_a_nodes_own_writes_never_conflict_when_they_come_late_or_again(crops: Nodes) -> None:
    a, b = crops
    for name in ("apple", "plum", "fig"):
        a.run("update crop set name = %s", name)
    a.run("delete from crop")
    a.run("insert into crop values (1, 'new', 'new', 1)")
    a.run("update crop set name = 'newer'")
    changes = a.changes()
    b.receive([*changes, *changes[::-1], *changes])
    assert b.parked() == []
    crops.same("public.crop")
    assert b.conflicts() == []


def test_two_inserts_of_one_key_list_the_columns_that_lost(crops: Nodes) -> None:
    a, b = crops
    a.run("insert into crop values (2, 'fig', 'green', 2)")
    b.run("insert into crop values (2, 'fig', 'blue', 3)")
    exchange(crops)
    assert a.run("select name, colour, n from crop where id = 2") == [("fig", "blue", 5)]
    for node in crops:
        assert node.conflicts() == [("insert", "colour", {"id": "2"}, "green", "blue")]


def test_an_update_before_its_insert_waits_for_the_row(crops: Nodes) -> None:
    a, b = crops
    a.run("insert into crop values (2, 'fig', 'green', 2)")
    a.run("update crop set n = n + 1, name = 'Fig' where id = 2")
    insert, update = a.changes()
    b.receive([update])
    assert b.value("select count(*) from crop where id = 2") == 0
    assert b.parked() == []
    b.receive([insert])
    crops.same("public.crop")
    assert b.conflicts() == []


def test_a_delete_before_its_insert_leaves_no_row(crops: Nodes) -> None:
    a, b = crops
    a.run("insert into crop values (2, 'fig', 'green', 2)")
    a.run("delete from crop where id = 2")
    insert, delete = a.changes()
    b.receive([delete, insert, delete])
    crops.same("public.crop")
    assert (b.value("select count(*) from crop"), b.conflicts()) == (1, [])


def test_an_update_later_than_a_delete_brings_the_whole_row_back(crops: Nodes) -> None:
    a, b = crops
    a.run("delete from crop")
    b.run("update crop set name = 'plum', n = n + 1")
    exchange(crops)
    assert a.run("select * from crop") == [(1, "plum", "green", 1)]
    for node in crops:
        assert [row[:2] for row in node.conflicts()] == [("delete", None)]


def test_a_delete_later_than_an_update_takes_the_row_and_lists_what_it_took(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'plum'")
    b.run("delete from crop")
    exchange(crops)
    assert a.run("select * from crop") == []
    for node in crops:
        kind, column, key, lost, _won = node.conflicts()[0]
        assert (kind, column, key, len(node.conflicts())) == ("delete", None, {"id": "1"}, 1)
        assert "plum" in lost


def test_a_row_made_again_does_not_take_up_what_was_written_to_the_old_one(crops: Nodes) -> None:
    a, b = crops
    a.run("delete from crop")
    a.run("insert into crop values (1, 'new', 'new', 10)")
    b.run("update crop set n = n + 3")
    exchange(crops)
    assert a.run("select * from crop") == [(1, "new", "new", 10)]


def test_revert_writes_a_lost_value_back_everywhere(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'apple'")
    b.run("update crop set name = 'plum'")
    crops.sync()
    a.run("select atoll.revert(id) from atoll.conflicts")
    exchange(crops)
    assert b.value("select name from crop") == "apple"
    assert a.value("select reverted_at is not null from atoll.conflicts")
    assert len(b.conflicts()) == 1


def test_revert_deletes_again_what_an_update_had_brought_back(crops: Nodes) -> None:
    a, b = crops
    a.run("delete from crop")
    b.run("update crop set name = 'plum'")
    crops.sync()
    b.run("select atoll.revert(id) from atoll.conflicts")
    exchange(crops)
    assert a.run("select * from crop") == []


def test_revert_brings_back_a_row_whose_update_lost_to_a_delete(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'plum'")
    b.run("delete from crop")
    crops.sync()
    for node in (b, a):
        assert len(node.conflicts()) == 1
    b.run("select atoll.revert(id) from atoll.conflicts")
    exchange(crops)
    assert a.run("select id, name, colour from crop") == [(1, "plum", "green")]


def test_revert_is_done_once_and_only_while_the_row_is_there(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'apple', colour = 'red'")
    b.run("update crop set name = 'plum', colour = 'blue'")
    crops.sync()
    name, colour = (row[0] for row in a.run('select id from atoll.conflicts order by "column" desc'))
    a.run("select atoll.revert(%s)", name)
    with pytest.raises(psycopg.Error, match="has been reverted already"):
        a.run("select atoll.revert(%s)", name)
    a.run("delete from crop")
    with pytest.raises(psycopg.Error, match="its row is gone"):
        a.run("select atoll.revert(%s)", colour)


def test_a_stamp_from_the_future_is_parked_and_merged_when_its_time_has_come(crops: Nodes) -> None:
    a, b = crops
    a.clock(10**12 + 301_000)
    a.run("update crop set name = 'early'")
    future = a.changes()
    b.receive(future)
    assert [code for code, _ in b.parked()] == ["stamp-in-future"]
    assert b.value("select name from crop") == "pear"
    assert b.retry() == (0, 1)
    b.clock(10**12 + 2_000)
    assert b.retry() == (1, 0)
    crops.same("public.crop")


def test_a_clock_that_is_slow_does_not_lose_to_what_it_has_read(crops: Nodes) -> None:
    a, b = crops
    a.clock(10**12 + 200_000)
    a.run("update crop set name = 'ahead'")
    crops.sync()
    b.clock(1)
    b.run("update crop set name = 'after'")
    b.run("delete from crop where name = 'after'")
    b.run("insert into crop values (1, 'again', null, 1)")
    exchange(crops)
    assert a.run("select name from crop") == [("again",)]
    assert [node.conflicts() for node in crops] == [[], []]


def test_a_change_of_a_table_that_is_not_here_yet_waits(crops: Nodes) -> None:
    a, b = crops
    a.run("create table leaf (id int primary key)")
    a.share("leaf")
    declaration, *_ = a.changes()
    a.run("insert into leaf values (1)")
    rows = a.changes()
    b.receive(rows)
    assert [code for code, _ in b.parked()] == ["table-unknown"]
    b.receive([declaration])
    assert b.retry() == (1, 0)
    assert b.run("select * from leaf") == [(1,)]


def test_a_change_of_a_column_that_is_not_here_yet_waits(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'x'")
    (change,) = a.changes()
    fields = list(change.fields)
    fields[11] = ["id", "taste"]
    b.receive([Change(tuple(fields))])
    assert [code for code, _ in b.parked()] == ["column-unknown"]
    assert b.value("select name from crop") == "pear"


def test_a_change_of_a_later_wire_version_waits(crops: Nodes) -> None:
    a, b = crops
    a.run("update crop set name = 'x'")
    (change,) = a.changes()
    fields = list(change.fields)
    fields[2] = 2
    b.receive([Change(tuple(fields)), change])
    assert [code for code, _ in b.parked()] == ["version-unknown"]
    assert b.value("select name from crop") == "x"


def test_a_change_that_breaks_a_rule_here_is_parked_and_the_others_arrive(crops: Nodes) -> None:
    a, b = crops
    b.run("alter table crop add check (name <> 'bad')")
    a.run("update crop set name = 'bad'")
    a.run("insert into crop values (2, 'good', 'x', 1)")
    crops.sync()
    assert b.value("select count(*) from crop") == 2
    assert [code for code, _ in b.parked()] == ["23514"] or "crop_name_check" in b.parked()[0][0]
    b.run("alter table crop drop constraint crop_name_check")
    assert b.retry() == (1, 0)
    crops.same("public.crop")


def test_parked_changes_are_retried_later_and_later(crops: Nodes) -> None:
    a, b = crops
    a.clock(10**12 + 900_000)
    a.run("update crop set name = 'early'")
    b.receive(a.changes())
    for _ in range(5):
        b.retry()
    attempts, wait = b.owner("select attempts, retry_at - clock_timestamp() from atoll.parked")[0]
    assert attempts == 6
    assert 10 < wait.total_seconds() <= 300
    assert b.apply.execute("select * from atoll.retry_parked()").fetchall() == [(0, 1)]


def test_an_orphan_of_a_foreign_key_is_merged(crops: Nodes) -> None:
    a, b = crops
    a.run("create table leaf (id int primary key, crop int references crop)")
    a.share("leaf")
    crops.sync()
    a.run("insert into crop values (7, 'g', 'g', 1)")
    a.run("insert into leaf values (1, 7)")
    parent, child = a.changes()
    b.receive([child])
    assert (b.run("select * from leaf"), b.parked()) == ([(1, 7)], [])
    b.receive([parent])
    crops.same("public.leaf")
