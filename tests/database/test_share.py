"""Sharing a table, ending it, sharing it again: the declaration travels, rows are taken up, rows stay."""

from __future__ import annotations

import psycopg
import pytest

from support.fix_nodes import Nodes

pytestmark = pytest.mark.slow


def test_a_table_that_another_node_lacks_is_made_there(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create schema shop")
    a.run(
        'create table shop."Order" (id bigint primary key default atoll.id(), "What" varchar(20) not null default \'nothing; really\','
        " n numeric(8, 2) check (n >= 0), tags jsonb default '[]', half numeric generated always as (n / 2) stored, unique (\"What\", n))"
    )
    a.run('create index "By what" on shop."Order" (lower("What")) where n > 1')
    a.share('shop."Order"', '{"n": "counter", "tags": "set"}')
    nodes.sync()
    b.run('insert into shop."Order" ("What", n) values (default, 3)')
    nodes.sync()
    assert [row[1:] for row in nodes.same('shop."Order"')] == [
        ("nothing; really", "3.00", "[]", "1.5000000000000000")
    ]
    columns = "select attname, format_type(atttypid, atttypmod), attnotnull, attgenerated from pg_attribute where attrelid = 'shop.\"Order\"'::regclass and attnum > 0 order by attnum"
    assert a.run(columns) == b.run(columns)
    indexes = "select indexdef from pg_indexes where schemaname = 'shop' order by 1"
    assert a.run(indexes) == b.run(indexes)


def test_foreign_keys_follow_when_their_table_is_there(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table field (id int primary key)")
    a.run("create table crop (id int primary key, field int references field on delete cascade)")
    a.share("field")
    a.share("crop")
    nodes.sync()
    b.run("insert into field values (1)")
    b.run("insert into crop values (1, 1)")
    b.run("delete from field")
    nodes.sync()
    assert nodes.same("public.crop", "1") == []


def test_existing_rows_are_taken_up_on_both_sides(nodes: Nodes) -> None:
    a, b = nodes
    for node in nodes:
        node.run("create table crop (id int primary key, name text)")
    a.run("insert into crop select i, 'a' from generate_series(1, 700) i")
    b.run("insert into crop select i, 'b' from generate_series(601, 900) i")
    a.share("crop")
    nodes.sync()
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert len(nodes.same("public.crop", "id")) == 900


def test_existing_rows_of_every_policy_are_taken_up_and_merge(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, n int, hi int, tags jsonb, doc jsonb, born text)")
    a.run('insert into crop values (1, 5, 5, \'["b", "a", "a"]\', \'{"k": 1}\', \'early\')')
    a.share("crop", '{"n": "counter", "hi": "max", "tags": "set", "doc": "document", "born": "first"}')
    nodes.sync()
    assert a.value("select tags::text from crop") == '["a", "b"]'
    for node in nodes:
        node.run(
            "update crop set n = n + 1, hi = hi + %s, tags = tags || %s, doc = doc || %s, born = 'late'",
            node.number, f'["{node.number}"]', f'{{"{node.number}": true}}',
        )  # fmt: skip
    nodes.sync()
    assert nodes.same("public.crop", "1") == [
        ("1", "7", "7", '["1", "2", "a", "b"]', '{"1": true, "2": true, "k": 1}', "early")
    ]
    assert b.parked() == []


def test_ending_the_sharing_leaves_the_rows_on_every_node(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.run("insert into crop values (1, 'a')")
    nodes.sync()
    b.run("select atoll.unshare('crop')")
    nodes.sync()
    for node in nodes:
        assert node.rows("crop") == [("1", "a")]
        assert (
            node.owner(
                "select from pg_class where relnamespace = 'atoll_side'::regnamespace and relname = 'public.crop'"
            )
            == []
        )
        assert (
            node.owner(
                "select proname from pg_proc where pronamespace = 'atoll_side'::regnamespace and proname like 'public.crop%'"
            )
            == []
        )
    a.changes()
    a.run("update crop set name = 'local'")
    a.run("drop table crop")
    assert a.changes() == []


def test_a_table_can_be_shared_again_with_other_rules(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, n int)")
    a.share("crop")
    a.run("insert into crop values (1, 10)")
    nodes.sync()
    a.run("select atoll.unshare('crop')")
    nodes.sync()
    b.run("insert into crop values (2, 20)")
    b.share("crop", '{"n": "max"}')
    nodes.sync()
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert nodes.same("public.crop", "1") == [("1", "10"), ("2", "20")]
    a.run("update crop set n = n + 1")
    b.run("update crop set n = n + 5")
    nodes.sync()
    assert nodes.same("public.crop", "1") == [("1", "15"), ("2", "25")]


def test_sharing_with_the_same_rules_twice_is_nothing(nodes: Nodes) -> None:
    a, _ = nodes
    a.run("create table crop (id int primary key, n int)")
    a.share("crop", '{"n": "max"}')
    a.changes()
    a.share("public.crop", '{"n": "max"}')
    assert a.changes() == []


def test_both_nodes_may_declare_the_same_table(nodes: Nodes) -> None:
    for node in nodes:
        node.run("create table crop (id int primary key, n int)")
        node.run("insert into crop values (%s, %s)", node.number, node.number)
        node.share("crop")
    nodes.sync()
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert nodes.same("public.crop", "1") == [("1", "1"), ("2", "2")]


def test_two_declarations_with_different_rules_end_in_one(nodes: Nodes) -> None:
    a, b = nodes
    for node, rule in zip(nodes, ("max", "min"), strict=True):
        node.run("create table crop (id int primary key, n int)")
        node.run("insert into crop values (1, %s), (%s, 0)", node.number, node.number + 1)
        node.share("crop", f'{{"n": "{rule}"}}')
    nodes.sync()
    nodes.sync()
    for node in nodes:
        node.retry()
    rules = "select merge::text from atoll.shared_table where name = 'public.crop'"
    assert a.value(rules) == b.value(rules) == '{"n": "min"}'
    assert [node.parked() for node in nodes] == [[], []]
    nodes.same("public.crop", "1")


def test_a_table_that_cannot_be_shared_there_keeps_its_reason_and_its_changes_wait(nodes: Nodes) -> None:
    a, b = nodes
    make = "create function mood() returns text language sql return 'calm'"
    a.run(make)
    a.run("create table crop (id int primary key, m text default mood())")
    a.share("crop")
    a.run("insert into crop values (1)")
    nodes.sync()
    reason = "select problem from atoll.local_table where name = 'public.crop'"
    assert "mood" in b.owner(reason)[0][0]
    with pytest.raises(psycopg.Error) as refused:
        b.owner("select * from atoll.receipt_buckets('public.crop')")
    assert refused.value.diag.constraint_name == "table-not-shared", (
        "a comparison names the node as one without it"
    )
    assert [code for code, _ in b.parked()] == ["table-unknown"]
    b.run(make)
    b.owner("select atoll.install_tables()")
    assert b.owner(reason) == [(None,)]
    assert b.retry() == (1, 0)
    assert nodes.same("public.crop", "1") == [("1", "calm")]


def test_triggers_that_somebody_switched_off_are_mended(nodes: Nodes) -> None:
    a, _ = nodes
    a.run("create table crop (id int primary key, n int)")
    a.share("crop")
    a.run("alter table crop disable trigger all")
    assert a.owner("select atoll.set_triggers('public.crop')")[0][0] >= 4
    a.run("alter table crop enable replica trigger atoll_capture_update")
    assert a.owner("select atoll.set_triggers('public.crop')") == [(1,)]
    a.run("drop trigger atoll_capture_insert on crop")
    assert a.owner("select atoll.set_triggers('public.crop')") == [(1,)]
    assert a.owner("select atoll.set_triggers('public.crop')") == [(0,)]
    a.run("insert into crop values (1, 1)")
    nodes.sync()
    nodes.same("public.crop", "1")


def test_ids_are_unique_ordered_by_time_and_made_without_coordination(nodes: Nodes) -> None:
    a, b = nodes
    query = "select atoll.id() from generate_series(1, 3000)"
    ids = [[row[0] for row in node.run(query)] for node in (a, b, a)]
    flat = [one for some in ids for one in some]
    assert len(set(flat)) == 9000
    assert all(some == sorted(some) for some in ids)
    assert max(ids[0]) < min(ids[2])
    assert all(one > 0 for one in flat)


def test_installing_again_changes_nothing_that_is_shared(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, n int)")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop values (1, 1)")
    nodes.sync()
    for node in nodes:
        node.owner("select atoll.settle_in()")
    assert a.changes() == []
    b.run("update crop set n = n + 1")
    a.run("update crop set n = n + 1")
    nodes.sync()
    assert nodes.same("public.crop", "1") == [("1", "3")]


def test_only_the_owner_of_a_table_shares_it(nodes: Nodes) -> None:
    a, _ = nodes
    a.owner("create table public.mine (id int primary key)")
    with pytest.raises(psycopg.Error, match="app is not owner of"):
        a.share("public.mine")


def test_types_that_the_columns_need_are_made_where_they_are_missing(nodes: Nodes) -> None:
    a, b = nodes
    b.run("create type mood as enum ('calm', 'rough', 'foggy')")
    a.run(
        "create schema sea; create type mood as enum ('calm', 'rough'); create type sea.\"Spot\" as (x int, y numeric(4, 1));"
        " create domain sea.depth as numeric(8, 2) default 1 not null check (value >= 0);"
        ' create type sea.place as (at sea."Spot"[], deep sea.depth);'
        " create table log (id int primary key, m mood default 'calm', ms mood[], p sea.place, d sea.depth,"
        " note text default E'a;\\nb')"
    )
    a.share("log")
    nodes.sync()
    a.run("insert into log values (1, 'rough', '{calm}', row(array[row(1, 2.5)::sea.\"Spot\"], 3), 4)")
    nodes.sync()
    b.run("insert into log (id, m) values (2, 'rough')")
    nodes.sync()
    found = nodes.same("log", "1")
    assert found[0] == ("1", "rough", "{calm}", '("{""(1,2.5)""}",3.00)', "4.00", "a;\nb")
    assert found[1] == ("2", "rough", None, None, "1.00", "a;\nb")
    b.run("alter type mood add value 'stormy'; alter domain sea.depth drop not null")
    with pytest.raises(psycopg.errors.CheckViolation):
        b.run("insert into log (id, d) values (3, -1)")
