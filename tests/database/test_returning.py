"""A member that was away for too long takes over what the others have, and keeps what it wrote meanwhile."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb

from atoll.sql import query
from support.fix_nodes import REGIONS, Node, Nodes

pytestmark = pytest.mark.slow

ABSENT = "select number from atoll.absence where since > coalesce(returned_at, '-infinity')"
SIDE = 'select count(*) from atoll_side."public.item"'
BURIED = 'select id from atoll_side."public.item" where atoll_death > greatest(atoll_birth, word, qty)'


@pytest.fixture
def three(three_nodes: Nodes) -> Nodes:
    one = three_nodes[0]
    one.run("create table item (id integer primary key, word text, qty integer not null default 0)")
    one.share("item", '{"qty": "counter"}')
    three_nodes.sync()
    for node in three_nodes:
        node.owner("update atoll.setting set value = '0 s' where name in ('tombstone_retention')")
    one.run("insert into item select n, 'x', n from generate_series(1, 40) n")
    three_nodes.sync()
    for _ in range(3):
        beat(three_nodes)
    return three_nodes


def beat(nodes: Nodes) -> None:
    for node in nodes:
        node.owner("select atoll.make_marks(true)")
    nodes.sync()


def without(nodes: Nodes, away: Node) -> Nodes:
    return Nodes(node for node in nodes if node is not away)


def forget(nodes: Nodes, away: Node) -> None:
    """The others stop waiting for a member, and forget what they have deleted."""
    left = without(nodes, away)
    left[0].owner("select atoll.mark_absent(%s)", away.number)
    left.sync()
    for _ in range(4):
        beat(left)
    for node in left:
        node.owner("select atoll.forget_deleted()")
        assert node.owner(BURIED) == []


def call(node: Node, procedure: str, *values: object) -> None:
    """A procedure of the node's own, which commits as it goes."""
    node.apply.execute("set session_replication_role = origin")
    node.apply.execute("call " + procedure, values or None)  # type: ignore[arg-type]
    node.apply.execute("set session_replication_role = replica")


def give_back(nodes: Nodes, away: Node, source: Node, table: str = "public.item") -> None:
    """What the process of a returning node does, without the process."""
    nodes.sync()
    ((known,),) = source.owner("select atoll.known_stamps()")
    away.owner("select atoll.begin_return(%s, 'token', %s)", source.number, Jsonb(known))
    call(source, "atoll.seed_returning(%s, 'token')", away.number)
    nodes.sync()
    assert away.owner("select arrived ? %s from atoll.returning", table) == [(True,)]
    call(away, "atoll.finish_return()")
    nodes.sync()


def test_rows_that_were_deleted_and_forgotten_do_not_come_back(three: Nodes) -> None:
    one, two, away = three
    left = without(three, away)
    two.run("delete from item where id <= 10")
    two.run("update item set word = 'changed' where id between 11 and 15")
    left.sync()
    forget(three, away)
    one.run("insert into item values (1, 'anew', 100)")
    left.sync()
    assert away.owner(SIDE) == [(40,)]
    give_back(three, away, one)
    rows = three.same("item")
    assert [row[0] for row in rows] == ["1", *(str(n) for n in range(11, 41))]
    assert rows[0] == ("1", "anew", "100")
    assert away.owner(ABSENT) == one.owner(ABSENT) == []
    assert away.parked() == one.parked() == []


def test_what_it_wrote_itself_meanwhile_is_kept_and_told(three: Nodes) -> None:
    one, two, away = three
    left = without(three, away)
    away.run("insert into item values (50, 'mine', 1)")
    away.run("update item set word = 'mine' where id in (5, 20, 21)")
    away.run("update item set qty = qty + 1000 where id = 22")
    away.run("delete from item where id = 23")
    left.sync()
    two.run("delete from item where id <= 10")
    two.run("update item set word = 'theirs' where id = 21")
    two.run("update item set qty = qty + 1 where id = 22")
    left.sync()
    forget(three, away)
    give_back(three, away, one)
    rows = {row[0]: row[1:] for row in three.same("item")}
    assert sorted(map(int, rows)) == [5, *range(11, 23), *range(24, 41), 50]
    assert rows["5"] == ("mine", "5")
    assert rows["20"] == ("mine", "20")
    assert rows["21"] == ("theirs", "21")
    assert rows["22"] == ("x", "1023")
    assert rows["50"] == ("mine", "1")
    assert ("delete", None, {"id": "5"}, None, None) in away.conflicts("public.item")
    assert any(kind == "update" and key == {"id": "21"} for kind, _, key, *_ in away.conflicts("public.item"))


def test_rows_that_moved_out_of_its_scopes_go_and_others_stay(three_nodes: Nodes) -> None:
    one, away, far = three_nodes
    one.run("create table person (id integer primary key, home text, name text)")
    one.run("select atoll.share('person', scope_column => 'home')")
    three_nodes.sync()
    for node in three_nodes:
        node.owner("update atoll.setting set value = '0 s' where name = 'tombstone_retention'")
    one.run(
        "insert into person values (1, 'global', 'a'), (2, 'eu', 'b'), (3, 'eu', 'c'), (4, 'node:2', 'd')"
    )
    three_nodes.sync()
    for _ in range(3):
        beat(three_nodes)
    left = without(three_nodes, away)
    one.run("update person set home = 'us' where id = 1")
    one.run("delete from person where id = 2")
    left.sync()
    one.owner("select atoll.mark_absent(2)")
    left.sync()
    for _ in range(4):
        beat(left)
    assert one.owner("select atoll.forget_deleted()")[0][0] > 0
    away.run("update person set name = 'mine' where id = 3")
    give_back(three_nodes, away, one, "public.person")
    assert away.rows("person", "1") == [("3", "eu", "mine"), ("4", "node:2", "d")]
    assert one.rows("person", "1") == [("3", "eu", "mine")]
    assert far.rows("person", "1") == [("1", "us", "a")]


def test_another_table_that_the_source_cannot_read_says_nothing_of_its_rows(three: Nodes) -> None:
    one, _, away = three
    forget(three, away)
    one.owner("update atoll.local_table set problem = 'it is being tested' where name = 'public.item'")
    give_back(three, away, one, "atoll.node")
    assert away.owner(SIDE) == [(40,)]
    assert len(away.rows("item")) == 40


def test_what_it_wrote_before_it_was_shut_out_is_kept_though_its_log_comes_in_first(three: Nodes) -> None:
    """It comes back under another number, and its log of the old one reaches the others at once."""
    one, two, away = three
    left = without(three, away)
    name_all(three)
    away.run("update item set word = 'mine' where id in (5, 20)")
    away.run("insert into item values (50, 'mine', 1)")
    for _ in range(3):
        away.owner("select atoll.make_marks(true)")
    two.run("delete from item where id <= 10")
    one.owner("update atoll.node set revoked_at = now() where number = 3")
    left.sync()
    for _ in range(4):
        beat(left)
    for node in left:
        node.owner("select atoll.forget_deleted()")
        assert node.owner(BURIED) == []
    unsent = away.changes()
    come_back(one, away, 4)
    left.sync()
    for node in left:
        node.receive([change for change in unsent if node.may_have(change)])
    give_back(three, away, one)
    rows = {row[0]: row[1] for row in three.same("item")}
    assert sorted(map(int, rows)) == [5, *range(11, 41), 50]
    assert rows["5"] == rows["20"] == rows["50"] == "mine"
    assert_back(away, one)


def test_what_it_wrote_under_a_number_that_it_took_while_it_was_away_is_kept(three: Nodes) -> None:
    one, two, away = three
    left = without(three, away)
    name_all(three)
    two.run("delete from item where id <= 10")
    left.sync()
    forget(three, away)
    away.owner("select atoll.take_number(4, 'it was restored')")
    away.number = 4
    one.owner("select atoll.know_again(4, 'n3', 'us', 'edge', '{}')")
    left.sync()
    away.run("update item set word = 'mine' where id in (5, 20)")
    for _ in range(3):
        away.owner("select atoll.make_marks(true)")
    give_back(three, away, one)
    rows = {row[0]: row[1] for row in three.same("item")}
    assert sorted(map(int, rows)) == [5, *range(11, 41)]
    assert rows["5"] == rows["20"] == "mine"
    assert_back(away, one)


def assert_back(away: Node, one: Node) -> None:
    """All of its numbers are back, also for itself, which was told since when it had been away."""
    assert away.owner(ABSENT) == one.owner(ABSENT) == []
    ((since,),) = one.owner("select max(since) from atoll.absence")
    state = away.apply.execute(query("returning", "state"), {"told": since}).fetchone()
    assert state is not None
    assert not state[0]


def name_all(nodes: Nodes) -> None:
    """Every node's row in every node."""
    for node in nodes:
        nodes[0].owner(
            "insert into atoll.node (number, name, region, tier) values (%s, %s, %s, 'edge')",
            node.number,
            f"n{node.number}",
            REGIONS[node.number - 1],
        )
    nodes.sync()


def come_back(admits: Node, away: Node, number: int) -> None:
    """The node that was shut out joins again with its data, and is another number from now on."""
    name = f"n{away.number}"
    with admits.apply.transaction():
        admits.apply.execute("set local session_replication_role = origin")
        admits.apply.execute(query("nodes", "admit"), (number, name, REGIONS[number - 1], "edge", []))
        admits.apply.execute(query("moving", "admit_back"), (number,))
    away.owner("select atoll.move_back(%s, (select introduced from atoll.self))", number)
    away.number = number


def test_a_mark_that_names_one_on_its_way_leaves_what_was_known(three: Nodes) -> None:
    one, two, _ = three
    two.run("create table note (id integer primary key, word text)")
    two.run("select atoll.share('note', '{}'::jsonb, 'merge', 'region')")
    beat(three)
    beat(three)
    ((before,),) = one.owner("select atoll.known_stamps()")
    two.run("insert into note values (1, 'stays in the region')")
    two.owner("select atoll.make_marks(true)")
    marks = [change for change in two.changes() if change.op == "M"]
    near = [change for change in marks if change.scope == "region:eu"]
    one.receive([change for change in marks if change.scope == "global"])
    ((meanwhile,),) = one.owner("select atoll.known_stamps()")
    assert meanwhile["2"] == before["2"] > 0
    one.receive(near)
    ((after,),) = one.owner("select atoll.known_stamps()")
    assert after["2"] > before["2"]
