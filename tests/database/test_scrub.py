"""Scrubbing: what was written past the triggers shows in the hashes, and single rows are mended."""

from __future__ import annotations

import random
from typing import Any

import pytest

from support.fix_nodes import Node, Nodes

pytestmark = pytest.mark.slow

GLOBAL = ["global"]
MAKE = """
create table stock (
    id integer primary key, name text, qty integer not null default 0, tags jsonb not null default '[]', seen timestamptz
)
"""
PAST = "set local session_replication_role = replica"


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    nodes[0].run(MAKE)
    nodes[0].share("stock", '{"qty": "counter", "tags": "set"}')
    nodes.sync()
    nodes[0].run("insert into stock select g, 'n' || g, g from generate_series(1, 60) g")
    nodes.sync()
    nodes[1].run("update stock set qty = qty + 1, name = 'even' where id % 2 = 0")
    nodes[0].run("delete from stock where id % 10 = 0")
    nodes[0].run("insert into stock values (10, 'again', 3)")
    nodes.sync()
    return nodes


def past(node: Node, statement: str) -> None:
    """A write that no trigger sees."""
    with node.apply.transaction():
        node.apply.execute(PAST)
        node.apply.execute(statement)  # type: ignore[call-overload]


def slices(node: Node, table: str, most: int = 16) -> list[tuple[Any, ...]]:
    """A table's stretches from beginning to end."""
    after, found = "", []
    while True:
        upto = node.owner("select atoll.slice_end(%s, %s, %s)", table, after, most)[0][0]
        found.append(
            (
                after,
                upto,
                *node.owner("select * from atoll.slice(%s, %s, %s, %s)", table, after, upto, GLOBAL)[0],
            )
        )
        if upto is None:
            return found
        after = upto


def keys(node: Node, *wanted: str, table: str = "public.stock") -> dict[str, tuple[Any, ...]]:
    rows = node.owner("select * from atoll.slice_keys(%s, %s, %s)", table, list(wanted), GLOBAL)
    return {row[0]: row[1:] for row in rows}


def mend(node: Node, like: Node, key: str, how: str, table: str = "public.stock") -> bool:
    """What a node does when it was decided that a row should be like another's."""
    mine = keys(node, key, table=table).get(key, (None, None))
    state = like.owner("select state from atoll.slice_states(%s, %s, %s)", table, [key], GLOBAL)[0][0]
    from psycopg.types.json import Jsonb

    asked = (table, key, how, like.number, Jsonb(state), mine[0], mine[1], "a test says so")
    return bool(node.owner("select atoll.repair_row(%s, %s, %s, %s, %s, %s, %s, %s)", *asked)[0][0])


def test_nodes_that_have_converged_have_the_same_stretches(two: Nodes) -> None:
    one, other = (slices(node, "public.stock") for node in two)
    assert one == other
    assert len(one) > 2
    assert sum(found[2] for found in one) == 60, "deleted rows count: what is known of them is compared too"
    assert [found[1] for found in one][-1] is None


def test_a_stretch_ends_where_it_ended_before_until_it_has_grown(two: Nodes) -> None:
    one = two[0]
    first = slices(one, "public.stock")[0]
    n, stamps, vals, shape = first[5], first[6], first[7], first[9]
    one.owner(
        "select atoll.note_slice('public.stock', '', %s, %s, %s, %s, %s)", first[1], shape, n, stamps, vals
    )
    one.run("delete from stock where id < 3")
    assert slices(one, "public.stock")[0][1] == first[1]
    one.run("insert into stock select -g, 'low' from generate_series(1, 40) g")
    one.owner("update atoll.slice set n = 56")
    assert slices(one, "public.stock")[0][1] != first[1]


@pytest.mark.parametrize(
    ("statement", "stamps_move"),
    [
        ("update public.stock set name = 'bad' where id = 7", False),
        ("update public.stock set qty = 1000 where id = 8", False),
        ("update public.stock set seen = now() where id = 7", False),
        ("delete from public.stock where id = 7", False),
        ('update atoll_side."public.stock" set atoll_birth = atoll_birth + 1 where id = 7', True),
        ('delete from atoll_side."public.stock" where id = 7', True),
        ("insert into public.stock values (999, 'nobody')", True),
        ("insert into public.stock values (20, 'was deleted')", False),
    ],
)
def test_whatever_is_written_past_the_triggers_shows(two: Nodes, statement: str, stamps_move: bool) -> None:
    before = slices(two[0], "public.stock")
    past(two[0], statement)
    after = slices(two[0], "public.stock")
    assert before != after
    assert ([found[3] for found in before] != [found[3] for found in after]) == stamps_move


def test_a_write_past_the_triggers_is_told_from_an_ordinary_one(two: Nodes) -> None:
    one = two[0]
    for after, upto, *_, n, stamps, vals, _, shape in slices(one, "public.stock"):
        one.owner(
            "select atoll.note_slice('public.stock', %s, %s, %s, %s, %s, %s)",
            after,
            upto,
            shape,
            n,
            stamps,
            vals,
        )
    altered = "select * from atoll.altered('public.stock', array['{7}', '{8}', '{55}'])"
    assert one.owner(altered) == []
    one.run("update stock set name = 'ordinary' where id = 55")
    assert one.owner(altered) == []
    past(one, "update public.stock set name = 'bad' where id = 7")
    assert one.owner(altered) == [("{7}",), ("{8}",)]


@pytest.mark.parametrize(
    ("statement", "how"),
    [
        ("update public.stock set name = 'aaa' where id = 7", "value"),
        ("update public.stock set name = 'zzz' where id = 7", "value"),
        ("update public.stock set qty = 1000 where id = 8", "value"),
        ("update public.stock set tags = '[1]' where id = 8", "value"),
        ("delete from public.stock where id = 7", "join"),
        ('delete from atoll_side."public.stock" where id = 7', "join"),
        ("delete from public.stock where id = 8", "join"),
        ('delete from public.stock where id = 8; delete from atoll_side."public.stock" where id = 8', "join"),
        ("insert into public.stock values (20, 'was deleted')", "value"),
    ],
)
def test_a_row_is_made_like_another_nodes(two: Nodes, statement: str, how: str) -> None:
    one, other = two
    was = one.rows("stock")
    for part in statement.split(";"):
        past(one, part)
    key = next(k for k in ("{7}", "{8}", "{20}") if k[1:-1] in statement)
    assert mend(one, other, key, how)
    assert one.rows("stock") == was
    assert slices(one, "public.stock") == slices(other, "public.stock")
    assert one.owner("select tbl, key, kind, like_node from atoll.repair") == [("public.stock", key, how, 2)]
    assert one.changes() == [], "nobody is told"
    two.same("stock")


def test_a_row_that_has_changed_since_is_left_alone(two: Nodes) -> None:
    one, other = two
    past(one, "update public.stock set name = 'bad' where id = 7")
    state = "select atoll.repair_row('public.stock', '{7}', 'value', 2, '{}', 'x', 'y', 'outdated')"
    assert one.owner(state) == [(False,)]
    assert other.owner("select count(*) from atoll.repair") == [(0,)]


def test_a_row_that_nobody_knows_counts_as_written_from_now_on(two: Nodes) -> None:
    one, other = two
    past(one, "insert into public.stock values (999, 'nobody', 5)")
    stamps, vals, _, odd, _ = keys(one, "{999}")["{999}"]
    assert (stamps, odd) == ("none", "unrecorded")
    assert one.owner("select atoll.adopt_row('public.stock', '{999}', %s, %s, 'found')", stamps, vals) == [
        (True,)
    ]
    two.sync()
    assert ("999", "nobody", "5", "[]", None) in other.rows("stock")
    two.same("stock")
    assert slices(one, "public.stock") == slices(other, "public.stock")


def test_facts_are_compared_and_put_back(nodes: Nodes) -> None:
    one, other = nodes
    one.run("create table fact (node integer, n integer, note text, primary key (node, n))")
    one.share("fact", kind="append")
    nodes.sync()
    one.run("insert into fact select g % 3, g, 'fact' from generate_series(1, 50) g")
    nodes.sync()
    assert slices(one, "public.fact") == slices(other, "public.fact")
    past(one, "delete from public.fact where n = 4")
    past(one, "update public.fact set note = 'zzz' where n = 5")
    assert slices(one, "public.fact") != slices(other, "public.fact")
    assert mend(one, other, "{1,4}", "join", "public.fact")
    assert mend(one, other, "{2,5}", "value", "public.fact")
    assert slices(one, "public.fact") == slices(other, "public.fact")
    assert nodes.same("fact")


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("text", ["'b'", "'A'", "'a{,\"'", "''", "'null'", "'é'"]),
        ("uuid", ["gen_random_uuid()" for _ in range(6)]),
        ("numeric", ["1.10", "-3", "0", "1e20", "2", "7"]),
        ("timestamptz", [f"now() + '{n} h'" for n in range(6)]),
    ],
)
def test_keys_of_other_types_are_walked_in_order(nodes: Nodes, type_: str, values: list[str]) -> None:
    one, other = nodes
    one.run(f"create table odd (a {type_}, b smallint, primary key (a, b))")
    one.share("odd")
    nodes.sync()
    for n, value in enumerate(values):
        one.run(f"insert into odd values ({value}, {n})")
    nodes.sync()
    found = slices(one, "public.odd", 2)
    assert found == slices(other, "public.odd", 2)
    assert sum(part[2] for part in found) == 6
    rows = one.owner("select key from atoll.slice_rows('public.odd', '', null, %s, 100)", GLOBAL)
    assert len(keys(other, *(row[0] for row in rows), table="public.odd")) == 6


def test_histories_leave_equal_stretches(lasting_nodes: Nodes) -> None:
    """However rows came to be what they are: no difference is seen where none is."""
    one, *_ = lasting_nodes
    one.run(
        "create table walk (id integer primary key, u integer unique, c integer default 0, body text, d jsonb default '{}')"
    )
    one.share("walk", '{"c": "counter", "d": "document"}')
    one.run("create table plain (id integer primary key, u integer unique, body text)")
    one.share("plain")
    lasting_nodes.sync()
    draw = random.Random(7)
    for _ in range(60):
        for node in lasting_nodes:
            key, u = draw.randrange(12), draw.randrange(20)
            for table, extra in (("walk", ", c = c + 1, d = d || '{\"k\": 1}'"), ("plain", "")):
                statement = draw.choice(
                    [
                        f"insert into {table} (id, u) values ({key}, {u}) on conflict do nothing",
                        f"update {table} set body = 'b{u}'{extra} where id = {key}",
                        f"update {table} set u = null where id = {key}",
                        f"delete from {table} where id = {key}",
                    ]
                )
                node.run(statement)
        if draw.random() < 0.4:
            lasting_nodes.sync()
    lasting_nodes.sync()
    for table in ("walk", "plain"):
        found = [slices(node, f"public.{table}", 5) for node in lasting_nodes]
        assert found[0] == found[1] == found[2]
        assert sum(part[8] for part in found[0]) == 0, "nothing is odd"


def test_deletions_that_nodes_may_forget_are_no_difference(two: Nodes) -> None:
    one, other = two
    rows = sum(found[2] for found in slices(one, "public.stock"))
    for node in two:
        node.owner("update atoll.setting set value = '1 ms' where name = 'tombstone_retention'")
    other.owner('delete from atoll_side."public.stock" where atoll_death is not null and id <> 10')
    whole = "select * from atoll.slice('public.stock', '', null, '{global}')"
    assert one.owner(whole) == other.owner(whole)
    assert one.owner(whole)[0][0] == rows - 5
    assert keys(one, "{20}")["{20}"][3] == "fading"


def test_what_is_compared_is_what_both_may_have(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    one.run("create table person (id integer primary key, home text, name text)")
    one.run("select atoll.share('person', scope_column => 'home')")
    three_nodes.sync()
    one.run("insert into person values (1, 'eu', 'a'), (2, 'us', 'b'), (3, null, 'c'), (4, 'local', 'd')")
    three_nodes.sync()
    one.run("update person set home = 'us' where id = 1")
    three.run("delete from person where id = 2")
    three_nodes.sync()
    pairs = [(one, two), (one, three), (two, three)]
    for a, b in pairs:
        (shared,) = a.owner("select atoll.scopes_shared_with(%s)", b.number)[0]
        (back,) = b.owner("select atoll.scopes_shared_with(%s)", a.number)[0]
        assert sorted(shared) == sorted(back)
        mine, theirs = (
            node.owner("select n, stamps, vals, odd from atoll.slice('public.person', '', null, %s)", shared)
            for node in (a, b)
        )
        assert mine == theirs
        receipts = {node.value("select atoll.receipt('public.person', %s)", shared) for node in (a, b)}
        assert len(receipts) == 1
    assert one.value("select atoll.receipt('public.person')") != three.value(
        "select atoll.receipt('public.person')"
    )


def test_a_receipt_of_all_scopes_is_the_receipt(two: Nodes) -> None:
    all_of_it = two[0].value("select atoll.receipt('public.stock')")
    assert two[1].value("select atoll.receipt('public.stock', array['global'])") == all_of_it
    assert two[1].value("select atoll.receipt('public.stock', array['region:eu'])").startswith("0 rows ")
