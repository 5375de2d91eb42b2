"""Copies of everything are written stretch by stretch, and go on where they were."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from atoll.sql import query
from support.fix_nodes import Node, Nodes, open_node

pytestmark = pytest.mark.slow

ROWS = 12_000


@pytest.fixture
def full(nodes: Nodes) -> Nodes:
    """The first of two nodes has rows of which the second has none yet; some were written twice, some deleted."""
    one, two = nodes
    one.run("create table item (id integer primary key, word text, n integer)")
    one.run("create table seen (id integer primary key, word text)")
    one.share("item")
    one.share("seen", kind="append")
    nodes.sync()
    one.run("insert into item select n, 'word ' || n, n from generate_series(1, %s) n", ROWS)
    one.run("insert into seen select n, 'fact ' || n from generate_series(1, 6000) n")
    one.run("update item set n = 0 where id % 3 = 0")
    one.run("delete from item where id % 7 = 0")
    one.changes()
    one.owner("insert into atoll.progress (peer) values (%s) on conflict do nothing", two.number)
    return nodes


def step(node: Node, peer: Node) -> bool:
    return bool(node.owner("select atoll.seed_step(%s)", peer.number)[0][0])


def copied(node: Node) -> tuple[Any, ...]:
    return node.owner("select tbl, rows, cardinality(done), ended is not null from atoll.copying")[0]


def test_a_copy_goes_on_where_it_was(full: Nodes) -> None:
    one, two = full
    one.owner("select atoll.owe_seed(%s, true)", two.number)
    assert step(one, two)
    while copied(one)[0] != "public.item":
        assert step(one, two)
    before = copied(one)
    one.app.close()
    one.apply.close()
    full[0] = one = open_node(one.database, one.number)
    one.told = 0
    one.owner("select atoll.owe_seed(%s, true)", two.number)
    assert copied(one) == before, "who asks for the first copy again means this one"
    one.run("update item set word = 'written meanwhile' where id in (1, %s)", ROWS)
    while step(one, two):
        assert copied(one)[1] >= before[1]
    assert copied(one)[3]
    copy = [
        change for change in one.changes() if change.target == two.number and change.tbl.startswith("public")
    ]
    assert sum(change.n for change in copy) == ROWS + 6000, "each row once, deleted ones too"
    assert max(change.n for change in copy) <= 5000
    two.receive(copy)
    one.told = 0
    full.sync()
    assert len(full.same("item")) == ROWS - ROWS // 7
    assert one.rows("seen") == two.rows("seen")
    assert step(one, two) is False


def test_a_copy_for_what_went_missing_begins_anew(full: Nodes) -> None:
    one, two = full
    one.owner("select atoll.owe_seed(%s)", two.number)
    for _ in range(7):
        assert step(one, two)
    assert copied(one)[1] > 0
    one.owner("select atoll.owe_seed(%s)", two.number)
    assert step(one, two)
    assert copied(one)[2] == 1
    while step(one, two):
        pass
    one.owner("select atoll.owe_seed(%s, true)", two.number)
    assert step(one, two), "it is not on its way any more: who asks has no slot"


def test_wide_rows_make_short_stretches(nodes: Nodes) -> None:
    one, two = nodes
    one.run("create table picture (id integer primary key, body text)")
    one.share("picture")
    nodes.sync()
    one.run(
        "insert into picture select n, (select string_agg(md5((n * i)::text), '') from generate_series(1, 6000) i)"
        " from generate_series(1, 160) n"
    )
    one.owner("analyze picture")
    one.changes()
    one.owner("insert into atoll.progress (peer) values (%s) on conflict do nothing", two.number)
    one.owner("select atoll.owe_seed(%s)", two.number)
    rows = []
    while step(one, two):
        rows.append(copied(one)[1])
    assert max(b - a for a, b in itertools.pairwise(rows)) < 100
    copy = one.changes()
    two.receive(copy)
    assert one.rows("picture") == two.rows("picture")


@pytest.mark.parametrize(
    ("two", "three", "sources"),
    [
        ("side", "side", [2]),
        ("side", "up", [2]),
        ("kin", "up", [3, 2]),
        ("kin", None, [2]),
        (None, "up", [3]),
    ],
)
def test_a_copy_comes_from_whoever_may_have_the_same(
    three_nodes: Nodes, two: str | None, three: str | None, sources: list[int]
) -> None:
    """Node 2 is of the same region, node 3 is not."""
    one = three_nodes[0]
    for number, role in ((2, two), (3, three)):
        if role is not None:
            one.owner("insert into atoll.neighbour (number, role) values (%s, %s)", number, role)
    assert one.owner(query("fleet", "sources"), [2, 3]) == [(number,) for number in sources]


def test_what_is_parked_here_goes_along(three_nodes: Nodes) -> None:
    """Who gets the copy has heard what this node has heard, and nobody else will send it."""
    one, two, three = three_nodes
    for each in three_nodes:
        each.clock(10**12)
    one.run("create table item (id integer primary key, n integer, place text)")
    one.run("select atoll.share('item', scope_column => 'place')")
    three_nodes.sync()
    one.run("insert into item values (1, 1, 'global')")
    three_nodes.sync()
    for ahead in (one, three):
        ahead.clock(10**12 + 900_000)
    one.run("insert into item values (2, 500, 'global')")
    one.run("insert into item values (3, 500, %s)", f"node:{two.number}")
    one.run("update item set n = 400 where id = 1")
    two.receive(one.changes())
    assert len(two.parked()) == 3
    two.owner("insert into atoll.progress (peer) values (%s) on conflict do nothing", three.number)
    two.owner("select atoll.owe_seed(%s)", three.number)
    while step(two, three):
        pass
    three.receive([change for change in two.changes() if change.target in (None, three.number)])
    assert three.rows("item") == [("1", "400", "global"), ("2", "500", "global")]
    assert not three.parked()
    two.clock(10**12 + 900_000)
    assert two.retry() == (3, 0)
    assert two.rows("item")[:2] == three.rows("item")
    assert len(two.rows("item")) == 3
