"""Rows that claim the same unique key on different nodes: one stays, the others wait and come back."""

from __future__ import annotations

import itertools

import pytest

from support.fix_nodes import Change, Nodes

pytestmark = pytest.mark.slow


@pytest.fixture
def members(three_nodes: Nodes) -> Nodes:
    a, *_ = three_nodes
    a.run("create table member (id int primary key, email text unique, slot int unique, nick text)")
    a.share("member")
    three_nodes.sync()
    for place, node in enumerate(three_nodes):
        node.clock(10**12 + place)
    return three_nodes


def settle(nodes: Nodes) -> list[tuple[object, ...]]:
    nodes.sync()
    assert [node.parked() for node in nodes] == [[]] * len(nodes)
    return nodes.same("public.member", "1")


def test_the_later_claim_stays_and_the_other_is_kept_and_listed(members: Nodes) -> None:
    a, b, _ = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    assert settle(members) == [("2", "x", "2", "second")]
    for node in members:
        kind, column, key, lost, won = node.conflicts("public.member")[0]
        assert (kind, column, key) == ("unique", None, {"id": "1"})
        assert '"first"' in lost
        assert won == '{"id": "2"}'
        assert len(node.conflicts()) == 1


def test_a_row_comes_back_when_the_key_is_free_by_a_delete(members: Nodes) -> None:
    a, b, _ = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    settle(members)
    a.run("delete from member where id = 2")
    assert a.rows("member", "1") == [("1", "x", "1", "first")]
    assert settle(members) == [("1", "x", "1", "first")]


@pytest.mark.parametrize("where", ["id = 2", "id > 0"])
def test_a_row_comes_back_when_the_key_is_free_by_an_update(members: Nodes, where: str) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second'), (3, 'z', 3, 'third')")
    settle(members)
    c.run(f"update member set email = 'y' || id where {where}")
    assert c.value("select email from member where id = 1") == "x"
    assert len(settle(members)) == 3


def test_a_row_comes_back_when_the_key_is_free_by_a_move(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    settle(members)
    c.run("update member set id = 9 where id = 2")  # the same claim under another key: nothing is free
    assert settle(members) == [("9", "x", "2", "second")]
    c.run("update member set id = 10, email = 'y', slot = 10 where id = 9")
    assert settle(members) == [("1", "x", "1", "first"), ("10", "y", "10", "second")]


def test_truncate_empties_the_table_of_rows_set_aside_too(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    settle(members)
    c.run("truncate member")
    assert settle(members) == []


def test_a_chain_of_three_is_settled_the_same_in_every_order(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    c.run(
        "insert into member values (3, 'y', 2, 'third')"
    )  # pushes the second out, which pushed the first out
    news: list[Change] = [change for node in members for change in node.changes()]
    for node, order in zip(members, [(0, 1, 2), (2, 1, 0), (1, 2, 0)], strict=True):
        node.receive([news[place] for place in order])
    assert members.same("public.member", "1") == [("1", "x", "1", "first"), ("3", "y", "2", "third")]
    c.run("delete from member where id = 3")
    assert settle(members) == [("2", "x", "2", "second")]
    c.run("delete from member where id = 2")
    assert settle(members) == [("1", "x", "1", "first")]


def test_an_update_that_takes_a_key_wins_over_an_older_claim_in_every_order(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'a'), (2, 'y', 2, 'b'), (3, 'z', 3, 'c')")
    settle(members)
    a.clock(10**12 + 10)
    b.clock(10**12 + 20)
    c.clock(10**12 + 30)
    a.run("update member set email = 'w' where id = 1")
    b.run("update member set email = 'w' where id = 2")
    c.run("update member set email = 'w' where id = 3")
    news = [change for node in members for change in node.changes()]
    for node, order in zip(members, [(2, 1, 0), (0, 2, 1), (1, 0, 2)], strict=True):
        node.receive([news[place] for place in order])
    assert members.same("public.member", "1") == [("3", "w", "3", "c")]
    b.run("update member set email = null where id = 3")
    assert [row[:2] for row in settle(members)] == [("2", "w"), ("3", None)]


def test_values_that_rows_exchange_end_exchanged(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'a'), (2, 'y', 2, 'b')")
    settle(members)
    with b.app.transaction():
        b.run("update member set email = 'tmp' where id = 1")
        b.run("update member set email = 'x' where id = 2")
        b.run("update member set email = 'y' where id = 1")
    changes = b.changes()
    for order in itertools.permutations(changes):
        a.receive(order)
    c.receive(changes)
    assert members.same("public.member", "1") == [("1", "y", "1", "a"), ("2", "x", "2", "b")]


def test_a_row_set_aside_can_be_deleted_and_written_elsewhere(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    news = a.changes()
    b.receive(news)
    c.receive(news)
    a.clock(10**12 + 50)
    a.run("update member set email = 'free', nick = 'moved' where id = 1")
    assert settle(members) == [("1", "free", "1", "moved"), ("2", "x", "2", "second")]


def test_a_key_set_aside_may_be_inserted_again(members: Nodes) -> None:
    a, b, c = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    settle(members)
    c.run("insert into member values (1, 'other', 7, 'again')")
    assert settle(members) == [("1", "other", "7", "again"), ("2", "x", "2", "second")]


def test_revert_of_a_unique_conflict_needs_the_key_to_be_free(members: Nodes) -> None:
    a, b, _ = members
    a.run("insert into member values (1, 'x', 1, 'first')")
    b.run("insert into member values (2, 'x', 2, 'second')")
    settle(members)
    with pytest.raises(Exception, match="member_email_key"):
        a.run("select atoll.revert(id) from atoll.conflicts")
    assert a.value("select reverted_at is null from atoll.conflicts")
    a.run("update member set email = 'y' where id = 2")
    a.run("select atoll.revert(id) from atoll.conflicts")
    assert settle(members) == [("1", "x", "1", "first"), ("2", "y", "2", "second")]


@pytest.mark.parametrize(
    "index",
    [
        "create unique index u on seat (lower(name))",
        "create unique index u on seat (name, place) nulls not distinct",
        "create unique index u on seat (place) where name is not null",
        "create unique index u on seat (name desc) include (place)",
        "create unique index u on seat ((place + 1), name)",
    ],
)
def test_every_shape_of_unique_index_is_settled(nodes: Nodes, index: str) -> None:
    a, b = nodes
    a.run("create table seat (id int primary key, name text, place int)")
    a.run(index)
    a.share("seat")
    nodes.sync()
    a.clock(10**12)
    b.clock(10**12 + 1)
    a.run("insert into seat values (1, 'A', 1), (2, null, null), (3, 'c', 3)")
    b.run("insert into seat values (4, 'A', 1), (5, null, null), (6, 'd', 4)")
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    rows = nodes.same("public.seat", "1")
    assert ("1", "A", "1") not in rows
    assert {("3", "c", "3"), ("4", "A", "1"), ("6", "d", "4")} <= set(rows)
    b.run("delete from seat where id = 4")
    nodes.sync()
    assert ("1", "A", "1") in nodes.same("public.seat", "1")


def test_a_unique_index_on_partitions_is_settled(nodes: Nodes) -> None:
    a, b = nodes
    a.run(
        "create table seat (id int, part int, name text, primary key (id, part), unique (name, part)) partition by list (part)"
    )
    a.run("create table seat_1 partition of seat for values in (1)")
    a.run("create table seat_2 partition of seat for values in (2)")
    a.share("seat")
    nodes.sync()
    a.clock(10**12)
    b.clock(10**12 + 1)
    a.run("insert into seat values (1, 1, 'A'), (1, 2, 'A')")
    b.run("insert into seat values (2, 1, 'A'), (2, 2, 'A')")
    nodes.sync()
    assert nodes.same("public.seat") == [("2", "1", "A"), ("2", "2", "A")]
    a.run("truncate seat_1")
    nodes.sync()
    assert nodes.same("public.seat") == [("2", "2", "A")]
    a.run("delete from seat")
    nodes.sync()
    assert nodes.same("public.seat") == [("1", "2", "A")]
