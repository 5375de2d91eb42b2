"""Orphans are dealt with as their table's rule says, and what was done can be undone."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.fix_nodes import Nodes
from support.orphans import LINE, OPEN, PARENT, beat, orphan, share, tend, walk

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("reference", "policy", "customers", "lines"),
    [
        ("", "report", ["8"], [("1", "7")]),
        ("", "remove", ["8"], []),
        ("", "restore", ["7", "8"], [("1", "7")]),
        ("on delete cascade", "follow", ["8"], []),
        ("on delete set null", "follow", ["8"], [("1", None)]),
        ("on delete set default", "follow", ["8"], [("1", "8")]),
        ("on delete restrict", "follow", ["7", "8"], [("1", "7")]),
        ("", "follow", ["7", "8"], [("1", "7")]),
        ("on delete cascade", "restore", ["7", "8"], [("1", "7")]),
    ],
)
def test_all_nodes_act_at_once_and_end_the_same(
    three_nodes: Nodes, reference: str, policy: str, customers: list[str], lines: list[Any]
) -> None:
    share(three_nodes, f"{LINE} {reference}")
    three_nodes[2].owner("select 1")
    three_nodes[0].run("select atoll.on_orphans('line', %s)", policy)
    three_nodes.sync()
    orphan(three_nodes)
    tend(three_nodes)
    assert [row[0] for row in three_nodes.same("customer", "1")] == customers
    assert three_nodes.same("line", "1") == lines
    for node in three_nodes:
        assert (node.owner(OPEN) == []) == (policy != "report")
        assert node.owner("select problem from atoll.orphan where problem is not null") == []
    tend(three_nodes)
    assert three_nodes.same("line", "1") == lines, "and they stay so"


def test_what_was_removed_is_listed_and_can_be_put_back(three_nodes: Nodes) -> None:
    one = three_nodes[0]
    share(three_nodes, f"{LINE}, note text")
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    orphan(three_nodes)
    tend(three_nodes)
    ((number, lost, why),) = one.run("select id, lost_value, why from atoll.conflicts where kind = 'orphan'")
    assert lost == '{"note": null, "customer": "7"}'
    assert why == "its parent public.customer {7} is gone; the rule: remove"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        one.run("select atoll.revert(%s)", number)
    one.run("insert into customer values (7, 'Ann')")
    one.run("select atoll.revert(%s)", number)
    three_nodes.sync()
    assert three_nodes.same("line", "1") == [("1", "7", None)]


def test_a_removal_cascades_as_the_constraints_say_and_is_not_done_where_they_refuse(
    three_nodes: Nodes,
) -> None:
    one, two, _ = three_nodes
    share(three_nodes, LINE)
    for name, reference in (("part", "on delete cascade"), ("bill", "")):
        one.run(f"create table {name} (id integer primary key, line integer references line {reference})")
        one.share(name)
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    orphan(three_nodes, "delete from customer")
    two.run("insert into customer values (8, 'Bea again')")
    two.run("insert into part values (1, 1)")
    two.run("insert into line values (3, 8)")
    two.run("insert into bill values (1, 3)")
    one.run("insert into customer values (8, 'Bee')")
    one.run("delete from customer where id = 8")
    three_nodes.sync()
    tend(three_nodes)
    assert three_nodes.same("line", "1") == [("3", "8")]
    assert three_nodes.same("part", "1") == [], "the cascade was followed"
    for node in three_nodes:
        ((key, problem),) = node.owner("select key, problem from atoll.orphan where done is null")
        assert (key, "violates foreign key constraint" in problem) == ("{3}", True)


def test_a_write_that_the_remover_had_not_seen_wins_over_the_removal(three_nodes: Nodes) -> None:
    one, two, _ = three_nodes
    share(three_nodes, LINE)
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    orphan(three_nodes)
    for node in three_nodes:
        walk(node)
    beat(three_nodes)
    two.run("update line set customer = 8")
    assert one.owner("select atoll.handle_orphans()") == [(1,)]
    three_nodes.sync()
    assert three_nodes.same("line", "1") == [("1", "8")], "it has a parent: nobody meant it to go"


def test_two_restores_are_one_row_and_its_counter_goes_on(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    share(three_nodes, LINE, '{"visits": "counter", "tags": "set"}', PARENT + ", visits integer, tags jsonb")
    one.run("select atoll.on_orphans('line', 'restore')")
    three_nodes.sync()
    one.run("""insert into customer values (7, 'Ann', 5, '["a"]'), (8, 'Bea', 1, '[]')""")
    three_nodes.sync()
    three.run("update customer set visits = visits + 2 where id = 7")
    three_nodes.sync()
    one.run("delete from customer where id = 7")
    two.run("insert into line values (1, 7)")
    three_nodes.sync()
    tend(three_nodes)
    assert three_nodes.same("customer")[0] == ("7", "Ann", "7", '["a"]')
    two.run("update customer set visits = visits + 1 where id = 7")
    three_nodes.sync()
    assert three_nodes.same("customer")[0] == ("7", "Ann", "8", '["a"]')


def test_what_others_write_meanwhile_wins_over_what_is_brought_back(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    share(three_nodes, LINE, '{"visits": "counter"}', PARENT + ", visits integer")
    one.run("select atoll.on_orphans('line', 'restore')")
    three_nodes.sync()
    one.run("insert into customer values (7, 'Ann', 5), (8, 'Bea', 1)")
    three_nodes.sync()
    one.run("delete from customer where id = 7")
    two.run("insert into line values (1, 7)")
    three_nodes.sync()
    for node in three_nodes:
        walk(node)
    beat(three_nodes)
    three.run("insert into customer values (7, 'Zoe', 1)")
    assert one.owner("select atoll.handle_orphans()") == [(1,)]
    assert two.owner("select atoll.handle_orphans()") == [(1,)]
    three_nodes.sync()
    assert three_nodes.same("customer")[0] == ("7", "Zoe", "1")


def test_a_parent_comes_back_with_its_own_parents_or_not_at_all(three_nodes: Nodes) -> None:
    one, two, _ = three_nodes
    one.run("create table region (id text primary key)")
    one.share("region")
    one.run("create table customer (id integer primary key, region text references region on delete cascade)")
    one.share("customer")
    one.run(
        "create table line (id integer primary key, customer integer references customer on delete cascade)"
    )
    one.share("line")
    one.run("select atoll.on_orphans('line', 'restore')")
    one.run("select atoll.on_orphans('customer', 'remove')")
    three_nodes.sync()
    one.run("insert into region values ('m.1'), ('m.2')")
    one.run("insert into customer values (7, 'm.1'), (8, 'm.2')")
    three_nodes.sync()
    one.run("delete from region")
    two.run("insert into line values (1, 7), (2, 8)")
    three_nodes.sync()
    for node in three_nodes:
        node.owner("""delete from atoll_side."public.region" where id = 'm.2'""")
    for _ in range(3):
        tend(three_nodes, "public.line", "public.customer")
    assert three_nodes.same("region", "1") == [("m.1",)], "brought back for the sake of a grandchild"
    assert three_nodes.same("customer", "1") == [("7", "m.1")]
    assert three_nodes.same("line", "1") == [("1", "7"), ("2", "8")]
    ((problem,),) = one.owner("select problem from atoll.orphan where done is null")
    assert problem == "could not bring back row {m.2} of public.region: nothing is known of it here"


def test_a_rule_belongs_to_the_tables_owner_and_reaches_every_node(nodes: Nodes) -> None:
    one, two = nodes
    share(nodes, LINE)
    one.run("create table fact (id integer primary key, c integer references customer)")
    one.share("fact", kind="append")
    nodes.sync()
    two.run("select atoll.on_orphans('line', 'follow')")
    nodes.sync()
    assert one.run("select * from atoll.orphan_rule") == [("public.line", "follow")]
    refusals = [("line", "explode"), ("fact", "remove"), ("atoll.node", "remove"), ("nothing", "remove")]
    codes = []
    for table, policy in refusals:
        with pytest.raises(psycopg.Error) as refused:
            one.run("select atoll.on_orphans(%s, %s)", table, policy)
        codes.append(refused.value.diag.constraint_name)
    assert codes == ["orphan-policy", "orphan-policy", "not-owner", "table-missing"]
    one.run("create table alone (id integer primary key)")
    with pytest.raises(psycopg.Error) as refused:
        one.run("select atoll.on_orphans('alone', 'remove')")
    assert refused.value.diag.constraint_name == "table-not-shared"


def test_facts_without_a_parent_are_reported_and_their_parent_comes_back(three_nodes: Nodes) -> None:
    one, two, _ = three_nodes
    one.run("create table customer (id integer primary key, name text)")
    one.share("customer")
    one.run("create table fact (id integer primary key, c integer references customer)")
    one.share("fact", kind="append")
    three_nodes.sync()
    one.run("insert into customer values (7, 'Ann')")
    three_nodes.sync()
    one.run("delete from customer")
    two.run("insert into fact values (1, 7)")
    one.run("select atoll.on_orphans('fact', 'restore')")
    three_nodes.sync()
    tend(three_nodes, "public.fact")
    assert three_nodes.same("customer") == [("7", "Ann")]


def test_the_list_has_a_bound_and_a_walk_goes_in_steps(nodes: Nodes) -> None:
    share(nodes, LINE)
    one, two = nodes
    one.run("insert into customer values (7, 'Ann')")
    nodes.sync()
    one.run("delete from customer")
    two.run("insert into line select n, 7 from generate_series(1, 250) n")
    nodes.sync()
    assert walk(one, most=20) == 13
    assert one.owner("select count(*) from atoll.orphan") == [(250,)]
    two.owner("select * from atoll.find_orphans('public.line', '', 1000, 30)")
    assert two.owner("select count(*) from atoll.orphan") == [(30,)]
    assert two.value('select count(*) from atoll.orphans where "table" = %s', "public.line") == 30
    plan = "\n".join(
        line for (line,) in one.owner("explain select m.id from line m where m.id > 5 order by m.id limit 10")
    )
    assert "Index" in plan


def test_parents_elsewhere_do_not_fill_the_list(three_nodes: Nodes) -> None:
    one, two, us = three_nodes
    one.run("create table customer (id integer primary key)")
    one.run("select atoll.share('customer', scope => 'region')")
    one.run("create table line (id integer primary key, customer integer references customer)")
    one.share("line")
    three_nodes.sync()
    one.run("insert into customer values (7)")
    us.run("insert into customer values (8)")
    three_nodes.sync()
    one.run("insert into line select n, 7 from generate_series(1, 300) n")
    us.run("insert into line values (400, 8)")
    us.run("insert into line values (401, 8)")
    three_nodes.sync()
    with us.apply.transaction():
        us.apply.execute("delete from public.customer where id = 8")
        us.apply.execute(
            'update atoll_side."public.customer" set atoll_death = atoll_birth + 65536 where id = 8'
        )
    walk(us, most=150)
    assert us.owner("select why, count(*) from atoll.orphan group by 1 order by 1") == [
        ("deleted", 2),
        ("out of scope", 100),
    ]
    assert us.owner("select atoll.review_orphans()") == [(2,)]
    walk(two)
    assert two.owner("select why, count(*) from atoll.orphan group by 1") == [("out of scope", 2)]


def test_a_reference_that_was_taken_away_can_be_put_back(three_nodes: Nodes) -> None:
    one = three_nodes[0]
    share(three_nodes, f"{LINE} on delete set null")
    one.run("select atoll.on_orphans('line', 'follow')")
    three_nodes.sync()
    orphan(three_nodes)
    tend(three_nodes)
    assert three_nodes.same("line", "1") == [("1", None)]
    one.run("insert into customer values (7, 'Ann')")
    one.run("select atoll.revert((select id from atoll.conflicts where kind = 'orphan'))")
    three_nodes.sync()
    assert three_nodes.same("line", "1") == [("1", "7")]


def test_an_applications_triggers_run_as_the_tables_owner(three_nodes: Nodes) -> None:
    one = three_nodes[0]
    share(three_nodes, LINE)
    one.run("create table seen (who text)")
    one.run(
        "create function note_it() returns trigger language plpgsql as"
        " $$ begin insert into public.seen values (current_user); return null; end $$"
    )
    one.run("create trigger noting after delete on line for each row execute function note_it()")
    one.run(
        "create constraint trigger later after delete on line initially deferred"
        " for each row execute function note_it()"
    )
    one.run("select atoll.on_orphans('line', 'remove')")
    three_nodes.sync()
    orphan(three_nodes)
    tend(three_nodes)
    assert three_nodes.same("line", "1") == []
    assert one.run("select distinct who, count(*) from seen group by who") == [("app", 2)]
